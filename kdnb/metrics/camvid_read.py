"""Scores of a folder of predictions against a folder of labels as CamVid has them: one PNG of ids per frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from kdnb.datasets.camvid import CLASSES
from kdnb.datasets.camvid_files import read_ids, read_label, require_ids
from kdnb.datasets.camvid_layouts import LABELS, find_root, label_files, list_frames, places, splits_of
from kdnb.datasets.images import DECODER_ERRORS
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.metrics.segmentation import confusion, scores_from


def evaluate_folders(gt: str | Path, pred: str | Path) -> dict:
    """{"mIoU", "pixel_accuracy", "iou": {class: value}} in percent, from one confusion matrix over all frames.

    Args:
        gt: folder of labels, ids 0 to 10 and 11 for void (``testannot``), CamVid's colours (``LabeledApproved_full``,
            ``test_labels`` of Kaggle), codes (``labels`` of fast.ai) or Cityscapes' ids (``training/semantic`` of
            KITTI); or a root that ``CamVid`` reads. Where a root or its folder holds the labels of several splits,
            those of the split that was predicted count.
        pred: folder of predictions under the same names, ids 0 to 10, no void.

    Raises:
        InputError: names that do not match, sizes that differ, an unknown id or colour, a label that is all void.
    """
    predictions = _files(pred, "predictions")
    truth, layout = _labels(Path(gt), set(predictions))
    for name in truth:
        if name not in predictions:
            raise InputError(f"{Path(pred) / name}: no such prediction, expected one for {truth[name]}")
    for name in predictions:
        if name not in truth:
            folder = next(iter(truth.values())).parent
            raise InputError(f"{predictions[name]}: prediction without label, expected {folder / name}")
    total = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for name, path in truth.items():
        label = read_label(path, layout or ("colour" if _is_coloured(path) else "segnet"))
        ids = read_ids(predictions[name])
        if ids.shape != label.shape:
            raise InputError(
                f"{predictions[name]}: {ids.shape[1]} x {ids.shape[0]} pixels, expected {label.shape[1]} x "
                f"{label.shape[0]} as {path}"
            )
        require_ids(ids, len(CLASSES) - 1, predictions[name])
        total += confusion(ids, label)
    return scores_from(total)


def _labels(gt: Path, predicted: set[str]) -> tuple[dict[str, Path], str | None]:
    """({file name: label} of the split that was predicted, the root's layout or None for a folder of labels alone)."""
    root, layout = _root_of(gt)
    if root is None:
        return _files(gt, "labels"), None
    splits: list[dict[str, Path]] = []
    for split in splits_of(root):
        try:
            frames, faults = list_frames(root, layout, split)
        except InputError as error:
            frames, faults = [], [str(error)]
        splits.append({frame.label.name: frame.label for frame in frames})
        if faults and predicted & set(splits[-1]):
            raise InputError(faults[0])
    splits.append({name: path for files in splits for name, path in files.items()})
    if gt != root:
        splits.append(_files(gt, "labels"))
    splits = [files for files in splits if files]
    if not splits:
        raise InputError(f"{gt}: no labels of any split, expected a PNG per frame")
    most = max(len(predicted & set(files)) for files in splits)
    # of the splits that hold most of the predictions, the one with the fewest labels besides
    return min((files for files in splits if len(predicted & set(files)) == most), key=len), layout


def _root_of(gt: Path) -> tuple[Path | None, str]:
    """The root and its layout, if ``gt`` is one or the folder in it that holds the labels of all its splits."""
    if gt.name == LABELS:
        return gt.parent, "colour"
    if gt.parts[-2:] == ("training", "semantic"):
        return gt.parent.parent, "kitti"
    if gt.name == "labels" and places(gt.parent, "fastai")["all"].names():
        return gt.parent, "fastai"
    try:
        return find_root(gt)
    except InputError:
        return None, ""


def _files(folder: str | Path, what: str) -> dict[str, Path]:
    folder = Path(folder)
    files = {path.name: path for path in label_files(folder)}
    if not files:
        kind = "a folder" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: no {what} ({kind}), expected a PNG per frame")
    return files


def _is_coloured(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode in ("RGB", "RGBA")
    except DECODER_ERRORS:
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
