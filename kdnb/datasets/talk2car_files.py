"""The official Talk2Car file formats, without torch: where the files lie, commands, region proposals, word lists.

All boxes are in pixels of a 1600 x 900 image, whatever the size of the file on disk. Files write ``[x, y, width,
height]``; boxes leave this module as edges ``(x1, y1, x2, y2)``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kdnb.datasets.talk2car_json import load_json, shown
from kdnb.errors import InputError

WIDTH, HEIGHT = 1600, 900
SPLITS = ("train", "val", "test")
HOME = "https://talk2car.github.io (code, commands and proposals: https://github.com/talk2car/Talk2Car)"
# A plain folder, one per split, the official repository, and the flat layout of its first release.
COMMAND_PLACES = (
    "commands/{0}_commands.json",
    "{0}/commands/{0}_commands.json",
    "data/commands/{0}_commands.json",
    "{0}_commands.json",
    "data/{0}_commands.json",
)
# The official archive unpacks to imgs/ and is then renamed.
IMAGE_PLACES = ("images", "imgs", "{0}/images", "{0}/imgs", "images/{0}", "data/images", "data/imgs")
PROPOSAL_FILES = ("centernet_bboxes.json", "talk2car_w_rpn_no_duplicates.json", "talk2car_w_rpn.json")
PROPOSAL_FOLDERS = (".", "data", "baseline/data", "c4av_model/data", "../baseline/data", "../c4av_model/data")

COLOUR_WORDS = (
    "red",
    "blue",
    "white",
    "black",
    "silver",
    "grey",
    "gray",
    "green",
    "yellow",
    "orange",
    "brown",
    "pink",
    "purple",
    "beige",
    "golden",
    "gold",
    "cream",
    "turquoise",
    "maroon",
)
SIDE_WORDS = ("left", "right", "middle", "leftmost", "rightmost", "center", "centre")
LARGEST = 1e6  # of a number of a box: pixels
SMALL = 64  # a box of less than 64 x 64 pixels counts as small
_COLOUR = re.compile(rf"\b({'|'.join(COLOUR_WORDS)})\b")
_SIDE = re.compile(rf"\b({'|'.join(SIDE_WORDS)})\b")


@dataclass(frozen=True)
class Command:
    """One command. ``box`` and ``twin_box`` are (x1, y1, x2, y2) in 1600 x 900, None if the file has none.

    ``image`` is the image's file name as written, with or without a folder (see ``image_path``), ``name`` the category
    of the target. ``twin`` is "colour" or "side": all that tells the thing at ``twin_box`` from the target. It is None
    where the image has no such thing, or no annotation of it, as the photographs; ``knows_twins`` tells these apart.
    """

    token: str
    text: str
    box: tuple[float, float, float, float] | None
    image: str
    name: str
    scene: str = ""
    twin: str | None = None
    twin_box: tuple[float, float, float, float] | None = None
    knows_twins: bool = False


def names_colour(text: str) -> bool:
    """Whether a command contains a colour word, of the target or anything else."""
    return _COLOUR.search(text.lower()) is not None


def names_side(text: str) -> bool:
    """Whether a command contains a word for a side, of the target or to turn to."""
    return _SIDE.search(text.lower()) is not None


def is_small(box: Sequence[float]) -> bool:
    """Whether a box in 1600 x 900 covers less than 64 x 64 pixels."""
    return (box[2] - box[0]) * (box[3] - box[1]) < SMALL * SMALL


def to_pixels(boxes: Any, width: int, height: int) -> Any:
    """Boxes (..., 4) in 1600 x 900 scaled to an image of width x height pixels; an array or a tensor."""
    sizes = [width, height] * 2, [WIDTH, HEIGHT] * 2
    if hasattr(boxes, "new_tensor"):
        size, full = (boxes.new_tensor(s) for s in sizes)
    else:
        size, full = (np.asarray(s, dtype=np.float32) for s in sizes)
    return boxes * size / full


# --- paths ---------------------------------------------------------------------------------------------------


def find_commands(root: str | Path, split: str) -> Path:
    """The commands file of a split. Raises InputError, with where to get it, when it is missing."""
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    root = Path(root)
    places = [root / place.format(split) for place in COMMAND_PLACES]
    for path in places:
        if path.is_file():
            return path
    what = "a folder" if root.is_dir() else "a file" if root.exists() else "nothing"
    raise InputError(
        f"{places[0]}: no such file ({root} is {what}), expected the commands of {split}; get them from {HOME}"
    )


def find_images(root: str | Path, split: str, first: str) -> Path:
    """The folder of a split's images: the one that contains the image ``first``, else the first that exists.

    Raises InputError, with where to get the images, when there is none.
    """
    folders = [Path(root) / place.format(split) for place in IMAGE_PLACES]
    folders = [folder for folder in folders if folder.is_dir()]
    for folder in [*folders, Path(root)] if "/" in first else folders:
        if image_path(folder, first) is not None:
            return folder
    if folders:
        return folders[0]
    raise InputError(
        f"{Path(root) / 'images'}: no such folder, expected the images, such as {first}; the link to "
        f"the archive imgs.zip is on {HOME}"
    )


def image_path(folder: Path, image: str) -> Path | None:
    """The file of an image in a folder: under the folders that its name is written with, else without them; or None."""
    for name in dict.fromkeys((image, PurePosixPath(image).name)):
        try:
            if (folder / name).is_file():
                return folder / name
        except (OSError, ValueError):  # no name for a file
            continue
    return None


def find_proposals(root: str | Path) -> Path | None:
    """The file with region proposals, or None."""
    for folder in PROPOSAL_FOLDERS:
        for name in PROPOSAL_FILES:
            path = Path(root) / folder / name
            if path.is_file():
                return path
    return None


# --- contents ---------------------------------------------------------------------------------------------------


def read_commands(path: str | Path, blind: bool = False) -> list[Command]:
    """All commands of a file, in its order. Raises InputError for the first fault.

    ``blind`` allows a file without any box: the test set before its boxes were published.
    """
    commands, faults = parse_commands(path, blind)
    if faults:
        raise InputError(faults[0])
    return commands


def parse_commands(path: str | Path, blind: bool = False) -> tuple[list[Command], list[str]]:
    """``(commands, faults)``; a faulty command is left out and reported as ``file: command token: what``."""
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("commands"), list):
        raise InputError(f"{path}: found no list 'commands', expected {{'commands': [...], 'scene_tokens': [...]}}")
    rows = content["commands"]
    blind = blind and not any(isinstance(row, dict) and "2d_box" in row for row in rows)
    commands, faults, tokens = [], [], set()
    for number, row in enumerate(rows):
        try:
            commands.append(_command(row, blind, tokens))
        except ValueError as error:
            token = row.get("command_token") if isinstance(row, dict) else None
            known = token if isinstance(token, str) and token.isprintable() else f"number {number}"
            faults.append(f"{path}: command {known or f'number {number}'}: {error}")
    if not rows:
        faults.append(f"{path}: no commands, expected at least one")
    return commands, faults


def _command(row, blind, tokens):
    """The Command of an entry. Raises ValueError with its first fault."""
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}, expected an object with its fields")
    token = row.get("command_token")
    row = row | {"command_token": str(token)} if type(token) is int else row
    for key in ("command_token", "command", "t2c_img"):
        if not _is_text(row.get(key)) or not row[key].strip():
            raise ValueError(f"{key!r} is {shown(row.get(key))}, expected a text")
    token, image = row["command_token"], row["t2c_img"].replace("\\", "/")
    if not PurePosixPath(image).name.isprintable() or not PurePosixPath(image).name:
        raise ValueError(f"'t2c_img' is {shown(row['t2c_img'])}, expected the name of a file")
    if token in tokens:
        raise ValueError("appears twice, expected unique command_tokens")
    tokens.add(token)
    box = None
    if not blind:
        if row.get("2d_box") is None:
            raise ValueError("has no '2d_box', expected [x, y, width, height] (the first release of the data has none)")
        box = edges(row["2d_box"])
        if box[0] < -1 or box[1] < -1 or box[2] > WIDTH + 1 or box[3] > HEIGHT + 1:
            raise ValueError(f"'2d_box' {shown(row['2d_box'])} reaches outside, expected it within {WIDTH} x {HEIGHT}")
    twin_box = edges(row["twin_box"]) if row.get("twin_box") is not None else None
    if row.get("twin") not in (None, "colour", "side"):
        raise ValueError(f'\'twin\' is {shown(row["twin"])}, expected "colour", "side" or null')
    name, scene = _optional(row, "obj_name"), _optional(row, "scene_token")
    return Command(token, row["command"], box, image, name, scene, row.get("twin"), twin_box, "twin" in row)


def _is_text(value):
    """Whether a value is a text that can be written: JSON can hold halves of characters, which cannot."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _optional(row, key):
    """The text of a field that may be missing or null; a whole number is a text too."""
    value = row.get(key)
    if value is None:
        return ""
    if type(value) is int:
        return str(value)
    if not _is_text(value):
        raise ValueError(f"{key!r} is {shown(value)}, expected a text")
    return value


