"""01's arms and what is compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kdnb.experiment import Arm
from kdnb.projects.coco_alignment.terms import KD


@dataclass(frozen=True)
class CocoArm(Arm):
    """
    Attributes:
        texts: "category" or "full", which text of a region is its label; "none" trains by the terms alone.
        weights: settings that this arm changes, such as (("cosine_weight", 1.0),).
    """

    texts: str = "category"
    weights: tuple[tuple[str, float], ...] = ()


TAUGHT = CocoArm(KD, teacher="teacher")
SWEEP = {
    f"sweep_{s:g}_{c:g}": replace(TAUGHT, weights=(("similarity_weight", s), ("cosine_weight", c)))
    for s, c in ((1, 3), (1, 10), (1, 30), (10, 3), (10, 10), (10, 100))
}

ARMS = {
    "teacher": CocoArm(network="teacher"),
    "baseline": CocoArm(),
    "few_labels_baseline": CocoArm(labels=1),
    "full_captions": CocoArm(texts="full", role="control"),
    "distilled": TAUGHT,
    "baseline_matched": CocoArm(matches="distilled"),
    "no_labels": replace(TAUGHT, texts="none"),
    "full_captions_distilled": replace(TAUGHT, texts="full", role="control"),
    "few_labels_distilled": replace(TAUGHT, labels=1),
}
ABLATIONS = {
    "similarity_only": CocoArm(("similarity",), teacher="teacher"),
    "cosine_only": CocoArm(("cosine",), teacher="teacher"),
    "l2_only": CocoArm(("l2",), teacher="teacher"),
    "long_baseline": CocoArm(longer=2),
    "long_distilled": replace(TAUGHT, longer=2),
    **SWEEP,
}
COMPARISONS = (
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("no_labels", "baseline"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("full_captions", "distilled"),
    ("full_captions_distilled", "full_captions"),
    ("similarity_only", "baseline"),
    ("cosine_only", "baseline"),
    ("l2_only", "cosine_only"),
    ("long_distilled", "long_baseline"),
)
