"""``kdnb bench``: what a distilling step costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdnb.errors import InputError

if TYPE_CHECKING:
    from kdnb.experiment import Experiment


@click.command("bench")
@click.argument("number", metavar="[NN]", default="03")
def command(number: str) -> None:
    """Time a plain training step against a distilling one, with a live and with a cached teacher."""
    from kdnb.experiment.step_cost import bench_table

    kinds = {kind.project[:2]: kind for kind in experiments() if kind.bench_settings}
    kind = kinds.get(number.zfill(2))
    if kind is None:
        raise InputError(f"no bench for {number!r}, expected one of {', '.join(sorted(kinds))}")
    click.echo(bench_table(kind))


def experiments() -> list[type[Experiment]]:
    """The ``Experiment`` of each project in ``kdnb.projects``."""
    import pkgutil
    from importlib import import_module
    from importlib.util import find_spec

    from kdnb import projects
    from kdnb.experiment import Experiment

    names = [f"kdnb.projects.{package.name}" for package in pkgutil.iter_modules(projects.__path__) if package.ispkg]
    modules = [import_module(f"{name}.experiment") for name in names if find_spec(f"{name}.experiment")]
    return [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Experiment) and kind.__module__ == module.__name__
    ]
