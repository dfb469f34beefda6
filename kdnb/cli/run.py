"""``kdnb run``: execute notebooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdnb.errors import InputError
from kdnb.options import PROFILES

if TYPE_CHECKING:
    from kdnb.notebooks import Execution


def parse_seeds(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    """'0,1,2' as [0, 1, 2], without repetitions."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise click.BadParameter(f"{text!r}, expected whole numbers with commas between them: 0,1,2")
    return list(dict.fromkeys(int(seed) for seed in text.split(",")))


@click.command("run")
@click.argument("numbers", metavar="[NN]...", nargs=-1)
@click.option("--profile", type=click.Choice(PROFILES), default="lite", show_default=True)
@click.option("--seeds", default="0", show_default=True, metavar="0,1,2", callback=parse_seeds)
@click.option("--out", default="results", show_default=True, metavar="DIR", help="The folder for the run folders.")
@click.option("-p", "extra", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter of the notebook.")
@click.option("--timeout", type=click.IntRange(min=1), metavar="SECONDS", help="Time limit for a single cell.")
@click.pass_context
def command(
    context: click.Context,
    numbers: tuple[str, ...],
    profile: str,
    seeds: list[int],
    out: str,
    extra: tuple[tuple[str, str], ...],
    timeout: int | None,
) -> None:
    """Execute notebooks (all of them, or those with the numbers NN), one at a time."""
    from kdnb import notebooks

    parameters = {name: notebooks.parse_parameter(name, value) for name, value in extra}
    out = parameters.get("RESULTS") or out
    paths = notebooks.find_notebooks(numbers)
    if not paths:
        raise InputError(f"no notebooks in {notebooks.notebooks_folder()}, expected NN_name.ipynb")
    steps = notebooks.plan(paths, profile, seeds, out, parameters)
    executions = [notebooks.execute(path, values, out, timeout) for path, values in steps]
    click.echo("\n" + summary_table(executions))
    failures = [done for done in executions if done.error]
    for done in failures:
        title = f"{done.name}, {done.profile}, seed {done.seed} failed; kept as {done.notebook}"
        click.echo(f"\n{title}\n{done.error}", err=True)
    context.exit(1 if failures else 0)


def summary_table(executions: list[Execution]) -> str:
    """Aligned columns: what came out, whether distillation paid, how long it took, and where it is."""
    header = ["notebook", "seed", "metric", "teacher", "baseline", "distilled", "verdict", "time", "executed notebook"]
    rows = [
        [done.name, str(done.seed), *_outcome(done), f"{done.seconds:.0f} s", _nearby(done.notebook)]
        for done in executions
    ]
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    aligned = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in aligned)


def _outcome(done: Execution) -> list[str]:
    """The primary metric, the scores of three arms, and the verdict."""
    from kdnb.report import read_run
    from kdnb.tables import MISSING, mean_and_range

    if done.error or not done.run_folder or not (done.run_folder / "metrics.json").exists():
        return [MISSING, MISSING, MISSING, MISSING, "FAILED" if done.error else MISSING]
    run = read_run(done.run_folder)
    arms = [run.arms.get(arm, {}) for arm in ("teacher", "baseline", "distilled")]
    comparison = run.comparisons.get("distilled_vs_baseline")
    scores = [mean_and_range([numbers.get(run.primary)]) for numbers in arms]
    return [run.primary, *scores, comparison.verdict if comparison else MISSING]


def _nearby(path: Path) -> str:
    """The path relative to the current folder, if it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
