"""00's data: crops around the objects of 01's street, and the settings that say what they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from kdnb.datasets.region_splits import read_regions, regions_of, rendered_regions
from kdnb.datasets.street_crops import StreetCrops
from kdnb.errors import InputError
from kdnb.experiment import TrainSettings
from kdnb.models.classifier import ClassifierConfig


class PrimerSettings(TrainSettings):
    """Settings of this project; ``settings.yaml`` has a block of them for each profile. ``few_labels`` is per class."""

    # data
    train_images: int = 600  # rendered, when no DATA is given: by default 01's
    test_images: int = 200
    size: tuple[int, int] = (192, 144)  # width, height of a rendered image
    crop: int = 32  # side of an object's crop in pixels
    fewest: int = 60  # objects that a category must have to become a class
    more_labels: list[int] = [3, 10]  # times few_labels, for the curve over the number of labels
    # networks
    teacher: ClassifierConfig = ClassifierConfig(hidden=128, dropout=0.1, options={"width": 24})
    student: ClassifierConfig = ClassifierConfig(hidden=32, dropout=0.0, options={"width": 4})
    # training
    weak_steps: int  # of the teacher that is not worth learning from
    long: float = 3.0  # times as many steps, in the long pair
    teacher_lr: float
    # distillation
    temperature: float = Field(2.0, gt=0)
    features_weight: float = 16.0
    relations_weight: float = 100.0


@dataclass
class Data:
    """Crops to train on, to choose settings on, and to report. ``key`` identifies the splits and how they were made."""

    key: str
    classes: list[str]
    train: StreetCrops
    validation: StreetCrops
    test: StreetCrops


def open_data(settings: PrimerSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The objects of the COCO root at ``data``, or of one rendered below ``root``: the very images that 01 renders.

    Classes are the categories with at least ``settings.fewest`` objects to learn from, in alphabetical order.

    Raises:
        InputError: fewer than two classes, or a class with too few objects; and as ``split_regions`` does.
    """
    if data is None:
        splits = rendered_regions(root, settings.train_images, settings.test_images, settings.size, settings.crop)
    else:
        splits = read_regions(data, settings.crop, most_regions=8000)
    count = Counter(region.category for region in regions_of(splits.train))
    classes = sorted(name for name, number in count.items() if number >= settings.fewest)
    most = settings.few_labels * max([1, *settings.more_labels])
    if len(classes) < 2 or most >= min(count[name] for name in classes):
        raise InputError(
            f"{len(classes)} categories have {settings.fewest} objects to learn from, and {most} labels "
            "of each are asked for; expected two categories, and more objects in each"
        )
    crops = (StreetCrops(one, classes) for one in (splits.train, splits.validation, splits.test))
    return Data(f"{splits.key}-{'-'.join(classes)}", classes, *crops)
