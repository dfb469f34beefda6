"""Soft labels: the teacher's probabilities of all classes of an image, as the student's target.

Networks give "logits" (N, C). A teacher may be one network or an ``Ensemble``, run at each step (``LiveTeacher``) or
kept (``TeacherOutputs``): C numbers an image.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from kdnb.distill.checks import positive_temperature
from kdnb.distill.losses import kd_kl
from kdnb.distill.terms import Term


def soft_label_term(
    temperature: float | Callable[[float], float] = 1.0,
    weight: float | Callable[[float], float] = 1.0,
    dim: int | None = None,
) -> Term:
    """The term "kd_kl": T² · KL(teacher ‖ student) at temperature T, mean over all images, labelled or not.

    Args:
        temperature: a number, or a function of progress in [0, 1], see ``temperature_at``.
        weight: likewise.
        dim: of the classes, as for ``kd_kl``; (N, C) and (N, C, H, W) need none.

    Raises:
        InputError: a temperature that is not above 0; that of a schedule is checked at each step, as shapes are.
    """
    schedule = temperature if callable(temperature) else lambda progress: temperature
    positive_temperature(schedule(0.0))

    def student(student_outputs):
        return student_outputs["logits"], schedule(student_outputs["progress"])

    def compare(student_value, teacher_logits):
        logits, now = student_value
        return kd_kl(logits, teacher_logits, now, dim)

    return Term("kd_kl", compare, student, "logits", weight=weight)


def temperature_at(epoch: int, start: float = 2.0, stop: float = 1.0, factor: float = 0.95) -> float:
    """start · factor^epoch (epochs count from 0), at least ``stop``: the original's schedule."""
    return max(stop, start * factor**epoch)


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on the student's images and meta: {"logits"}."""
    return {"logits": teacher(batch["images"], batch["meta"])["logits"]}
