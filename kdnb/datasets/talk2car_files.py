"""The official Talk2Car file formats, without torch: where the files lie, commands, region proposals, word lists.

All boxes are in pixels of a 1600 x 900 image, whatever the size of the file on disk. Files write ``[x, y, width,
height]``; boxes leave this module as edges ``(x1, y1, x2, y2)``.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
SMALL = 64  # a box of less than 64 x 64 pixels counts as small
_COLOUR = re.compile(rf"\b({'|'.join(COLOUR_WORDS)})\b")
_SIDE = re.compile(rf"\b({'|'.join(SIDE_WORDS)})\b")


@dataclass(frozen=True)
class Command:
    """One command. ``box`` and ``twin_box`` are (x1, y1, x2, y2) in 1600 x 900, None if the file has none.

    ``image`` is the image's file name, ``name`` the category of the target. ``twin`` is "colour" or "side": all that
    tells the thing at ``twin_box`` from the target. It is None where the image has no such thing, or no annotation of
    it, as the photographs; ``knows_twins`` tells these apart.
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
    for folder in folders:
        if (folder / first).is_file():
            return folder
    if folders:
        return folders[0]
    raise InputError(
        f"{Path(root) / 'images'}: no such folder, expected the images, such as {first}; the link to "
        f"the archive imgs.zip is on {HOME}"
    )


def find_proposals(root: str | Path) -> Path | None:
    """The file with region proposals, or None."""
    for folder in PROPOSAL_FOLDERS:
        for name in PROPOSAL_FILES:
            path = Path(root) / folder / name
            if path.is_file():
                return path
    return None


# --- contents ---------------------------------------------------------------------------------------------------


def load_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises InputError, with file and line, for invalid JSON and a repeated key."""
    path = Path(path)

    def unique(pairs):
        keys = dict(pairs)
        if len(keys) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise InputError(f"{path}: key {twice!r} appears twice, expected it once")
        return keys

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a JSON file") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


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
            faults.append(f"{path}: command {token or f'number {number}'}: {error}")
    if not rows:
        faults.append(f"{path}: no commands, expected at least one")
    return commands, faults


def _command(row, blind, tokens):
    """The Command of an entry. Raises ValueError with its first fault."""
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}, expected an object with its fields")
    for key in ("command_token", "command", "t2c_img"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"{key!r} is {row.get(key)!r}, expected a text")
    token = row["command_token"]
    if token in tokens:
        raise ValueError("appears twice, expected unique command_tokens")
    tokens.add(token)
    box = None
    if not blind:
        if row.get("2d_box") is None:
            raise ValueError("has no '2d_box', expected [x, y, width, height] (the first release of the data has none)")
        box = edges(row["2d_box"])
        if box[0] < -1 or box[1] < -1 or box[2] > WIDTH + 1 or box[3] > HEIGHT + 1:
            raise ValueError(f"'2d_box' {row['2d_box']} reaches outside, expected it within {WIDTH} x {HEIGHT}")
    twin_box = edges(row["twin_box"]) if row.get("twin_box") is not None else None
    name, scene = str(row.get("obj_name", "")), str(row.get("scene_token", ""))
    return Command(token, row["command"], box, row["t2c_img"], name, scene, row.get("twin"), twin_box, "twin" in row)


def edges(box: Sequence[float]) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of an official [x, y, width, height]. Raises ValueError for anything else and an empty box."""
    numbers = isinstance(box, (list, tuple)) and len(box) == 4
    numbers = numbers and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or not all(math.isfinite(v) for v in box):
        raise ValueError(f"found {box!r}, expected four finite numbers [x, y, width, height]")
    x, y, width, height = (float(v) for v in box)
    if width <= 0 or height <= 0:
        raise ValueError(f"box {box!r} has no area, expected a positive width and height")
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
            key, entry = entry.get("command_token", key), entry.get("centernet")
        try:
            out[key] = _proposals(entry)
        except ValueError as error:
            raise InputError(f"{path}: proposals of {split} {key}: {error}") from None
    return out


def _proposals(entry):
    if not isinstance(entry, list):
        raise ValueError(f"found a {type(entry).__name__}, expected a list of boxes")
    boxes, scores = np.zeros((len(entry), 4), np.float32), np.zeros(len(entry), np.float32)
    for k, proposal in enumerate(entry):
        if not isinstance(proposal, dict) or "bbox" not in proposal or "score" not in proposal:
            raise ValueError(f"number {k} is {proposal!r}, expected an object with 'bbox' and 'score'")
        box, score = proposal["bbox"], proposal["score"]
        try:
            x, y, width, height = (float(v) for v in box)
            boxes[k], scores[k] = (x, y, x + width, y + height), float(score)
        except (TypeError, ValueError):
            boxes[k] = np.nan
        if not np.isfinite(boxes[k]).all() or not np.isfinite(scores[k]):
            raise ValueError(f"number {k} has bbox {box!r} and score {score!r}, expected finite numbers")
    boxes = np.clip(boxes, 0, np.array([WIDTH, HEIGHT] * 2, np.float32))
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    boxes, scores = boxes[keep], scores[keep]
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]
