"""PASCAL VOC detection, photographed or rendered, in the official devkit layout, as torch samples; and a checker that
reads a whole root and names every fault in it."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from kdnb.datasets.download import download, or_by_hand, unpack
from kdnb.datasets.images import image_size, read_image, rotated, size_hint
from kdnb.datasets.notes import closing, skipped, unforeseen
from kdnb.datasets.voc_files import (
    VOC_CLASSES,
    annotation_path,
    find_devkit,
    image_path,
    list_path,
    parse_list,
    read_list,
    voc_years,
    write_detections,
)
from kdnb.datasets.voc_xml import Annotation, parse_annotation, read_annotation, zero_based_note
from kdnb.errors import InputError

HOME = "http://host.robots.ox.ac.uk/pascal/VOC"

__all__ = ["VOC", "VOC_CLASSES", "VOCReport", "check_voc", "download_voc", "find_devkit", "write_detections"]


class VOC(torch.utils.data.Dataset):
    """Images and boxes of one or several (year, image set) pairs of a devkit.

    ``VOC(root, sets=(("2007", "trainval"), ("2012", "trainval")))`` is the usual 07+12. ``voc[i]`` is a dict of

    - ``id``: such as ``"2007/000012"``
    - ``image``: uint8 (3, H, W), RGB
    - ``boxes``: float32 (N, 4), pixel edges ``[xmin - 1, ymin - 1, xmax, ymax]`` counted from 0
    - ``labels``: int64 (N,), 1..20 as in ``VOC_CLASSES`` (0 is background)
    - ``difficult``: bool (N,);  ``area``: float32 (N,), pixels

    An image without objects has boxes of shape (0, 4). Images are read as stored: EXIF data do not turn them.
    ``keep_in_memory`` keeps decoded samples (uint8) for the next epoch. Raises InputError, naming file and line, for
    what is neither official nor in the list of data/voc.md.
    """

    def __init__(
        self,
        devkit: str | Path,
        sets: Iterable[tuple[str, str]] = (("2007", "trainval"),),
        keep_in_memory: bool = False,
    ):
        self.devkit = find_devkit(devkit)
        self.keep_in_memory = keep_in_memory
        self.ids: list[str] = []
        for pair in sets:
            if isinstance(pair, str) or len(pair) != 2:
                raise InputError(f"sets holds {pair!r}, expected pairs such as (('2007', 'trainval'),)")
            year, image_set = str(pair[0]), pair[1]
            names = read_list(self.devkit, year, image_set)
            _require_files(self.devkit, year, names)
            self.ids += [f"{year}/{name}" for name in names]
        repeated = [image_id for image_id, count in Counter(self.ids).items() if count > 1]
        if repeated:
            raise InputError(f"{self.devkit}: image {repeated[0]} is in two of the sets {sets}, expected disjoint sets")
        self._memory = {}

    def __len__(self) -> int:
        return len(self.ids)

    def annotation(self, index: int) -> dict:
        """The sample without its image; reads only the XML, and the image's header where that has no <size>."""
        year, name = self.ids[index].split("/")
        xml = annotation_path(self.devkit, year, name)
        annotation = read_annotation(xml)
        if annotation.size is None:
            annotation = read_annotation(xml, image_size(image_path(self.devkit, year, name)))
        return self._sample(self.ids[index], annotation)

    def __getitem__(self, index: int) -> dict:
        sample = self._memory.get(self.ids[index])
        if sample is None:
            sample = self._read(index)
            if self.keep_in_memory:
                self._memory[self.ids[index]] = sample
        # Callers get copies of cached tensors: one that flips in place must not flip the next epoch.
        return {key: value.clone() if torch.is_tensor(value) else value for key, value in sample.items()}

    def _read(self, index):
        year, name = self.ids[index].split("/")
        path, xml = image_path(self.devkit, year, name), annotation_path(self.devkit, year, name)
        annotation, image = read_annotation(xml), read_image(path)
        if annotation.size is None:
            annotation = read_annotation(xml, image.shape[1::-1])
        fault = _size_fault(xml, annotation.size, image, path)
        if fault:
            raise InputError(fault)
        tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        sample = self._sample(self.ids[index], annotation)
        return {"id": sample.pop("id"), "image": tensor, **sample}

    @staticmethod
    def _sample(image_id, annotation):
        boxes = torch.from_numpy(annotation.boxes).float()
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        labels, difficult = torch.from_numpy(annotation.labels), torch.from_numpy(annotation.difficult)
        return {"id": image_id, "boxes": boxes, "labels": labels, "difficult": difficult, "area": area}


def _require_files(devkit, year, names):
    """Raise InputError for the first id without its image or XML: better now than an hour into training."""
    for path_of, what in ((image_path, "image"), (annotation_path, "annotation")):
        folder = path_of(devkit, year, "x").parent
        existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for name in names:
            path = path_of(devkit, year, name)
            if path.name not in existing:
                raise InputError(f"{path}: no such {what}, expected one for each id of the image list")


def _size_fault(xml, size, image, path):
    height, width = image.shape[:2]
    if size == (width, height):
        return None
    hint = size_hint(path, size, (width, height))
    return f"{xml}: <size> says {size[0]:g} x {size[1]:g}, expected {width} x {height} as in the image{hint}"


