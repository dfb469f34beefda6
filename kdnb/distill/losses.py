"""Distillation losses: pure functions of a student's and a teacher's tensors, independent of any task.

Each loss is a mean per element (per sample, pixel, region or cell), so its value does not depend on the batch size or
on the image size, and it is 0 when student and teacher agree, or have no element. The teacher's tensor never receives a
gradient. Half precision is compared in float32. All raise InputError for shapes that do not match: nothing broadcasts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.distill.checks import (
    LOGITS,
    MAP,
    VECTORS,
    compared_dim,
    pair,
    positive_temperature,
    precise,
    require_levels,
    require_shape,
)
from kdnb.errors import InputError


def kd_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, dim: int | None = None) -> Tensor:
    """KL divergence from the teacher's softened probabilities to the student's, times temperature².

    Args:
        student_logits, teacher_logits: same shape: (N, C), (N, C, H, W), or any with the classes along ``dim``. A class
            that the teacher excludes (logit −inf) adds nothing; one that the student alone excludes makes the loss
            infinite.
        temperature: both are divided by it. The factor temperature² keeps the gradient's size, which otherwise
            shrinks as 1/temperature² (Hinton et al. 2015, arXiv 1503.02531, section 2).
        dim: of the classes; must be said for other shapes, such as -1 for (N, tokens, C).

    Returns:
        A scalar, the mean over everything but ``dim`` (``reduction="batchmean"`` would sum over pixels); 0 for an
        empty input, such as no foreground proposal.

    Raises:
        InputError: two shapes, one that needs ``dim`` or has no such dimension, a temperature that is not above 0.
    """
    student, teacher = pair(student_logits, teacher_logits, "logits")
    positive_temperature(temperature)
    dim = compared_dim(dim, student, "logits", LOGITS)
    if student.numel() == 0:
        return student.sum()
    student, teacher = F.log_softmax(student / temperature, dim), F.log_softmax(teacher / temperature, dim)
    return temperature**2 * kl_terms(student, teacher).sum(dim).mean()


def kl_terms(student: Tensor, teacher: Tensor) -> Tensor:
    """p · (log p − log q) of each element, 0 where p is 0, of log-probabilities log q (student) and log p (teacher).

    ``F.kl_div`` has NaN where p is 0 because its logarithm is −inf.
    """
    p = teacher.exp()
    return torch.where(p == 0, 0.0, p * (teacher - student))


def centred_mse(student_logits: Tensor, teacher_logits: Tensor, dim: int | None = None) -> Tensor:
    """Mean squared error of logits, each less its mean over the classes.

    A softmax ignores a constant added to all logits, so the plain error penalises a difference without meaning. For
    temperature → ∞, ``kd_kl`` tends to ``centred_mse / 2``.

    Args:
        student_logits, teacher_logits, dim: as for ``kd_kl``, all finite.

    Raises:
        InputError: two shapes, one that needs ``dim`` or has no such dimension.
    """
    student, teacher = pair(student_logits, teacher_logits, "logits")
    dim = compared_dim(dim, student, "logits", LOGITS)
    if student.numel() == 0:
        return student.sum()
    student = student - student.mean(dim, keepdim=True)
    return F.mse_loss(student, teacher - teacher.mean(dim, keepdim=True))


def cosine_loss(student: Tensor, teacher: Tensor, dim: int | None = None) -> Tensor:
    """Mean of 1 − cos(student, teacher). ‖s − t‖² of unit vectors is twice this.

    Args:
        student, teacher: same shape, (N, D), or any with the vectors along ``dim``.
        dim: must be said for other shapes: 1 for (N, C, H, W), -1 for (N, tokens, D).

    Raises:
        InputError: two shapes, one that needs ``dim`` or has no such dimension.
    """
    student, teacher = pair(student, teacher, "vectors")
    dim = compared_dim(dim, student, "vectors", VECTORS)
    if student.numel() == 0:
        return student.sum()
    return (1 - F.cosine_similarity(student, teacher, dim)).mean()


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between all pairwise distances of a batch, each network's in units of its own mean distance.

    It compares relations between images, so the two spaces need neither the same width nor an adapter (Park et al.
    2019, arXiv 1904.05068, equations 5 and 6).

    Args:
        student, teacher: (N, D) and (N, E), one row per image, N at least 2.

    Raises:
        InputError: other shapes, fewer than two images.
    """
    require_shape("the student's value", student, (None, None), "(N, D)")
    require_shape("the teacher's value", teacher, (len(student), None), f"(N, E) with N = {len(student)}")
    if len(student) < 2:
        raise InputError(f"distances between {len(student)} images, expected at least 2 in a batch")
    return F.smooth_l1_loss(relative_distances(precise(student)), relative_distances(precise(teacher.detach())))


