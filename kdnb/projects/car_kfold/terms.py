"""06's distillation term: soft labels, at a temperature that falls with each epoch."""

from __future__ import annotations

from collections.abc import Callable

from kdnb.distill.classification import soft_label_term, temperature_at
from kdnb.distill.distiller import Distiller, Teacher
from kdnb.models.classifier import CarClassifier, classifier_step
from kdnb.projects.car_kfold.data import CarKfoldSettings

TERMS = ("kd_kl",)


def cooling(settings: CarKfoldSettings, epochs: float) -> Callable[[float], float]:
    """Progress in [0, 1] → the temperature of that epoch."""
    return lambda progress: temperature_at(int(progress * epochs), settings.temperature_start)


def build_distiller(
    student: CarClassifier, teacher: Teacher | None, settings: CarKfoldSettings, epochs: float
) -> Distiller:
    """The student with its soft labels; without a teacher it learns from labels alone, as the folds do.

    Args:
        teacher: a ``LiveTeacher`` or ``TeacherOutputs``; None for a student alone.
        epochs: that it trains for; the temperature falls with each.
    """
    if teacher is None:
        return Distiller(student, student_step=classifier_step)
    term = soft_label_term(cooling(settings, epochs), settings.kd_weight)
    return Distiller(student, teacher, [term], classifier_step)
