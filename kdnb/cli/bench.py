"""``kdnb bench``: what a distilling step costs."""

from __future__ import annotations

import click

from kdnb.errors import InputError


@click.command("bench")
@click.argument("number", metavar="[NN]", default="03")
def command(number: str) -> None:
    """Time a plain training step against a distilling one, with a live and with a cached teacher."""
    from kdnb.experiment.step_cost import bench_table
    from kdnb.projects import find_projects

    kinds = {name[:2]: kind for name, kind in find_projects().items() if kind.bench_settings}
    kind = kinds.get(number.zfill(2))
    if kind is None:
        raise InputError(f"no bench for {number!r}, expected one of {', '.join(sorted(kinds))}")
    click.echo(bench_table(kind))
