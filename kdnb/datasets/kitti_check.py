"""A check of a whole KITTI root: reads all files, counts frames and objects, and names every fault."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kdnb.datasets.kitti import SPLITS, list_frames
from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES, TYPES, counts_as
from kdnb.errors import InputError


@dataclass
class KittiReport:
    """The result of :func:`check_kitti` per split: ``counts`` {what: how many}, ``types`` objects per type, ``valid``
    {(class, difficulty): objects that count}; ``faults`` one line each."""

    root: Path
    counts: dict = field(default_factory=dict)
    types: dict = field(default_factory=dict)
    valid: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)

    def summary(self) -> str:
        """Tables of frames, objects and counted objects per split, then every fault on a line of its own."""
        lines = [str(self.root)]
        if self.counts:
            lines.append(f"{'':<24}" + "".join(f"{split:>9}" for split in self.counts))
            lines += self._rows(self.counts)
            lines += ["objects", *self._rows(self.types, "  ", TYPES)]
            lines += ["that count, of 41 to be had"]
            lines += [
                f"  {f'{c} {d}':<22}" + "".join(f"{v[c, d]:>9}" for v in self.valid.values())
                for c in CLASSES
                for d in DIFFICULTIES
            ]
        end = f"{len(self.faults)} fault{'s' * (len(self.faults) != 1)}" if self.faults else "no faults"
        return "\n".join([*lines, *self.faults, end])

    __str__ = summary

    @staticmethod
    def _rows(table, indent="", keys=None):
        keys = keys or list(next(iter(table.values())))
        return [f"{indent + key:<24}" + "".join(f"{column[key]:>9}" for column in table.values()) for key in keys]


def check_kitti(root: str | Path) -> KittiReport:
    """Read all images, clouds, calibrations and labels of a KITTI root; report counts per split and every fault.

    Raises InputError only when there is no split.
    """
    root = Path(root)
    report = KittiReport(root)
    listed = [split for split in SPLITS if (root / "ImageSets" / f"{split}.txt").is_file()]
    if {"train", "val"} <= set(listed):
        listed = [split for split in listed if split != "trainval"]
    for split in listed or ["train"]:
        try:
            _, frames, _ = list_frames(root, split, "velodyne")
        except InputError as error:
            if not listed:
                raise
            report.faults.append(str(error))
            continue
        with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
            notes = list(tqdm(pool.map(_check_frame, frames), total=len(frames), desc=f"check {split}", disable=None))
        report.faults += [fault for _, _, _, faults in notes for fault in faults]
        _count(report, split if listed else "all", notes)
    return report


def _check_frame(frame):
    """(labels or None, points, image size, faults) of one frame."""
    faults, labels, count, size = [], None, 0, None

    def read(reader):
        try:
            return reader()
        except InputError as error:
            faults.append(str(error))
            return None

    image, points, _ = read(frame.image), read(frame.points), read(lambda: frame.calibration)
    labels = read(lambda: frame.labels)
    if image is not None:
        size = image.shape[1::-1]
    if points is not None:
        count = len(points)
        if not np.isfinite(points).all():
            faults.append(f"{frame.points_path}: holds values that are no numbers, expected finite float32")
    return labels, count, size, faults


def _count(report, split, notes):
    labels = [label for own, *_ in notes for label in own or ()]
    sizes = {size for _, _, size, _ in notes if size}
    clouds = [count for _, count, _, _ in notes]
    report.counts[split] = {
        "frames": len(notes),
        "with labels": sum(own is not None for own, *_ in notes),
        "image sizes": len(sizes),
        "points, median": int(np.median(clouds)),
        "empty clouds": clouds.count(0),
    }
    report.types[split] = Counter(label.type for label in labels)
    report.valid[split] = {
        (c, d): sum(label.type == c and counts_as(label, d) for label in labels) for c in CLASSES for d in DIFFICULTIES
    }
