"""CamVid's layouts, without torch: which one a root has, its splits and their frames.

- "segnet", SegNet's release: ``train/ trainannot/ ... train.txt``, 8-bit ids
- "colour", the original release: ``701_StillsRaw_full/``, ``LabeledApproved_full/*_L.png``, colours
- "kitti", KITTI semantic: ``training/image_2``, ``training/semantic``, ids of Cityscapes
- "kaggle", a copy on Kaggle: ``train/ train_labels/*_L.png ...``, colours
- "fastai", fast.ai's copy: ``images/``, ``labels/*_P.png``, ids of 32 classes, named in ``codes.txt``
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from kdnb.datasets.folders import names_in
from kdnb.datasets.text import read_text
from kdnb.errors import InputError

SPLITS = ("train", "val", "test")
STILLS, LABELS = "701_StillsRaw_full", "LabeledApproved_full"
KITTI_CUT = (0.7, 0.8)  # of the sorted names: the first 70 % are train, the next 10 % val, the last 20 % test

NAME = re.compile(r"[\w.-]{1,100}")  # of a frame; no backup ("a (1).png") and nothing hidden
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """Paths of an image and its label; ``where`` is "list:line: " for messages, or ""."""

    name: str
    image: Path
    label: Path
    where: str = ""


@dataclass(frozen=True)
class Place:
    """A folder of images and the one of their labels ``<frame><ending>.png``."""

    images: Path
    labels: Path
    ending: str = ""

    def frame(self, name: str) -> Frame:
        return Frame(name, self.images / f"{name}.png", self.labels / f"{name}{self.ending}.png")

    def names(self) -> list[str]:
        """Frames that have a label, sorted."""
        return [path.stem.removesuffix(self.ending) for path in label_files(self.labels, self.ending)]


def places(root: Path, layout: str) -> dict[str, Place]:
    """Where a root has its files: {split: place}, or {"all": place} where one folder holds all splits."""
    if layout in ("segnet", "kaggle"):
        behind, ending = ("annot", "") if layout == "segnet" else ("_labels", "_L")
        return {split: Place(root / split, root / f"{split}{behind}", ending) for split in SPLITS}
    images, labels, ending = {
        "colour": (STILLS, LABELS, "_L"),
        "kitti": ("training/image_2", "training/semantic", ""),
        "fastai": ("images", "labels", "_P"),
    }[layout]
    return {"all": Place(root / images, root / labels, ending)}


def find_root(data: str | Path) -> tuple[Path, str]:
    """The root and its layout, given the root or a folder that holds it as ``CamVid/`` or ``camvid/``.

    Raises InputError if there is none.
    """
    for root in (Path(data), Path(data) / "CamVid", Path(data) / "camvid"):
        for layout in ("segnet", "colour", "kitti", "kaggle"):
            if any(place.labels.is_dir() for place in places(root, layout).values()):
                return root, layout
        if places(root, "fastai")["all"].names():  # other sets have folders of these names, too
            return root, "fastai"
    what = "a folder" if Path(data).is_dir() else "a file" if Path(data).exists() else "nothing"
    raise InputError(
        f"{data}: found {what}, expected a CamVid root with trainannot/ (SegNet), {LABELS}/ (the original), "
        "training/semantic/ (KITTI), train_labels/ (Kaggle) or labels/*_P.png (fast.ai) in it"
    )


def splits_of(root: Path) -> list[str]:
    """Splits that have a list or a folder of labels; all three if a rule makes them."""
    found = [
        split
        for split in SPLITS
        if (root / f"{split}.txt").is_file() or any((root / f"{split}{end}").is_dir() for end in ("annot", "_labels"))
    ]
    return found or list(SPLITS)


def list_frames(root: Path, layout: str, split: str) -> tuple[list[Frame], list[str]]:
    """Frames of a split, in the order of its list, and the list's faults (strings ``file:line: what``).

    Folders that are the splits are read without a list, sorted; of SegNet's release, which has lists, the log says so.
    Raises InputError for an unknown split, a missing or empty list, and frames that no rule assigns to a split.
    """
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    where = places(root, layout)
    if layout == "kitti":
        return _kitti_frames(where["all"], split), []
    if layout in ("colour", "fastai") and not any((root / f"{name}.txt").is_file() for name in SPLITS):
        return _frames_of_drives(root, where["all"], split), []
    if layout in ("segnet", "kaggle") and not (root / f"{split}.txt").exists():
        place = where[split]
        names = place.names()
        if names and layout == "segnet":
            log.warning("%s has no %s.txt: all %d labels in %s are taken", root, split, len(names), place.labels.name)
        if names:
            return [place.frame(name) for name in names], []
        if layout == "kaggle":
            raise InputError(f"{place.labels}: no labels *_L.png, expected one for each image in {place.images}")
    return _listed_frames(root, root / f"{split}.txt")


def label_files(folder: Path, ending: str = "") -> list[Path]:
    """The files ``<frame><ending>.png`` of a folder, sorted; none without the folder."""
    names = sorted(name for name in names_in(folder) if name.endswith(f"{ending}.png") and not name.startswith("."))
    return [folder / name for name in names if NAME.fullmatch(name)]


def _listed_frames(root, path):
    """A line is ``image label``; only the last folder and the name count, as SegNet's lists begin with its own root."""
    if not path.exists():
        raise InputError(f"{path}: no such list, expected a line 'image label' per frame")
    lines = read_text(path, "a list with a line 'image label' per frame").split("\n")
    frames, faults, first_line = [], [], {}
    for number, line in enumerate(lines, start=1):
        where, words = f"{path}:{number}: ", line.split()
        if not words:
            continue
        parts = [Path(word).parts[-2:] for word in words]
        if len(words) != 2 or any(len(part) < 2 for part in parts):
            faults.append(f"{where}found {line.strip()[:80]!r}, expected an image and its label, each with its folder")
            continue
        image, label = (root.joinpath(*part) for part in parts)
        if label.stem not in (image.stem, f"{image.stem}_L", f"{image.stem}_P"):
            faults.append(f"{where}image {image.name} has label {label.name}, expected the same name")
        elif image.stem in first_line:
            faults.append(f"{where}image {image.name} is listed again (first in line {first_line[image.stem]})")
        else:
            frames.append(Frame(image.stem, image, label, where))
        first_line.setdefault(image.stem, number)
    if not frames and not faults:
        raise InputError(f"{path}: no frames, expected a line 'image label' per frame")
    return frames, faults


