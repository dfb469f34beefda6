"""03's data: the three splits of a VOC devkit, and the settings that say what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor
from torch.utils.data import Subset

from kdnb.datasets.voc import VOC, VOC_CLASSES
from kdnb.errors import InputError
from kdnb.experiment import TrainSettings
from kdnb.options import Settings
from kdnb.world.export_voc import rendered_voc


class Network(Settings):
    """One detector. ``backbone`` "small" takes widths and blocks, one of timm's ("tf_efficientnet_lite0") parts, neck
    and proposals; any other name is one of torchvision's."""

    backbone: str = "small"
    widths: list[int] = []
    blocks: list[int] = []
    parts: dict[str, int] = {}  # of a timm backbone that stay: blocks and layers of ``pretrained.image_backbone``
    neck: int = 96
    head: int = 128
    proposals: int = 100
    pretrained: bool = False

    @property
    def is_timm(self) -> bool:
        return self.backbone.startswith("tf_")


class VocDefeatSettings(TrainSettings):
    """Settings of this project; ``settings.yaml`` has a block of them for each profile."""

    # data
    train_images: int = 800  # rendered, when no DATA is given
    test_images: int = 150
    size: tuple[int, int] = (160, 96)  # width, height
    train_sets: list[tuple[str, str]] = [("2007", "trainval")]  # year, image set, when DATA is given
    test_set: tuple[str, str] = ("2007", "test")
    validation: float = 0.125  # the last part of the training images, held out
    augmentations: int = 0  # views of each training image beside plain and flipped, see ``make_view``
    kept_augmentations: int = 0  # those of them for which arms that keep their teacher's outputs do so
    # networks
    teacher: Network
    student: Network
    # distillation
    foreground_weight: float = 3.0  # DeFeat's released VOC recipe: 3 and 12
    background_weight: float = 12.0
    level_base: float = 56.0  # in pixels; the released 56 is for 600 x 1000
    pkd_weight: float
    head_weight: float = 1.0
    pseudo_box_score: float = 0.5  # teacher detections above this score count as foreground in unlabelled images

    @property
    def first_level(self) -> int:
        """Of the pyramid: the small detectors begin at P3 (stride 8), torchvision's at P2 (stride 4)."""
        return 3 if self.teacher.backbone == "small" else 2


@dataclass
class Data:
    """The three splits of a VOC devkit. ``key`` identifies the splits and how they were made."""

    key: str
    train: Subset
    validation: Subset
    test: VOC
    one_size: bool  # all images have the same size


def open_data(settings: VocDefeatSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The devkit at ``data``, or one rendered for these settings below ``root`` (reused by later runs).

    Validation is the last part of the training list; nothing is ever selected on test.

    Raises:
        InputError: too few training images to hold some out, and as ``VOC`` does.
    """
    devkit, train_sets = data, settings.train_sets
    if data is None:
        devkit = rendered_voc(root, train=settings.train_images, test=settings.test_images, size=settings.size)
        train_sets = [("2007", "trainval")]
    images = VOC(devkit, tuple(train_sets), keep_in_memory=data is None)
    test = VOC(devkit, (settings.test_set,), keep_in_memory=data is None)
    held_out = round(len(images) * settings.validation)
    if not 0 < held_out < len(images):
        raise InputError(f"{devkit}: {len(images)} training images leave {held_out} for validation; give at least 8")
    first = len(images) - held_out
    key = f"{Path(devkit).resolve().parent.name}-{len(images)}-{settings.size}"
    train, validation = Subset(images, range(first)), Subset(images, range(first, len(images)))
    return Data(key, train, validation, test, data is None)


def ground_truth(data: VOC | Subset) -> dict[str, dict[str, Tensor]]:
    """image id -> "boxes" (N, 4) in pixels, "labels" (N,), "difficult" (N,), as the metrics want it."""
    items = (data[i] for i in range(len(data)))
    return {item["id"]: {key: item[key] for key in ("boxes", "labels", "difficult")} for item in items}


def count_objects(data: Data) -> pd.DataFrame:
    """Images and objects per class (columns) in each split (rows), difficult ones left out."""
    rows = {}
    for name in ("train", "validation", "test"):
        truth = ground_truth(getattr(data, name)).values()
        labels = [label for one in truth for label in one["labels"][~one["difficult"]].tolist()]
        rows[name] = {"images": len(truth), **{VOC_CLASSES[k - 1]: labels.count(k) for k in sorted(set(labels))}}
    return pd.DataFrame(rows).T.fillna(0).astype(int)
