"""06's data: what each image of cars is used for, the folds, and the settings that say so."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from kdnb.datasets import car_views
from kdnb.datasets.car_views import CarViews, meta_constants
from kdnb.datasets.cars import Cars
from kdnb.datasets.cars_files import IMAGES, is_image
from kdnb.errors import InputError
from kdnb.experiment import TrainSettings
from kdnb.models.classifier import ClassifierConfig
from kdnb.world.export_cars import rendered_cars

FOLDS = 5
FRESH = [f"aug{i}" for i in range(1000, 11000)]  # so many augmentations that none is likely to come again


class CarKfoldSettings(TrainSettings):
    """Settings of this project; ``settings.yaml`` has a block of them for each profile."""

    # data
    train_per_class: int = 50  # rendered, when no DATA is given
    test_images: int = 1000
    size: tuple[int, int] = (64, 64)  # width, height that every network gets images in
    held_out: float = Field(0.1, gt=0, lt=1)  # share of training images kept to score on, where test has no labels
    unlabelled: str | None = None  # a folder of more images that a distilled student also learns from
    transductive: bool = False  # test images as such a folder: scores on them then say less about other images
    # folds and experiments; few_labels is of each class
    experiment: Literal["A", "B", "C", "D"] = (
        "D"  # given to the network beside the image: nothing, aspect, colour, both
    )
    compare_folds: int = Field(1, ge=0, le=FOLDS)  # so many folds of each other experiment are trained, to compare
    # networks
    teacher: ClassifierConfig
    student: ClassifierConfig
    # training
    teacher_epochs: float
    student_epochs: float
    long: float = 3.0  # times as many steps, in the long pair
    teacher_lr: float
    patience: int = 0  # early stopping of a fold: validations without a new best; 0: off
    # distillation
    temperature_start: float = 2.0  # falls with each epoch, see ``temperature_at``
    kd_weight: float = 1.0
    stored_views: int = 8  # augmentations of each image for which the folds' outputs are stored


@dataclass
class Data:
    """The cars of one root, and what each image is used for.

    Attributes:
        train: (path, class id) of every labelled image that folds and students learn from.
        scored: (path, class id) of the images that all arms are scored on.
        scored_names: their ids.
        pool: paths of images without labels that a distilled student also learns from.
        on_test: whether ``scored`` are the test images; else a part of the training images, held out.
        images: each image once: "train", those that arms learn from, labelled ones first, then the pool and every
            other scored one; "test", those that are scored; "submission", those of the competition's test.
    """

    cars: Cars
    train: list[tuple[Path, int]]
    scored: list[tuple[Path, int]]
    scored_names: list[str]
    pool: list[Path]
    on_test: bool
    images: dict[str, CarViews]

    @cached_property
    def constants(self) -> tuple[Tensor, Tensor]:
        """Mean and spread of aspect and colour over the training images."""
        return meta_constants(self.train)

    def views(self, experiment: str, split: str = "train", labelled: Sequence[int] | None = None) -> CarViews:
        """Some of the ``images``, with what networks of an experiment are given beside them."""
        return self.images[split].like(experiment, labelled, self.constants)


def open_data(settings: CarKfoldSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The cars at ``data`` (a folder or the competition's open.zip), or rendered ones below ``root``.

    A rendered set has a solution: arms are scored on its test images. The real one's is secret, so a part of its
    training images, the same share of every class, is held out of all folds and arms are scored on that: scores on a
    fold's validation part would flatter the ensemble, four of whose folds have trained on it.
    """
    if data is None:
        data = rendered_cars(root, train_per_class=settings.train_per_class, test=settings.test_images)
    cars = Cars(Path(data))
    train, pool = list(cars.train), pool_of(settings, cars)
    if cars.solution is not None:
        names, solved = list(cars.test_ids), [cars.solution[name] for name in cars.test_ids]
        scored = list(zip(cars.test_paths, solved, strict=True))
    else:
        train, scored = hold_out(train, settings.held_out)
        names = [str(Path(path).relative_to(cars.root)) for path, _ in scored]
    unlabelled = [(path, None) for path in [*pool, *(path for path, _ in scored[::2])]]
    items = {"train": train + unlabelled, "test": scored, "submission": [(path, None) for path in cars.test_paths]}
    size, keep = settings.size[::-1], not settings.workers
    images = {name: CarViews(one, size, "A", keep=keep and name != "submission") for name, one in items.items()}
    return Data(cars, train, scored, names, pool, cars.solution is not None, images)


def hold_out(items: list[tuple[Path, int]], share: float) -> tuple[list, list]:
    """(what is left, what is held out): the same share of every class, as nearly as whole images allow. Raises
    InputError if the share is fewer images than there are classes."""
    labels = [label for _, label in items]
    classes = len(set(labels))
    if math.ceil(share * len(items)) < classes:
        enough = math.ceil(100 * classes / len(items)) / 100
        raise InputError(
            f"setting 'held_out' is {share}, of {len(items)} training images fewer than the {classes} "
            f"classes; expected {enough} or more"
        )
    return train_test_split(items, test_size=share, stratify=labels, random_state=0)


def pool_of(settings: CarKfoldSettings, cars: Cars) -> list[Path]:
    """Images without labels that a distilled student also learns from."""
    pool = []
    if settings.unlabelled is not None:
        folder = Path(settings.unlabelled)
        pool = sorted(path for path in folder.rglob("*") if is_image(path))
        if not pool:
            raise InputError(f"setting 'unlabelled': no image below {folder}, expected {', '.join(IMAGES)} files")
    if settings.transductive:
        warnings.warn(
            "transductive: students learn from the test images (without labels), so scores on them say "
            "less about other images",
            stacklevel=2,
        )
        pool += list(cars.test_paths)
    return pool


def split_folds(labels: list[int], folds: int, seed: int) -> np.ndarray:
    """(N,) number of the fold, 1 to ``folds``, that validates on each training image; the others train on it. Raises
    InputError if no class has an image for every fold."""
    fold_of = np.zeros(len(labels), dtype=int)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class with fewer images, some folds validate on none
            parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
    except ValueError:
        raise InputError(f"{folds} folds, but no class has so many training images") from None
    for number, (_, validation) in enumerate(parts, start=1):
        fold_of[validation] = number
    return fold_of


def collate(samples: list[dict]) -> dict:
    """A batch as of ``car_views``, whose "ids" are indices: names of images in a pool may come twice."""
    batch = car_views.collate(samples)
    return {**batch, "ids": batch["indices"].tolist()}
