"""06's lessons: what the original got wrong, measured; the notebook shows the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from kdnb.datasets.cars import describe
from kdnb.distill.classification import temperature_at
from kdnb.distill.losses import kd_kl
from kdnb.metrics.classification import log_losses
from kdnb.models.classifier import mean_probabilities
from kdnb.projects.car_kfold.teachers import out_of_fold

# --- soft labels of images that the teacher has memorised -------------------------------------------------------


def own_and_unseen(
    logits: Tensor, labels: Sequence[int], fold_of: np.ndarray, scored: Tensor, truth: Sequence[int]
) -> pd.DataFrame:
    """How right and how confident soft labels are, on images that the folds have trained on and on others.

    Soft labels of the first kind tell a student little but the label. How the teacher treats new images is in the
    second kind, and new images, those of test, are what a student should be good at.

    Args:
        logits: (F, N, C) of each fold for each training image as it is.
        labels: (N,) their classes.
        fold_of: (N,) the fold, 1 to F, that has not trained on an image.
        scored: (F, M, C) of each fold for each test image; truth: (M,) their classes.

    Returns:
        A row per kind with accuracy in percent, log loss, and the mean of the largest probability in percent.
    """
    rows = {
        "ensemble, training images": (mean_probabilities(logits), labels),
        "fold that has not trained on them": (out_of_fold(logits, fold_of), labels),
        "one fold, test images": (scored, np.tile(truth, len(scored))),
        "ensemble, test images": (mean_probabilities(scored), truth),
    }
    return pd.DataFrame({name: accuracy_and_confidence(*pair) for name, pair in rows.items()}).T


def accuracy_and_confidence(logits: Tensor, labels: Sequence[int]) -> dict[str, float]:
    """Of logits (..., C), their leading dimensions flattened, and as many labels."""
    probabilities = logits.float().flatten(0, -2).softmax(1).numpy()
    right = probabilities.argmax(1) == np.asarray(labels)
    return {
        "accuracy": 100 * right.mean(),
        "log_loss": log_losses(probabilities, labels).mean(),
        "mean confidence": 100 * probabilities.max(1).mean(),
    }


# --- temperature ------------------------------------------------------------------------------------------------


def temperatures(steps: int, epochs: int = 20) -> dict[str, Callable[[int], float]]:
    """Step → temperature: two constants, and the original's schedule, which falls with each epoch."""
    return {
        "T = 1": lambda step: 1.0,
        "T = 2": lambda step: 2.0,
        "T from 2 to 1": lambda step: temperature_at(step * epochs // steps),
    }


def follow_teacher(teacher: Tensor, temperature: Callable[[int], float], steps: int = 400, rate: float = 2.0) -> dict:
    """Descend T² · KL(softmax(t/T) ‖ softmax(s/T)) in the logits s themselves: a student without any limits.

    The loss is 0 exactly where s and t differ by a constant, whatever T is: a schedule changes the path there and the
    numbers that are logged, not the end. (A student of limited capacity has to choose, and then T matters: the higher
    it is, the more the unlikely classes count.)

    Args:
        teacher: (N, C) logits t.
        temperature: step → T.

    Returns:
        "loss": (steps,) what a log would show; "distance": (steps,) mean KL at T = 1, which is what counts; "student":
        (N, C).
    """
    student, losses, distances = torch.zeros_like(teacher), [], []
    for step in range(steps):
        student.requires_grad_()
        loss = kd_kl(student, teacher, temperature(step))
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, student)
        student = (student - rate * len(teacher) * slope).detach()
        distances.append(kd_kl(student, teacher).item())
    return {"loss": np.array(losses), "distance": np.array(distances), "student": student}


# --- colour and shape of a copy ---------------------------------------------------------------------------------


def letterboxed(image: Tensor, side: int) -> Tensor:
    """uint8 (3, H, W) → (3, side, side): the image in its own shape, black around it."""
    height, width = image.shape[1:]
    scale = side / max(height, width)
    small = tv.resize(image, [max(1, round(scale * height)), max(1, round(scale * width))], antialias=True)
    left, top = (side - small.shape[2]) // 2, (side - small.shape[1]) // 2
    return tv.pad(small, [left, top, side - small.shape[2] - left, side - small.shape[1] - top])


def facts_of_copies(images: Sequence[Tensor], side: int = 64) -> pd.DataFrame:
    """Aspect ratio and mean brightness (0..1) of images, and of their square and letterboxed copies.

    Returns:
        A row per image, columns (which copy, "aspect" or "colour").
    """
    copies = {
        "original": lambda image: image,
        "square copy": lambda image: tv.resize(image, [side, side], antialias=True),
        "padded copy": lambda image: letterboxed(image, side),
    }
    rows = []
    for image in images:
        facts = {name: describe(copy(image)) for name, copy in copies.items()}
        rows.append({(name, key): float(np.mean(one[key])) for name, one in facts.items() for key in one})
    table = pd.DataFrame(rows)
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


# --- test images as a transfer set ------------------------------------------------------------------------------


def transductive_gain(
    losses: dict[str, np.ndarray], arm: str = "transductive_half", other: str = "distilled"
) -> pd.DataFrame:
    """Log loss on the half of the test images that an arm learned from (without labels), and on the other half.

    Args:
        losses: arm → (N,) log loss of each test image; every other one, from the first, was learned from.

    Returns:
        A row per half; what is gained on the first beyond the second says nothing about future images.
    """
    rows = {"learned from": slice(0, None, 2), "held back": slice(1, None, 2)}
    return pd.DataFrame(
        {
            name: {
                other: losses[other][half].mean(),
                arm: losses[arm][half].mean(),
                "gain": (losses[other][half] - losses[arm][half]).mean(),
            }
            for name, half in rows.items()
        }
    ).T
