"""02's data: the three splits of a Talk2Car root, and the settings that say what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdnb.datasets.talk2car import Talk2Car, hold_out
from kdnb.errors import InputError
from kdnb.experiment import TrainSettings
from kdnb.world.export_talk2car import rendered_talk2car


class Talk2CarGroundingSettings(TrainSettings):
    """Settings of this project; ``settings.yaml`` has a block of them for each profile."""

    # data
    train_images: int = 480  # rendered, when no DATA is given
    validation_images: int = 80
    test_images: int = 140
    size: tuple[int, int] = (320, 180)  # width, height of a rendered image
    proposals: int = 16  # of each image, the best ones
    test_split: Literal["test", "val"] = "test"  # "val" also wherever test has no boxes, as the official one
    # encoders: those of this profile of 01
    encoders: str = "lite"
    encoder_data: str | None = None  # the COCO root 01 learned from, -p ENCODER_DATA; None is the rendered one
    whole_picture: int = 0  # RoIAlign on the image at this width in place of crops; 0 crops
    # head
    width: int = 96
    layers: int = 2
    # training: of a head, and of encoder and head together
    head_steps: int
    finetune_steps: int
    finetune_batch: int = 8
    finetune_lr: float = 5.0e-4


@dataclass
class Data:
    """The three splits. ``key`` identifies them and how they were made, ``note`` what stands in for test, if so."""

    key: str
    train: Talk2Car
    validation: Talk2Car
    test: Talk2Car
    note: str = ""


def open_data(settings: Talk2CarGroundingSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The Talk2Car root at ``data``, or one rendered for these settings below ``root`` (reused by later runs).

    The official test set has no boxes. Then, or with ``test_split`` "val", arms are reported on val, and they are
    selected on the last scenes of train, at least an eighth of its commands.

    Raises:
        InputError: as ``Talk2Car`` does; no proposals file; commands to learn from or to score without a box.
    """
    folder = rendered(settings, root) if data is None else data
    train, validation = (Talk2Car(folder, split, settings.proposals) for split in ("train", "val"))
    test, note = None, "test_split is 'val'"
    if settings.test_split == "test":
        test, note = Talk2Car(folder, "test", settings.proposals), ""
        if all(command.box is None for command in test.commands):
            test, note = None, f"{test.path} has no boxes"
    if test is None:
        test, validation = validation, Talk2Car(folder, "train", settings.proposals)
        train.commands, validation.commands = hold_out(train.commands)
        note += (
            f": scores are those of val, selection is on {len(validation)} commands of train's last scenes, "
            f"{len(train)} are left to learn from"
        )
    for part in (train, validation, test):
        require_boxes(part)
    return Data(f"{Path(folder).resolve().name}-{len(train)}-{settings.proposals}", train, validation, test, note)


def rendered(settings: Talk2CarGroundingSettings, root: str | Path) -> Path:
    """A rendered street of these settings."""
    train, val, test = settings.train_images, settings.validation_images, settings.test_images
    return rendered_talk2car(root, train=train, val=val, test=test, size=settings.size, proposals=settings.proposals)


def require_boxes(data: Talk2Car) -> None:
    """Raise InputError for a split without proposals, or with a command without a box."""
    if data.proposals is None:
        raise InputError(f"{data.root}: no proposals file, expected one: the heads choose among proposals")
    without = [command.token for command in data.commands if command.box is None]
    if without:
        raise InputError(f"{data.path}: command {without[0]} has no box; expected boxes to train and score with")
