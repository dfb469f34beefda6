"""Input of the KITTI evaluation: label and detection folders, and all their objects as columns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdnb.datasets.kitti_labels import KittiLabel, read_labels
from kdnb.datasets.kitti_names import frame_files
from kdnb.datasets.notes import skipped
from kdnb.datasets.text import read_text
from kdnb.errors import InputError

Labels = Mapping[str, Sequence[KittiLabel]]  # frame → its objects or detections
NUMBERS = ("truncated", "occluded", "alpha", "height", "width", "length", "x", "y", "z", "rotation_y")
log = logging.getLogger(__name__)


@dataclass
class Objects:
    """N objects of all frames, sorted by frame, within a frame in the order of its file.

    frame: int (N,), index of the frame. type: str (N,), lower case. truncated, occluded, alpha, score: float (N,); the
    score of ground truth is 0. bbox: (N, 4), left, top, right, bottom in pixels. box3d: (N, 7), as ``rotated_iou``.
    """

    frame: np.ndarray
    type: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    alpha: np.ndarray
    bbox: np.ndarray
    box3d: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray) -> Objects:
        """The objects at ``rows``, an index or a mask."""
        return Objects(*(value[rows] for value in vars(self).values()))


def as_objects(frames: Labels, order: Sequence[str], scores: bool) -> Objects:
    """Columns of ``{frame: [KittiLabel]}`` in the order ``order``; frames missing from ``frames`` are empty.

    Raises InputError, naming frame and object (from 1), for a number that is not finite and a detection without score.
    """
    number = {frame: i for i, frame in enumerate(order)}
    index = [number[frame] for frame in order for _ in frames.get(frame, ())]
    labels = [label for frame in order for label in frames.get(frame, ())]
    values = [(*(getattr(label, name) for name in NUMBERS), *label.bbox) for label in labels]
    rows = [(*row, label.score if scores else 0.0) for row, label in zip(values, labels, strict=True)]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(NUMBERS) + 5)  # a score None becomes NaN
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        column = int(np.flatnonzero(~np.isfinite(table[row]))[0])
        name = (*NUMBERS, "left", "top", "right", "bottom", "score")[column]
        place = row - index.index(index[row]) + 1
        raise InputError(
            f"frame {order[index[row]]!r}, object {place}: {name} is {rows[row][column]}, expected a finite number"
        )
    column = {name: table[:, i] for i, name in enumerate(NUMBERS)}
    box3d = np.stack([column[name] for name in ("x", "y", "z", "height", "width", "length", "rotation_y")], axis=1)
    types = np.array([label.type.lower() for label in labels], dtype=str)
    return Objects(
        np.array(index, dtype=np.int64),
        types,
        column["truncated"],
        column["occluded"],
        column["alpha"],
        table[:, len(NUMBERS) : -1],
        box3d,
        table[:, -1],
    )


def read_ground_truth(folder: str | Path, frames: Collection[str] | None = None) -> dict[str, list[KittiLabel]]:
    """``{frame: [KittiLabel]}`` of the files ``<frame>.txt`` of a label folder, or only of the listed ``frames``.

    Files that are no frame's (``kitti_names.frame_files``) are left out, and the log counts them.
    Types are case-insensitive; an unknown type is no fault, as officially: no class considers it.

    Raises InputError for a missing or empty folder, and for every fault of a file, with its line.
    """
    files = _text_files(folder, "label")
    if frames is not None:
        files = {frame: Path(folder) / f"{frame}.txt" for frame in frames}
    if not files:
        raise InputError(f"{folder}: no label files, expected one <frame>.txt per frame")
    return {frame: read_labels(path, any_type=True) for frame, path in files.items()}


def read_detections(folder: str | Path, frames: Collection[str], others: bool = False) -> dict[str, list[KittiLabel]]:
    """``{frame: [KittiLabel]}`` of a folder of detection files, which have a 16th field, the score.

    ``frames``: those of the ground truth. A frame without a file is left out of the dict; the evaluation counts it as a
    frame without detections. Files that are no frame's, such as the official tool's ``stats_*.txt``, and with
    ``others`` those of frames that are not asked for, are left out, and the log counts them. Where the folder has none,
    its ``data/`` is read, as the official tool's results have it.

    Raises InputError for a missing or empty folder, a file of a frame not among ``frames`` (with ``others``: if no file
    is), and for every fault of a file, with its line.
    """
    files = _text_files(folder, "detection")
    unknown = next((path for frame, path in files.items() if frame not in frames), None)
    wanted = {frame: path for frame, path in files.items() if frame in frames}
    if unknown and others and wanted:
        log.warning("%s", skipped(folder, [frame for frame in files if frame not in wanted], "not asked for", "frame"))
        files, unknown = wanted, None
    if unknown:
        raise InputError(
            f"{unknown}: detections of an unknown frame, expected one of the {len(frames)} frames "
            f"of the ground truth, such as {next(iter(frames), '-')}"
        )
    if not files:
        raise InputError(f"{folder}: no detection files, expected one <frame>.txt per frame, an empty one for none")
    return {frame: read_labels(path, scores=True, any_type=True) for frame, path in files.items()}


def read_frame_list(path: str | Path) -> list[str]:
    """Frame names of a list such as ``ImageSets/val.txt``, one per line. Raises InputError for an empty list."""
    names = read_text(path, "a list of frames").split()
    wrong = next((name for name in names if len(name) > 100 or Path(name).name != name), None)
    if wrong is not None:
        raise InputError(f"{path}: found {wrong[:60]!r}, expected the names of frames, such as 000003")
    if not names:
        raise InputError(f"{path}: no frames, expected one per line")
    return list(dict.fromkeys(names))


def _text_files(folder: str | Path, what: str) -> dict[str, Path]:
    """{frame name: path} of the frames' .txt files, sorted; those in ``data/`` if there are no others."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with KITTI {what} files")
    files, left = frame_files(folder, (".txt",))
    inside, left_inside = frame_files(folder / "data", (".txt",))
    if inside and not any(name.isdecimal() for name in files):
        folder, files, left = folder / "data", inside, left_inside
    if files and left:
        log.warning("%s", skipped(folder, left, "no frame's"))
    return files
