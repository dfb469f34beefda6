"""Scores of a folder of predictions against a folder of labels as CamVid has them: one PNG of ids per frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from kdnb.datasets.camvid import CLASSES
from kdnb.datasets.camvid_files import read_ids, read_label, require_ids
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.metrics.segmentation import confusion, scores_from


def evaluate_folders(gt: str | Path, pred: str | Path) -> dict:
    """{"mIoU", "pixel_accuracy", "iou": {class: value}} in percent, from one confusion matrix over all frames.

    Args:
        gt: folder of labels, ids 0 to 10 and 11 for void (``testannot``), or CamVid's colours (``*_L.png``).
        pred: folder of predictions under the same names, ids 0 to 10, no void.

    Raises:
        InputError: names that do not match, sizes that differ, an unknown id or colour, a label that is all void.
    """
    truth, predictions = _files(gt, "labels"), _files(pred, "predictions")
    for name in truth:
        if name not in predictions:
            raise InputError(f"{Path(pred) / name}: no such prediction, expected one for {truth[name]}")
    for name in predictions:
        if name not in truth:
            raise InputError(f"{predictions[name]}: prediction without label, expected {Path(gt) / name}")
    total = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for name, path in truth.items():
        label = read_label(path, "colour" if _is_coloured(path) else "segnet")
        ids = read_ids(predictions[name])
        if ids.shape != label.shape:
            raise InputError(
                f"{predictions[name]}: {ids.shape[1]} x {ids.shape[0]} pixels, expected {label.shape[1]} x "
                f"{label.shape[0]} as {path}"
            )
        require_ids(ids, len(CLASSES) - 1, predictions[name])
        total += confusion(ids, label)
    return scores_from(total)


def _files(folder: str | Path, what: str) -> dict[str, Path]:
    folder = Path(folder)
    files = {path.name: path for path in sorted(folder.glob("[!.]*.png"))} if folder.is_dir() else {}
    if not files:
        kind = "a folder" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: no {what} ({kind}), expected a PNG per frame")
    return files


def _is_coloured(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode in ("RGB", "RGBA")
    except OSError:
        return False  # the reader says what is wrong


def camvid_main(gt: str | Path, pred: str | Path, json_out: str | Path | None = None) -> dict:
    """Score a folder: print a table, write the JSON (NaN as null), return the scores."""
    scores = evaluate_folders(gt, pred)
    for name, value in scores["iou"].items():
        print(f"{name:<14}{value:6.2f}" if np.isfinite(value) else f"{name:<14}     -")
    print(f"{'mIoU':<14}{scores['mIoU']:6.2f}   pixel accuracy {scores['pixel_accuracy']:.2f}")
    if json_out:
        clean = {
            "mIoU": _null(scores["mIoU"]),
            "pixel_accuracy": _null(scores["pixel_accuracy"]),
            "iou": {name: _null(value) for name, value in scores["iou"].items()},
        }
        atomic_write(json_out, json.dumps(clean, indent=1) + "\n")
    return scores


def _null(value: float) -> float | None:
    return value if np.isfinite(value) else None
