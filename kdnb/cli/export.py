"""``kdnb export``: a student as an ONNX file."""

import click

from kdnb.cli.places import new_file


@click.command("export")
@click.argument("number", metavar="NN")
@click.option("--out", required=True, metavar="FILE", callback=new_file, help="The ONNX file.")
@click.option("--arm", default="distilled", show_default=True, help="Which of the shipped students to use.")
@click.option("--weights", metavar="FILE", help="Use the student in this file instead.")
@click.option("--int8", is_flag=True, help="Store the weights in eight bits (dynamic quantisation by ONNX Runtime).")
def command(number: str, out: str, arm: str, weights: str | None, int8: bool) -> None:
    """Export a student to ONNX Runtime: 03 (voc), 05 (camvid) or 06 (cars).

    The model takes uint8 pixels and normalises them itself. The batch size is free, but 03 takes one image at a time.
    """
    from kdnb.students import load_student
    from kdnb.students.onnx_file import export_student

    for line in export_student(load_student(number, arm, weights), out, int8):
        click.echo(line)
