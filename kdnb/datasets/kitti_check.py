"""A check of a whole KITTI root: reads all files, counts frames and objects, and names every fault of form and sense
(``kitti_sense``), and what it skipped."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kdnb.datasets.images import rotated
from kdnb.datasets.kitti import SPLITS, list_frames, list_of, rival_lists
from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES, TYPES, counts_as, numbered_labels
from kdnb.datasets.kitti_names import IMAGES, frame_files, shared_frames
from kdnb.datasets.kitti_sense import cloud_faults, image_faults, label_faults
from kdnb.datasets.notes import closing, skipped, unforeseen
from kdnb.errors import InputError


@dataclass
class KittiReport:
    """The result of :func:`check_kitti` per split: ``counts`` {what: how many}, ``types`` objects per type, ``valid``
    {(class, difficulty): objects that count}; ``notes`` of what was skipped or is rotated and
    ``faults``, one line each."""

    root: Path
    counts: dict = field(default_factory=dict)
    types: dict = field(default_factory=dict)
    valid: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def summary(self) -> str:
        """Tables of frames, objects and counted objects per split, then every note and fault on a line of its
        own."""
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
        return "\n".join([*lines, *closing(self.notes, self.faults)])

    __str__ = summary

    @staticmethod
    def _rows(table, indent="", keys=None):
        keys = keys or list(next(iter(table.values())))
        return [f"{indent + key:<24}" + "".join(f"{column[key]:>9}" for column in table.values()) for key in keys]


def check_kitti(root: str | Path) -> KittiReport:
    """Read all images, clouds, calibrations and labels of a KITTI root; report counts per split, what is no frame's or
    in no list, and every fault. Whatever goes wrong with a file is that file's fault.

    Raises InputError only when there is no split.
    """
    root = Path(root)
    report = KittiReport(root)
    listed = [split for split in SPLITS if (root / "ImageSets" / f"{split}.txt").is_file()]
    if {"train", "val"} <= set(listed):
        listed = [split for split in listed if split != "trainval"]
    used: dict[str, set] = {"training": set(), "testing": set()}
    images: list[Path] = []
    for split in listed or ["train"]:
        try:
            side, frames, _, faults = list_frames(root, split, "velodyne")
        except InputError as error:
            if not listed:
                raise
            report.faults.append(str(error))
            continue
        earlier = {list_of(root, other) for other in listed[: listed.index(split)]} if listed else set()
        report.faults += faults + shared_frames(
            list_of(root, split), [path for path in rival_lists(root, split) if path in earlier]
        )
        used[side] |= {frame.name for frame in frames}
        images += [frame.image_path for frame in frames]
        with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
            notes = list(tqdm(pool.map(_check_frame, frames), total=len(frames), desc=f"check {split}", disable=None))
        report.faults += [fault for _, _, _, faults in notes for fault in faults]
        _count(report, split if listed else "all", notes)
    report.notes = _notes(root, used, listed) + rotated(images)
    return report


def _check_frame(frame):
    """(labels or None, points, image size, faults) of one frame."""
    faults: list[str] = []

    def read(path, reader, *values):
        try:
            return reader(*values)
        except InputError as error:
            faults.append(str(error))
        except Exception as error:
            faults.append(unforeseen(path, error, "an official file"))
        return None

    image, points = read(frame.image_path, frame.image), read(frame.points_path, frame.points)
    calibration = read(frame.calibration_path, lambda: frame.calibration)
    labels = None
    if frame.label_path.exists():
        labels = read(frame.label_path, numbered_labels, frame.label_path)
    size = None if image is None else image.shape[1::-1]
    if points is not None:
        faults += read(frame.points_path, cloud_faults, frame.points_path, points) or []
    if size and calibration is not None:
        faults += read(frame.image_path, image_faults, frame.image_path, size, calibration) or []
    if labels:
        faults += read(frame.label_path, label_faults, frame.label_path, labels, calibration, size) or []
    return None if labels is None else list(labels.values()), 0 if points is None else len(points), size, faults


def _notes(root, used, listed):
    """A line for each folder with files that are no frame's, and for the frames of each side that nothing lists."""
    lines = []
    for side, names in used.items():
        found = set()
        for folder, suffixes in _folders(root, side):
            files, others = frame_files(folder, suffixes)
            found |= set(files)
            if others:
                lines.append(skipped(folder, others, "no frame's"))
        unused = sorted(found - names)
        if unused:
            lines.append(skipped(root / side, unused, "in no list" if listed else "without a label", "frame"))
    return lines


def _folders(root, side):
    labels = root / "training" / "label_2" if side == "training" else root / "testing_label_2"
    clouds = [root / side / name for name in ("velodyne", "velodyne_reduced")]
    pairs = [(root / side / "image_2", IMAGES), (root / side / "calib", (".txt",)), (labels, (".txt",))]
    return pairs + [(folder, (".bin",)) for folder in clouds]


def _count(report, split, notes):
    labels = [label for own, *_ in notes for label in own or ()]
    sizes = {size for _, _, size, _ in notes if size}
    clouds = [count for _, count, _, _ in notes]
    report.counts[split] = {
        "frames": len(notes),
        "with labels": sum(own is not None for own, *_ in notes),
        "image sizes": len(sizes),
        "points, median": int(np.median(clouds or [0])),
        "empty clouds": clouds.count(0),
    }
    report.types[split] = Counter(label.type for label in labels)
    report.valid[split] = {
        (c, d): sum(label.type == c and counts_as(label, d) for label in labels) for c in CLASSES for d in DIFFICULTIES
    }
