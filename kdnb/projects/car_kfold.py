"""06 Cars, five folds: an ensemble of five networks teaches a small one, with more than a label says.

What the notebook and ``python -m kdnb.projects.car_kfold`` share: settings, data, networks, terms and arms.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.model_selection import StratifiedKFold, train_test_split

from kdnb.datasets.car_views import META
from kdnb.datasets.cars import Cars
from kdnb.distill.classification import soft_label_term, temperature_at
from kdnb.distill.distiller import Distiller
from kdnb.errors import InputError
from kdnb.models.classifier import CarClassifier, classifier_step
from kdnb.run import Settings
from kdnb.world.export_cars import rendered_cars

PROJECT = "06_car_5fold_kd"
PRIMARY = "log_loss"


class Network(Settings):
    """One classifier: a backbone under the head of ``CarClassifier``."""

    backbone: str = "plain"  # or a model of timm's
    hidden: int = 512
    dropout: float = 0.3
    pretrained: bool = False
    options: dict = {}  # more arguments of the backbone, such as the plain one's width


class CarKfoldSettings(Settings):
    """Settings of this project; ``settings/car_kfold.yaml`` has a block of them for each profile."""

    # data
    train_per_class: int = 50  # drawn, when no DATA is given
    test_images: int = 1000  # drawn
    size: tuple[int, int] = (64, 64)  # height, width that every network gets pictures in
    held_out: float = Field(0.1, gt=0, lt=1)  # share of training images kept to score on, where test has no labels
    few_labels: int = 5  # labelled images of each class, in the few-labels arms
    unlabelled: str | None = None  # a folder of more pictures that a distilled student also learns from
    transductive: bool = False  # test pictures as such a folder: scores on them then say less about other pictures
    # folds and experiments
    folds: int = Field(5, ge=2)
    experiment: Literal["A", "B", "C", "D"] = "D"  # told beside the picture: nothing, aspect, colour, both
    compare_folds: int = Field(1, ge=1)  # so many folds of each other experiment are trained too, to compare
    # networks
    teacher: Network = Network()
    student: Network = Network()
    # training
    batch: int = 32
    teacher_epochs: float
    student_epochs: float
    long: float = 3.0  # times as many steps, in the long pair
    optimizer: str = "adamw_fused"
    lr: float
    teacher_lr: float
    weight_decay: float = 0.01
    schedule: str = "cosine"
    milestones: list[float] = [0.75, 0.92]  # of schedule "step", as fractions of training
    clip: float = 5.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    curve_points: int = 5  # how often each arm is scored on validation while training
    patience: int = 0  # scores without a new best that end the training of a fold; 0: none does
    processes: int = 1  # arms that train side by side, one core each
    # distillation
    temperature_start: float = 2.0
    temperature_stop: float = 1.0
    temperature_factor: float = 0.95  # an epoch; 1 keeps the first one
    kd_weight: float = 1.0
    stored_views: int = 8  # augmentations of each picture that cached teachers have answered
    allow_weaker_teacher: bool = False

    def offline(self) -> CarKfoldSettings:
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
        teacher: "ensemble"; "best_fold"; "fold_1", which has seen no label that the student has not; or "out_of_fold":
            of each picture, the fold that has not trained on it. "" for a student alone.
        cached: the teacher's answers to ``settings.stored_views`` augmentations are read; else it is asked every time.
        few: only ``settings.few_labels`` images of each class have labels.
        longer: factor on the number of steps; None for ``settings.long``.
        test_half: every other test picture is among those it learns from, without a label.
    """

    teacher: str = ""
    cached: bool = False
    few: bool = False
    longer: float | None = 1.0
    test_half: bool = False


ARMS = {  # of arms that train side by side the longest comes first, or one core would wait for it at the end
    "long_baseline": Arm(longer=None),
    "baseline": Arm(),
    "distilled": Arm("ensemble"),
    "long_distilled": Arm("ensemble", cached=True, longer=None),
    "distilled_cached": Arm("ensemble", cached=True),
    "distilled_best_fold": Arm("best_fold", cached=True),
    "distilled_oof": Arm("out_of_fold", cached=True),
    "few_labels_baseline": Arm(few=True),
    "few_labels_distilled": Arm("ensemble", cached=True, few=True),
}
ABLATION_ARMS = {
    "distilled_fold_1": Arm("fold_1", cached=True),
    "few_labels_oof": Arm("out_of_fold", cached=True, few=True),
    "long_distilled_live": Arm("ensemble", longer=None),
    "double_baseline": Arm(longer=2.0),
    "double_distilled": Arm("ensemble", cached=True, longer=2.0),
    "transductive_half": Arm("ensemble", test_half=True),
}
COMPARISONS = [
    ("ensemble", "teacher"),
    ("teacher", "baseline"),
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("few_labels_distilled", "baseline"),
    ("long_distilled", "long_baseline"),
    ("long_distilled_live", "long_baseline"),
    ("long_distilled_live", "long_distilled"),
    ("distilled_cached", "baseline"),
    ("distilled_cached", "distilled"),
    ("distilled_best_fold", "distilled"),
    ("distilled_oof", "distilled"),
    ("distilled_best_fold", "distilled_cached"),
    ("distilled_oof", "distilled_cached"),
    ("distilled_oof", "distilled_best_fold"),
    ("distilled_fold_1", "distilled_cached"),
    ("distilled_fold_1", "baseline"),
    ("experiment_B", "experiment_A"),
    ("experiment_C", "experiment_A"),
    ("experiment_D", "experiment_A"),
    ("few_labels_oof", "few_labels_distilled"),
    ("double_distilled", "double_baseline"),
    ("transductive_half", "distilled"),
]


