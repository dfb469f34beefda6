"""The networks of 01, kept for other notebooks: found below the data folder, or trained there once."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save
from torch import nn

from kdnb.datasets.coco_files import SPLITS, find_coco, instances_path
from kdnb.distill.teacher_outputs import weights_hash
from kdnb.errors import InputError
from kdnb.run import Run, atomic_write, load_settings
from kdnb.world.export import WORLD_VERSION

OFFERED = ("teacher", "baseline", "distilled", "baseline_matched")
VERSION = 2  # raise it whenever 01 trains otherwise: kept networks are then trained anew


@dataclass
class Aligned:
    """The teacher with its tokenizer, and students by the name of their arm, on the CPU in eval mode, frozen.

    "random" among them is a student that nobody trained: the control.
    """

    teacher: nn.Module
    tokenizer: Callable
    students: dict[str, nn.Module]
    crop: int


def folder_of(settings, seed: int, data: str | Path | None, root: str | Path) -> Path:
    """Where the networks of these settings, this seed and this data lie, wherever the data itself lies."""
    how_only = {"processes", "workers", "checkpoint_every"}  # how arms are trained, not what they become
    recipe = {
        "settings": settings.model_dump(mode="json", exclude=how_only),
        "seed": seed,
        "data": None if data is None else content_of(data),
        "version": VERSION,
        "world": WORLD_VERSION,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return Path(root) / f"aligned_{digest}"


def content_of(data: str | Path) -> str:
    """A hash of a COCO root's annotations: of their sizes and first 64 kB, as the files have half a gigabyte.

    Raises:
        InputError: ``data`` is no COCO root.
    """
    digest = hashlib.sha256()
    for path in (instances_path(find_coco(data), split) for split in SPLITS):
        if path.is_file():
            with open(path, "rb") as file:
                digest.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(2**16))
    return digest.hexdigest()


def offer(name: str, model: nn.Module, teacher: nn.Module, settings, seed: int, data, root) -> None:
    """Keep a trained network for others: a plain safetensors file, written whole.

    It lies in the folder of its teacher, so that students of two trainings never mix; once a folder has all of OFFERED,
    the file "current" names it.
    """
    folder = folder_of(settings, seed, data, root)
    mine = folder / f"teacher_{weights_hash(teacher)[:12]}"
    mine.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    atomic_write(mine / f"{name}.safetensors", save(tensors))
    if holds(mine, OFFERED):
        atomic_write(folder / "current", mine.name)


def holds(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / f"{name}.safetensors").exists() for name in names)


def kept(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of one teacher with all these networks: the last one to be completed, else the newest, else None."""
    found = [one for one in folder.glob("teacher_*") if holds(one, names)]
    current = folder / "current"
    if current.exists() and folder / current.read_text() in found:
        return folder / current.read_text()
    return max(found, key=lambda one: (one / "teacher.safetensors").stat().st_mtime, default=None)


def aligned(
    profile: str,
    seed: int = 0,
    root: str | Path = "data",
    data: str | Path | None = None,
    students: Sequence[str] = OFFERED[1:],
) -> Aligned:
    """The teacher and students of 01 in a profile; what is missing is trained now, in a run of its own below ``root``.

    ``data`` is the COCO root they learn from; None draws a street. Without students the teacher alone is trained.

    Raises:
        InputError: networks are missing and this is no place to train them: the profile is "full", or under torchrun,
            where one process cannot train while the others wait for it. The message has the command that does.
    """
    from kdnb.projects import coco_alignment as project

    settings = load_settings(project.CocoAlignmentSettings, "coco_alignment", profile)
    folder, names = folder_of(settings, seed, data, root), ("teacher", *students)
    found = kept(folder, names)
    if found is None:
        if profile == "full" or torch.distributed.is_initialized():
            raise InputError(how_to_get(profile, seed, data, root, names))
        found = _train(folder, settings, profile, seed, data, root, names)
    teacher = _load(project.build_teacher(settings, 0), found / "teacher.safetensors")
    width = project.width_of(teacher)
    made = {name: _load(project.build_student(settings, width, 0), found / f"{name}.safetensors") for name in students}
    made["random"] = project.build_student(settings, width, 5000 + seed).eval().requires_grad_(False)
    return Aligned(teacher, project.tokenizer_of(settings, teacher), made, settings.crop)


def how_to_get(profile: str, seed: int, data, root, names: Sequence[str]) -> str:
    """One line: what is missing and the command that makes it."""
    where = Path(root).resolve()
    if profile == "full" and data is None:
        return (
            "the encoders of 01 in full learned from photographs, but encoder_data names none; expected the COCO "
            "root that 01 was trained on: -p ENCODER_DATA DIR, or --set encoder_data=DIR without the notebook"
        )
    given = [] if data is None else ["--data", str(Path(data).resolve())]
    command = [
        "python",
        "-m",
        "kdnb.projects.coco_alignment",
        "--profile",
        profile,
        "--seed",
        str(seed),
        *given,
        "--root",
        str(where),
        *(word for name in names for word in ("--stage", name)),
    ]
    return (
        f"{where}: no networks of 01 in profile {profile}, seed {seed}, with its settings as they are; expected "
        f"{', '.join(names)}, train them first: {shlex.join(command)}"
    )


def _train(folder: Path, settings, profile: str, seed: int, data, root, names: Sequence[str]) -> Path:
    """Train 01's networks, or what a killed process left of them, and keep them; returns their folder."""
    from kdnb.projects import coco_alignment as project
    from kdnb.projects.coco_experiment import Experiment

    run = _own_run(project.PROJECT, folder / "runs", settings, profile, seed, data)
    experiment = Experiment(run, settings, project.open_data(settings, data, root), root)
    experiment.train("teacher")
    if len(names) > 1:
        experiment.train_together("baseline")
        experiment.check_teacher()
        experiment.train_together(*names[1:])
    found = kept(folder, names)
    if found is None:  # finished by a process that was killed before it could offer them
        for name in names:
            offer(name, experiment.results[name].model, experiment.teacher, settings, seed, data, root)
        found = kept(folder, names)
    return found


def _own_run(project: str, folder: Path, settings, profile: str, seed: int, data) -> Run:
    """The run to go on with in ``folder``: the newest there, or a new one. Its settings are those of the key."""
    earlier = sorted(config.parent for config in folder.glob("*/config.yaml"))
    if not earlier:
        return Run.start(project, profile, seed, folder, settings, data)
    saved = yaml.safe_load((earlier[-1] / "config.yaml").read_text())["settings"]
    return Run(earlier[-1], project, profile, seed, saved, data)


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)
