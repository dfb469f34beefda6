"""The official COCO 2017 file formats, without torch: folders, instances and captions; faults name file and key.

Boxes leave this file as pixel edges ``(x1, y1, x2, y2)`` counted from 0, cut to the image.
"""

import json
import os
import re
import reprlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kdnb.errors import InputError

Id = int | str  # the official files' are numbers; other tools' may be words, which stay words

SPLITS = ("train", "val")
LAYOUT = ("annotations/instances_{0}2017.json", "annotations/captions_{0}2017.json", "{0}2017/*.jpg")
SLACK = 1.0  # pixels that an official box may reach beyond the image: COCO's corners are rounded


@dataclass
class ImageEntry:
    """One entry of ``images``: file name, maybe with a folder before it, width and height in pixels."""

    file_name: str
    width: int
    height: int


@dataclass
class Instance:
    """One entry of ``annotations``. ``area`` is the mask's, in pixels; ``attributes`` is {} in the official files."""

    id: Id
    image_id: Id
    category: str
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    attributes: dict


@dataclass
class Instances:
    """What an instances file holds: images by id, category names by id, instances in the file's order."""

    images: dict[Id, ImageEntry] = field(default_factory=dict)
    categories: dict[Id, str] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)


def find_coco(data: str | Path) -> Path:
    """The folder with ``annotations`` in it: ``data`` itself or ``data/coco``.

    Raises InputError, naming the files that are expected, when neither is a COCO root.
    """
    data = Path(data)
    for folder in (data, data / "coco"):
        if any(instances_path(folder, split).is_file() for split in SPLITS):
            return folder
    what = "a folder without annotations" if data.is_dir() else "a file" if data.exists() else "nothing"
    if (data / "annotations").is_dir():
        what = "annotations without an instances file of 2017"
    expected = ", ".join(pattern.format("train") for pattern in LAYOUT)
    raise InputError(f"{data}: found {what}, expected a COCO root: {expected} (or the same of val)")


def instances_path(root: str | Path, split: str) -> Path:
    return Path(root) / "annotations" / f"instances_{split}2017.json"


def captions_path(root: str | Path, split: str) -> Path:
    return Path(root) / "annotations" / f"captions_{split}2017.json"


def image_path(root: str | Path, split: str, file_name: str) -> Path:
    """``<split>2017/<file_name>``; where ``file_name`` has a folder of its own, it may lie in the root instead."""
    path = Path(root) / f"{split}2017" / file_name
    if "/" in file_name and not os.path.exists(path) and os.path.exists(Path(root) / file_name):
        return Path(root) / file_name
    return path


def read_instances(path: str | Path) -> Instances:
    """Read an instances file. Raises InputError with file and key for its first fault."""
    content, faults = parse_instances(path)
    if faults:
        raise InputError(faults[0])
    return content


def read_captions(path: str | Path) -> dict[Id, list[str]]:
    """Sentences by image id. Raises InputError with file and key for the first fault."""
    content, faults = parse_captions(path)
    if faults:
        raise InputError(faults[0])
    return content


def parse_instances(path: str | Path) -> tuple[Instances, list[str]]:
    """Read an instances file: its content without the faulty entries, and all faults as ``file: key is ..., expected``.

    A box of no width or height is not a fault: the official files hold a few.
    """
    content, faults = Instances(), []
    tables = _tables(path, ("images", "annotations", "categories"), faults)
    if faults:  # else each annotation would add one
        return content, faults
    for k, entry in enumerate(tables["categories"]):
        number, name = _values(path, f"categories[{k}]", entry, {"id": Id, "name": str}, faults)
        if None not in (number, name):
            content.categories[number] = " ".join(name.split())
    content.images = _images(path, tables["images"], faults)
    ids = set()
    for k, entry in enumerate(tables["annotations"]):
        before = len(faults)
        instance = _instance(path, f"annotations[{k}]", entry, content, faults)
        if instance is not None and str(instance.id) in ids:
            faults.append(f"{path}: annotations[{k}].id {_short(instance.id)} is used before, expected one of its own")
        if len(faults) == before:
            ids.add(str(instance.id))
            content.instances.append(instance)
    return content, faults


def parse_captions(path: str | Path) -> tuple[dict[Id, list[str]], list[str]]:
    """Sentences by image id, and all faults; an image without a sentence has an empty list."""
    faults = []
    tables = _tables(path, ("images", "annotations"), faults)
    if faults:
        return {}, faults
    content = {number: [] for number in _images(path, tables["images"], faults)}
    for k, entry in enumerate(tables["annotations"]):
        where = f"annotations[{k}]"
        number, text = _values(path, where, entry, {"image_id": Id, "caption": str}, faults)
        if number is not None and number not in content:
            faults.append(f"{path}: {where}.image_id is {_short(number)}, expected the id of an entry of 'images'")
        elif text is not None and number is not None:
            content[number].append(" ".join(text.split()))
    return content, faults


def _tables(path, names, faults) -> dict[str, list]:
    """The file's top-level lists by name; an empty list where there is a fault."""
    empty = {name: [] for name in names}
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        faults.append(f"{path}: no such file, expected COCO's JSON")
        return empty
    except OSError as error:
        faults.append(f"{path}: cannot be read ({error.strerror}), expected COCO's JSON")
        return empty
    except (ValueError, RecursionError) as error:
        reason = str(error).split("\n", 1)[0]
        faults.append(f"{path}: is not JSON ({reason}), expected COCO's JSON")
        return empty
    if not isinstance(content, dict):
        faults.append(f"{path}: holds a {type(content).__name__}, expected an object with the keys {', '.join(names)}")
        return empty
    for name in names:
        if not isinstance(content.get(name), list):
            what = "no key" if name not in content else f"a {type(content[name]).__name__} as"
            faults.append(f"{path}: found {what} {name!r}, expected a list of that name")
    return {name: content[name] if isinstance(content.get(name), list) else [] for name in names}


