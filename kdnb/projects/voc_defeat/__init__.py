"""03 VOC DeFeat: a Faster R-CNN teacher distilled into a smaller one through decoupled features of the neck."""

from kdnb.projects.voc_defeat.data import VocDefeatSettings, count_objects, ground_truth, open_data
from kdnb.projects.voc_defeat.experiment import VocDefeat
from kdnb.projects.voc_defeat.terms import (
    DEFEAT,
    background_share,
    build,
    build_distiller,
    build_terms,
    inherit_heads,
    teacher_step,
)

__all__ = [
    "DEFEAT",
    "VocDefeat",
    "VocDefeatSettings",
    "background_share",
    "build",
    "build_distiller",
    "build_terms",
    "count_objects",
    "ground_truth",
    "inherit_heads",
    "open_data",
    "teacher_step",
]