def original_split(name: str) -> str | None:
    """Split of a frame of the original release, by its drive as in SegNet's lists. None for another name."""
    match = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", name)
    if not match:
        return None
    drive, number = match[1], int(match[2])
    if drive == "0016E5" and 7959 <= number <= 8159:  # the part that was labelled at 15 frames a second
        return "val"
    return "test" if drive == "Seq05VD" or drive == "0001TP" and number >= 8550 else "train"


def _frames_of_drives(root, place, split):
    """The original and fast.ai's copy have no lists: the drives make the splits."""
    frames = []
    for name in place.names():
        own = original_split(name)
        if own is None:
            raise InputError(
                f"{place.frame(name).label}: of none of CamVid's four drives, expected {root / split}.txt with a line "
                "'image label' per frame"
            )
        if own == split:
            frames.append(place.frame(name))
    if not frames:
        raise InputError(f"{place.labels}: no labels *{place.ending}.png of {split}, expected those of CamVid's drives")
    return frames


def _kitti_frames(place, split):
    """KITTI semantic has no lists: the sorted names are cut at KITTI_CUT."""
    names = place.names()
    cuts = [0, *(round(len(names) * share) for share in KITTI_CUT), len(names)]
    at = SPLITS.index(split)
    chosen = names[cuts[at] : cuts[at + 1]]
    if not chosen:
        raise InputError(f"{place.labels}: {len(names)} labels, none of them left for {split}, expected at least 10")
    return [place.frame(name) for name in chosen]
