"""The official PASCAL VOC detection score (VOCdevkit ``VOCevaldet.m``), vectorised, numpy only.

Ground truth and detections are plain dicts here and in ``kdnb.metrics.detection``, image id ->

- ground truth: ``boxes`` (N, 4), ``labels`` (N,) 1..20, ``difficult`` bool (N,)
- detections: ``boxes`` (N, 4), ``labels`` (N,), ``scores`` (N,), higher is more confident

as tensors or arrays, boxes in pixel edges counted from 0: ``[xmin - 1, ymin - 1, xmax, ymax]`` of the official 1-based
inclusive corners. So the official widths ``xmax - xmin + 1`` are ``x2 - x1`` here, and the
overlaps are the official ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kdnb.datasets.voc_files import VOC_CLASSES, as_array, find_devkit, voc_years
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.metrics.voc_read import read_detections, read_ground_truth

__all__ = [
    "ClassMatches",
    "MatchTable",
    "bootstrap_map",
    "evaluate_voc",
    "match_table",
    "read_detections",
    "read_ground_truth",
    "voc_main",
]

Samples = Mapping[str, Mapping[str, Any]]  # image id → its boxes
METRICS = ("07", "area")
ELEVEN_POINTS = np.arange(0, 1.1, 0.1)  # of recall, with the rounding that public evaluators have
CHUNK = 2_000_000  # weights x detections per pass of the bootstrap: some 100 MB


@dataclass
class ClassMatches:
    """Detections of one class, best score first: ``scores`` float (D,), ``image`` index (D,), ``tp`` bool (D,): the
    first to match its object, ``ignore`` bool (D,): matches a difficult object and counts neither way."""

    scores: np.ndarray
    image: np.ndarray
    tp: np.ndarray
    ignore: np.ndarray


@dataclass
class MatchTable:
    """All detections, matched: ``images`` ids, ``classes`` names, ``rows`` class -> :class:`ClassMatches` and
    ``positives`` int (images, classes): objects to detect, without difficult ones."""

    images: list[str]
    classes: tuple[str, ...]
    rows: dict[str, ClassMatches]
    positives: np.ndarray


def evaluate_voc(
    ground_truth: Samples,
    detections: Samples,
    metric: str = "07",
    iou: float = 0.5,
    classes: Sequence[str] = VOC_CLASSES,
) -> dict[str, Any]:
    """Average precision per class and its mean: ``{"AP": {class: percent}, "mAP": percent}``.

    Rules: detections by descending score (ties keep their order); each is compared to the object of its image and class
    that it overlaps most, even if that is taken; the overlap must *exceed* ``iou``; a second match of an object is a
    false positive; a match of a ``difficult`` object counts neither way. ``metric`` "07" averages the best
    precision at the recalls of ``arange(0, 1.1, 0.1)`` (VOC2007), "area" integrates the monotone envelope (VOC2010 and
    later). A class without objects has AP NaN and is left out of the mean. Raises InputError for a NaN score or box,
    for an image that is not in the ground truth, and for an unknown metric.
    """
    table = match_table(ground_truth, detections, iou, classes)
    ap = _class_aps(table, np.ones((1, len(table.images))), metric)[:, 0]
    per_class = {name: float(value) for name, value in zip(classes, ap, strict=True)}
    return {"AP": per_class, "mAP": float(_mean_over_classes(ap))}


def bootstrap_map(table: MatchTable, weights: ArrayLike, metric: str = "area") -> np.ndarray:
    """mAP in percent, (B,), of B resamples of the images; ``weights`` int (B, images) says how often each was sampled.

    A detection is matched within its image, so the flags of ``table`` hold for every resample, and k copies of an image
    weigh like one image k times (both metrics take the best precision at or beyond a recall, which within a run of
    equal hits is the last). ``ones((1, images))`` gives :func:`evaluate_voc` exactly. A class without a sampled
    object is left out of that resample's mean; NaN when none is left.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(table.images):
        raise InputError(f"weights have shape {weights.shape}, expected (resamples, {len(table.images)} images)")
    longest = max([1, *(len(row.scores) for row in table.rows.values())])
    step = max(1, CHUNK // longest)
    parts = [_mean_over_classes(_class_aps(table, weights[i : i + step], metric)) for i in range(0, len(weights), step)]
    return np.concatenate(parts) if parts else np.zeros(0)


def match_table(
    ground_truth: Samples, detections: Samples, iou: float = 0.5, classes: Sequence[str] = VOC_CLASSES
) -> MatchTable:
    """Match all detections by the official rules into a :class:`MatchTable`. Raises InputError as evaluate_voc."""
    images = list(ground_truth)
    number = {image: i for i, image in enumerate(images)}
    unknown = [image for image in detections if image not in number]
    if unknown:
        raise InputError(f"detections of image {unknown[0]!r}, not one of the {len(images)} of the ground truth")
    truth = _flatten(ground_truth, number, {"difficult": bool}, len(classes), "ground truth")
    boxes = _flatten(detections, number, {"scores": np.float64}, len(classes), "detections")
    boxes["order"] = _file_order(detections)

    # one group per (image, class); objects are sorted by group, so that a group is one slice
    truth_group = truth["image"] * (len(classes) + 1) + truth["labels"]
    by_group = np.argsort(truth_group, kind="stable")
    truth = {key: value[by_group] for key, value in truth.items()}
    ranked = np.lexsort((boxes["order"], -boxes["scores"], boxes["labels"]))
    boxes = {key: value[ranked] for key, value in boxes.items()}
    tp, ignore = _match(truth, truth_group[by_group], boxes, len(classes), iou)

    bounds = np.searchsorted(boxes["labels"], np.arange(1, len(classes) + 2))
    rows = {}
    for name, first, last in zip(classes, bounds[:-1], bounds[1:], strict=True):
        part = slice(first, last)
        rows[name] = ClassMatches(boxes["scores"][part], boxes["image"][part], tp[part], ignore[part])
    easy = ~truth["difficult"]
    positives = np.zeros((len(images), len(classes)), dtype=np.int64)
    np.add.at(positives, (truth["image"][easy], truth["labels"][easy] - 1), 1)
    return MatchTable(images, tuple(classes), rows, positives)


def _flatten(
    samples: Samples, number: Mapping[str, int], extra: Mapping[str, type], n_classes: int, what: str
) -> dict[str, Any]:
    """Concatenate the per-image dicts to flat arrays with an ``image`` column; NaN and unknown labels are refused."""
    fields: dict[str, type] = {"boxes": np.float64, "labels": np.int64, **extra}
    columns = {key: [np.zeros((0, 4) if key == "boxes" else 0, dtype)] for key, dtype in fields.items()}
    sizes = []
    for image, sample in samples.items():
        arrays = {key: as_array(sample[key], dtype) for key, dtype in fields.items()}
        arrays["boxes"] = arrays["boxes"].reshape(-1, 4)
        sizes.append(len(arrays["boxes"]))
        if any(len(array) != sizes[-1] for array in arrays.values()):
            raise InputError(f"{what} of image {image!r}: {', '.join(fields)} differ in length, expected one row a box")
        for key, array in arrays.items():
            columns[key].append(array)
    flat = {key: np.concatenate(parts) for key, parts in columns.items()}
    flat["image"] = np.repeat(np.array([number[image] for image in samples], dtype=np.int64), sizes)
    bad = ~np.isfinite(flat["boxes"]).all(axis=1) | ~np.isfinite(flat.get("scores", 0.0))
    bad_label = (flat["labels"] < 1) | (flat["labels"] > n_classes)
    if bad.any() or bad_label.any():
        row = int(np.argmax(bad | bad_label))
        image = list(number)[flat["image"][row]]
        fault = "a box or score that is not finite" if bad[row] else f"label {flat['labels'][row]}"
        raise InputError(f"{what} of image {image!r}: found {fault}, expected finite numbers and labels 1..{n_classes}")
    return flat


def _file_order(detections: Samples) -> np.ndarray:
    """Rank of equal scores: the line in the class file if known, else the order of the dict."""
    if detections and all("order" in sample for sample in detections.values()):
        return np.concatenate([as_array(sample["order"], np.int64) for sample in detections.values()])
    return np.arange(sum(len(sample["scores"]) for sample in detections.values()))


def _match(
    truth: Mapping[str, Any], truth_group: np.ndarray, detections: Mapping[str, Any], n_classes: int, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """``tp`` and ``ignore`` of detections sorted by class and descending score; objects are sorted by group."""
    n = len(detections["scores"])
    group = detections["image"] * (n_classes + 1) + detections["labels"]
    first = np.searchsorted(truth_group, group)
    count = np.searchsorted(truth_group, group, side="right") - first
    has = np.flatnonzero(count)  # detections with at least one object of their class in their image
    starts = np.concatenate([[0], np.cumsum(count[has])])
    detection = np.repeat(has, count[has])
    candidate = np.arange(starts[-1]) - np.repeat(starts[:-1], count[has]) + np.repeat(first[has], count[has])
    overlap = _iou(detections["boxes"][detection], truth["boxes"][candidate])

    best_object = np.full(n, -1)
    if len(has):
        best = np.maximum.reduceat(overlap, starts[:-1])
        is_best = overlap == np.repeat(best, count[has])
        place = np.where(is_best, np.arange(len(overlap)), len(overlap))
        best_object[has] = candidate[np.minimum.reduceat(place, starts[:-1])]  # the first of equals, as officially
        best_object[has[best <= iou]] = -1

    hit = np.flatnonzero(best_object >= 0)
    ignore = np.zeros(n, dtype=bool)
    ignore[hit] = truth["difficult"][best_object[hit]]
    counted = hit[~ignore[hit]]
    _, earliest = np.unique(best_object[counted], return_index=True)
    tp = np.zeros(n, dtype=bool)
    tp[counted[earliest]] = True
    return tp, ignore


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of paired boxes (P, 4) in edges."""
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    inside = np.where((width > 0) & (height > 0), width * height, 0.0)
    area_a, area_b = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (a, b))
    return np.divide(inside, area_a + area_b - inside, out=np.zeros_like(inside), where=inside > 0)


def _class_aps(table: MatchTable, weights: np.ndarray, metric: str) -> np.ndarray:
    """AP in percent, (classes, B), with each image counted ``weights`` (B, images) times."""
    if metric not in METRICS:
        raise InputError(f"metric is {metric!r}, expected '07' (11 points) or 'area'")
    total = weights @ table.positives
    rows = [table.rows[name] for name in table.classes]
    return np.stack([_average_precision(row, weights, total[:, i], metric) for i, row in enumerate(rows)])


def _average_precision(row: ClassMatches, weights: np.ndarray, total: np.ndarray, metric: str) -> np.ndarray:
    """AP in percent (B,) of one class with ``total`` (B,) objects; NaN where that is 0."""
    keep = ~row.ignore
    tp = row.tp[keep]
    times = weights[:, row.image[keep]]
    detected = np.cumsum(times, axis=1)[:, tp]  # at hits only: precision is highest there
    times = times[:, tp]
    hits = np.cumsum(times, axis=1)
    precision = np.divide(hits, detected, out=np.zeros_like(hits), where=detected > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    empty = total == 0
    if metric == "area":
        score = (times * envelope).sum(axis=1) / np.where(empty, 1, total)
    else:
        padded = np.concatenate([envelope, np.zeros((len(weights), 1))], axis=1)
        # as every public evaluator, in floats: 3 of 10 objects miss the point 3 * 0.1 = 0.30000000000000004
        recall = hits / np.where(empty, 1, total)[:, None]
        places = [(recall < point).sum(axis=1) for point in ELEVEN_POINTS]
        score = np.mean([padded[np.arange(len(weights)), place] for place in places], axis=0)
    return np.where(empty, np.nan, 100 * score)


def _mean_over_classes(ap: np.ndarray) -> np.ndarray:
    """Mean over the first axis, NaN classes left out; NaN where all are."""
    valid = ~np.isnan(ap)
    count = valid.sum(axis=0)
    return np.where(count > 0, np.where(valid, ap, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def voc_main(
    devkit: str | Path,
    split: str,
    pred: str | Path,
    metric: str,
    json_out: str | Path | None = None,
    year: str | None = None,
) -> dict[str, Any]:
    """Score the files in ``pred`` against ``VOC<year>/<split>``: print a table, write the JSON, return the result.

    ``year`` None is 2007, or the only year of the devkit.
    Only classes with objects in the split need a detection file. The AP of the others is ``null`` in the JSON.
    Raises InputError for every fault of the files.
    """
    if year is None:
        years = voc_years(find_devkit(devkit))
        year = years[0] if len(years) == 1 else "2007"
    truth = read_ground_truth(devkit, year, split)
    present = {VOC_CLASSES[label - 1] for sample in truth.values() for label in sample["labels"]}
    detections = read_detections(pred, [name for name in VOC_CLASSES if name in present], truth)
    result = evaluate_voc(truth, detections, metric)
    for name, ap in result["AP"].items():
        print(f"{name:<14}{ap:6.2f}" if np.isfinite(ap) else f"{name:<14}     -")
    kind = "11 points, VOC07" if metric == "07" else "area"
    print(f"{'mAP':<14}{result['mAP']:6.2f}   IoU > 0.5, {kind}, {len(truth)} images of VOC{year}/{split}")
    if json_out:
        clean = {"AP": {name: _null(ap) for name, ap in result["AP"].items()}, "mAP": _null(result["mAP"])}
        atomic_write(json_out, json.dumps(clean, indent=1) + "\n")
    return result


def _null(value: float) -> float | None:
    return value if np.isfinite(value) else None
