"""``kdnb bench``: what a distilling step costs."""

import click

from kdnb.errors import InputError


@click.command("bench")
@click.argument("number", metavar="[NN]", default="03")
def command(number: str) -> None:
    """Time a plain training step against a distilling one, with a live and with a cached teacher."""
    if number.zfill(2) not in ("01", "03"):
        raise InputError(f"no bench for {number!r}, expected 01 or 03")
    from kdnb.projects import coco_bench, voc_bench

    click.echo((coco_bench if number.zfill(2) == "01" else voc_bench).bench_table())