# --- data -------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """The cars of one root, and what each picture is used for.

    Attributes:
        train: (path, class id) of every labelled picture that folds and students learn from.
        scored: (path, class id) of the pictures that all arms are scored on.
        scored_names: their ids.
        pool: paths of pictures without labels that a distilled student also learns from.
        on_test: whether ``scored`` are the test pictures; else a part of the training pictures, held out.
    """

    cars: Cars
    train: list[tuple[Path, int]]
    scored: list[tuple[Path, int]]
    scored_names: list[str]
    pool: list[Path]
    on_test: bool


def open_data(settings: CarKfoldSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The cars at ``data`` (a folder or the competition's open.zip), or drawn ones below ``root``.

    A drawn set has a solution: arms are scored on its test pictures. The real one's is secret, so a part of its
    training pictures, the same share of every class, is held out of all folds and arms are scored on that: scoring
    them on a fold's validation part would flatter the ensemble, four of whose folds have trained on it.
    """
    place = (
        Path(data)
        if data is not None
        else rendered_cars(root, train_per_class=settings.train_per_class, test=settings.test_images)
    )
    cars = Cars(place)
    train, held = list(cars.train), []
    if cars.solution is not None:
        held = [(path, cars.solution[name]) for name, path in zip(cars.test_ids, cars.test_paths, strict=True)]
        names = list(cars.test_ids)
    else:
        train, held = hold_out(train, settings.held_out)
        names = [str(Path(path).relative_to(cars.root)) for path, _ in held]
    return Data(cars, train, held, names, pool_of(settings, cars), cars.solution is not None)


def hold_out(items: list[tuple[Path, int]], share: float) -> tuple[list, list]:
    """(what is left, what is held out): the same share of every class, as nearly as whole pictures allow. Raises
    InputError for a share that is fewer pictures than there are classes."""
    labels = [label for _, label in items]
    classes = len(set(labels))
    if math.ceil(share * len(items)) < classes:
        enough = math.ceil(100 * classes / len(items)) / 100
        raise InputError(
            f"setting 'held_out' is {share}, of {len(items)} training pictures fewer than the {classes} "
            f"classes; expected {enough} or more"
        )
    return train_test_split(items, test_size=share, stratify=labels, random_state=0)


def pool_of(settings: CarKfoldSettings, cars: Cars) -> list[Path]:
    """Pictures without labels that a distilled student also learns from."""
    pool = []
    if settings.unlabelled is not None:
        folder = Path(settings.unlabelled)
        pool = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not pool:
            raise InputError(f"setting 'unlabelled': no picture below {folder}, expected .jpg, .jpeg or .png files")
    if settings.transductive:
        warnings.warn(
            "transductive: students learn from the test pictures (without labels), so scores on them say "
            "less about other pictures",
            stacklevel=2,
        )
        pool += list(cars.test_paths)
    return pool


def split_folds(labels: list[int], folds: int, seed: int) -> np.ndarray:
    """(N,) number of the fold, 1 to ``folds``, that validates on each training picture; the others train on it.

    Raises:
        InputError: no class has a picture for every fold.
    """
    fold_of = np.zeros(len(labels), dtype=int)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class with fewer pictures, some folds validate on none
            parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
    except ValueError:
        raise InputError(f"{folds} folds, but no class has so many training pictures") from None
    for number, (_, validation) in enumerate(parts, start=1):
        fold_of[validation] = number
    return fold_of


# --- networks ---------------------------------------------------------------------------------------------------


def build(network: Network, classes: int, experiment: str, seed: int) -> CarClassifier:
    """A fresh classifier."""
    torch.manual_seed(seed)
    return CarClassifier(
        network.backbone,
        classes,
        len(META[experiment]),
        network.hidden,
        network.dropout,
        network.pretrained,
        **network.options,
    )


# --- distillation -----------------------------------------------------------------------------------------------


def cooling(settings: CarKfoldSettings, epochs: float) -> Callable[[float], float]:
    """Progress in [0, 1] → the temperature of that epoch."""

    def temperature(progress: float) -> float:
        return temperature_at(
            int(progress * epochs), settings.temperature_start, settings.temperature_stop, settings.temperature_factor
        )

    return temperature


def build_distiller(student: CarClassifier, teacher, settings: CarKfoldSettings, epochs: float) -> Distiller:
    """The student with its soft labels; without a teacher it learns from labels alone, as the folds do.

    Args:
        teacher: a ``LiveTeacher`` or a table of answers; None for a student alone.
        epochs: that it trains for; the temperature falls with each.
    """
    if teacher is None:
        return Distiller(student, student_step=classifier_step)
    term = soft_label_term(cooling(settings, epochs), settings.kd_weight)
    return Distiller(student, teacher, [term], classifier_step)


if __name__ == "__main__":
    from kdnb.projects.car_experiment import main

    main()
