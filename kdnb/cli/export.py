"""``kdnb export``: a student as an ONNX file."""

import click

from kdnb.cli.places import new_file


@click.command("export")
@click.argument("number", metavar="NN")
@click.option("--out", required=True, metavar="FILE", callback=new_file, help="The ONNX file.")
@click.option("--arm", default="distilled", show_default=True, help="Which of the students that ship.")
@click.option("--weights", metavar="FILE", help="A student's file instead.")
@click.option("--int8", is_flag=True, help="Weights in eight bits (dynamic quantisation by ONNX Runtime).")
def command(number: str, out: str, arm: str, weights: str | None, int8: bool) -> None:
    """Write a student for ONNX Runtime: 03 (voc), 05 (camvid) or 06 (cars).

    Pixels go in as uint8 and are normalised inside. The number of images is free, but 03 takes one at a time.
    """
    from kdnb.students import load_student
    from kdnb.students.onnx_file import export_student

    for line in export_student(load_student(number, arm, weights), out, int8):
        click.echo(line)