@dataclass
class VOCReport:
    """The result of :func:`check_voc`. Keys of the dicts are set names such as ``"VOC2007/trainval"``."""

    root: Path
    images: dict = field(default_factory=dict)  # set -> number of images
    counts: dict = field(default_factory=dict)  # set -> Counter of objects per class name
    difficult: dict = field(default_factory=dict)  # set -> number of difficult objects
    notes: list = field(default_factory=list)  # what was skipped or read beyond the official format, a line a folder
    faults: list = field(default_factory=list)  # "file:line: what", all of them

    def summary(self) -> str:
        """A table of objects per class and set, then every note and every fault on a line of its own."""
        sets = list(self.images)
        rows = [("", *sets), ("images", *(self.images[s] for s in sets))]
        rows.append(("objects", *(sum(self.counts[s].values()) for s in sets)))
        rows.append(("  difficult", *(self.difficult[s] for s in sets)))
        rows += [(f"  {name}", *(self.counts[s][name] for s in sets)) for name in VOC_CLASSES]
        widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
        lines = [
            f"{row[0]:<{widths[0]}}" + "".join(f"  {v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))
            for row in rows
        ]
        return "\n".join([str(self.root), *lines, *closing(self.notes, self.faults)])

    __str__ = summary


def check_voc(root: str | Path) -> VOCReport:
    """Read all lists, XMLs and images of a devkit; report counts per class, every fault, and what was skipped and why.

    Raises InputError only when ``root`` is no devkit.
    """
    report = VOCReport(find_devkit(root))
    listed = {}
    for year in voc_years(report.root):
        for path in _set_lists(report, year):
            names, faults = parse_list(path)
            report.faults += faults
            listed[f"VOC{year}/{path.stem}"] = [(year, name) for name in names]
    images = sorted({image for group in listed.values() for image in group})
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        read = pool.map(lambda image: _check_image(report.root, *image), images)
        results = dict(zip(images, tqdm(read, total=len(images), desc="check", disable=None), strict=True))
    report.faults += [fault for image in images for fault in results[image][1]]
    for name, group in listed.items():
        notes = [results[image][0] for image in group]
        labels = [label for note in notes if note for label in note.labels]
        report.images[name] = len(group)
        report.counts[name] = Counter(VOC_CLASSES[label - 1] for label in labels)
        report.difficult[name] = int(sum(note.difficult.sum() for note in notes if note))
    for year in voc_years(report.root):
        report.notes += _notes(report.root, year, {name: results[y, name][0] for y, name in images if y == year})
    return report


def _set_lists(report, year):
    """The image lists of a year without the per-class ones (``car_trainval.txt``), which hold flags."""
    folder = list_path(report.root, year, "x").parent
    per_class = tuple(f"{name}_" for name in VOC_CLASSES)
    found = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    paths = [path for path in found if not path.stem.startswith(per_class)]
    if not paths:
        report.faults.append(f"{folder}: no image lists, expected trainval.txt or test.txt")
    if len(paths) < len(found):
        report.notes.append(
            skipped(folder, [path.name for path in found if path not in paths], "of single classes", "list")
        )
    return paths


def _check_image(devkit, year, name):
    """``(Annotation or None, faults)`` of one image and its XML."""
    xml, path = annotation_path(devkit, year, name), image_path(devkit, year, name)
    try:
        image, unread = read_image(path), []
    except InputError as error:
        image, unread = None, [str(error)]
    except Exception as error:
        image, unread = None, [unforeseen(path, error, "a JPEG file")]
    try:
        annotation, faults = parse_annotation(xml, None if image is None else image.shape[1::-1])
    except Exception as error:
        annotation, faults = None, [unforeseen(xml, error, "an annotation in VOC's format")]
    if annotation is not None and annotation.size is not None and image is not None:
        fault = _size_fault(xml, annotation.size, image, path)
        faults += [fault] if fault else []
    return annotation, [*faults, *unread]


def _notes(devkit: Path, year: str, annotations: dict[str, Annotation | None]) -> list[str]:
    """What a year's folders hold beyond the official format, and how many files belong to no list."""
    images, xmls = image_path(devkit, year, "x").parent, annotation_path(devkit, year, "x").parent
    known = {name: one for name, one in annotations.items() if one is not None}
    notes = [zero_based_note(xmls, known)] if any(one.zero_based for one in known.values()) else []
    shared = sum(one.shared for one in known.values())
    if shared:
        notes.append(f"{xmls}: {shared} boxes follow another in their <object>; each is read as an object of its class")
    for folder in (images, xmls):
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        unused = [name for name in names if Path(name).stem not in annotations]
        if unused:
            notes.append(skipped(folder, unused, "in no list", of=len(names)))
    return notes + rotated(image_path(devkit, year, name) for name in annotations)


def download_voc(root: str | Path, parts: Iterable[str] = ("2007", "2007-test", "2012")) -> Path:
    """Download and unpack VOC2007 trainval and test and VOC2012 trainval into ``root/VOCdevkit``; return that path.

    Addresses and MD5 sums are torchvision's; ``parts`` are keys of its table. A second call resumes or does nothing;
    the archives may be deleted once unpacked.
    Raises InputError, which ends with the way by hand, for a failed download, a wrong checksum or a broken archive.
    """
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    root = Path(root)
    for part in parts:
        entry = DATASET_YEAR_DICT[part]
        name, done = entry["filename"], root / f".{entry['filename']}.unpacked"
        way = (
            f"open {HOME}/voc{part[:4]}/ in a browser, download {name} into {root} and run this again, or unpack it "
            f"there; then run: kdnb data check voc {root}"
        )
        if not done.exists():
            with or_by_hand(way):
                unpack(download(entry["url"], root / name, entry["md5"]), root)
            done.touch()
    return find_devkit(root)
