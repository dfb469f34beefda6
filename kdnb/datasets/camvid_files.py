"""CamVid's file formats, without torch: the three layouts, the lists of their splits, and labels as ids of 11 classes.

Layouts: "segnet" (SegNet's release: ``train/ trainannot/ ... train.txt``, 8-bit ids), "colour" (the original release:
``701_StillsRaw_full/``, ``LabeledApproved_full/*_L.png``) and "kitti" (KITTI semantic: ``training/image_2``,
``training/semantic`` with ids of Cityscapes).
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdnb.datasets.camvid_classes import CLASSES, COLOURS, SEGNET_GROUPS, VOID, class_id
from kdnb.datasets.folders import names_in
from kdnb.datasets.images import opened
from kdnb.datasets.text import read_text
from kdnb.errors import InputError

SPLITS = ("train", "val", "test")
STILLS, LABELS = "701_StillsRaw_full", "LabeledApproved_full"
# Cityscapes' ids; all others are void, as are those that its own evaluation ignores
CITYSCAPES = {
    7: "road",
    8: "pavement",
    11: "building",
    12: "building",
    13: "fence",
    17: "pole",
    19: "sign",
    20: "sign",
    21: "tree",
    22: "tree",
    23: "sky",
    24: "pedestrian",
    25: "bicyclist",
    26: "car",
    27: "car",
    28: "car",
    31: "car",
    32: "bicyclist",
    33: "bicyclist",
}
CITYSCAPES_IDS = (*range(34), 255)  # 255 is -1, a licence plate, in 8 bits
KITTI_CUT = (0.7, 0.8)  # of the sorted names: the first 70 % are train, the next 10 % val, the last 20 % test

NAME = re.compile(r"[\w.-]{1,100}")  # of a frame; no backup ("a (1).png") and nothing hidden
log = logging.getLogger(__name__)

_CODES = {(r << 16) + (g << 8) + b: class_id(SEGNET_GROUPS[name]) for name, (r, g, b) in COLOURS.items()}
_SORTED = np.array(sorted(_CODES))
_IDS = np.array([_CODES[code] for code in sorted(_CODES)], np.uint8)


@dataclass(frozen=True)
class Frame:
    """Paths of an image and its label; ``where`` is "list:line: " for messages, or ""."""

    name: str
    image: Path
    label: Path
    where: str = ""


# --- layouts and lists ------------------------------------------------------------------------------------------


def find_root(data: str | Path) -> tuple[Path, str]:
    """The root and its layout, given the root or a folder that holds it as ``CamVid/``. Raises InputError if none."""
    for root in (Path(data), Path(data) / "CamVid"):
        if any((root / f"{split}annot").is_dir() for split in SPLITS):
            return root, "segnet"
        if (root / LABELS).is_dir():
            return root, "colour"
        if (root / "training" / "semantic").is_dir():
            return root, "kitti"
    what = "a folder" if Path(data).is_dir() else "a file" if Path(data).exists() else "nothing"
    raise InputError(
        f"{data}: found {what}, expected a CamVid root with trainannot/ (SegNet), {LABELS}/ (the "
        "original) or training/semantic/ (KITTI) in it"
    )


def splits_of(root: Path) -> list[str]:
    """Splits that have a list or a folder of labels; all three if a rule makes them."""
    return [
        split for split in SPLITS if (root / f"{split}.txt").is_file() or (root / f"{split}annot").is_dir()
    ] or list(SPLITS)


def list_frames(root: Path, layout: str, split: str) -> tuple[list[Frame], list[str]]:
    """Frames of a split, in the order of its list, and the list's faults (strings ``file:line: what``).

    SegNet's release without a list of the split is read by its folder of labels, sorted, and the log says so.
    Raises InputError for an unknown split, a missing or empty list, and frames that no rule assigns to a split.
    """
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    if layout == "kitti":
        return _kitti_frames(root, split), []
    if layout == "colour" and not any((root / f"{name}.txt").is_file() for name in SPLITS):
        return _original_frames(root, split), []
    if layout == "segnet" and not (root / f"{split}.txt").exists():
        labels = label_files(root / f"{split}annot")
        if labels:
            log.warning("%s has no %s.txt: all %d labels in %s are taken", root, split, len(labels), f"{split}annot")
            return [Frame(path.stem, root / split / path.name, path) for path in labels], []
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
        if label.stem.removesuffix("_L") != image.stem:
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


def _original_frames(root, split):
    """The original has no lists: its drives make the splits."""
    labels = label_files(root / LABELS, "_L")
    frames = []
    for label in labels:
        name = label.stem.removesuffix("_L")
        own = original_split(name)
        if own is None:
            raise InputError(
                f"{label}: of none of CamVid's four drives, expected {root / split}.txt with a line "
                "'image label' per frame"
            )
        if own == split:
            frames.append(Frame(name, root / STILLS / f"{name}.png", label))
    if not frames:
        raise InputError(f"{root / LABELS}: no labels *_L.png of {split}, expected those of CamVid's drives")
    return frames


def _kitti_frames(root, split):
    """KITTI semantic has no lists: the sorted names are cut at KITTI_CUT."""
    names = [path.stem for path in label_files(root / "training" / "semantic")]
    cuts = [0, *(round(len(names) * share) for share in KITTI_CUT), len(names)]
    place = SPLITS.index(split)
    chosen = names[cuts[place] : cuts[place + 1]]
    if not chosen:
        raise InputError(
            f"{root / 'training' / 'semantic'}: {len(names)} labels, none of them left for {split}, "
            "expected at least 10"
        )
    return [
        Frame(name, root / "training" / "image_2" / f"{name}.png", root / "training" / "semantic" / f"{name}.png")
        for name in chosen
    ]


# --- labels -----------------------------------------------------------------------------------------------------


def read_label(path: str | Path, layout: str = "segnet") -> np.ndarray:
    """A label as uint8 (H, W), ids 0 to 10 and ``VOID``.

    Raises InputError for a file that cannot be decoded, an unknown id or colour (with its pixel), and a frame whose
    every pixel is void.
    """
    if layout == "colour":
        ids = decode_colours(_colours(path), path)
    elif layout == "kitti":
        ids = _from_cityscapes(read_ids(path), path)
    else:
        ids = read_ids(path)
        require_ids(ids, VOID, path)
    if (ids == VOID).all():
        raise InputError(f"{path}: every pixel is void, expected at least one of the {len(CLASSES)} classes")
    return ids


def decode_colours(array: np.ndarray, path: str | Path) -> np.ndarray:
    """Colours of CamVid's 32 classes, uint8 (H, W, 3), as ids of the 11, uint8 (H, W); ``path`` is for the message.

    Colours must match exactly: any other raises InputError with the first such pixel (x, y).
    """
    code = (array.astype(np.int32) << np.array([16, 8, 0])).sum(-1)
    place = np.searchsorted(_SORTED, code).clip(max=len(_SORTED) - 1)
    unknown = _SORTED[place] != code
    if unknown.any():
        y, x = np.argwhere(unknown)[0].tolist()
        raise InputError(
            f"{path}: pixel ({x}, {y}) has colour {tuple(array[y, x].tolist())}, expected one of CamVid's "
            f"{len(COLOURS)}; {int(unknown.sum())} such pixels"
        )
    return _IDS[place]


def require_ids(ids: np.ndarray, highest: int, path: str | Path) -> None:
    """Raise InputError, with the first pixel (x, y), for an id above ``highest``."""
    if ids.max(initial=0) > highest:
        y, x = np.argwhere(ids > highest)[0].tolist()
        found, hint = f"pixel ({x}, {y}) has id {ids[y, x]}", ""
        if highest == VOID and (ids[ids > highest] == 255).all():
            hint = f" ({VOID} is void: if 255 is void in your labels, write {VOID} in its place)"
        elif highest < VOID and (ids[ids > highest] == VOID).all():
            hint = f": a prediction has a class for every pixel, and {VOID} is void"
        raise InputError(f"{path}: {found}, expected 0 to {highest}{hint}")


def _from_cityscapes(ids, path):
    known = np.isin(ids, CITYSCAPES_IDS)
    if not known.all():
        y, x = np.argwhere(~known)[0].tolist()
        raise InputError(f"{path}: pixel ({x}, {y}) has id {ids[y, x]}, expected one of Cityscapes: 0 to 33, or 255")
    table = np.full(256, VOID, np.uint8)
    table[list(CITYSCAPES)] = [CLASSES.index(name) for name in CITYSCAPES.values()]
    return table[ids]


def read_ids(path: str | Path) -> np.ndarray:
    """8-bit ids of a PNG, uint8 (H, W). Raises InputError for a file that cannot be decoded or has other pixels.

    With a palette of greys, the greys are the ids (tools that compress SegNet's files write such palettes, in any
    order); with a palette of colours, the row numbers are.
    """
    image = _decoded(path)
    if 0 in image.size:
        raise InputError(f"{path}: {image.width} x {image.height} pixels, expected at least one")
    if image.mode not in ("L", "P"):
        raise InputError(f"{path}: pixels are {image.mode}, expected 8-bit ids (L or P)")
    ids = np.array(image)
    if image.mode == "L":
        return ids
    palette = np.zeros((256, 3), np.uint8)
    given = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(given)] = given[:256]
    return palette[ids, 0] if (palette == palette[:, :1]).all() else ids


def _decoded(path):
    with opened(path, "PNG") as image:
        return image.copy()


def _colours(path):
    with opened(path, "PNG") as image:
        return np.array(image.convert("RGB"))
