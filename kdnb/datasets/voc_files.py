"""The official VOC file formats, without torch: devkit layout, image lists, annotation XML and detection files.

Boxes leave this file as pixel *edges* counted from 0, ``[xmin - 1, ymin - 1, xmax, ymax]``: the official corners are
pixels counted from 1, both inside the box, so ``x2 - x1`` in edges is the official width ``xmax - xmin + 1``.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from numpy.typing import DTypeLike

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
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Annotation:
    """One XML: ``size`` (width, height) in pixels, ``boxes`` float64 (N, 4) in 0-based edges, ``labels`` int64 (N,)
    in 1..20, ``difficult`` bool (N,)."""

    size: tuple[float, float]
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


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
    return Path(devkit) / f"VOC{year}" / "JPEGImages" / f"{image_id}.jpg"


def annotation_path(devkit: str | Path, year: str, image_id: str) -> Path:
    return Path(devkit) / f"VOC{year}" / "Annotations" / f"{image_id}.xml"


def list_path(devkit: str | Path, year: str, image_set: str) -> Path:
    return Path(devkit) / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt"


def parse_list(path: str | Path) -> tuple[list[str], list[str]]:
    """Image ids of an ``ImageSets/Main`` file, and its faults (strings ``file:line: what``)."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lists = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))[:8]) or "none"
        return [], [f"{path}: no such image list, expected a file with one image id per line (found: {lists})"]
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{path}: cannot be read as an image list ({error})"]
    first_line, faults = {}, []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) != 1:
            what = "an empty line" if not words else f"{line.strip()!r}"
            faults.append(f"{path}:{number}: found {what}, expected one image id")
        elif words[0] in first_line:
            faults.append(f"{path}:{number}: image {words[0]} is listed again (first in line {first_line[words[0]]})")
        else:
            first_line[words[0]] = number
    if not lines:
        faults.append(f"{path}: empty, expected one image id per line")
    return list(first_line), faults


def read_list(devkit: str | Path, year: str, image_set: str) -> list[str]:
    """Image ids of one set. Raises InputError for a missing, empty or faulty list."""
    ids, faults = parse_list(list_path(devkit, year, image_set))
    if faults:
        raise InputError(faults[0])
    return ids


def read_annotation(path: str | Path) -> Annotation:
    """Read one annotation XML into an :class:`Annotation`. Raises InputError with file and line for its first fault."""
    annotation, faults = parse_annotation(path)
    if faults:
        raise InputError(faults[0])
    return annotation


def parse_annotation(path: str | Path) -> tuple[Annotation | None, list[str]]:
    """Read one XML: ``(Annotation, faults)``; faulty objects are left out and reported as ``file:line: what``."""
    root, objects, fault = _read_elements(path)
    if fault:
        return None, [fault]
    faults = []
    size = tuple(_number(path, root, key, "size", faults) for key in ("width", "height"))
    good = []
    for item in objects:
        before = len(faults)
        row = _read_object(path, item, size, faults)
        if len(faults) == before:
            good.append(row)
    boxes = np.array([row[0] for row in good], dtype=np.float64).reshape(-1, 4)
    labels = np.array([row[1] for row in good], dtype=np.int64)
    difficult = np.array([row[2] for row in good], dtype=bool)
    return Annotation(size, boxes, labels, difficult), faults


def _read_elements(path):
    """``(root values, one dict per object, fault)``; every value is ``(text, line)``, dicts also hold their ``line``.

    Uses expat because ElementTree has no line numbers. Keys are full paths, so that the ``part`` boxes (head, hands,
    feet) inside a person are not taken for objects.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    path_now, text, objects, root = [], [], [], {"line": 1}

    def start(tag, _):
        path_now.append(tag)
        text.clear()
        if path_now == ["annotation", "object"]:
            objects.append({"line": parser.CurrentLineNumber})

    def end(_):
        where = "/".join(path_now[1:])
        value = ("".join(text).strip(), parser.CurrentLineNumber)
        if where.startswith("object/"):
            objects[-1].setdefault(where[len("object/") :], value)
        else:
            root.setdefault(where, value)
        path_now.pop()
        text.clear()

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except FileNotFoundError:
        return root, objects, f"{path}: no such annotation, expected a VOC XML file"
    except OSError as error:
        return root, objects, f"{path}: cannot be read ({error.strerror})"
    except expat.ExpatError as error:
        return root, objects, f"{path}:{error.lineno}: malformed XML ({expat.ErrorString(error.code)})"
    return root, objects, None


def _number(path, values, key, parent, faults):
    """The finite number in ``<parent><key>``; None, and a fault, when it is missing or no number."""
    text, line = values.get(f"{parent}/{key}", (None, values["line"]))
    if text is None:
        faults.append(f"{path}:{line}: found no <{key}> in <{parent}>, expected a number")
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        faults.append(f"{path}:{line}: <{key}> is {text!r}, expected a number")
        return None
    return number


def _read_object(path, item, size, faults):
    """``(box in edges, label, difficult)`` of one <object>; its faults are appended to ``faults``."""
    name, line = item.get("name", ("", item["line"]))
    if name not in LABELS:
        near = difflib.get_close_matches(name.lower(), VOC_CLASSES, n=1, cutoff=0)[0]
        faults.append(f"{path}:{line}: unknown class {name!r}, expected one of the 20 VOC classes (nearest: {near!r})")
    flag, flag_line = item.get("difficult", ("0", line))
    if flag not in ("0", "1"):
        faults.append(f"{path}:{flag_line}: <difficult> is {flag!r}, expected 0 or 1")
    corners = [_number(path, item, key, "bndbox", faults) for key in CORNERS]
    if None not in corners:
        box_line = item["bndbox/xmin"][1]
        faults.extend(f"{path}:{box_line}: {what}" for what in _box_faults(corners, size))
        corners = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
    return corners, LABELS.get(name, 0), flag == "1"


def _box_faults(corners, size):
    """Faults of 1-based corners in an image of ``size``; corners may be fractional (VOC2011 and later)."""
    xmin, ymin, xmax, ymax = corners
    for low, high, axis in ((xmin, xmax, "x"), (ymin, ymax, "y")):
        if high < low:  # equal corners are one pixel: both are inclusive
            yield f"{axis}max {high:g} is below {axis}min {low:g}, expected {axis}min <= {axis}max"
    if None in size:
        return
    width, height = size
    # Fractional official corners may lie within the first pixel; a corner of 0 means 0-based data.
    if min(xmin, ymin) < 0.5 or xmax > width + 0.5 or ymax > height + 0.5:
        box = ", ".join(f"{corner:g}" for corner in corners)
        yield f"box ({box}) is outside the image, expected corners from 1 to {width:g} x {height:g}"


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
