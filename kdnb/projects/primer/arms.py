"""00's arms and comparisons, as the settings make them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kdnb.experiment import Arm
from kdnb.projects.primer.data import PrimerSettings
from kdnb.projects.primer.terms import FEATURES, LOGITS, RELATIONS


@dataclass(frozen=True)
class PrimerArm(Arm):
    """An arm of 00; ``reseeded`` is added to the seeds of its starting weights and of its batches."""

    reseeded: int = 0


TAUGHT = PrimerArm(LOGITS, teacher="teacher")
FROM_WEAK = replace(TAUGHT, teacher="weak_teacher")
ABLATIONS = {
    "features": replace(TAUGHT, terms=FEATURES),
    "relations": replace(TAUGHT, terms=RELATIONS),
    "few_labels_all_terms": replace(TAUGHT, terms=LOGITS + FEATURES + RELATIONS, labels=1),
    "few_labels_from_weak_teacher": replace(FROM_WEAK, labels=1),
}


def arms_of(settings: PrimerSettings) -> dict[str, PrimerArm]:
    """All arms but the ablations."""
    curve = curve_names(settings)
    return {
        "teacher": PrimerArm(network="teacher"),
        "weak_teacher": PrimerArm(network="teacher", longer=settings.weak_steps / settings.teacher_steps),
        "baseline": PrimerArm(),
        "baseline_again": PrimerArm(reseeded=100, role="control"),
        "baseline_matched": PrimerArm(matches="distilled"),
        "few_labels_baseline": PrimerArm(labels=1),
        "long_baseline": PrimerArm(longer=settings.long),
        "distilled": TAUGHT,
        "long_distilled": replace(TAUGHT, longer=settings.long),
        "from_weak_teacher": FROM_WEAK,
        "few_labels_distilled": replace(TAUGHT, labels=1),
        "few_labels_features": replace(TAUGHT, terms=FEATURES, labels=1),
        "few_labels_relations": replace(TAUGHT, terms=RELATIONS, labels=1),
        **{alone: PrimerArm(labels=n) for n, (_, alone) in curve.items()},
        **{taught: replace(TAUGHT, labels=n) for n, (taught, _) in curve.items()},
    }


def curve_names(settings: PrimerSettings) -> dict[int, tuple[str, str]]:
    """Of the curve over labels: multiple of ``few_labels`` -> (taught, alone)."""
    return {n: (f"few_labels_x{n}_distilled", f"few_labels_x{n}_baseline") for n in settings.more_labels}


def comparisons_of(settings: PrimerSettings) -> list[tuple[str, str]]:
    """Pairs (b, a) of arms: is b better than a?"""
    return [
        ("teacher", "baseline"),
        ("distilled", "baseline"),
        ("distilled", "baseline_matched"),
        ("few_labels_distilled", "few_labels_baseline"),
        *curve_names(settings).values(),
        ("few_labels_features", "few_labels_baseline"),
        ("few_labels_relations", "few_labels_baseline"),
        ("long_distilled", "long_baseline"),
        ("from_weak_teacher", "baseline"),
        ("baseline_again", "baseline"),
        ("features", "baseline"),
        ("relations", "baseline"),
        ("few_labels_all_terms", "few_labels_distilled"),
        ("few_labels_from_weak_teacher", "few_labels_baseline"),
    ]
