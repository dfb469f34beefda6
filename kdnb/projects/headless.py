"""A project without its notebook: ``python -m kdnb.projects.<name>``, alone or under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch
import yaml
from accelerate.utils import broadcast_object_list

from kdnb.engine import accelerator
from kdnb.errors import InputError
from kdnb.options import validate_settings
from kdnb.run import PROFILES, Run, check_parameters, load_settings, set_threads


def headless(
    project: str,
    model: type,
    open_data: Callable,
    experiment: Callable,
    arms: Sequence[str],
    settings: str | None = None,
) -> click.Command:
    """The command line of a project.

    Args:
        project: its number and name, "03_voc_defeat".
        model: its subclass of ``Settings``.
        open_data: ``open_data(settings, data, root)``.
        experiment: ``experiment(run, settings, data, root)``.
        arms: every arm that ``--stage`` may name.
        settings: the name of its file of settings, None for the project's, "voc_defeat".
    """
    file = settings or project[3:]

    @click.command(help=f"Train and score the arms of {project}.")
    @click.option("--profile", type=click.Choice(PROFILES), default="lite", show_default=True)
    @click.option(
        "--stage",
        "stages",
        type=click.Choice(["all", "test", *arms]),
        default=["all"],
        multiple=True,
        help="All arms (default), or the scores of the arms that are there, or one arm with what it needs; "
        "may be given several times.",
    )
    @click.option("--seed", default=0, show_default=True)
    @click.option("--data", metavar="DIR", help="The root of a data set; drawn if not given.")
    @click.option("--root", default="data", show_default=True, metavar="DIR", help="Where drawn data is kept.")
    @click.option("--out", default="results", show_default=True, metavar="DIR", help="Where a new run folder goes.")
    @click.option(
        "--run", "folder", metavar="DIR", help="Go on in this run's folder, with its profile, seed and settings."
    )
    @click.option("--ablations", is_flag=True, help="Train the ablation arms too.")
    @click.option("--claims", hidden=True, help="Leave out stages that another process has claimed in this folder.")
    @click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a setting of the profile.")
    def main(profile, stages, seed, data, root, out, folder, ablations, claims, changes):
        try:
            check_parameters(PROFILE=profile, SEED=seed, DATA=data, RESULTS=out)
            set_threads()
            run = shared_run(project, file, model, profile, seed, data, out, folder, changes)
            settings = validate_settings(model, run.settings, run.folder / "config.yaml")
            acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
            check_shares(settings, acc.num_processes)
            with acc.main_process_first():  # one process draws the data, the others find it
                opened = open_data(settings, data, root)
            carry_out(experiment(run, settings, opened, root), stages, ablations, claims)
        except InputError as error:
            sys.exit(f"kdnb: {error}")

    return main


def carry_out(experiment, stages: Sequence[str], ablations: bool, claims: str | None = None) -> None:
    """Stages of an experiment; the scores of all arms are taken by the first process alone."""
    run, acc = experiment.run, experiment.acc
    for stage in stages:
        if claims is not None and not claim(Path(claims) / stage):
            continue
        if stage == "all":
            experiment.train_all(ablations)
        elif stage == "test":
            experiment.arms.read_finished()
        else:
            if experiment.learns_from_teacher(stage):
                experiment.check_teacher()
            experiment.train(stage)
    acc.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the others need not wait while the first one takes the measure
    if {"all", "test"} & set(stages) and acc.is_main_process:
        for name, comparison in experiment.save().items():
            low, high = comparison.ci95
            run.log(f"{name}: {comparison.delta:+.2f} [{low:+.2f}, {high:+.2f}] {comparison.verdict}")
    if acc.is_main_process:
        print(f"results: {run.folder}", flush=True)


def shared_run(project, file, model, profile, seed, data, out, folder, changes) -> Run:
    """One run folder for all processes: the one to go on in, or a new one made by the first process."""
    if folder is not None:
        config = Path(folder) / "config.yaml"
        if not config.exists():
            raise InputError(f"--run {folder}: no config.yaml there, expected the folder of an earlier run")
        saved = yaml.safe_load(config.read_text())
        if changes:
            raise InputError(f"--run {folder}: goes on with its own settings, expected no --set")
        if saved["project"] != project:
            raise InputError(f"--run {folder}: is a run of {saved['project']}, expected one of {project}")
        if (data is None) != (saved["data"] == "drawn") or (data and Path(data).resolve().name != saved["data"]):
            raise InputError(f"--run {folder}: its arms were trained on {saved['data']!r}, expected the same --data")
        return Run(folder, saved["project"], saved["profile"], saved["seed"], saved["settings"], data)
    settings = load_settings(model, file, profile, **dict(map(parse_change, changes)))
    acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
    made = Run.start(project, profile, seed, out, settings, data).folder if acc.is_main_process else None
    if acc.num_processes > 1:
        made = broadcast_object_list([made and str(made)])[0]
    return Run(made, project, profile, seed, settings.model_dump(mode="json"), data)


def check_shares(settings, processes: int) -> None:
    """Refuse at once what the engine would refuse hours later: where labels are few, half of a batch has none, and each
    process takes its share of both halves."""
    if settings.batch % (2 * processes) and processes > 1:
        raise InputError(
            f"setting 'batch' is {settings.batch}, halves of which {processes} processes cannot share; "
            f"expected a multiple of {2 * processes}"
        )


def parse_change(change: str) -> tuple[str, object]:
    """ "batch=16" → ("batch", 16)."""
    name, equals, value = change.partition("=")
    if not equals:
        raise InputError(f"--set {change!r}, expected NAME=VALUE")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "syntax error"
        raise InputError(f"--set {change!r}: not readable as YAML: {reason}") from None


def claim(path: Path) -> bool:
    """Whether this process is the first to ask for it."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def stage_command(module: str, run: Run, root, names: Sequence[str], claims: str) -> list[str]:
    """The command line of a process that trains those of a run's arms which no other one has claimed."""
    data = [] if run.data is None else ["--data", str(run.data)]
    stages = [option for name in names for option in ("--stage", name)]
    return [
        sys.executable,
        "-m",
        module,
        "--run",
        str(run.folder),
        "--root",
        str(root),
        "--claims",
        claims,
        *data,
        *stages,
    ]
