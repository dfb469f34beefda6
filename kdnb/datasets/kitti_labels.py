"""KITTI label and detection files: one object a line, 15 fields, a 16th with the score of a detection."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdnb.datasets.text import read_text
from kdnb.errors import InputError
from kdnb.files import atomic_path

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
FIELDS = (
    "type",
    "truncated",
    "occluded",
    "alpha",
    "left",
    "top",
    "right",
    "bottom",
    "height",
    "width",
    "length",
    "x",
    "y",
    "z",
    "rotation_y",
    "score",
)
LARGEST = 1e6  # metres, pixels or radians; sums and products of larger numbers lose all meaning
CLASSES = ("Car", "Pedestrian", "Cyclist")  # what the benchmark scores
# height in pixels above which, and levels of occlusion and truncation up to which, an object counts
DIFFICULTIES = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.30), "hard": (25, 2, 0.50)}


@dataclass(frozen=True)
class KittiLabel:
    """An object in the rect camera frame (x right, y down, z forward; metres, radians).

    truncated: 0..1, share outside the image. occluded: 0 visible, 1 partly, 2 largely hidden, 3 unknown. alpha:
    observation angle, rotation_y - atan2(x, z). bbox: (left, top, right, bottom) in pixels counted from 0. x, y, z:
    middle of the box's *bottom*. rotation_y: turn about y, 0 looks along x. score: None for ground truth. DontCare and
    2D detections have -1 for what is unknown, -1000 for x, y, z and -10 for angles.
    """

    type: str
    truncated: float
    occluded: int
    alpha: float
    bbox: tuple[float, float, float, float]
    height: float
    width: float
    length: float
    x: float
    y: float
    z: float
    rotation_y: float
    score: float | None = None


def counts_as(label: KittiLabel, difficulty: str) -> bool:
    """Whether a detector must detect a ground truth object at a difficulty, by size, occlusion and truncation."""
    height, occluded, truncated = DIFFICULTIES[difficulty]
    tall = label.bbox[3] - label.bbox[1]
    return tall > height and label.occluded <= occluded and label.truncated <= truncated


def read_labels(path: str | Path, scores: bool = False, any_type: bool = False) -> list[KittiLabel]:
    """The objects of a label file, in its order; an empty file is a frame without objects.

    Args:
        scores: read a detection file, whose lines have a score after the 15 fields. Truncation, occlusion and the order
            of the 2D box's edges are not checked, as in the official evaluation.
        any_type: accept types beyond TYPES, as the official evaluation does, which ignores case.

    Raises:
        InputError: no such file, and, naming file and line, a wrong number of fields, an unknown type, a field that is
            no number or beyond ``LARGEST``, a labelled box whose right or bottom lies before its left or top.
    """
    return list(numbered_labels(path, scores, any_type).values())


def numbered_labels(path: str | Path, scores: bool = False, any_type: bool = False) -> dict[int, KittiLabel]:
    """``{line: object}``, lines counted from 1; arguments and errors as ``read_labels``."""
    text = read_text(path, f"a KITTI {'detection' if scores else 'label'} file")
    lines = {number: line.split() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    return {number: _parse(f"{path}:{number}", fields, scores, any_type) for number, fields in lines.items()}


def _parse(where, fields, scores, any_type) -> KittiLabel:
    expected = 15 + scores
    if len(fields) != expected:
        raise InputError(
            f"{where}: {len(fields)} fields, expected {expected} "
            f"({'15 and a score' if scores else 'type to rotation_y'})"
        )
    if not any_type and fields[0] not in TYPES:
        raise InputError(f"{where}: type is {fields[0][:60]!r}, expected one of {', '.join(TYPES)}")
    values = [_number(where, *pair) for pair in zip(FIELDS[1:], fields[1:], strict=False)]
    truncated, occluded, alpha, left, top, right, bottom = values[:7]
    if not scores and occluded not in (-1, 0, 1, 2, 3):
        raise InputError(f"{where}: occluded is {fields[2]}, expected 0, 1, 2, 3 or -1")
    if not scores and (right < left or bottom < top):
        raise InputError(f"{where}: box {left:g} {top:g} {right:g} {bottom:g}, expected left top right bottom")
    return KittiLabel(fields[0], truncated, int(occluded), alpha, (left, top, right, bottom), *values[7:])


def _number(where, field, text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {field} is {text[:60]!r}, expected a number")
    if abs(value) > LARGEST and field != "score":
        raise InputError(f"{where}: {field} is {text[:60]}, expected a number up to {LARGEST:g}")
    return value


def write_labels(path: str | Path, labels: Iterable[KittiLabel]) -> None:
    """Write a label file, two decimals as the official ones; detections get four, and six for their scores."""
    with atomic_path(Path(path)) as part:
        part.write_text("".join(_line(label) + "\n" for label in labels), encoding="utf-8")


def write_detections(folder: Path, detections: Mapping[str, Iterable[KittiLabel]]) -> Path:
    """Write ``<frame>.txt`` for each frame, as the official tool reads them; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, labels in detections.items():
        write_labels(folder / f"{frame}.txt", labels)
    return folder


def _line(label):
    digits = 2 if label.score is None else 4
    box, size = label.bbox, (label.height, label.width, label.length)
    numbers = [_short(v, digits) for v in (label.alpha, *box, *size, label.x, label.y, label.z, label.rotation_y)]
    fields = [label.type, _short(label.truncated, 2), str(int(label.occluded)), *numbers]
    return " ".join(fields if label.score is None else [*fields, f"{label.score:.6f}"])


def _short(value, digits):
    """Whole negative marks (-1, -10, -1000) as the official files write them, everything else with its decimals."""
    return str(int(value)) if value in (-1, -10, -1000) else f"{value:.{digits}f}"