def edges(box: Sequence[float]) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of an official [x, y, width, height]. Raises ValueError for anything else, also for a number
    beyond ``LARGEST``, and for an empty box."""
    numbers = isinstance(box, (list, tuple)) and len(box) == 4
    numbers = numbers and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or not all(-LARGEST <= v <= LARGEST for v in box):  # false for NaN; integers may be huge
        raise ValueError(f"found {shown(box)}, expected four finite numbers [x, y, width, height]")
    x, y, width, height = (float(v) for v in box)
    if width <= 0 or height <= 0 or not (x + width > x and y + height > y):
        raise ValueError(f"box {shown(box)} has no area, expected a positive width and height")
    return x, y, x + width, y + height


def read_proposals(path: str | Path, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Region proposals of a split: command token → (boxes (P, 4), scores (P,)), float32, best first, in 1600 x 900.

    Reads both official forms, ``{split: {command token: [{"bbox": [x, y, w, h], "class", "score"}, ...]}}`` and the
    older ``{split: {number: {"command_token", "centernet": [the same], ...}}}``. Boxes are clipped to the image as the
    official baseline does; those thinner than a pixel are then left out.
    Raises InputError with file and key for anything else.
    """
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(split), dict):
        raise InputError(f"{path}: found no {split!r}, expected an object with the proposals of each split")
    out = {}
    for key, entry in content[split].items():
        if isinstance(entry, dict):
            token, entry = entry.get("command_token", key), entry.get("centernet")
            key = str(token) if isinstance(token, (str, int)) else key
        try:
            out[key] = _proposals(entry)
        except ValueError as error:
            place = key if key.isprintable() else shown(key)
            raise InputError(f"{path}: proposals of {split} {place}: {error}") from None
    return out


def _proposals(entry):
    if not isinstance(entry, list):
        raise ValueError(f"found a {type(entry).__name__}, expected a list of boxes")
    boxes, scores = np.zeros((len(entry), 4), np.float32), np.zeros(len(entry), np.float32)
    for k, proposal in enumerate(entry):
        if not isinstance(proposal, dict) or "bbox" not in proposal or "score" not in proposal:
            raise ValueError(f"number {k} is {shown(proposal)}, expected an object with 'bbox' and 'score'")
        box, score = proposal["bbox"], proposal["score"]
        try:
            x, y, width, height, score = (float(v) for v in ([*box, score] if isinstance(box, list) else ()))
        except (TypeError, ValueError, OverflowError):
            x = math.nan
        if math.isnan(x) or not all(abs(v) <= LARGEST for v in (x, y, width, height, score)):
            found = f"number {k} has bbox {shown(box)} and score {shown(proposal['score'])}"
            raise ValueError(f"{found}, expected finite numbers")
        boxes[k], scores[k] = (x, y, x + width, y + height), score
    boxes = np.clip(boxes, 0, np.array([WIDTH, HEIGHT] * 2, np.float32))
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    boxes, scores = boxes[keep], scores[keep]
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]
