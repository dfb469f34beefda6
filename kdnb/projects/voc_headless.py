"""03 VOC DeFeat without a notebook: ``python -m kdnb.projects.voc_defeat``, alone or under torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch
import yaml
from accelerate.utils import broadcast_object_list

from kdnb.engine import accelerator
from kdnb.errors import InputError
from kdnb.projects.voc_defeat import ABLATION_ARMS, ARMS, PROJECT, VocDefeatSettings, open_data
from kdnb.projects.voc_experiment import Experiment
from kdnb.run import PROFILES, Run, check_parameters, load_settings, set_threads

STAGES = ("all", "test", "teacher", *ARMS, "baseline_matched", *ABLATION_ARMS)


@click.command()
@click.option("--profile", type=click.Choice(PROFILES), default="lite", show_default=True)
@click.option("--stage", type=click.Choice(STAGES), default="all", show_default=True,
              help="All arms, or the scores of the arms that are there, or one arm with what it needs.")
@click.option("--seed", default=0, show_default=True)
@click.option("--data", metavar="DIR", help="A VOCdevkit; drawn if not given.")
@click.option("--root", default="data", show_default=True, metavar="DIR", help="Where drawn data is kept.")
@click.option("--out", default="results", show_default=True, metavar="DIR", help="Where a new run folder goes.")
@click.option("--run", "folder", metavar="DIR", help="Go on in this run's folder, with its profile, seed and settings.")
@click.option("--ablations", is_flag=True, help="Train the ablation arms too.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a setting of the profile.")
def main(profile, stage, seed, data, root, out, folder, ablations, changes):
    """Train and score the arms of 03 VOC DeFeat."""
    try:
        check_parameters(PROFILE=profile, SEED=seed, DATA=data, RESULTS=out)
        set_threads()
        carry_out(stage, shared_run(profile, seed, data, out, folder, changes), data, root, ablations)
    except InputError as error:
        sys.exit(f"kdnb: {error}")


def carry_out(stage: str, run: Run, data: str | None, root: str, ablations: bool) -> None:
    settings = VocDefeatSettings.model_validate(run.settings)
    acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
    with acc.main_process_first():  # one process draws the data, the others find it
        drawn = open_data(settings, data, root)
    experiment = Experiment(run, settings, drawn, root)
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
    if stage in ("all", "test") and acc.is_main_process:
        for name, comparison in experiment.save().items():
            low, high = comparison.ci95
            run.log(f"{name}: {comparison.delta:+.1f} [{low:+.1f}, {high:+.1f}] {comparison.verdict}")
    if acc.is_main_process:
        print(f"results: {run.folder}", flush=True)


def shared_run(profile, seed, data, out, folder, changes) -> Run:
    """One run folder for all processes: the one to go on in, or a new one made by the first process."""
    if folder is not None:
        config = Path(folder) / "config.yaml"
        if not config.exists():
            raise InputError(f"--run {folder}: no config.yaml there, expected the folder of an earlier run")
        saved = yaml.safe_load(config.read_text())
        if changes:
            raise InputError(f"--run {folder}: goes on with its own settings, expected no --set")
        if (data is None) != (saved["data"] == "drawn") or (data and Path(data).resolve().name != saved["data"]):
            raise InputError(f"--run {folder}: its arms were trained on {saved['data']!r}, expected the same --data")
        return Run(folder, saved["project"], saved["profile"], saved["seed"], saved["settings"], data)
    settings = load_settings(VocDefeatSettings, "voc_defeat", profile, **dict(map(parse_change, changes)))
    acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
    made = Run.start(PROJECT, profile, seed, out, settings, data).folder if acc.is_main_process else None
    if acc.num_processes > 1:
        made = broadcast_object_list([made and str(made)])[0]
    return Run(made, PROJECT, profile, seed, settings.model_dump(mode="json"), data)


def parse_change(change: str) -> tuple[str, object]:
    """"batch=16" → ("batch", 16)."""
    name, equals, value = change.partition("=")
    if not equals:
        raise InputError(f"--set {change!r}, expected NAME=VALUE")
    return name, yaml.safe_load(value)
