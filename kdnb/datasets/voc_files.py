"""The official VOC file formats, without torch: devkit layout, image lists and detection files; annotations are read
by ``voc_xml``."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kdnb.datasets.text import read_text
from kdnb.errors import InputError
from kdnb.files import atomic_write

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
LABELS = {name: label for label, name in enumerate(VOC_CLASSES, start=1)}
SUFFIXES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG")


def find_devkit(data: str | Path) -> Path:
    """The folder that holds ``VOC<year>``, given that folder, its parent (with a ``VOCdevkit`` in it) or ``VOC<year>``.

    Raises InputError when none of the three fits.
    """
    data = Path(data)
    if re.fullmatch(r"VOC\d{4}", data.name) and (data / "ImageSets").is_dir():
        return data.parent
    for folder in (data, data / "VOCdevkit"):
        if voc_years(folder):
            return folder
    what = "a folder without VOC<year> in it" if data.is_dir() else "a file" if data.exists() else "nothing"
    raise InputError(
        f"{data}: found {what}, expected a VOC devkit: VOCdevkit/VOC2007/ with JPEGImages, Annotations, ImageSets/Main"
    )


def voc_years(devkit: str | Path) -> list[str]:
    """Years (strings, sorted) for which ``devkit/VOC<year>/ImageSets`` exists."""
    return sorted(folder.parent.name[3:] for folder in Path(devkit).glob("VOC[0-9][0-9][0-9][0-9]/ImageSets"))


def image_path(devkit: str | Path, year: str, image_id: str) -> Path:
    """The image ``<image_id>.jpg``, or, where that is missing, the one that ends in .JPG, .jpeg, .png and so on."""
    folder = Path(devkit) / f"VOC{year}" / "JPEGImages"
    paths = [folder / f"{image_id}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def annotation_path(devkit: str | Path, year: str, image_id: str) -> Path:
    return Path(devkit) / f"VOC{year}" / "Annotations" / f"{image_id}.xml"


def list_path(devkit: str | Path, year: str, image_set: str) -> Path:
    return Path(devkit) / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt"


def parse_list(path: str | Path) -> tuple[list[str], list[str]]:
    """Image ids of an ``ImageSets/Main`` file, and its faults (strings ``file:line: what``)."""
    path = Path(path)
    if not os.path.exists(path):
        lists = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))[:8]) or "none"
        return [], [f"{path}: no such image list, expected a file with one image id per line (found: {lists})"]
    try:
        lines = read_text(path, "a list of one image id per line").rstrip().split("\n")
    except InputError as error:
        return [], [str(error)]
    if lines == [""]:
        return [], [f"{path}: empty, expected one image id per line"]
    first_line, faults = {}, []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) != 1 or "/" in words[0]:
            what = f"{line.strip()[:60]!r}" if words else "an empty line"
            faults.append(f"{path}:{number}: found {what}, expected one image id")
        elif words[0] in first_line:
            faults.append(f"{path}:{number}: image {words[0]} is listed again (first in line {first_line[words[0]]})")
        else:
            first_line[words[0]] = number
    return list(first_line), faults


def read_list(devkit: str | Path, year: str, image_set: str) -> list[str]:
    """Image ids of one set. Raises InputError for a missing, empty or faulty list."""
    ids, faults = parse_list(list_path(devkit, year, image_set))
    if faults:
        raise InputError(faults[0])
    return ids


def write_detections(
    folder: str | Path, classes: Sequence[str], detections: Mapping[str, dict], image_set: str = "test"
) -> None:
    """Write the official ``comp4_det_<image_set>_<class>.txt`` files, one per class, also when empty.

    ``detections`` maps image id to ``boxes`` (N, 4) in 0-based edges, ``labels`` (N,) where label ``i`` is
    ``classes[i - 1]``, and ``scores`` (N,); tensors or arrays. Ids such as ``2007/000012`` are written as ``000012``.
    Lines are ``image score xmin ymin xmax ymax`` with 1-based corners; scores keep float32 precision, so that no ties
    arise, and corners a millionth of a pixel.
    Raises InputError for a label without a class and for two ids that would share a name.
    """
    lines = {name: [] for name in classes}
    short_ids = {}
    for image_id, predictions in detections.items():
        short = str(image_id).rsplit("/", 1)[-1]
        if short_ids.setdefault(short, image_id) != image_id:
            raise InputError(f"{folder}: images {short_ids[short]} and {image_id} would both be written as {short}")
        boxes, labels, scores = (as_array(predictions[key], np.float64) for key in ("boxes", "labels", "scores"))
        for (x1, y1, x2, y2), label, score in zip(boxes.reshape(-1, 4), labels.astype(int), scores, strict=True):
            if not 1 <= label <= len(classes):
                raise InputError(f"{folder}: image {image_id} has label {label}, expected 1 to {len(classes)}")
            lines[classes[label - 1]].append(f"{short} {score:.9g} {x1 + 1:.9g} {y1 + 1:.9g} {x2:.9g} {y2:.9g}\n")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in classes:
        atomic_write(folder / f"comp4_det_{image_set}_{name}.txt", "".join(lines[name]))


def as_array(values: Any, dtype: DTypeLike) -> np.ndarray:
    """A numpy array of a list, an array or a tensor on any device, without importing torch."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=dtype)
