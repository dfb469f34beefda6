"""Distillation losses: pure functions of a student's and a teacher's tensors, independent of any task.

Each loss is a mean per element (per sample, pixel, region or cell), so its value does not depend on the batch size or
on the image size, and it is 0 when student and teacher agree. The teacher's tensor never receives a gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kd_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, dim: int = 1) -> Tensor:
    """KL divergence from the teacher's softened probabilities to the student's, times temperature².

    Args:
        student_logits, teacher_logits: same shape, classes along ``dim``: (N, C), (N, C, H, W), ...
        temperature: both are divided by it. The factor temperature² keeps the gradient's size, which otherwise
            shrinks as 1/temperature² (Hinton et al. 2015, arXiv 1503.02531, section 2).

    Returns:
        A scalar, the mean over everything but ``dim`` (``reduction="batchmean"`` would sum over pixels); 0 for an
        empty input, such as no foreground proposal.
    """
    if student_logits.numel() == 0:
        return student_logits.sum()
    student = F.log_softmax(student_logits / temperature, dim)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim).mean()


def centred_mse(student_logits: Tensor, teacher_logits: Tensor, dim: int = 1) -> Tensor:
    """Mean squared error of logits, each less its mean over the classes.

    A softmax ignores a constant added to all logits, so the plain error penalises a difference without meaning. For
    temperature → ∞, ``kd_kl`` tends to ``centred_mse / 2``.

    Args:
        student_logits, teacher_logits: same shape, classes along ``dim``.
    """
    student = student_logits - student_logits.mean(dim, keepdim=True)
    teacher = teacher_logits - teacher_logits.mean(dim, keepdim=True)
    return F.mse_loss(student, teacher.detach())


def cosine_loss(student: Tensor, teacher: Tensor, dim: int = -1) -> Tensor:
    """Mean of 1 − cos(student, teacher) along ``dim``, of one shape. ‖s − t‖² of unit vectors is twice this."""
    return (1 - F.cosine_similarity(student, teacher.detach(), dim)).mean()


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between all pairwise distances of a batch, each network's in units of its own mean distance.

    It compares relations between images, so the two spaces need neither the same width nor an adapter (Park et al.
    2019, arXiv 1904.05068, equations 5 and 6).

    Args:
        student, teacher: (N, D) and (N, E), one row per image, N at least 2.
    """
    return F.smooth_l1_loss(relative_distances(student.float()), relative_distances(teacher.detach().float()))


def relative_distances(points: Tensor) -> Tensor:
    """(N, D) → (N (N-1) / 2,) distances of all pairs, divided by their mean; all 0 when all points are the same."""
    distances = F.pdist(points)
    return distances / distances.mean().clamp(min=1e-12)


def feature_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of feature maps (N, C, H, W) over the cells of a mask.

    Args:
        student, teacher: (N, C, H, W).
        mask: (N, 1, H, W), weight of each cell in the mean; None takes all cells alike. An empty mask gives 0.
    """
    per_cell = (student - teacher.detach()).pow(2).mean(1, keepdim=True)
    if mask is None:
        return per_cell.mean()
    return (per_cell * mask).sum() / mask.sum().clamp(min=1)


def region_mse(student: list[Tensor], teacher: list[Tensor], mask: list[Tensor]) -> Tensor:
    """DeFeat's neck loss of one region (foreground or background): ½·MSE over its cells, mean over pyramid levels.

    Called once with the foreground mask and once with the background mask. Each is normalised by its own number of
    cells, so that the many cells of the background do not drown the few of the objects (Guo et al. 2021, arXiv
    2103.14475, section 3.2).

    Args:
        student, teacher: per level (N, C, H_l, W_l).
        mask: per level (N, 1, H_l, W_l) of 0 and 1.
    """
    levels = [feature_mse(s, t, m) for s, t, m in zip(student, teacher, mask, strict=True)]
    return 0.5 * torch.stack(levels).mean()


def pkd(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """PKD: ½·MSE of feature maps standardised per channel over batch and cells; equals 1 − Pearson correlation.

    Magnitudes cancel, so it needs neither adapters nor masks (Cao et al. 2022, arXiv 2207.02039, section 3).

    Args:
        student, teacher: per level (N, C, H_l, W_l).
    """
    levels = [0.5 * F.mse_loss(standardise(s), standardise(t.detach())) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(levels).mean()


def standardise(feature_map: Tensor) -> Tensor:
    """(N, C, H, W) with mean 0 and variance 1 per channel, over N, H and W."""
    mean = feature_map.mean((0, 2, 3), keepdim=True)
    variance = feature_map.var((0, 2, 3), unbiased=False, keepdim=True)
    return (feature_map - mean) / (variance + 1e-6).sqrt()
