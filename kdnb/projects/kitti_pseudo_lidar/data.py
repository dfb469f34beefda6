"""04's data: the frames of a KITTI root by what they are for, and the settings that say what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from kdnb.datasets.kitti import Frame, KittiObject
from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES, KittiLabel, counts_as
from kdnb.datasets.kitti_views import objects_to_detect
from kdnb.errors import InputError
from kdnb.experiment import TrainSettings
from kdnb.models.fusion3d import FULL_GRID, LITE_GRID
from kdnb.models.voxels import Grid
from kdnb.world.export_kitti import rendered_kitti

DRIVES = 1  # the seed of the rendered drives; settings were chosen on those of 0, so that no test frame had a say


class KittiPseudoLidarSettings(TrainSettings):
    """Settings of this project; ``settings.yaml`` has a block of them for each profile."""

    # data
    train_frames: int = 150  # rendered, when no DATA is given
    val_frames: int = 40
    test_frames: int = 100
    size: tuple[int, int] = (828, 250)  # width, height
    validation: float = 0.1  # held out of train, if DATA has no labels for its test frames and val is tested on
    image_width: int = 0  # pixels that images are shrunk to for a detector; 0: as they are
    distances: list[tuple[int, int]] = [(0, 10), (10, 20), (20, 30)]  # metres ahead, for the AP by distance
    # depth
    depth: str = "tiny"  # trained here; or "hf:<model id>", "folder:<path>"
    depth_size: tuple[int, int] = (128, 416)  # height, width
    depth_widths: list[int] = [12, 20, 32, 48, 64]
    depth_steps: int = 0
    depth_batch: int = 8
    # networks: teacher and students are alike
    network: Literal["lite", "full"] = "lite"
    pretrained: bool = True  # ImageNet weights of the full one's image network
    # distillation: factors on the original's weights in two phases, see ``bev_terms``
    bev_scale: float = 10.0
    logit_scale: float = 20.0
    box_scale: float = 1.0
    switch: float = 1.0  # when the second phase begins, as a share of training; 0.5 in the original

    @property
    def grid(self) -> Grid:
        """The detectors' range and cells."""
        return LITE_GRID if self.network == "lite" else FULL_GRID

    def offline(self) -> KittiPseudoLidarSettings:
        return self.model_copy(update={"pretrained": False})


@dataclass
class Data:
    """Frames of a KITTI root; none is in two of the lists.

    Attributes:
        key: identifies the splits and how they were made; root: of the set.
        sources: the official splits that the frames come from.
        in_memory: small enough to be kept there.
    """

    key: str
    root: Path
    sources: list[KittiObject]
    train: list[Frame]
    validation: list[Frame]
    test: list[Frame]
    in_memory: bool


def open_data(settings: KittiPseudoLidarSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The KITTI root at ``data``, or one rendered for these settings below ``root`` (reused by later runs).

    Nothing is ever selected on what is reported. If the test frames' labels are known, as in a rendered set, the
    official splits are what their names say. The real set keeps them secret: val is tested on, as in the literature,
    and the last part of train is validation. A root without lists is cut into three, half of it train.

    Raises:
        InputError: too few frames, a set without one box to learn from, and as ``KittiObject`` does.
    """
    count = {"train": settings.train_frames, "val": settings.val_frames, "test": settings.test_frames}
    place = rendered_kitti(root, **count, size=settings.size, seed=DRIVES) if data is None else Path(data)
    sources, parts = split_frames(place, settings.validation)
    for name, frames in zip(("training", "validation", "test"), parts, strict=True):
        if not frames:
            raise InputError(f"{place}: no {name} frames with labels, expected at least 3 annotated frames in all")
    if not frames_with_objects(parts[0]):
        raise InputError(
            f"{place}: not one {', '.join(CLASSES)} in the labels of {len(parts[0])} training frames; "
            "the detection loss would teach nothing. Expected label files with objects"
        )
    key = f"{place.resolve().name}-{len(parts[0])}-{settings.image_width}"
    return Data(key, place, sources, *parts, in_memory=data is None)


def split_frames(
    root: Path, validation: float
) -> tuple[list[KittiObject], tuple[list[Frame], list[Frame], list[Frame]]]:
    """The splits to read, annotated frames only, and those for training, validation and test."""
    if not (root / "ImageSets").is_dir():
        source = KittiObject(root, "train").annotated()
        frames = source.frames
        first, second = len(frames) // 2, len(frames) // 2 + max(1, round(validation * len(frames)))
        return [source], (frames[:first], frames[first:second], frames[second:])
    train, val = KittiObject(root, "train").annotated(), KittiObject(root, "val").annotated()
    if (root / "ImageSets" / "test.txt").is_file() and (root / "testing_label_2").is_dir():
        test = KittiObject(root, "test").annotated()
        return [train, val, test], (train.frames, val.frames, test.frames)
    first = len(train) - max(1, round(validation * len(train)))
    return [train, val], (train.frames[:first], train.frames[first:], val.frames)


def frames_with_objects(frames: list[Frame]) -> list[int]:
    """Indices of frames with objects to detect. Batches are made of these: a batch without a box teaches nothing, and
    empty street shows in them too."""
    return [i for i, frame in enumerate(frames) if objects_to_detect(frame.labels)]


def ground_truth(frames: list[Frame]) -> dict[str, list[KittiLabel]]:
    """frame -> its labels, as the evaluation wants them."""
    return {frame.name: frame.labels or [] for frame in frames}


def count_objects(data: Data) -> pd.DataFrame:
    """Frames, and objects per class and difficulty that count in the evaluation, in each split (rows)."""
    kinds, rows = [(c, d) for c in CLASSES for d in DIFFICULTIES], {}
    for name in ("train", "validation", "test"):
        frames: list[Frame] = getattr(data, name)
        labels = [label for frame in frames for label in frame.labels or []]
        counts = {f"{c} {d}": sum(label.type == c and counts_as(label, d) for label in labels) for c, d in kinds}
        rows[name] = {"frames": len(frames), **counts}
    return pd.DataFrame(rows).T


def count_by_distance(frames: list[Frame], distances: list[tuple[int, int]], name: str = "Car") -> dict[str, int]:
    """How many objects of a class count at difficulty moderate, by metres ahead: {"0 to 10 m": 12, ...}."""
    labels = [label for frame in frames for label in frame.labels or [] if label.type == name]
    ahead = [label.z for label in labels if counts_as(label, "moderate")]
    return {f"{near} to {far} m": sum(near <= z < far for z in ahead) for near, far in distances}
