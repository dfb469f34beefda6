"""VOC's annotation XML, without torch, as the official devkit and the usual labelling tools write it.

Boxes leave this file as pixel *edges* counted from 0, ``[xmin - 1, ymin - 1, xmax, ymax]``: the official corners are
pixels counted from 1, both inside the box, so ``x2 - x1`` in edges is the official width ``xmax - xmin + 1``.
"""

import codecs
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from kdnb.datasets.text import UTF16, decode_text, read_bytes
from kdnb.datasets.voc_files import LABELS, VOC_CLASSES
from kdnb.errors import InputError

Size = tuple[float, float]
CORNERS = ("xmin", "ymin", "xmax", "ymax")
ROOTS = ("annotation", "annotations")
DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932"}  # what tools mean by them
NO_TEXT = ("idna", "punycode")  # Python counts them among the encodings
FARTHEST = 1e7  # pixels; corners beyond it are no image's
WHAT = "a VOC XML file"


@dataclass
class Annotation:
    """One XML: ``size`` (width, height) in pixels, None where neither the file nor the caller knows it; ``boxes``
    float64 (N, 4) in 0-based edges, cut to the image; ``labels`` int64 (N,) in 1..20; ``difficult`` bool (N,);
    ``zero_based``: number of boxes with a corner of 0; ``shared``: number of boxes after the first of their <object>.
    """

    size: Size | None
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    zero_based: int = 0
    shared: int = 0


def read_annotation(path: str | Path, size: Size | None = None) -> Annotation:
    """Read one XML as ``parse_annotation`` does. Raises InputError with file and line for its first fault."""
    annotation, faults = parse_annotation(path, size)
    if annotation is None or faults:
        raise InputError(faults[0])
    return annotation


def parse_annotation(path: str | Path, size: Size | None = None) -> tuple[Annotation | None, list[str]]:
    """Read one XML: ``(Annotation, faults)``; faulty objects are left out and reported as ``file:line: what``.

    ``size`` (width, height) is the image's, for a file whose <size> is missing or 0. Tags count without case and
    prefix; each <bndbox> of an <object> is an object of its class; a corner of 0 is cut to the image.
    """
    try:
        written, objects = _elements(path)
    except InputError as error:
        return None, [str(error)]
    faults: list[str] = []
    found = Annotation(_size(path, written, faults) or size, np.zeros(0), np.zeros(0), np.zeros(0))
    rows = []
    for item in objects:
        before = len(faults)
        label, difficult = _label(path, item, faults)
        corners = [_corners(path, box, found.size, faults) for box in item["boxes"] or [{"line": item["line"]}]]
        if len(faults) == before:
            rows += [(box, label, difficult) for box in corners]
            found.shared += len(corners) - 1
            found.zero_based += sum(min(box[:2]) < 0.5 for box in corners)
    boxes = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]
    found.boxes = boxes.clip(0, np.tile(found.size or (np.inf, np.inf), 2))
    found.labels = np.array([row[1] for row in rows], dtype=np.int64)
    found.difficult = np.array([row[2] for row in rows], dtype=bool)
    return found, faults


def zero_based_note(folder: Path, annotations: Mapping[str, Annotation]) -> str:
    """A line about the boxes of a folder that look as if their writer counted from 0; files by name."""
    names = [name for name, one in annotations.items() if one.zero_based]
    count = sum(one.zero_based for one in annotations.values())
    boxes = f"{count} box{'es' if count != 1 else ''} with a corner of 0, first in {names[0]}.xml"
    return f"{folder}: {boxes}: looks 0-based, cut to the image; official corners count from 1"


