"""The official Talk2Car file formats, without torch: where the files lie, commands, region proposals, word lists.

Every box of the data set lives in an image of 1600 x 900 pixels, whatever the size of the file on disk. Files write
``[x, y, width, height]``; boxes leave this module as edges ``(x1, y1, x2, y2)``.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdnb.errors import InputError

WIDTH, HEIGHT = 1600, 900
SPLITS = ("train", "val", "test")
HOME = "https://talk2car.github.io (code, commands and proposals: https://github.com/talk2car/Talk2Car)"
# The folder itself, the same per split, the official repository, and the flat one of its first release.
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
    """One command. ``box`` and ``twin_box`` are (x1, y1, x2, y2) in 1600 x 900, None where the file has none.

    ``image`` is the image's file name, ``name`` the category of what is meant. ``twin`` says by what alone another
    thing in the image differs from what is meant, "colour" or "side"; None where there is no such thing or, as in the
    photographs, nobody noted it; ``knows_twins`` tells the two apart.
    """

    token: str
    text: str
    box: tuple | None
    image: str
    name: str
    scene: str = ""
    twin: str | None = None
    twin_box: tuple | None = None
    knows_twins: bool = False


def names_colour(text) -> bool:
    """Whether a command contains a colour word, about whatever."""
    return _COLOUR.search(text.lower()) is not None


def names_side(text) -> bool:
    """Whether a command contains a word for a side, be it the target's or the way to turn."""
    return _SIDE.search(text.lower()) is not None


def is_small(box) -> bool:
    """Whether a box in 1600 x 900 covers less than 64 x 64 pixels."""
    return (box[2] - box[0]) * (box[3] - box[1]) < SMALL * SMALL


def to_pixels(boxes, width, height):
    """Boxes (..., 4) in 1600 x 900 scaled to an image of width x height pixels; arrays and tensors alike."""
    sizes = [width, height] * 2, [WIDTH, HEIGHT] * 2
    if hasattr(boxes, "new_tensor"):
        size, full = (boxes.new_tensor(s) for s in sizes)
    else:
        size, full = (np.asarray(s, dtype=np.float32) for s in sizes)
    return boxes * size / full


# --- where things lie -------------------------------------------------------------------------------------------


def find_commands(root, split) -> Path:
    """The commands file of a split. Raises InputError that says what is missing and where to get it."""
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    root = Path(root)
    places = [root / place.format(split) for place in COMMAND_PLACES]
    for path in places:
        if path.is_file():
            return path
    there = "a folder" if root.is_dir() else "a file" if root.exists() else "nothing"
    raise InputError(
        f"{places[0]}: no such file ({root} is {there}), expected the commands of {split}; get them from {HOME}"
    )


def find_images(root, split, first) -> Path:
    """The folder of a split's images: the one with the image ``first`` in it, else the first that exists.

    Raises InputError that says what is missing and where to get it when there is none.
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


def find_proposals(root) -> Path | None:
    """The file with region proposals, or None."""
    for folder in PROPOSAL_FOLDERS:
        for name in PROPOSAL_FILES:
            path = Path(root) / folder / name
            if path.is_file():
                return path
    return None


# --- what is in them --------------------------------------------------------------------------------------------


def load_json(path):
    """Parse a JSON file; a key that is given twice is refused. Raises InputError with file and line."""
    path = Path(path)

    def unique(pairs):
        keys = dict(pairs)
        if len(keys) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise InputError(f"{path}: key {twice!r} is there twice, expected it once")
        return keys

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a JSON file") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def read_commands(path, blind=False) -> list[Command]:
    """All commands of a file, in its order. Raises InputError for the first fault.

    ``blind`` allows a file none of whose commands has a box: the test set as it was until its boxes were published.
    """
    commands, faults = parse_commands(path, blind)
    if faults:
        raise InputError(faults[0])
    return commands


def parse_commands(path, blind=False):
    """``(commands, faults)``; a command with a fault is left out and named as ``file: command token: what``."""
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("commands"), list):
        raise InputError(f"{path}: found no list 'commands', expected {{'commands': [...], 'scene_tokens': [...]}}")
    rows = content["commands"]
    blind = blind and not any(isinstance(row, dict) and "2d_box" in row for row in rows)
    commands, faults, seen = [], [], set()
    for number, row in enumerate(rows):
        try:
            commands.append(_command(row, blind, seen))
        except ValueError as error:
            token = row.get("command_token") if isinstance(row, dict) else None
            faults.append(f"{path}: command {token or f'number {number}'}: {error}")
    if not rows:
        faults.append(f"{path}: no commands, expected at least one")
    return commands, faults


def _command(row, blind, seen):
    """A Command of one entry; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}, expected an object with its fields")
    for key in ("command_token", "command", "t2c_img"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"{key!r} is {row.get(key)!r}, expected a text")
    token = row["command_token"]
    if token in seen:
        raise ValueError("is there twice, expected every command_token once")
    seen.add(token)
    box = None
    if not blind:
        if row.get("2d_box") is None:
            raise ValueError("has no '2d_box', expected [x, y, width, height] (the first release of the data has none)")
        box = edges(row["2d_box"])
        if box[0] < -1 or box[1] < -1 or box[2] > WIDTH + 1 or box[3] > HEIGHT + 1:
            raise ValueError(f"'2d_box' {row['2d_box']} reaches outside, expected it within {WIDTH} x {HEIGHT}")
    twin_box = edges(row["twin_box"]) if row.get("twin_box") is not None else None
    return Command(
        token,
        row["command"],
        box,
        row["t2c_img"],
        str(row.get("obj_name", "")),
        str(row.get("scene_token", "")),
        row.get("twin"),
        twin_box,
        "twin" in row,
    )


def edges(box) -> tuple:
    """(x1, y1, x2, y2) of an official [x, y, width, height]. Raises ValueError for anything but a box with an area."""
    numbers = isinstance(box, (list, tuple)) and len(box) == 4
    numbers = numbers and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box)
    if not numbers or not all(math.isfinite(v) for v in box):
        raise ValueError(f"found {box!r}, expected four finite numbers [x, y, width, height]")
    x, y, width, height = (float(v) for v in box)
    if width <= 0 or height <= 0:
        raise ValueError(f"box {box!r} has no area, expected a positive width and height")
    return x, y, x + width, y + height


def read_proposals(path, split) -> dict:
    """Region proposals of a split: command token -> (boxes (P, 4), scores (P,)), float32, best first, in 1600 x 900.

    Reads both official forms, ``{split: {command token: [{"bbox": [x, y, w, h], "class", "score"}, ...]}}`` and the
    older ``{split: {number: {"command_token", "centernet": [the same], ...}}}``. Boxes are cut to the image as the
    official baseline does; what is then thinner than a pixel is left out.
    Raises InputError with file and key for anything else.
    """
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(split), dict):
        raise InputError(f"{path}: found no {split!r}, expected an object with the proposals of every split")
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
    for k, found in enumerate(entry):
        if not isinstance(found, dict) or "bbox" not in found or "score" not in found:
            raise ValueError(f"number {k} is {found!r}, expected an object with 'bbox' and 'score'")
        box, score = found["bbox"], found["score"]
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