LARGEST = 2**53  # whole numbers up to here are floats too
UNREADABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and half characters, which cannot be printed
KINDS = {
    Id: "a whole number or a word",
    int: "a whole number above 0",
    float: "a number",
    str: "a text that is not empty",
    list: "a list",
}


def is_number(value: object) -> bool:
    """Whether a JSON value is a number that a float holds; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def _values(path, where, entry, kinds, faults) -> list:
    """The values of the keys of ``kinds`` (name → type), None and a fault for each that is missing or of another type.

    A whole number may be written as 80.0, a float as 80, and both must be finite; a text must not be blank.
    """
    if not isinstance(entry, dict):
        faults.append(f"{path}: {where} is {_short(entry)}, expected an object with the keys {', '.join(kinds)}")
        return [None] * len(kinds)
    values = []
    for key, kind in kinds.items():
        value = _value(entry.get(key), kind)
        values.append(value)
        if value is None:
            what = f"is {_short(entry[key])}" if key in entry else "is missing"
            faults.append(f"{path}: {where}.{key} {what}, expected {KINDS[kind]}")
    return values


def _value(value, kind):
    """A JSON value as ``kind``; None where it is of another."""
    if isinstance(value, str):
        return value if kind in (str, Id) and value.strip() and not UNREADABLE.search(value) else None
    if kind is list:
        return value if isinstance(value, list) else None
    if kind is Id and type(value) is int:
        return value
    if kind is str or not is_number(value):
        return None
    if kind is float:
        return value
    return int(value) if value == int(value) and (kind is Id or value > 0) else None


SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 56


def _short(value) -> str:
    text = SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _file_name(path, where, name, faults) -> str | None:
    """A file's name, with "/" after a folder; a name that leads out of the data set is a fault."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or min(name) < " " or len(name) > 1000:
        faults.append(f"{path}: {where}.file_name is {_short(name)}, expected the name of a file in the images' folder")
        return None
    return "/".join(parts)


def _images(path, entries, faults) -> dict[Id, ImageEntry]:
    images, first = {}, None
    for k, entry in enumerate(entries):
        kinds = {"id": Id, "file_name": str, "width": int, "height": int}
        number, name, *size = _values(path, f"images[{k}]", entry, kinds, faults)
        name = name and _file_name(path, f"images[{k}]", name, faults)
        first = number if first is None else first
        if number in images:
            faults.append(f"{path}: images[{k}].id {_short(number)} is used before, expected one of its own")
        elif number is not None and type(number) is not type(first):
            what = f"images[{k}].id is {_short(number)}"
            faults.append(f"{path}: {what}, expected all to be whole numbers or all words, as {_short(first)}")
        elif None not in (number, name, *size):
            images[number] = ImageEntry(name, *size)
    return images


def _instance(path, where, entry, content, faults) -> Instance | None:
    """One annotation; its faults are appended to ``faults``."""
    kinds = {"id": Id, "image_id": Id, "category_id": Id, "bbox": list, "area": float}
    number, image_id, category_id, bbox, area = values = _values(path, where, entry, kinds, faults)
    if None in values:
        return None
    if category_id not in content.categories:
        what = f"category_id is {_short(category_id)}"
        faults.append(f"{path}: {where}.{what}, expected the id of an entry of 'categories'")
    crowd = entry.get("iscrowd")  # other tools leave it out, or write null
    if not (crowd is None or isinstance(crowd, bool) or is_number(crowd)):
        faults.append(f"{path}: {where}.iscrowd is {_short(crowd)}, expected 0 or 1")
    attributes = _attributes(f"{path}: {where}.attributes", entry.get("attributes"), faults)
    image = content.images.get(image_id)
    if image is None:
        faults.append(f"{path}: {where}.image_id is {_short(image_id)}, expected the id of an entry of 'images'")
        return None
    box = _box(f"{path}: {where}.bbox is {_short(bbox)}", bbox, image, faults)
    return Instance(number, image_id, content.categories.get(category_id, ""), box, area, bool(crowd), attributes)


def _attributes(where, written, faults) -> dict:
    """What rendered files add, without what is null; "visible" is a share from 0 to 1."""
    if written is None:
        return {}
    words = [written.get(key) for key in ("colour", "body")] if isinstance(written, dict) else [0]
    if not all(word is None or _value(word, str) for word in words):
        faults.append(f"{where} is {_short(written)}, expected an object whose colour is a word")
        return {}
    visible = written.get("visible")
    if visible is not None and not (isinstance(visible, bool) or is_number(visible)):
        faults.append(f"{where}.visible is {_short(visible)}, expected a number from 0 to 1")
    return written if visible is not None else {key: value for key, value in written.items() if key != "visible"}


def _box(what, bbox, image, faults):
    """Pixel edges of ``[x, y, width, height]``, cut to the image."""
    if len(bbox) != 4 or not all(map(is_number, bbox)) or min(bbox[2:]) < 0:
        faults.append(f"{what}, expected [x, y, width, height] in pixels")
        return None
    x, y, w, h = bbox
    if min(x, y) < -SLACK or x + w > image.width + SLACK or y + h > image.height + SLACK:
        faults.append(f"{what}, expected a box inside the {image.width} x {image.height} image {image.file_name}")
        return None
    return max(x, 0.0), max(y, 0.0), min(x + w, float(image.width)), min(y + h, float(image.height))
