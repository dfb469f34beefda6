"""Terms that teach a detector on pseudo-LiDAR what a teacher on LiDAR sees: same frame, from above, cell by cell.

Both networks give "bev" (B, C, H, W), "heatmap" (B, classes, H, W) logits and "boxes" (B, 9, H, W), of which the first
six are place and log sizes, then sine and cosine of the doubled yaw, then the logit of a direction. Every loss is 0
when student and teacher agree, and no teacher gets a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.distill.losses import feature_mse
from kdnb.distill.schedules import two_phase
from kdnb.distill.terms import Term
from kdnb.errors import InputError

NAMES = ("kd_bev", "kd_logit", "kd_box")
# detection, features, logits: the original's weights up to epoch 20 of 40, and from there on
FIRST_PHASE, SECOND_PHASE = {"det": 1.0, "bev": 2.0, "logit": 1.0}, {"det": 3.0, "bev": 1.5, "logit": 1.5}


def phase_weight(name: str, scale: float = 1.0, switch: float = 0.5):
    """The two-phase weight of a part ("bev", "logit") as a function of progress, for a detection loss of weight 1.

    The original raises the detection loss from 1 to 3 as well. Only the ratio of the parts matters to an optimiser
    that divides by the gradient's size, as Adam does, so each part is given relative to it: 2 then 0.5, 1 then 0.5.
    """
    first, second = (phase[name] / phase["det"] for phase in (FIRST_PHASE, SECOND_PHASE))
    return two_phase(scale * first, scale * second, switch)


def heat(heatmap: Tensor) -> Tensor:
    """(B, classes, H, W) logits → (B, 1, H, W): the chance of the likeliest class."""
    return heatmap.detach().float().sigmoid().amax(1, keepdim=True)


def heated_mse(student: Tensor, teacher: tuple[Tensor, Tensor], floor: float = 0.01) -> Tensor:
    """Mean squared error of features, cells weighted by ``floor`` + the teacher's heat.

    Most of the ground is empty: with a floor of 0.1 the thousands of empty cells still weigh ten times as much as those
    of the objects. A large floor is the plain mean; 0 leaves only what the teacher takes for objects.

    Args:
        student: (B, C, H, W), adapted. teacher: its features of that shape, its heatmap logits.
    """
    features, logits = teacher
    return feature_mse(student, features, floor + heat(logits))


def heat_kd(student: Tensor, teacher: Tensor, beta: float = 2.0) -> Tensor:
    """Quality focal loss towards the teacher's probabilities: |p_t - p_s|^beta · BCE(p_s, p_t), summed over cells and
    classes, divided by the teacher's summed heat, at least 1 (Li et al. 2020, arXiv 2006.04388, equation 5).

    The first factor makes it 0 at agreement and keeps the many cells where both see nothing from counting. The sum of
    the heat stands for the number of objects, by which the detection loss is divided as well.

    Args:
        student, teacher: (B, classes, H, W) logits.
    """
    student, target = student.float(), teacher.detach().float().sigmoid()
    distance = (target - student.sigmoid()).abs() ** beta
    cells = distance * F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return cells.sum() / target.sum().clamp(min=1)


def box_kd(student: Tensor, teacher: tuple[Tensor, Tensor], threshold: float = 0.3) -> Tensor:
    """Distance of box codes where the teacher sees an object, weighted by its score.

    Measured as the detection loss does: L1 of place and log sizes, twice the squared distance of the doubled yaw. The
    direction is left to the labels.

    Args:
        student: (B, 9, H, W). teacher: its map of that shape, its heatmap logits.
        threshold: cells with a teacher's heat above it count. None of them gives 0.
    """
    boxes, logits = teacher
    score = heat(logits)
    weight = score * (score > threshold)
    difference = (student - boxes.detach()).float()
    distance = difference[:, :6].abs().sum(1, keepdim=True) + 2 * difference[:, 6:8].pow(2).sum(1, keepdim=True)
    return (weight * distance).sum() / weight.sum().clamp(min=1)


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on its own points of the same frames, in the same view: "teacher_points" of the batch."""
    return teacher(batch["teacher_points"], batch["images"], batch["projections"])


def bev_terms(
    channels: tuple[int, int], names: Sequence[str] = NAMES, scale: dict[str, float] | None = None, switch: float = 0.5
) -> list[Term]:
    """The terms with these names, with the original's two phases; boxes change phase as the logits do.

    Args:
        channels: of the student's and of the teacher's BEV features; a 1x1 convolution leads from one to the other.
        scale: {name: factor on its weight}, 1 where nothing is given. ``heat_kd`` is small by its making: near
            agreement its first factor leaves a hundredth. 20 makes it a fifth of the task loss or so.
        switch: progress at which the second phase begins.

    Raises:
        InputError: a name, or a key of ``scale``, of no term.
    """
    scale = scale or {}
    unknown = [name for name in (*names, *scale) if name not in NAMES]
    if unknown:
        raise InputError(f"no term is named {unknown[0]!r}, expected {', '.join(NAMES)}")
    adapter = nn.Conv2d(*channels, 1)
    nn.init.dirac_(adapter.weight)  # identity init, for a student that starts at the teacher's weights
    nn.init.zeros_(adapter.bias)

    def weight(name):
        return phase_weight("bev" if name == "kd_bev" else "logit", scale.get(name, 1.0), switch)

    def with_heat(key):
        return lambda seen, student_outputs: (seen[key], seen["heatmap"])

    terms = [
        Term("kd_bev", heated_mse, "bev", with_heat("bev"), adapter, weight=weight("kd_bev")),
        Term("kd_logit", heat_kd, "heatmap", "heatmap", weight=weight("kd_logit")),
        Term("kd_box", box_kd, "boxes", with_heat("boxes"), weight=weight("kd_box")),
    ]
    return [term for term in terms if term.name in names]
