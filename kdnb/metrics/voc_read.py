"""Input of the VOC evaluation: the ground truth of a devkit and the official detection files."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from kdnb.datasets.text import read_text
from kdnb.datasets.voc_files import VOC_CLASSES, annotation_path, find_devkit, read_list
from kdnb.datasets.voc_xml import FARTHEST, read_annotation, zero_based_note
from kdnb.errors import InputError


def read_ground_truth(devkit: str | Path, year: str = "2007", image_set: str = "test") -> dict[str, dict[str, Any]]:
    """Ground truth of one image set as ``kdnb.metrics.voc`` describes it; ids as in the lists, such as ``000012``.

    Reads list and XML files only; XMLs need no <size>. Boxes that look 0-based are logged, once a folder. Raises
    InputError with file and line for every fault.
    """
    devkit = find_devkit(devkit)
    names = read_list(devkit, year, image_set)
    annotations = {name: read_annotation(annotation_path(devkit, year, name)) for name in names}
    if any(one.zero_based for one in annotations.values()):
        logging.getLogger(__name__).warning(zero_based_note(annotation_path(devkit, year, "x").parent, annotations))
    keys = ("boxes", "labels", "difficult")
    return {name: {key: getattr(one, key) for key in keys} for name, one in annotations.items()}


def read_detections(
    folder: str | Path, classes: Sequence[str] = VOC_CLASSES, images: Iterable[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Detections from the official files ``comp4_det_<set>_<class>.txt`` of a folder, as ``kdnb.metrics.voc``.

    Lines are ``image score xmin ymin xmax ymax`` with 1-based corners. Each image also has ``order``, the
    line numbers, which rank equal scores as in the official code. Raises InputError, naming file and line, for a
    malformed line, a number that is not finite or an image not among ``images`` (when given), and for a missing file of
    ``classes``, an unknown class and two files of one class.
    """
    files = _class_files(folder)
    missing = [name for name in classes if name not in files]
    if missing:
        raise InputError(f"{Path(folder) / f'comp4_det_<set>_{missing[0]}.txt'}: no such file, expected one per class")
    known = None if images is None else set(images)
    ids, numbers, labels, orders = [], [np.zeros((0, 5))], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for name, path in files.items():
        names, values, lines = _read_class_file(path, known)
        ids += names
        numbers.append(values)
        labels.append(np.full(len(names), VOC_CLASSES.index(name) + 1))
        orders.append(lines)
    return _per_image(ids, np.concatenate(numbers), np.concatenate(labels), np.concatenate(orders))


def _class_files(folder: str | Path) -> dict[str, Path]:
    """{class name: file}, in the order of VOC_CLASSES."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with comp4_det_test_<class>.txt files")
    files = {}
    for path in sorted(folder.glob("comp4_det_*.txt")):
        name = re.sub(r"comp4_det_(.*_)?", "", path.stem)
        if name not in VOC_CLASSES:
            near = get_close_matches(name, VOC_CLASSES, n=1, cutoff=0)[0]
            raise InputError(f"{path}: unknown class {name!r}, expected one of the 20 VOC classes (nearest: {near!r})")
        if name in files:
            raise InputError(f"{path}: a second file for class {name!r} beside {files[name].name}, expected one")
        files[name] = path
    return {name: files[name] for name in VOC_CLASSES if name in files}


def _read_class_file(path: Path, known: Collection[str] | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """``(ids, values (N, 5): score and edges, line numbers (N,))`` of one file; blank lines are skipped."""
    lines = read_text(path, "lines of image score xmin ymin xmax ymax").split("\n")
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    try:
        values = np.array([row[1:] for _, row in rows], dtype=np.float64).reshape(len(rows), 5)
    except ValueError:
        values = np.full((1, 5), np.nan)
    bad = not np.isfinite(values).all() or not (np.abs(values[:, 1:]) < FARTHEST).all()
    if bad or (known is not None and any(row[0] not in known for _, row in rows)):
        faults = (_line_fault(f"{path}:{number}", row, known) for number, row in rows)
        raise InputError(next(fault for fault in faults if fault))
    return [row[0] for _, row in rows], values - [0, 1, 1, 0, 0], np.array([n for n, _ in rows], dtype=np.int64)


def _line_fault(where: str, row: Sequence[str], known: Collection[str] | None) -> str | None:
    """What is wrong with one line of a detection file; None when it is fine."""
    if len(row) != 6:
        return f"{where}: found {len(row)} columns, expected 6: image score xmin ymin xmax ymax"
    if known is not None and row[0] not in known:
        return f"{where}: unknown image {row[0][:60]!r}, expected one of the {len(known)} images of the set"
    for text, column in zip(row[1:], ("score", "xmin", "ymin", "xmax", "ymax"), strict=True):
        try:
            value = float(np.array([text], dtype=np.float64)[0])  # as the whole file is read
        except ValueError:
            value = np.nan
        if not np.isfinite(value) or (column != "score" and abs(value) >= FARTHEST):
            return f"{where}: {column} is {text[:40]!r}, expected a finite number"
    return None


def _per_image(
    ids: Sequence[str], numbers: np.ndarray, labels: np.ndarray, orders: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Split flat rows by image."""
    number = {image: i for i, image in enumerate(dict.fromkeys(ids))}
    image = np.array([number[name] for name in ids], dtype=np.int64)
    by_image = np.argsort(image, kind="stable")
    cuts = np.searchsorted(image[by_image], np.arange(1, len(number)))
    parts = [np.split(array[by_image], cuts) for array in (numbers, labels, orders)]
    return {
        name: {"boxes": values[:, 1:], "labels": label, "scores": values[:, 0], "order": order}
        for name, values, label, order in zip(number, *parts, strict=bool(number))
    }