def relative_distances(points: Tensor) -> Tensor:
    """(N, D) → (N (N-1) / 2,) distances of all pairs, divided by their mean; all 0 when all points are the same."""
    distances = F.pdist(points)
    return distances / distances.mean().clamp(min=1e-12)


def feature_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of feature maps (N, C, H, W) over the cells of a mask.

    Args:
        student, teacher: (N, C, H, W).
        mask: (N, 1, H, W), weight of each cell in the mean; None takes all cells alike. An empty mask gives 0.

    Raises:
        InputError: other shapes.
    """
    student, teacher = pair(student, teacher, "feature maps")
    require_shape("the student's feature map", student, (None,) * 4, MAP)
    if mask is not None:
        size = (len(student), 1, *student.shape[2:])
        require_shape(f"the mask of a feature map {tuple(student.shape)}", mask, size, "(N, 1, H, W)")
    if student.numel() == 0:
        return student.sum()
    per_cell = (student - teacher).pow(2).mean(1, keepdim=True)
    if mask is None:
        return per_cell.mean()
    mask = precise(mask)
    return (per_cell * mask).sum() / mask.sum().clamp(min=1)


def region_mse(student: list[Tensor], teacher: list[Tensor], mask: list[Tensor]) -> Tensor:
    """DeFeat's neck loss of one region (foreground or background): ½·MSE over its cells, mean over pyramid levels.

    Called once with the foreground mask and once with the background mask. Each is normalised by its own number of
    cells, so that the many cells of the background do not drown the few of the objects (Guo et al. 2021, arXiv
    2103.14475, section 3.2).

    Args:
        student, teacher: per level (N, C, H_l, W_l).
        mask: per level (N, 1, H_l, W_l) of 0 and 1.

    Raises:
        InputError: other shapes, or not as many levels.
    """
    require_levels(student, teacher, mask)
    levels = [feature_mse(s, t, m) for s, t, m in zip(student, teacher, mask, strict=True)]
    return 0.5 * torch.stack(levels).mean()


def pkd(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """PKD: ½·MSE of feature maps standardised per channel over batch and cells; equals 1 − Pearson correlation.

    Magnitudes cancel, so it needs neither adapters nor masks (Cao et al. 2022, arXiv 2207.02039, section 3).

    Args:
        student, teacher: per level (N, C, H_l, W_l).

    Raises:
        InputError: other shapes, or not as many levels.
    """
    require_levels(student, teacher)
    return torch.stack([_pkd_level(s, t) for s, t in zip(student, teacher, strict=True)]).mean()


def _pkd_level(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = pair(student, teacher, "feature maps")
    require_shape("the student's feature map", student, (None,) * 4, MAP)
    if student.numel() == 0:
        return student.sum()
    return 0.5 * F.mse_loss(standardise(student), standardise(teacher))


def standardise(feature_map: Tensor) -> Tensor:
    """(N, C, H, W) with mean 0 and variance 1 per channel, over N, H and W."""
    mean = feature_map.mean((0, 2, 3), keepdim=True)
    variance = feature_map.var((0, 2, 3), unbiased=False, keepdim=True)
    return (feature_map - mean) / (variance + 1e-6).sqrt()
