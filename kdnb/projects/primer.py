"""00 The primer: one small set, one teacher, one student, and everything the other projects build on.

What the notebook and ``python -m kdnb.projects.primer`` share: settings, data, terms and arms. The pictures are crops
around the objects of 01's street; the question is the simplest there is: what is this?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.utils.data import Dataset

from kdnb.datasets.region_views import RegionViews
from kdnb.distill.classification import soft_label_term
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.losses import cosine_loss, rkd_distance
from kdnb.distill.terms import Term
from kdnb.errors import InputError
from kdnb.models.classifier import CarClassifier, classifier_step
from kdnb.projects import coco_alignment as coco
from kdnb.projects.car_kfold import Network
from kdnb.run import Settings, load_settings

PROJECT = "00_distillation_primer"
PRIMARY = "accuracy"


class PrimerSettings(Settings):
    """Settings of this project; ``settings/primer.yaml`` has a block of them for each profile."""

    # data
    train_images: int = 600  # street pictures drawn, when no DATA is given: by default 01's
    test_images: int = 200
    size: tuple[int, int] = (192, 144)  # width, height of a drawn picture
    crop: int = 32  # pixels across an object's crop
    fewest: int = 60  # objects that a category must have, to become a class
    few_labels: int = Field(5, ge=1)  # labelled objects of each class, in the few-labels arms
    more_labels: list[int] = [3, 10]  # times few_labels, for the curve over the number of labels
    # networks
    teacher: Network = Network(backbone="plain", hidden=128, dropout=0.1, options={"width": 24})
    student: Network = Network(backbone="plain", hidden=32, dropout=0.0, options={"width": 4})
    # training
    batch: int = 32
    teacher_steps: int
    weak_steps: int  # of the teacher that is not worth learning from
    student_steps: int
    long: float = 3.0  # times as many steps, in the long pair
    optimizer: str = "adamw_fused"
    lr: float
    teacher_lr: float
    weight_decay: float = 0.01
    schedule: str = "onecycle"
    milestones: list[float] = [0.75, 0.92]  # of schedule "step", as fractions of training
    clip: float = 5.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    curve_points: int = 4  # how often each arm is scored on validation while training
    processes: int = 1  # arms that train side by side, one core each
    # distillation
    temperature: float = Field(2.0, gt=0)
    logits_weight: float = 3.0
    features_weight: float = 16.0
    relations_weight: float = 100.0
    allow_weaker_teacher: bool = False

    def offline(self) -> PrimerSettings:
        """The same networks with random weights, to read trained ones into."""
        return self.model_copy(
            update={
                name: getattr(self, name).model_copy(update={"pretrained": False}) for name in ("teacher", "student")
            }
        )


@dataclass(frozen=True)
class Arm:
    """One way to train the student. Everything not named here is the same in all arms.

    Attributes:
        terms: which distillation terms, by name; none is a student alone.
        teacher: the arm that it learns from.
        few: only so many times ``settings.few_labels`` pictures of each class have labels; 0: all have.
        longer: factor on the number of steps; None for ``settings.long``.
        reseeded: added to the seed of its starting weights and batches.
    """

    terms: tuple[str, ...] = ()
    teacher: str = "teacher"
    few: int = 0
    longer: float | None = 1.0
    reseeded: int = 0


LOGITS, FEATURES, RELATIONS = ("kd_logits",), ("kd_features",), ("kd_relations",)
TEACHERS = ("teacher", "weak_teacher")
ARMS = {
    "baseline": Arm(),
    "baseline_again": Arm(reseeded=100),
    "few_labels_baseline": Arm(few=1),
    "long_baseline": Arm(longer=None),
    "distilled": Arm(LOGITS),
    "long_distilled": Arm(LOGITS, longer=None),
    "from_weak_teacher": Arm(LOGITS, "weak_teacher"),
    "few_labels_distilled": Arm(LOGITS, few=1),
    "few_labels_features": Arm(FEATURES, few=1),
    "few_labels_relations": Arm(RELATIONS, few=1),
}
ABLATION_ARMS = {
    "features": Arm(FEATURES),
    "relations": Arm(RELATIONS),
    "few_labels_all_terms": Arm(LOGITS + FEATURES + RELATIONS, few=1),
    "few_labels_from_weak_teacher": Arm(LOGITS, "weak_teacher", few=1),
}


def arms_of(settings: PrimerSettings) -> dict[str, Arm]:
    """All arms of a run: ARMS, ABLATION_ARMS and, for the curve, a pair for each number of ``more_labels``."""
    curve = {
        f"few_labels_x{n}_{who}": Arm(terms, few=n)
        for n in settings.more_labels
        for who, terms in (("baseline", ()), ("distilled", LOGITS))
    }
    return ARMS | curve | ABLATION_ARMS


def pairs_of(settings: PrimerSettings) -> list[tuple[str, str]]:
    """(b, a) of all comparisons: is b better than a?"""
    return [
        ("teacher", "baseline"),
        ("distilled", "baseline"),
        ("distilled", "baseline_matched"),
        ("few_labels_distilled", "few_labels_baseline"),
        *((f"few_labels_x{n}_distilled", f"few_labels_x{n}_baseline") for n in settings.more_labels),
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


# --- data -------------------------------------------------------------------------------------------------------


class StreetCrops(Dataset):
    """``crops[(row, view)]`` → one object of the street, as ``classifier_step`` and ``car_views.collate`` want it.

    A sample is {"id": str, "view": str, "image": uint8 (3, h, h), "meta": float (0,), "label": int, -1 if it may not be
    used, "labelled": bool, "index": row}.

    Args:
        regions: the crops; see ``RegionViews`` for the views.
        classes: names of the categories to keep; objects of others are left out.
        labelled: rows whose labels may be used, None means all.
    """

    def __init__(self, regions: RegionViews, classes: list[str], labelled: Iterable[int] | None = None):
        self.regions, self.classes = regions, classes
        of_index = {index: regions.data.regions[index].category for index in regions.indices}
        self.indices = [index for index, category in of_index.items() if category in classes]
        self.labels = np.array([classes.index(of_index[index]) for index in self.indices])
        self.labelled = None if labelled is None else set(labelled)

    def with_labels(self, labelled: Iterable[int] | None) -> StreetCrops:
        """The same crops, of which only these rows have labels."""
        return StreetCrops(self.regions, self.classes, labelled)

    def by_size(self, label: int) -> list[int]:
        """Rows of a class, those of the largest boxes first."""

        def side(row):
            x1, y1, x2, y2 = self.regions.data.regions[self.indices[row]].box
            return max(x2 - x1, y2 - y1)

        return sorted(np.flatnonzero(self.labels == label).tolist(), key=side, reverse=True)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        row, view = key
        crop, known = self.regions[self.indices[row], view], self.labelled is None or row in self.labelled
        return {
            "id": crop["id"],
            "view": view,
            "image": crop["image"],
            "meta": torch.zeros(0),
            "label": int(self.labels[row]) if known else -1,
            "labelled": known,
            "index": row,
        }


@dataclass
class Data:
    """Crops to learn from, to choose settings on, and to report; the names of their classes."""

    classes: list[str]
    train: StreetCrops
    validation: StreetCrops
    test: StreetCrops


def open_data(settings: PrimerSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The objects of the COCO root at ``data``, or of one drawn below ``root``: the very pictures that 01 draws.

    Classes are the categories with at least ``settings.fewest`` objects to learn from, in alphabetical order.

    Raises:
        InputError: no such category, or ``few_labels`` and its multiples leave none of its objects without a label.
    """
    pictures = {key: getattr(settings, key) for key in ("train_images", "test_images", "size", "crop")}
    aligned = load_settings(coco.CocoAlignmentSettings, "coco_alignment", "lite", **pictures)
    found = coco.open_data(aligned, data, root)
    count = Counter(region.category for region in coco.regions_of(found.train))
    classes = sorted(name for name, number in count.items() if number >= settings.fewest)
    most = settings.few_labels * max([1, *settings.more_labels])
    if len(classes) < 2 or most >= min(count[name] for name in classes):
        raise InputError(
            f"{len(classes)} categories have {settings.fewest} objects to learn from, and {most} labels "
            "of each are asked for; expected two categories, and more objects in each"
        )
    return Data(classes, *(StreetCrops(one, classes) for one in (found.train, found.validation, found.test)))


