"""06's teachers: what each fold predicts for the training images, stored, and what folds predict together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from kdnb.distill.classification import teacher_step
from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.teacher_outputs import TeacherOutputs
from kdnb.experiment import ArmResult, Experiment
from kdnb.experiment.teachers import load_batches
from kdnb.files import atomic_write
from kdnb.models.classifier import Ensemble, mean_probabilities
from kdnb.projects.car_kfold.arms import CarArm
from kdnb.projects.car_kfold.data import collate


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write tensors to a safetensors file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def out_of_fold(logits: Tensor, fold_of: np.ndarray) -> Tensor:
    """Of each image the logits of the fold that has not trained on it.

    Args:
        logits: (F, ..., N, C).
        fold_of: (N,) 1 to F; see ``split_folds``.

    Returns:
        (..., N, C).
    """
    chosen = torch.as_tensor(fold_of) - 1
    return logits[chosen, ..., torch.arange(len(chosen)), :].movedim(0, -2)


def mean_fold(best: ArmResult, folds: list[ArmResult]) -> ArmResult:
    """The best fold as a network, with the mean of the folds' scores."""
    means = {key: float(np.mean([fold.numbers[key] for fold in folds])) for key in folds[0].numbers}
    numbers = {**means, "params": best.numbers["params"], "of": best.numbers["of"]}
    return ArmResult(best.model, {}, numbers, float(np.mean([fold.validation for fold in folds])))


def as_one(experiment: Experiment, names: Sequence[str], folds: list[ArmResult]) -> ArmResult:
    """The folds of these names as one network, the mean of their probabilities."""
    logits = mean_probabilities(torch.stack([experiment.logits(name) for name in names]))
    total = {key: sum(fold.numbers[key] for fold in folds) for key in ("params", "size_mb", "train_s", "steps")}
    numbers = {**experiment.score(logits, "test"), **total}
    validation = float(np.mean([fold.validation for fold in folds]))
    return ArmResult(Ensemble([fold.model for fold in folds]), {"test": logits}, numbers, validation)


# --- stored outputs -------------------------------------------------------------------------------------------------


def stored_views(experiment: Experiment) -> list[str]:
    """The views V for which outputs are stored: the image as it is, then its augmentations."""
    return ["plain", *(f"aug{i}" for i in range(experiment.settings.stored_views))]


def fold_outputs(experiment: Experiment, fold: str, model: nn.Module | None = None) -> TeacherOutputs:
    """Logits of a fold (``model``, or the finished arm's) for training images and then the pool; computed once."""
    if fold in experiment.kept:
        return experiment.kept[fold]
    data, device = experiment.data, experiment.acc.device
    live = LiveTeacher((model or experiment.train(fold).model).to(device), teacher_step)
    items, views = range(len(data.train) + len(data.pool)), stored_views(experiment)
    key, folder = f"{data.cars.root.name}-{experiment.settings.size}", experiment.run.folder / "cache"
    store = TeacherOutputs(live, folder, key, items, views, ["logits"], torch.float16)
    images = data.views(experiment.known[fold].experiment)
    loader = partial(load_batches, images, collate, items, experiment.settings.workers, device)
    experiment.kept[fold] = store.fill(loader, experiment.acc, 128, mix_views=False)
    return experiment.kept[fold]


def fold_logits(experiment: Experiment, fold: str) -> Tensor:
    """(V, N, C)."""
    return fold_outputs(experiment, fold).values["logits"].unflatten(0, (len(stored_views(experiment)), -1)).float()


def stored_logits(experiment: Experiment, teacher: str, outputs: str = "stored") -> Tensor:
    """Logits (V, N, C) of a fold, of "teacher" (its best fold) or of the ensemble; see ``CarArm.outputs``."""
    arm = experiment.known[teacher]
    if arm.network != "ensemble":
        fold = experiment.train(teacher).numbers["of"] if arm.members else teacher
        return fold_logits(experiment, fold)
    logits = torch.stack([fold_logits(experiment, fold) for fold in arm.members])
    together = mean_probabilities(logits)
    if outputs == "out_of_fold":  # the pool is new to every fold
        train = len(experiment.data.train)
        together[:, :train] = out_of_fold(logits[:, :, :train], experiment.fold_of)
    return together


def stored_teacher(experiment: Experiment, teacher: str, outputs: str = "stored") -> TeacherOutputs:
    """Stored outputs in the place of a live teacher."""
    logits = stored_logits(experiment, teacher, outputs).transpose(0, 1)
    return TeacherOutputs.from_tensors({"logits": logits}, range(len(logits)), stored_views(experiment))


def stored_seconds(experiment: Experiment, arm: CarArm) -> float:
    """What the stored outputs of an arm's teacher took; they count in full towards every arm that reads them."""
    teacher = experiment.known[arm.teacher]
    seconds = [fold_outputs(experiment, fold).seconds for fold in teacher.members or (arm.teacher,)]
    whole = teacher.network == "ensemble" and arm.outputs == "stored"
    return sum(seconds) if whole else sum(seconds) / len(seconds)  # the others read one fold an image
