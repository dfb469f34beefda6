"""COCO 2017, photographed or rendered, in the official layout: regions with texts; and a checker that reads a whole
root and names every fault in it."""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kdnb.datasets.coco_files import (
    SPLITS,
    Id,
    Instance,
    Instances,
    captions_path,
    find_coco,
    image_path,
    instances_path,
    parse_captions,
    parse_instances,
    read_captions,
    read_instances,
)
from kdnb.datasets.download import download, or_by_hand, unpack
from kdnb.datasets.images import read_image, rotated, size_hint
from kdnb.datasets.notes import closing, skipped, unforeseen
from kdnb.errors import InputError
from kdnb.world.phrases import USUAL_SIDE, coloured, size_word

__all__ = [
    "COCORegionText",
    "COCOReport",
    "Region",
    "category_text",
    "check_coco",
    "download_coco",
    "find_coco",
    "full_text",
]

HOME = "https://cocodataset.org/#download"
HOST = "http://images.cocodataset.org"
ARCHIVES = {  # path on HOST, MD5
    "annotations": ("annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"),
    "val": ("zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
    "train": ("zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
}


@dataclass(frozen=True)
class Region:
    """An object in an image: ``id`` such as "val/1768", ``file`` the image, ``box`` (x1, y1, x2, y2) in its pixel
    edges, ``category`` COCO's name, ``size`` "small" or "large", ``attributes`` what only rendered files have."""

    id: str
    image_id: Id
    file: Path
    box: tuple[float, float, float, float]
    category: str
    size: str
    attributes: dict


def category_text(region: Region) -> str:
    """A text of what the official annotations have: "a photo of a small car"."""
    return f"a photo of a {region.size} {region.category}"


def full_text(region: Region) -> str:
    """With the colour where it is known: "a photo of a small red car", "a photo of a large person in blue"."""
    return f"a photo of a {region.size} {coloured(region.category, region.attributes.get('colour'))}"


class COCORegionText:
    """The objects of a COCO root; ``regions`` lists them in the order of the file.

    Crowds, boxes whose shorter side is below ``min_side``, and mostly hidden objects (where the file says so) are left
    out; ``dropped`` counts them.

    Args:
        root: a COCO root, or the folder around one called "coco".
        split: "train" or "val".
        min_side: in pixels of an image scaled to a longer side of 640, as most of COCO's have: 20 means 6 in a
            rendered image of 192 pixels. The size word follows the same scale (``kdnb.world.phrases.size_word``).
        min_visible: smallest visible share of the silhouette; a key of rendered sets, which COCO does not have.
        context: side of the plain crop over the longer side of the box.
        keep_in_memory: keep decoded images.

    Raises:
        InputError: no COCO root, an unknown split, a missing image, any fault of the JSON.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        min_side: float = 20,
        min_visible: float = 0.5,
        context: float = 1.2,
        keep_in_memory: bool = False,
    ):
        if split not in SPLITS:
            raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.root, self.split, self.context, self.keep_in_memory = find_coco(root), split, context, keep_in_memory
        content = read_instances(instances_path(self.root, split))
        missing = missing_images(self.root, split, content)
        if missing:
            raise InputError(missing[0])
        self.dropped = Counter(crowd=0, tiny=0, hidden=0)
        self.regions: list[Region] = []
        for instance in content.instances:
            image = content.images[instance.image_id]
            why = _why_not(instance, max(image.width, image.height), min_side, min_visible)
            if why:
                self.dropped[why] += 1
                continue
            self.regions.append(
                Region(
                    f"{split}/{instance.id}",
                    instance.image_id,
                    image_path(self.root, split, image.file_name),
                    instance.box,
                    instance.category,
                    size_word(instance.area, image.width, image.height),
                    instance.attributes,
                )
            )
        self._sizes = {number: (p.width, p.height) for number, p in content.images.items()}
        self._images, self._captions = {}, None

    def __len__(self) -> int:
        return len(self.regions)

    def image(self, index: int) -> np.ndarray:
        """The whole image of a region, uint8 (H, W, 3). Do not write into it: it may be kept in memory.

        Raises InputError when it cannot be decoded or its size differs from the JSON's.
        """
        region = self.regions[index]
        image = self._images.get(region.image_id)
        if image is None:
            image = read_image(region.file)
            fault = _size_fault(region.file, self._sizes[region.image_id], image)
            if fault:
                raise InputError(fault)
            if not self.keep_in_memory:
                self._images.clear()  # keep the last one: regions of one image follow each other
            self._images[region.image_id] = image
        return image

    def captions(self, image_id: Id) -> list[str]:
        """Sentences about an image, usually five. Raises InputError for a faulty file or an unknown id."""
        path = captions_path(self.root, self.split)
        if self._captions is None:
            self._captions = read_captions(path)
        if image_id not in self._captions:
            raise InputError(f"{path}: has no image {image_id!r}, expected an entry of 'images' with that id")
        return self._captions[image_id]


def _why_not(instance: Instance, longer_side: int, min_side: float, min_visible: float) -> str | None:
    """Why an instance is left out; None when it is used."""
    x1, y1, x2, y2 = instance.box
    shorter = min(x2 - x1, y2 - y1) * USUAL_SIDE / longer_side
    if instance.crowd:
        return "crowd"
    if shorter <= 0 or shorter < min_side:
        return "tiny"
    return "hidden" if instance.attributes.get("visible", 1.0) < min_visible else None


def missing_images(root: str | Path, split: str, content: Instances) -> list[str]:
    """A fault for each listed image that does not exist: better now than an hour into training."""
    folder = image_path(root, split, "x").parent
    existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [
        f"{folder / image.file_name}: no such image, expected one for every entry of 'images' in "
        f"{instances_path(root, split).name}"
        for image in content.images.values()
        if image.file_name not in existing and not os.path.exists(image_path(root, split, image.file_name))
    ]


def _size_fault(path, size, image):
    height, width = image.shape[:2]
    if size != (width, height):
        hint = size_hint(path, size, (width, height))
        return f"{path}: is {width} x {height}, expected {size[0]} x {size[1]} as in the instances file{hint}"
    return None


@dataclass
class COCOReport:
    """The result of :func:`check_coco`. Keys of the dicts are "train" and "val"."""

    root: Path
    images: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)  # split -> Counter of instances per category, crowds left out
    crowds: dict = field(default_factory=dict)
    captions: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)  # what was skipped or is rotated, a line a folder
    faults: list = field(default_factory=list)  # "file: key is ..., expected ...", all of them

    def summary(self) -> str:
        """A table of instances per category and split, then every note and every fault on a line of its own."""
        splits = list(self.images)
        names = sorted({name for counts in self.counts.values() for name in counts})
        rows = [
            ("", *splits),
            ("images", *(self.images[s] for s in splits)),
            ("captions", *(self.captions[s] for s in splits)),
            ("crowds", *(self.crowds[s] for s in splits)),
            ("instances", *(sum(self.counts[s].values()) for s in splits)),
            *((f"  {name}", *(self.counts[s][name] for s in splits)) for name in names),
        ]
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(splits) + 1)]
        lines = [
            f"{row[0]:<{widths[0]}}" + "".join(f"  {v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))
            for row in rows
        ]
        return "\n".join([str(self.root), *lines, *closing(self.notes, self.faults)])

    __str__ = summary


def check_coco(root: str | Path) -> COCOReport:
    """Read both JSON files and all images of each split; report counts per category, every fault, and what was skipped.

    A split without an instances file is skipped, and captions may be missing, as no notebook reads them. Raises
    InputError only when ``root`` is no COCO root at all.
    """
    report = COCOReport(find_coco(root))
    for split in SPLITS:
        path, other = instances_path(report.root, split), captions_path(report.root, split)
        if not path.is_file():
            continue
        content, faults = _guarded(path, parse_instances, Instances())
        sentences, more = _guarded(other, parse_captions, {}) if other.exists() else ({}, [])
        if not other.exists():
            report.notes.append(f"{other}: is missing; no notebook reads it")
        report.faults += faults + more + missing_images(report.root, split, content)
        report.faults += _image_faults(report.root, split, content)
        report.notes += _notes(report.root, split, content)
        report.images[split] = len(content.images)
        report.captions[split] = sum(map(len, sentences.values()))
        report.crowds[split] = sum(instance.crowd for instance in content.instances)
        report.counts[split] = Counter(instance.category for instance in content.instances if not instance.crowd)
    return report


def _guarded(path, parse, empty):
    try:
        return parse(path)
    except Exception as error:
        return empty, [unforeseen(path, error, "a JSON file in COCO's format")]


def _image_faults(root, split, content: Instances) -> list[str]:
    def check(image):
        path = image_path(root, split, image.file_name)
        if not os.path.exists(path):
            return None  # in missing_images already
        try:
            return _size_fault(path, (image.width, image.height), read_image(path))
        except InputError as error:
            return str(error)
        except Exception as error:
            return unforeseen(path, error, "a JPEG file")

    images = list(content.images.values())
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        faults = tqdm(pool.map(check, images), total=len(images), desc=f"check {split}", disable=None)
        return [fault for fault in faults if fault]


def _notes(root, split, content: Instances) -> list[str]:
    """How many files of the images' folders are in no entry, and which photographs their EXIF data turn."""
    paths = [image_path(root, split, image.file_name) for image in content.images.values()]
    listed, notes = set(paths), []
    for folder in sorted({path.parent for path in paths} - {root}):
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        unused = [path.name for path in files if path not in listed]
        if unused:
            notes.append(skipped(folder, unused, "no entry of 'images'", of=len(files)))
    return notes + rotated(paths)


def download_coco(root: str | Path, parts: Iterable[str] = ("annotations", "val", "train")) -> Path:
    """Download and unpack annotations (0.24 GB), val2017 (0.8 GB) and train2017 (18 GB) into ``root``; return it.

    A second call resumes or does nothing; the archives may be deleted once unpacked.
    Raises InputError, which ends with the way by hand, for a failed download, a wrong checksum or a broken archive.
    """
    root = Path(root)
    for part in parts:
        path, checksum = ARCHIVES[part]
        archive = root / Path(path).name
        done = root / f".{archive.name}.unpacked"
        way = (
            f"open {HOME} in a browser, download {archive.name} into {root} and run this again, or unpack it there; "
            f"then run: kdnb data check coco {root}"
        )
        if not done.exists():
            with or_by_hand(way):
                unpack(download(f"{HOST}/{path}", archive, checksum), root)
            done.touch()
    return find_coco(root)