# --- distillation -----------------------------------------------------------------------------------------------


def build_terms(names: tuple[str, ...], settings: PrimerSettings, widths: tuple[int, int]) -> list[Term]:
    """The terms with these names: what a teacher says, how it sees one picture, how it sees pictures side by side.

    Args:
        widths: of the student's and the teacher's "features".

    Raises:
        InputError: an unknown name.
    """
    logits = soft_label_term(settings.temperature, settings.logits_weight)
    logits.name = "kd_logits"
    terms = [
        logits,
        Term("kd_features", cosine_loss, "features", "features", nn.Linear(*widths), weight=settings.features_weight),
        Term("kd_relations", rkd_distance, "features", "features", weight=settings.relations_weight),
    ]
    unknown = sorted(set(names) - {term.name for term in terms})
    if unknown:
        raise InputError(f"unknown term {unknown[0]!r}, expected some of {', '.join(term.name for term in terms)}")
    return [term for term in terms if term.name in names]


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on the pixels that the student sees: {"logits", "features"}."""
    return teacher(batch["images"], batch["meta"])


def build_distiller(
    student: CarClassifier, teacher: CarClassifier | None, names: tuple[str, ...], settings: PrimerSettings
) -> Distiller:
    """The student with its terms; without names it learns from labels alone, as the teacher did."""
    if not names:
        return Distiller(student, student_step=classifier_step)
    terms = build_terms(names, settings, (student.features, teacher.features))
    return Distiller(student, LiveTeacher(teacher, teacher_step), terms, classifier_step)


if __name__ == "__main__":
    from kdnb.projects.primer_experiment import main

    main()
