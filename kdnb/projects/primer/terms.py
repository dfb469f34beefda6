"""00's distillation terms: a teacher's logits, its features of one image, and its distances between images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from kdnb.distill.classification import soft_label_term
from kdnb.distill.distiller import Distiller, LiveTeacher, Teacher
from kdnb.distill.losses import cosine_loss, rkd_distance
from kdnb.distill.terms import Term, choose_terms
from kdnb.models.classifier import CarClassifier, classifier_step
from kdnb.projects.primer.data import PrimerSettings

LOGITS, FEATURES, RELATIONS = ("kd_logits",), ("kd_features",), ("kd_relations",)


def build_terms(names: Sequence[str], settings: PrimerSettings, widths: tuple[int, int]) -> list[Term]:
    """The terms with these names; InputError for another. ``widths``: of the student's and the teacher's "features"."""
    terms = [
        replace(soft_label_term(settings.temperature, weight=3.0), name=LOGITS[0]),
        Term(FEATURES[0], cosine_loss, "features", "features", nn.Linear(*widths), weight=settings.features_weight),
        Term(RELATIONS[0], rkd_distance, "features", "features", weight=settings.relations_weight),
    ]
    return choose_terms(terms, names)


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on the student's pixels: {"logits", "features"}."""
    return teacher(batch["images"], batch["meta"])


def build_distiller(
    student: CarClassifier,
    teacher: CarClassifier | None,
    names: Sequence[str],
    settings: PrimerSettings,
    outputs: Teacher | None = None,
) -> Distiller:
    """The student with its terms, which compare with ``outputs`` or else the live teacher; without names it learns from
    labels alone, as the teacher did."""
    if not names or teacher is None:
        return Distiller(student, student_step=classifier_step)
    terms = build_terms(names, settings, (student.features, teacher.features))
    return Distiller(student, outputs or LiveTeacher(teacher, teacher_step), terms, classifier_step)
