"""Cars by model, photographed or rendered: the lists of the competition's folder, and images as tensors."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from kdnb.datasets.archive_names import drawn_in_boxes
from kdnb.datasets.cars_files import (
    DUPLICATES,
    class_folders,
    class_names,
    find_root,
    listed_images,
    merged,
    read_solution,
    root_and_notes,
    skipped_files,
    too_small,
)
from kdnb.datasets.images import orientation, read_image, rotated
from kdnb.datasets.notes import closing, unforeseen
from kdnb.errors import InputError

__all__ = ["DUPLICATES", "Cars", "CarsReport", "check_cars", "describe", "merged", "read_car"]


class Cars:
    """The lists of a competition's folder, or of its ``open.zip``, which is unpacked once, into a folder of its name
    beside it; no image is decoded here.

    - ``classes``: names (NFC), in the order of sample_submission.csv; ``merged``: for each class the id it counts as
    - ``train``: list of (path, class id), by class
    - ``test_ids``, ``test_paths``: as in test.csv
    - ``solution``: {ID: class id}, or None: only rendered sets have a solution.csv

    Raises InputError, naming the file, for every departure from the layout, for a class with fewer than five images,
    and for an archive that is truncated or would write outside its folder.
    """

    def __init__(self, root: str | Path):
        self.root = find_root(root)
        folders = class_folders(self.root)
        self.classes = class_names(self.root, folders)
        faults = too_small(self.root, folders)
        if faults:
            raise InputError(faults[0])
        self.merged = merged(self.classes)
        self.train = [(path, k) for k, name in enumerate(self.classes) for path in folders[name]]
        images = listed_images(self.root)
        self.test_ids, self.test_paths = list(images), list(images.values())
        solution = self.root / "solution.csv"
        self.solution = read_solution(solution, self.classes, self.test_ids) if solution.is_file() else None


def read_car(path: str | Path) -> tuple[torch.Tensor, dict]:
    """An image as uint8 (3, H, W), RGB, and the dict of ``describe``; a grey image gets three equal channels.

    Pixels are as stored: EXIF's orientation turns nothing. Raises InputError, naming the file, when it is missing,
    cannot be decoded or has too many pixels.
    """
    image = torch.from_numpy(read_image(path, "JPEG or PNG")).permute(2, 0, 1).contiguous()
    return image, describe(image)


def describe(image: torch.Tensor) -> dict:
    """``{"aspect": W / H, "colour": (r, g, b)}``, the mean colour in 0..1, of an image uint8 (3, H, W).

    Use the original image: a square copy has lost its aspect ratio, and the mean colour depends on how it was resized.
    """
    mean = image.flatten(1).to(torch.float32).mean(1) / 255
    return {"aspect": image.shape[2] / image.shape[1], "colour": tuple(mean.tolist())}


# --- checker ----------------------------------------------------------------------------------------------------


@dataclass
class CarsReport:
    """The result of :func:`check_cars`: images per class, how many are grey, ``faults``, and ``notes`` that are none:
    what was skipped and why, how an archive was read. One line each."""

    root: Path
    images: dict = field(default_factory=dict)
    test: int = 0
    grey: int = 0
    pairs: int = 0
    has_solution: bool = False
    notes: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def summary(self) -> str:
        """Counts, then every note and every fault on a line of its own."""
        counts = list(self.images.values()) or [0]
        lines = [
            str(self.root),
            f"{'classes':<14}{len(self.images):>8}   of which {self.pairs} pairs count as one",
            f"{'train images':<14}{sum(counts):>8}   {min(counts)} to {max(counts)} a class",
            f"{'test images':<14}{self.test:>8}   {'with' if self.has_solution else 'without'} solution.csv",
            f"{'grey':<14}{self.grey:>8}",
        ]
        return "\n".join([*lines, *closing(self.notes, self.faults)])


def check_cars(root: str | Path) -> CarsReport:
    """Read a whole competition, every image included. Raises InputError only when there is nothing to read."""
    root, notes = root_and_notes(root)
    folders = class_folders(root)
    counts = {name: len(paths) for name, paths in folders.items()}
    report = CarsReport(root, counts, notes=list(notes), faults=too_small(root, folders))
    images, classes = {}, list(folders)
    try:
        classes = class_names(root, folders)
    except InputError as error:
        report.faults.append(str(error))
    try:
        images = listed_images(root)
        report.has_solution = (root / "solution.csv").is_file()
        if report.has_solution:
            read_solution(root / "solution.csv", classes, list(images))
    except InputError as error:
        report.faults.append(str(error))
    report.pairs = sum(k != own for k, own in enumerate(merged(classes)))
    report.test = len(images)
    report.notes += skipped_files(root, images.values())
    garbled = [name for name in folders if drawn_in_boxes(name)]
    if garbled:
        report.notes.append(
            f"{root / 'train'}: names such as {garbled[0]} were unpacked in the wrong encoding; give the zip instead"
        )
    _read_all(report, [*(path for paths in folders.values() for path in paths), *images.values()])
    return report


def _read_all(report, paths):
    turned = []
    with ThreadPoolExecutor() as pool:
        for path, fault, grey, turn in tqdm(pool.map(_read_one, paths), total=len(paths), desc="check", disable=None):
            report.grey += grey
            report.faults += fault
            turned += [path] if turn != 1 else []
    report.notes += rotated(turned)


def _read_one(path):
    """(path, faults, whether it is grey, EXIF's orientation). Whatever is wrong with one image is a fault of that
    image."""
    try:
        image, _ = read_car(path)
        grey = int((image[0] == image[1]).all() and (image[1] == image[2]).all())
        return path, [], grey, orientation(path)
    except InputError as error:
        return path, [str(error)], 0, 1
    except Exception as error:
        return path, [unforeseen(path, error, "an image")], 0, 1
