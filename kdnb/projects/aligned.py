"""The networks of 01, kept for other notebooks: found below the data folder, or trained there once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from kdnb.errors import InputError
from kdnb.run import Run, atomic_write, load_settings
from kdnb.world.export import WORLD_VERSION

OFFERED = ("teacher", "baseline", "distilled", "baseline_matched")
VERSION = 1  # raise it whenever 01 trains otherwise: kept networks are then trained anew


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
    """Where the networks of these settings, this seed and this data lie."""
    where = None if data is None else str(Path(data).resolve())
    how_only = {"processes", "workers", "checkpoint_every"}  # how arms are trained, not what they become
    recipe = {"settings": settings.model_dump(mode="json", exclude=how_only), "seed": seed, "data": where,
              "version": VERSION, "world": WORLD_VERSION}  # fmt: skip
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return Path(root) / f"aligned_{digest}"


def offer(name: str, model: nn.Module, settings, seed: int, data, root) -> None:
    """Keep a trained network for others: a plain safetensors file, written whole."""
    folder = folder_of(settings, seed, data, root)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    atomic_write(folder / f"{name}.safetensors", save(tensors))


def aligned(profile: str, seed: int = 0, root: str | Path = "data", data: str | Path | None = None,
            students: Sequence[str] = OFFERED[1:]) -> Aligned:  # fmt: skip
    """The teacher and students of 01 in a profile; what is missing is trained now, in a run of its own below ``root``.

    ``data`` is the COCO root they learn from; None draws a street.

    Raises:
        InputError: under torchrun, where one process cannot train while the others wait for it.
    """
    from kdnb.projects import coco_alignment as project
    from kdnb.projects.coco_experiment import Experiment

    settings = load_settings(project.CocoAlignmentSettings, "coco_alignment", profile)
    folder = folder_of(settings, seed, data, root)
    names = ("teacher", *students)
    missing = [name for name in names if not (folder / f"{name}.safetensors").exists()]
    if missing and torch.distributed.is_initialized():
        raise InputError(f"{folder}: no {missing[0]}.safetensors; expected the networks of 01, train them first: "
                         f"kdnb run 01 --profile {profile} --seeds {seed}")  # fmt: skip
    if missing:
        run = Run.start(project.PROJECT, profile, seed, folder / "runs", settings, data)
        experiment = Experiment(run, settings, project.open_data(settings, data, root), root)
        experiment.train_together("teacher", "baseline")
        experiment.check_teacher()
        experiment.train_together(*students)
    teacher = _load(project.build_teacher(settings, 0), folder / "teacher.safetensors")
    width = project.width_of(teacher)
    made = {name: _load(project.build_student(settings, width, 0), folder / f"{name}.safetensors") for name in students}
    made["random"] = project.build_student(settings, width, 5000 + seed).eval().requires_grad_(False)
    return Aligned(teacher, project.tokenizer_of(settings, teacher), made, settings.crop)


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)
