"""The official COCO 2017 file formats, without torch: folders, instances and captions; faults name file and key.

Boxes leave this file as pixel edges ``(x1, y1, x2, y2)`` counted from 0, cut to the image.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from kdnb.errors import InputError

SPLITS = ("train", "val")
LAYOUT = ("annotations/instances_{0}2017.json", "annotations/captions_{0}2017.json", "{0}2017/*.jpg")
SLACK = 1.0  # pixels that an official box may reach beyond the image: COCO's corners are rounded


@dataclass
class ImageEntry:
    """One entry of ``images``: file name, width and height in pixels."""

    file_name: str
    width: int
    height: int


@dataclass
class Instance:
    """One entry of ``annotations``. ``area`` is the mask's, in pixels; ``attributes`` is {} in the official files."""

    id: int
    image_id: int
    category: str
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    attributes: dict


@dataclass
class Instances:
    """What an instances file holds: images by id, category names by id, instances in the file's order."""

    images: dict[int, ImageEntry] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
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
    return Path(root) / f"{split}2017" / file_name


def read_instances(path: str | Path) -> Instances:
    """Read an instances file. Raises InputError with file and key for its first fault."""
    content, faults = parse_instances(path)
    if faults:
        raise InputError(faults[0])
    return content


def read_captions(path: str | Path) -> dict[int, list[str]]:
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
        number, name = _values(path, f"categories[{k}]", entry, {"id": int, "name": str}, faults)
        if None not in (number, name):
            content.categories[number] = name
    content.images = _images(path, tables["images"], faults)
    ids = set()
    for k, entry in enumerate(tables["annotations"]):
        before = len(faults)
        instance = _instance(path, f"annotations[{k}]", entry, content, faults)
        if instance is not None and instance.id in ids:
            faults.append(f"{path}: annotations[{k}].id {instance.id} is used before, expected one of its own")
        if len(faults) == before:
            ids.add(instance.id)
            content.instances.append(instance)
    return content, faults


def parse_captions(path: str | Path) -> tuple[dict[int, list[str]], list[str]]:
    """Sentences by image id, and all faults; an image without a sentence has an empty list."""
    faults = []
    tables = _tables(path, ("images", "annotations"), faults)
    if faults:
        return {}, faults
    content = {number: [] for number in _images(path, tables["images"], faults)}
    for k, entry in enumerate(tables["annotations"]):
        where = f"annotations[{k}]"
        number, text = _values(path, where, entry, {"image_id": int, "caption": str}, faults)
        if number is not None and number not in content:
            faults.append(f"{path}: {where}.image_id is {number}, expected the id of an entry of 'images'")
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


KINDS = {int: "a whole number", float: "a number", str: "a text that is not empty", list: "a list", dict: "an object"}


def _values(path, where, entry, kinds, faults) -> list:
    """The values of the keys of ``kinds`` (name → type), None and a fault for each that is missing or of another type.

    A float may be written as a whole number and must be finite; a text must not be blank.
    """
    if not isinstance(entry, dict):
        faults.append(f"{path}: {where} is {_short(entry)}, expected an object with the keys {', '.join(kinds)}")
        return [None] * len(kinds)
    values = []
    for key, kind in kinds.items():
        value = entry.get(key)
        good = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if good and (kind is not float or math.isfinite(value)) and (kind is not str or value.strip()):
            values.append(value)
            continue
        values.append(None)
        what = f"is {_short(value)}" if key in entry else "is missing"
        faults.append(f"{path}: {where}.{key} {what}, expected {KINDS[kind]}")
    return values


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _images(path, entries, faults) -> dict[int, ImageEntry]:
    images = {}
    for k, entry in enumerate(entries):
        kinds = {"id": int, "file_name": str, "width": int, "height": int}
        number, *rest = _values(path, f"images[{k}]", entry, kinds, faults)
        if number in images:
            faults.append(f"{path}: images[{k}].id {number} is used before, expected one of its own")
        elif None not in (number, *rest):
            images[number] = ImageEntry(*rest)
    return images


def _instance(path, where, entry, content, faults) -> Instance | None:
    """One annotation; its faults are appended to ``faults``."""
    kinds = {"id": int, "image_id": int, "category_id": int, "bbox": list, "area": float, "iscrowd": int}
    number, image_id, category_id, bbox, area, crowd = values = _values(path, where, entry, kinds, faults)
    if None in values:
        return None
    if category_id not in content.categories:
        faults.append(f"{path}: {where}.category_id is {category_id}, expected the id of an entry of 'categories'")
    attributes = entry.get("attributes", {})
    colour = attributes.get("colour") if isinstance(attributes, dict) else attributes
    if not isinstance(attributes, dict) or not (colour is None or (isinstance(colour, str) and colour.strip())):
        faults.append(f"{path}: {where}.attributes is {_short(attributes)}, expected an object whose colour is a word")
    image = content.images.get(image_id)
    if image is None:
        faults.append(f"{path}: {where}.image_id is {image_id}, expected the id of an entry of 'images'")
        return None
    box = _box(f"{path}: {where}.bbox is {_short(bbox)}", bbox, image, faults)
    return Instance(number, image_id, content.categories.get(category_id, ""), box, area, bool(crowd), attributes)


def _box(what, bbox, image, faults):
    """Pixel edges of ``[x, y, width, height]``, cut to the image."""
    numbers = [v for v in bbox if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    if len(bbox) != 4 or len(numbers) != 4 or min(bbox[2:]) < 0:
        faults.append(f"{what}, expected [x, y, width, height] in pixels")
        return None
    x, y, w, h = bbox
    if min(x, y) < -SLACK or x + w > image.width + SLACK or y + h > image.height + SLACK:
        faults.append(f"{what}, expected a box inside the {image.width} x {image.height} image {image.file_name}")
        return None
    return max(x, 0.0), max(y, 0.0), min(x + w, float(image.width)), min(y + h, float(image.height))
