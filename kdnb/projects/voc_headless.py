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
from kdnb.projects.voc_defeat import PROJECT, VocDefeatSettings, open_data
from kdnb.projects.voc_experiment import Experiment
from kdnb.run import PROFILES, Run, check_parameters, load_settings, set_threads

STAGES = ("teacher", "baseline", "distilled", "test", "all")


@click.command()
@click.option("--profile", type=click.Choice(PROFILES), default="lite", show_default=True)
@click.option("--stage", type=click.Choice(STAGES), default="all", show_default=True,
              help="One arm (with what it needs), all arms, or the scores of the arms that are there.")
@click.option("--seed", default=0, show_default=True)
@click.option("--data", metavar="DIR", help="A VOCdevkit; drawn if not given.")
@click.option("--out", default="results", show_default=True, metavar="DIR", help="Where a new run folder goes.")
@click.option("--run", "folder", metavar="DIR", help="Go on in this run folder: finished arms are kept.")
@click.option("--ablations", is_flag=True, help="Train the ablation arms too.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a setting of the profile.")
def main(profile, stage, seed, data, out, folder, ablations, changes):
    """Train and score the arms of 03 VOC DeFeat."""
    try:
        carry_out(profile, stage, seed, data, out, folder, ablations, changes)
    except InputError as error:
        sys.exit(f"kdnb: {error}")


def carry_out(profile, stage, seed, data, out, folder, ablations, changes) -> None:
    check_parameters(PROFILE=profile, SEED=seed, DATA=data, RESULTS=out)
    set_threads()
    settings = load_settings(VocDefeatSettings, "voc_defeat", profile, **dict(map(parse_change, changes)))
    acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
    run = shared_run(acc, profile, seed, out, settings, data, folder)
    with acc.main_process_first():  # one process draws or indexes the data, the others find it
        drawn = open_data(settings, data)
    experiment = Experiment(run, settings, drawn)
    if stage == "all":
        experiment.train_all(ablations)
    elif stage == "test":
        experiment.read_finished()
    else:
        for name in {"distilled": ("teacher", "baseline", "distilled")}.get(stage, (stage,)):
            experiment.train(name)
            if name == "baseline" and stage == "distilled":
                experiment.check_teacher()
    if stage in ("all", "test") and acc.is_main_process:
        for name, comparison in experiment.save().items():
            low, high = comparison.ci95
            run.log(f"{name}: {comparison.delta:+.1f} [{low:+.1f}, {high:+.1f}] {comparison.verdict}")
    if acc.is_main_process:
        print(f"results: {run.folder}", flush=True)
    acc.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def parse_change(change: str) -> tuple[str, object]:
    """"steps=100" → ("steps", 100)."""
    name, equals, value = change.partition("=")
    if not equals:
        raise InputError(f"--set {change!r}, expected NAME=VALUE")
    return name, yaml.safe_load(value)


def shared_run(acc, profile, seed, out, settings, data, folder) -> Run:
    """One run folder for all processes: made by the first, or the one to go on in."""
    if folder is not None:
        if not (Path(folder) / "config.yaml").exists():
            raise InputError(f"--run {folder}: no config.yaml there, expected the folder of an earlier run")
        saved = yaml.safe_load((Path(folder) / "config.yaml").read_text())
        wanted = yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")))
        if (saved["profile"], saved["seed"], saved["settings"]) != (profile, seed, wanted):
            raise InputError(f"--run {folder}: its config.yaml has another profile, seed or settings; a run goes on "
                             "only with its own")  # fmt: skip
    elif acc.is_main_process:
        folder = str(Run.start(PROJECT, profile, seed, out, settings, data).folder)
    if acc.num_processes > 1:
        folder = broadcast_object_list([folder])[0]
    return Run(folder, PROJECT, profile, seed, settings.model_dump(mode="json"), data)