def _elements(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``(values of <size>, one dict per object)``; every value is ``(text, line)``, dicts also hold their ``line``, and
    an object's hold "boxes", a dict of values per <bndbox>.

    Uses expat because ElementTree has no line numbers. Elements count by their whole path, so that the ``part`` boxes
    (head, hands, feet) inside a person are not taken for objects.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    place: list[str] = []
    words: list[str] = []
    objects: list[dict[str, Any]] = []
    size: dict[str, Any] = {"line": 1}

    def start(tag: str, _: Any) -> None:
        place.append(tag.rpartition(":")[2].lower())
        words.clear()
        line = parser.CurrentLineNumber
        if len(place) < 3 and (place[-1] in ROOTS) == (len(place) == 2):
            raise InputError(f"{path}:{line}: found <{tag[:40]}>, expected one <annotation> with everything in it")
        if place[1:] == ["object"]:
            objects.append({"line": line, "boxes": []})
        elif place[1:] == ["object", "bndbox"]:
            objects[-1]["boxes"].append({"line": objects[-1]["line"]})

    def end(_: str) -> None:
        if 3 <= len(place) <= 4:
            value = ("".join(words).strip(), parser.CurrentLineNumber)
            if len(place) == 3 and place[1] == "size":
                size.setdefault(place[2], value)
            elif len(place) == 3 and place[1] == "object":
                objects[-1].setdefault(place[2], value)
            elif place[1:3] == ["object", "bndbox"]:
                objects[-1]["boxes"][-1].setdefault(place[3], value)
        place.pop()
        words.clear()

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, words.append
    text = _text(path)
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise InputError(f"{path}:{error.lineno}: malformed XML ({expat.ErrorString(error.code)})") from None
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: holds text that is none ({error.reason}), expected {WHAT}") from None
    return size, objects


def _text(path: str | Path) -> str:
    """An XML file's text, by its byte order mark or the encoding that its first line names, which may be any of
    Python's: expat itself knows four. Raises InputError for an unknown one and for bytes that are not in it."""
    content = read_bytes(path, WHAT, "annotation")
    declared = DECLARED.match(content[:200])
    if declared is None or content.startswith((*UTF16, codecs.BOM_UTF8)):
        return decode_text(content, path, WHAT)
    name = declared[1].decode("ascii")
    try:
        codec = codecs.lookup(name).name
        if codec in NO_TEXT:
            raise LookupError
        if codec.startswith(("utf-8", "utf-16", "utf-32")):  # whoever wrote it in ASCII cannot mean UTF-16
            return decode_text(content, path, WHAT)
        return content.decode(WIDER.get(codec, codec))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: is not in {name}, which its first line names; expected {WHAT}") from None
    except LookupError:
        raise InputError(f"{path}:1: encoding {name[:40]!r} is unknown, expected {WHAT} in UTF-8") from None


def _size(path: str | Path, written: dict[str, Any], faults: list[str]) -> Size | None:
    """Width and height of <size>; None where both are missing, one is 0 or, which is a fault, one is no number."""
    if not any(written.get(key, ("",))[0] for key in ("width", "height")):
        return None
    width, height = (_number(path, written, key, "size", faults) for key in ("width", "height"))
    if width is None or height is None:
        return None
    if min(width, height) < 0:
        line = written["width"][1]
        faults.append(f"{path}:{line}: <size> is {width:g} x {height:g}, expected pixels of the image")
        return None
    return (width, height) if width and height else None


def _number(path: str | Path, values: dict[str, Any], key: str, parent: str, faults: list[str]) -> float | None:
    """The number in ``<parent><key>``; None, and a fault, when it is missing, no number or not finite."""
    text, line = values.get(key, (None, values["line"]))
    if text is None:
        faults.append(f"{path}:{line}: found no <{key}> in <{parent}>, expected a number")
        return None
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not abs(number) < FARTHEST:
        faults.append(f"{path}:{line}: <{key}> is {text[:40]!r}, expected a number of pixels")
        return None
    return number


def _label(path: str | Path, item: dict[str, Any], faults: list[str]) -> tuple[int, bool]:
    """Label and ``difficult`` of one <object>; its faults are appended to ``faults``."""
    name, line = item.get("name", ("", item["line"]))
    if name not in LABELS:
        near = difflib.get_close_matches(name[:40].lower(), VOC_CLASSES, n=1, cutoff=0)[0]
        expected = f"expected one of the 20 VOC classes (nearest: {near!r})"
        faults.append(f"{path}:{line}: unknown class {name[:40]!r}, {expected}")
    flag, line = item.get("difficult", ("0", line))
    if flag not in ("0", "1", ""):
        faults.append(f"{path}:{line}: <difficult> is {flag[:40]!r}, expected 0 or 1")
    return LABELS.get(name, 0), flag == "1"


def _corners(path: str | Path, values: dict[str, Any], size: Size | None, faults: list[str]) -> list[Any]:
    """The four official corners of one <bndbox>; its faults are appended to ``faults``."""
    corners = [_number(path, values, key, "bndbox", faults) for key in CORNERS]
    if None not in corners:
        line = values["xmin"][1]
        faults.extend(f"{path}:{line}: {what}" for what in _box_faults(corners, size))
    return corners


def _box_faults(corners, size):
    """Faults of 1-based corners in an image of ``size``; corners may be fractional (VOC2011 and later)."""
    xmin, ymin, xmax, ymax = corners
    for low, high, axis in ((xmin, xmax, "x"), (ymin, ymax, "y")):
        if high < low:  # equal corners are one pixel: both are inclusive
            yield f"{axis}max {high:g} is below {axis}min {low:g}, expected {axis}min <= {axis}max"
    width, height = size or (FARTHEST, FARTHEST)
    # Writers that count from 0 give corners of 0; a box that ends there has no pixel in the image.
    if min(xmin, ymin) < -0.5 or min(xmax, ymax) <= 0 or xmax > width + 0.5 or ymax > height + 0.5:
        box, end = ", ".join(f"{corner:g}" for corner in corners), f" to {width:g} x {height:g}" if size else ""
        yield f"box ({box}) is outside the image, expected corners from 1{end}"
