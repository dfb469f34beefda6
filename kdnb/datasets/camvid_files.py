"""CamVid's labels, without torch: PNGs of ids, of codes or of colours, as ids of the 11 classes."""

from pathlib import Path

import numpy as np

from kdnb.datasets.camvid_classes import CLASSES, COLOURS, SEGNET_GROUPS, VOID, class_id
from kdnb.datasets.images import opened
from kdnb.datasets.text import read_text
from kdnb.errors import InputError

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

_CODES = {(r << 16) + (g << 8) + b: class_id(SEGNET_GROUPS[name]) for name, (r, g, b) in COLOURS.items()}
_SORTED = np.array(sorted(_CODES))
_IDS = np.array([_CODES[code] for code in sorted(_CODES)], np.uint8)


def read_label(path: str | Path, layout: str = "segnet") -> np.ndarray:
    """A label as uint8 (H, W), ids 0 to 10 and ``VOID``.

    ``layout`` is one of ``camvid_layouts``; that of fast.ai is read with the ``codes.txt`` above the label's folder.
    Raises InputError for a file that cannot be decoded, an unknown id or colour (with its pixel), and a frame whose
    every pixel is void.
    """
    if layout in ("colour", "kaggle"):
        ids = decode_colours(_colours(path), path)
    elif layout == "kitti":
        ids = _from_cityscapes(read_ids(path), path)
    elif layout == "fastai":
        ids = _from_codes(read_ids(path), path)
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


def read_codes(path: str | Path) -> np.ndarray:
    """Ids of the 11 classes, uint8 (codes,), by fast.ai's code: a line of ``codes.txt`` each, a name of the 32 classes.

    Without the file the codes are the 32 names in alphabetical order, as in fast.ai's. Raises InputError for a file
    that cannot be read and, with its line, for another name.
    """
    path = Path(path)
    names = list(COLOURS)
    if path.exists():
        names = [line.strip() for line in read_text(path, "a name of CamVid's classes a line").rstrip().split("\n")]
    for number, name in enumerate(names, 1):
        if name not in SEGNET_GROUPS:
            raise InputError(f"{path}:{number}: found {name[:60]!r}, expected the name of one of CamVid's classes")
    return np.array([class_id(SEGNET_GROUPS[name]) for name in names], np.uint8)


def _from_codes(ids, path):
    codes = read_codes(Path(path).parent.parent / "codes.txt")
    require_ids(ids, len(codes) - 1, path)
    return codes[ids]


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
