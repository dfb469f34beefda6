"""Soft labels: what a teacher says of all classes of a picture, for a student to agree with.

Networks give "logits" (N, C). A teacher may be one network or an ``Ensemble``, run at every step (``LiveTeacher``), or
answers that were stored: all of its knowledge is in C numbers a picture.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from kdnb.distill.losses import kd_kl
from kdnb.distill.terms import Term
from kdnb.errors import InputError


def soft_label_term(
    temperature: float | Callable[[float], float] = 1.0, weight: float | Callable[[float], float] = 1.0
) -> Term:
    """The term "kd_kl": T² · KL(teacher ‖ student) at temperature T, mean over all pictures, labelled or not.

    Args:
        temperature: a number, or a function of progress in [0, 1], see ``temperature_at``.
        weight: likewise.

    Raises:
        InputError: a temperature that is not above 0, or that is no number; a schedule's when it is reached.
    """
    at = temperature if callable(temperature) else lambda progress: temperature
    checked(at(0.0))

    def student(seen):
        return seen["logits"], checked(at(seen["progress"]))

    def compare(student_value, teacher_logits):
        logits, now = student_value
        if logits.shape != teacher_logits.shape:
            sizes = f"{tuple(logits.shape)} and {tuple(teacher_logits.shape)}"
            raise InputError(f"logits of student and teacher are {sizes}, expected the same pictures and classes")
        return kd_kl(logits.float(), teacher_logits.float(), now)

    return Term("kd_kl", compare, student, "logits", weight=weight)


def checked(temperature: float) -> float:
    if not temperature > 0:
        raise InputError(f"temperature is {temperature}, expected a number above 0")
    return temperature


def temperature_at(epoch: int, start: float = 2.0, stop: float = 1.0, factor: float = 0.95) -> float:
    """start · factor^epoch (epochs count from 0), but never below ``stop``: the original's schedule."""
    return max(stop, start * factor**epoch)


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on the pixels and numbers that the student sees: {"logits"}."""
    return {"logits": teacher(batch["images"], batch["meta"])["logits"]}
