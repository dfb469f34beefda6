"""The official Talk2Car score (``eval.py`` of its development kit), per command and per kind of command, numpy only.

A prediction is one box per command. Files, and the dicts here, hold boxes as ``[x, y, width, height]`` in an image of
1600 x 900, whatever its size on disk: ``{command token: [x, y, w, h]}``, the format of the leaderboard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kdnb.datasets.talk2car_files import (
    Command,
    edges,
    is_small,
    names_colour,
    names_side,
    read_commands,
)
from kdnb.datasets.talk2car_json import load_json, shown
from kdnb.errors import InputError
from kdnb.files import atomic_write

THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # as officially, last bits included
Predictions = Mapping[str, Sequence[float]]  # command token → [x, y, w, h]
NAMES = tuple(f"AP{round(100 * t)}" for t in THRESHOLDS)
TWINS = ("twin", "twin_colour", "twin_side")


def evaluate_talk2car(commands: Sequence[Command], predictions: Predictions) -> dict[str, Any]:
    """The official numbers, in percent, of all commands and of each slice.

    AP50 is the share of commands whose box overlaps the true one by an IoU *above* 0.5, and so on in steps of 0.05;
    "AP50..95" is the mean of the ten and "mIoU" the mean overlap. The official script truncates true boxes to whole
    numbers, which they are anyway.

    Args:
        commands: list of Command with boxes (``read_commands``, ``Talk2Car.commands``).
        predictions: {token: [x, y, w, h]}, exactly one for every command.

    Returns:
        {"AP50", ..., "AP95", "AP50..95", "mIoU", "n", "slices": {name: {"n", "AP50", "AP50..95", "mIoU"}}}. The slices
        have the same names for all data sets; without notes on twins those have n 0 and no scores.

    Raises:
        InputError: as :func:`iou_per_command`.
    """
    ious = iou_per_command(commands, predictions)
    overall = _scores(ious)
    masks = dict.fromkeys(TWINS, np.zeros(len(ious), dtype=bool)) | slices(commands)
    parts = {name: _scores(ious[masks[name]]) for name in sorted(masks, key=lambda name: name in TWINS)}
    keep = ("n", "AP50", "AP50..95", "mIoU")
    return {**overall, "slices": {name: {key: part[key] for key in keep} for name, part in parts.items()}}


def _scores(ious: np.ndarray) -> dict[str, Any]:
    """The official numbers of overlaps (N,); None without commands."""
    if not len(ious):
        return {**dict.fromkeys((*NAMES, "AP50..95", "mIoU")), "n": 0}
    precision = 100 * (ious[:, None] > THRESHOLDS).mean(axis=0)
    named = dict(zip(NAMES, precision.tolist(), strict=True))
    return {**named, "AP50..95": float(precision.mean()), "mIoU": float(100 * ious.mean()), "n": len(ious)}


def iou_per_command(commands: Sequence[Command], predictions: Predictions) -> np.ndarray:
    """IoU (N,) of each command's prediction with its true box, in the order of ``commands``.

    Values above 0.5 are the hits that AP50 counts: the items of a paired bootstrap.

    Raises InputError for commands without a box, for tokens without a prediction or without a command (the
    first ten are listed), and for a prediction that is not four finite numbers with a positive width and height.
    """
    if not commands:
        raise InputError("no commands to score, expected at least one")
    for command in commands:
        if command.box is None:
            raise InputError(f"command {command.token} has no box, expected one: this test set cannot be scored here")
    _same_tokens([c.token for c in commands], predictions)
    boxes = [_prediction(c.token, predictions[c.token]) for c in commands]
    return iou(np.array([c.box for c in commands]), np.array(boxes))


def _same_tokens(tokens: Sequence[str], predictions: object) -> None:
    if not isinstance(predictions, dict):
        raise InputError(f"predictions are a {type(predictions).__name__}, expected {{command token: [x, y, w, h]}}")
    known = set(tokens)
    missing = [token for token in tokens if token not in predictions]
    extra = [token for token in predictions if token not in known]
    faults = [
        f"{len(some)} {what}: {', '.join(map(_name, some[:10]))}{', ...' if len(some) > 10 else ''}"
        for some, what in ((missing, "commands without a prediction"), (extra, "predictions without a command"))
        if some
    ]
    if faults:
        raise InputError(f"predictions do not fit the commands: {'; '.join(faults)}; expected exactly one per command")


def _name(token: object) -> str:
    """A token for a message; quoted where it cannot be printed on one line."""
    text = str(token)
    return text if text.isprintable() and len(text) <= 80 else shown(text)


def _prediction(token: str, box: Any) -> tuple:
    """Edges x1, y1, x2, y2 of a predicted box."""
    try:
        return edges(box.tolist() if hasattr(box, "tolist") else box)
    except ValueError as error:
        raise InputError(f"prediction of command {_name(token)}: {error}") from None


def iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of boxes (..., 4) as edges x1, y1, x2, y2, which broadcast; 0 for a box without area."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b))
    return shared / np.clip(area_a + area_b - shared, 1e-7, None)  # the official guard against 0/0


def slices(commands: Sequence[Command]) -> dict[str, np.ndarray]:
    """Masks (N,) of kinds of commands. They follow from words and boxes only, so photographs have them too.

    colour, side: the command contains such a word. neither: it has none. small: the box covers less than 64 x 64
    pixels. twin, and twin_colour and twin_side of it: another object in the image differs in this alone; only where
    the commands say so.
    """
    colour = np.array([names_colour(c.text) for c in commands], dtype=bool)
    side = np.array([names_side(c.text) for c in commands], dtype=bool)
    small = np.array([c.box is not None and is_small(c.box) for c in commands], dtype=bool)
    masks = {"colour": colour, "side": side, "neither": ~colour & ~side, "small": small}
    if any(c.knows_twins for c in commands):
        twin = np.array([c.twin or "" for c in commands])
        masks |= dict(zip(TWINS, (twin != "", twin == "colour", twin == "side"), strict=True))
    return masks


# --- proposals --------------------------------------------------------------------------------------------------


def upper_bound(items: Iterable[Mapping[str, Any]]) -> float:
    """Percent of items with a proposal that overlaps the true box by an IoU above 0.5: the best a choice can reach.

    ``items``: dicts with ``box`` (4,) and ``proposals`` (P, 4) as edges, as Talk2Car's.
    """
    return float(100 * np.mean([(_overlaps(item) > 0.5).any() for item in items]))


def chance(items: Iterable[Mapping[str, Any]]) -> float:
    """Expected AP50 in percent of a proposal chosen at random."""
    return float(100 * np.mean([(_overlaps(item) > 0.5).mean() if len(item["proposals"]) else 0.0 for item in items]))


def _overlaps(item: Mapping[str, Any]) -> np.ndarray:
    return iou(np.asarray(item["proposals"], dtype=np.float64).reshape(-1, 4), np.asarray(item["box"]))


# --- files ------------------------------------------------------------------------------------------------------


def read_predictions(path: str | Path) -> dict[str, list]:
    """The dict of a predictions file. Raises InputError for no file, no JSON, a token given twice, no dict."""
    predictions = load_json(path)
    if not isinstance(predictions, dict):
        raise InputError(f"{path}: found a {type(predictions).__name__}, expected {{command token: [x, y, w, h]}}")
    return predictions


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write ``{token: [x, y, w, h]}`` in 1600 x 900 as a leaderboard file, atomically.

    Raises InputError for a box with NaN or without area: the leaderboard would refuse the file.
    """
    rows = {}
    for token, box in predictions.items():
        _prediction(token, box)
        rows[token] = [round(float(v), 3) for v in box]
        _prediction(token, rows[token])  # rounding may leave a sliver without area
    atomic_write(path, json.dumps(rows) + "\n")


def talk2car_main(commands: str | Path, pred: str | Path, json_out: str | Path | None = None) -> dict[str, Any]:
    """Score a predictions file against a commands file: print a table, write the JSON, return the result.

    Raises InputError for every fault of the files.
    """
    result = evaluate_talk2car(read_commands(commands, blind=True), read_predictions(pred))
    rows = {"all": result, **result["slices"]}
    print(f"{'':<12}{'commands':>9}{'AP50':>8}{'AP50..95':>10}{'mIoU':>8}")
    for name, row in rows.items():
        cells = [f"{row[key]:.2f}" if row["n"] else "-" for key in ("AP50", "AP50..95", "mIoU")]
        print(f"{name:<12}{row['n']:>9}{cells[0]:>8}{cells[1]:>10}{cells[2]:>8}")
    print("  ".join(f"{name} {result[name]:.2f}" for name in NAMES))
    if json_out:
        atomic_write(json_out, json.dumps(result, indent=1) + "\n")
    return result
