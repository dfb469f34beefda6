"""A project without its notebook: ``python -m kdnb.projects.<name>``, alone or under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import torch
from accelerate.utils import broadcast_object_list

from kdnb.engine import accelerator
from kdnb.errors import InputError, os_error_line
from kdnb.experiment.experiment import Experiment
from kdnb.experiment.settings import TrainSettings
from kdnb.experiment.workers import WorkerFailed, train_waves
from kdnb.options import PROFILES, check_parameters, did_you_mean, load_settings, parse_setting
from kdnb.run import Run, set_threads


def command(kind: type[Experiment]) -> click.Command:
    """The command line of a project, given its ``Experiment``."""

    @click.command(help=f"Train and score the arms of {kind.project}.")
    @click.option("--profile", type=click.Choice(PROFILES), default="lite", show_default=True)
    @click.option(
        "--stage",
        "stages",
        default=["all"],
        multiple=True,
        metavar="ARM",
        help="'all' (default) trains all arms, 'test' only scores finished arms, an arm's name trains it and what it "
        "needs. Repeatable.",
    )
    @click.option("--seed", "seeds", default=[0], type=int, multiple=True, help="Repeatable: one run per seed.")
    @click.option("--data", metavar="DIR", help="The root of a data set; by default one is rendered.")
    @click.option("--root", default="data", show_default=True, metavar="DIR", help="The folder for rendered data.")
    @click.option("--out", default="results", show_default=True, metavar="DIR", help="The parent of new run folders.")
    @click.option("--run", "folder", metavar="DIR", help="Resume the run in this folder, with its settings.")
    @click.option("--ablations", is_flag=True, help="Train the ablation arms too.")
    @click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a setting of the profile.")
    def main(profile, stages, seeds, data, root, out, folder, ablations, changes):
        try:
            set_threads()
            if folder is None:
                settings = dict(parse_change(kind, change) for change in changes)
                experiments = [start(kind, profile, seed, data, root, out, settings) for seed in seeds]
            elif changes:
                raise InputError(f"--run {folder}: resumes with its own settings, expected no --set")
            else:
                experiments = [resume(kind, folder, data, root)]
            run_stages(experiments, stages, ablations)
        except (InputError, WorkerFailed) as error:
            sys.exit(f"kdnb: {error}")
        except OSError as error:  # a target that is read-only, missing or full
            sys.exit(f"kdnb: {os_error_line(error)}")

    return main


def start(
    kind: type[Experiment], profile: str, seed: int, data: str | None, root: str, out: str, changes: dict
) -> Experiment:
    """Start a run. Under torchrun, the main process creates the folder."""
    check_parameters(PROFILE=profile, SEED=seed, DATA=data, RESULTS=out)
    settings = load_settings(kind.settings_class, profile, **changes)
    acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
    check_batch(settings, acc.num_processes)
    folders = [str(Run.start(kind.project, profile, seed, out, settings, data).folder) if acc.is_main_process else ""]
    return resume(kind, broadcast_object_list(folders)[0] if acc.num_processes > 1 else folders[0], data, root)


def resume(kind: type[Experiment], folder: str, data: str | None, root: str) -> Experiment:
    """The run in a folder."""
    check_parameters(DATA=data)
    experiment = kind.resume(folder, data, root)
    check_batch(experiment.settings, experiment.acc.num_processes)
    return experiment


def run_stages(experiments: Sequence[Experiment], stages: Sequence[str], ablations: bool) -> None:
    """Train the arms that the stages name. The scores of all arms are computed by the first process alone."""
    first = experiments[0]
    names = arms_of_stages(first, stages, ablations)
    train_waves(experiments, names)
    acc = first.acc
    acc.wait_for_everyone()
    if torch.distributed.is_initialized():
        # the other processes need not wait while the first one computes scores
        torch.distributed.destroy_process_group()
    if not acc.is_main_process:
        return
    for experiment in experiments:
        if {"all", "test"} & set(stages):
            for name in experiment.store.names():
                experiment.train(name)
            report(experiment)
        print(f"results: {experiment.run.folder}", flush=True)


def report(experiment: Experiment) -> None:
    """Save the metrics of a run and log its comparisons."""
    for name, comparison in experiment.save().items():
        low, high = comparison.ci95
        experiment.run.log(f"{name}: {comparison.delta:+.2f} [{low:+.2f}, {high:+.2f}] {comparison.verdict}")


def arms_of_stages(experiment: Experiment, stages: Sequence[str], ablations: bool) -> list[str]:
    """The arms to train; InputError for a stage that is neither "all", "test" nor an arm."""
    names = []
    for stage in stages:
        if stage == "all":
            names += [*(experiment.settings.arms or experiment.arms), *(experiment.ablations if ablations else ())]
        elif stage in experiment.known:
            names.append(stage)
        elif stage != "test":
            known = ["all", "test", *experiment.known]
            raise InputError(f"--stage {stage!r} is not an arm of {experiment.project}{did_you_mean(stage, known)}")
    return names


def check_batch(settings: TrainSettings, processes: int) -> None:
    """Refuse at once what the engine would refuse hours later: with few labels, half of a batch has none, and each
    process takes its share of both halves. Raises InputError."""
    if processes > 1 and settings.batch % (2 * processes):
        raise InputError(
            f"setting 'batch' is {settings.batch}, not divisible by twice the world size {processes}; "
            f"expected a multiple of {2 * processes}"
        )


def parse_change(kind: type[Experiment], change: str) -> tuple[str, object]:
    """ "batch=16" -> ("batch", 16); InputError without a "=", or for a value that is not YAML."""
    name, equals, value = change.partition("=")
    if not equals:
        raise InputError(f"--set {change!r}, expected NAME=VALUE")
    return name, parse_setting(kind.settings_class, name, value)
