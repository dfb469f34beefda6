"""Terms that distil a detector on LiDAR into one on pseudo-LiDAR: same frame, bird's-eye view, cell by cell.

Both networks give "bev" (B, C, H, W), "heatmap" (B, classes, H, W) logits and "boxes" (B, 9, H, W): centre and log
sizes (6), sine and cosine of twice the yaw (2), direction logit (1). Each loss is 0 when student and teacher agree, and
the teacher never gets a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.distill.checks import pair, precise, require_shape
from kdnb.distill.losses import feature_mse
from kdnb.distill.schedules import two_phase
from kdnb.distill.terms import Term, choose_terms

NAMES = ("kd_bev", "kd_logit", "kd_box")
# weights of detection, features and logits in the original: until epoch 20 of 40, and after it
FIRST_PHASE, SECOND_PHASE = {"det": 1.0, "bev": 2.0, "logit": 1.0}, {"det": 3.0, "bev": 1.5, "logit": 1.5}


def phase_weight(name: str, scale: float = 1.0, switch: float = 0.5) -> Callable[[float], float]:
    """The two-phase weight of a part ("bev", "logit") as a function of progress, for a detection loss of weight 1.

    The original also raises the detection loss from 1 to 3. Only the ratio of the parts matters to an optimizer that
    divides by the gradient's size, as Adam does, so each weight is relative to it: 2 then 0.5, 1 then 0.5.

    Args:
        scale: a factor on both weights.
        switch: progress in [0, 1] at which the second phase begins.
    """
    first, second = (phase[name] / phase["det"] for phase in (FIRST_PHASE, SECOND_PHASE))
    return two_phase(scale * first, scale * second, switch)


def heat(heatmap: Tensor) -> Tensor:
    """(B, classes, H, W) logits → (B, 1, H, W): the highest class probability, without gradient."""
    require_shape("the teacher's heatmap", heatmap, (None,) * 4, "(B, classes, H, W)")
    return precise(heatmap.detach()).sigmoid().amax(1, keepdim=True)


def heated_mse(student: Tensor, teacher: tuple[Tensor, Tensor], floor: float = 0.01) -> Tensor:
    """Mean squared error of features, cells weighted by ``floor`` + the teacher's heat.

    Most of the ground is empty: with a floor of 0.1 the thousands of empty cells still weigh ten times as much as those
    of the objects. A large floor gives the plain mean; 0 leaves only the teacher's objects.

    Args:
        student: (B, C, H, W), adapted.
        teacher: its features of that shape, and its heatmap logits (B, classes, H, W).

    Raises:
        InputError: shapes that do not match.
    """
    features, logits = teacher
    return feature_mse(student, features, floor + heat(logits))


def heat_kd(student: Tensor, teacher: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss towards the teacher's probabilities: |p_t - p_s|^beta · BCE(p_s, p_t), summed over cells and
    classes, divided by the teacher's summed heat, at least 1 (Li et al. 2020, arXiv 2006.04388, equation 5).

    The first factor makes it 0 at agreement, so the many cells that both call empty add nothing. The sum of the heat
    stands for the number of objects, by which the detection loss is also divided.

    Args:
        student, teacher: (B, classes, H, W) logits, the student's finite.

    Raises:
        InputError: they differ in shape.
    """
    student, teacher = pair(student, teacher, "heatmaps")
    target = teacher.sigmoid()
    distance = (target - student.sigmoid()).abs() ** beta
    cells = distance * F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return cells.sum() / target.sum().clamp(min=1)


def box_kd(student: Tensor, teacher: tuple[Tensor, Tensor], threshold: float = 0.3) -> Tensor:
    """Distance of box codes in the cells where the teacher detects an object, weighted by its score.

    As in the detection loss: L1 of centre and log sizes, plus twice the squared distance of sine and cosine of the
    doubled yaw. The direction is left to the labels.

    Args:
        student: (B, 9, H, W).
        teacher: its boxes of that shape, and its heatmap logits (B, classes, H, W).
        threshold: only cells with a teacher's heat above it count; without any the loss is 0.

    Raises:
        InputError: shapes that do not match.
    """
    boxes, logits = teacher
    student, boxes = pair(student, boxes, "boxes")
    require_shape("the student's boxes", student, (None, 9, None, None), "(B, 9, H, W)")
    score = heat(logits)
    require_shape("the teacher's heat", score, (len(student), 1, *student.shape[2:]), "(B, 1, H, W)")
    weight = score * (score > threshold)
    difference = student - boxes
    distance = difference[:, :6].abs().sum(1, keepdim=True) + 2 * difference[:, 6:8].pow(2).sum(1, keepdim=True)
    return (weight * distance).sum() / weight.sum().clamp(min=1)


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on the LiDAR points of the same frames in the same view, "teacher_points" of the batch."""
    return teacher(batch["teacher_points"], batch["images"], batch["projections"])


def bev_terms(
    channels: tuple[int, int], names: Sequence[str] = NAMES, scale: dict[str, float] | None = None, switch: float = 0.5
) -> list[Term]:
    """The terms with these names, in the original's two phases; boxes have the weights of the logits.

    Args:
        channels: of the student's and of the teacher's BEV features; a 1x1 convolution maps the former to the latter.
        names: some of ``NAMES``.
        scale: {name: factor on its weight}, by default 1. ``heat_kd`` is small by construction: near agreement its
            first factor is about 0.01. A scale of 20 makes it roughly a fifth of the task loss.
        switch: progress at which the second phase begins.

    Raises:
        InputError: a name, or a key of ``scale``, that no term has.
    """
    scale = scale or {}
    adapter = nn.Conv2d(*channels, 1)
    nn.init.dirac_(adapter.weight)  # identity init, for a student that starts at the teacher's weights
    nn.init.zeros_(adapter.get_parameter("bias"))

    def weight(name: str):
        return phase_weight("bev" if name == "kd_bev" else "logit", scale.get(name, 1.0), switch)

    def with_heatmap(key: str):
        return lambda teacher_outputs, student_outputs: (teacher_outputs[key], teacher_outputs["heatmap"])

    terms = [
        Term("kd_bev", heated_mse, "bev", with_heatmap("bev"), adapter, weight=weight("kd_bev")),
        Term("kd_logit", heat_kd, "heatmap", "heatmap", weight=weight("kd_logit")),
        Term("kd_box", box_kd, "boxes", with_heatmap("boxes"), weight=weight("kd_box")),
    ]
    choose_terms(terms, scale)  # refuses an unknown key
    return choose_terms(terms, names)
