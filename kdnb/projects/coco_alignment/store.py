"""The networks of 01 for other notebooks: found below the data folder, or trained there once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from kdnb.errors import InputError
from kdnb.models.clip import use_normalisation
from kdnb.options import load_settings
from kdnb.projects.coco_alignment.data import CocoAlignmentSettings
from kdnb.projects.coco_alignment.experiment import CocoAlignment
from kdnb.projects.coco_alignment.exports import EXPORTED, export_network, find_networks, folder_of
from kdnb.projects.coco_alignment.terms import build_student, build_teacher, tokenizer_of, width_of


@dataclass
class Aligned:
    """The teacher with its tokenizer, and students by the name of their arm, on the CPU in eval mode, frozen.

    "random" among them is a student that nobody trained: the control.
    """

    teacher: nn.Module
    tokenizer: Callable
    students: dict[str, nn.Module]
    crop: int


def aligned(
    profile: str,
    seed: int = 0,
    root: str | Path = "data",
    data: str | Path | None = None,
    students: Sequence[str] = EXPORTED[1:],
) -> Aligned:
    """The teacher and students of 01 in a profile; what is missing is trained now, in a run of its own below ``root``.

    Args:
        data: the COCO root they learn from; None renders a street.
        students: arms; without any, the teacher alone is trained.

    Raises:
        InputError: networks are missing and this is no place to train them: the profile is "full", or under torchrun,
            where one process cannot train while the others wait for it. The message has the command that does.
    """
    settings, names = load_settings(CocoAlignmentSettings, profile), ("teacher", *students)
    folder = folder_of(settings, seed, data, root)
    networks = find_networks(folder, names)
    if networks is None:
        if profile == "full" or torch.distributed.is_initialized():
            raise InputError(how_to_get(profile, seed, data, root, names))
        networks = _train(folder, profile, seed, data, root, names)
    teacher = _load(build_teacher(settings.offline(), 0), networks / "teacher.safetensors")
    use_normalisation(teacher, settings.teacher.name, settings.teacher.pretrained)
    width = width_of(teacher)
    models = {name: _load(build_student(settings, width, 0), networks / f"{name}.safetensors") for name in students}
    models["random"] = build_student(settings, width, 5000 + seed).eval().requires_grad_(False)
    return Aligned(teacher, tokenizer_of(settings), models, settings.crop)


def exported_networks(profile: str, seed: int, root: str | Path, data: str | Path | None) -> Path | None:
    """The folder of all networks that ``aligned`` reads, or None where it would have to train some."""
    return find_networks(folder_of(load_settings(CocoAlignmentSettings, profile), seed, data, root), EXPORTED)


def how_to_get(profile: str, seed: int, data: str | Path | None, root: str | Path, names: Sequence[str]) -> str:
    """One line: what is missing and the command that makes it."""
    where = Path(root).resolve()
    if profile == "full" and data is None:
        return (
            "the encoders of 01 in full learned from photographs, but encoder_data names none; expected the COCO "
            "root that 01 was trained on: -p ENCODER_DATA DIR, or --set encoder_data=DIR without the notebook"
        )
    options = ["--profile", profile, "--seed", str(seed)]
    options += [] if data is None else ["--data", str(Path(data).resolve())]
    options += ["--root", str(where), *(word for name in names for word in ("--stage", name))]
    command = shlex.join(["python", "-m", "kdnb.projects.coco_alignment", *options])
    return (
        f"{where}: no networks of 01 in profile {profile}, seed {seed}, with its settings as they are; expected "
        f"{', '.join(names)}, train them first: {command}"
    )


def _train(folder: Path, profile: str, seed: int, data, root, names: Sequence[str]) -> Path | None:
    """Train 01's networks, or what a killed process left of them; returns their folder."""
    earlier = sorted(config.parent for config in (folder / "runs").glob("*/config.yaml"))
    if earlier:
        experiment = CocoAlignment.resume(earlier[-1], data, root)
    else:
        experiment = CocoAlignment.start(profile, seed, data, folder / "runs", root)
    results = experiment.train_together(*names)
    if find_networks(folder, names) is None:  # finished by a process that was killed before it could export them
        for name, result in zip(names, results, strict=True):
            export_network(name, result.model, experiment.teacher, folder)
    return find_networks(folder, names)


def _load(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)
