"""The official KITTI object score (devkit_object, ``evaluate_object.cpp``) without compiler or GPU: numpy only.

Ground truth and detections are ``{frame: [KittiLabel]}``; a frame that the detections lack has none. Precision is
sampled at 41 scores, those at which the recall comes closest to 0, 1/40 ... 1, and replaced by the best precision at or
beyond each. AP is its mean at all but the first (R40, since 2019, arXiv 1905.12365) or at every fourth (R11); the two
are not comparable. With n < 41 objects at most n scores are sampled: even a perfect detector has an R40 of only
(n - 1) / 40, and a warning says so.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.metrics.kitti_match import METRICS, OVERLAPS, Case, build_cases
from kdnb.metrics.kitti_read import Labels, as_objects, read_detections, read_frame_list, read_ground_truth

__all__ = [
    "Curve",
    "average_precision",
    "bootstrap_kitti",
    "evaluate_kitti",
    "kitti_cases",
    "kitti_curves",
    "kitti_main",
    "read_detections",
    "read_ground_truth",
]

SAMPLES = 41
KINDS = ("bbox", "bev", "3d", "aos")


@dataclass
class Curve:
    """Precision over recall of one class, metric and difficulty.

    objects: number of objects to detect. thresholds: (T,), T <= 41, the sampled scores, descending. recall and
    precision: (41,), in 0..1, the recall at each and the best precision at or beyond each; 0 beyond T. For "aos"
    ``precision`` is the orientation similarity, NaN when any detection's alpha is -10 (not estimated).
    """

    objects: int
    thresholds: np.ndarray
    recall: np.ndarray
    precision: np.ndarray

    @property
    def ap(self) -> dict:
        """{"R11", "R40"} in percent."""
        return {name: float(value) for name, value in average_precision(self.precision).items()}


def average_precision(precision: np.ndarray) -> dict[str, np.ndarray]:
    """{"R11", "R40"}: AP in percent (...) of precisions (..., 41)."""
    return {"R11": 100 * precision[..., ::4].mean(axis=-1), "R40": 100 * precision[..., 1:].mean(axis=-1)}


def evaluate_kitti(
    ground_truth: Labels, detections: Labels, overlap: str = "strict", within: tuple[float, float] | None = None
) -> dict:
    """``{class: {"bbox" | "bev" | "3d" | "aos": {"R11" | "R40": {"easy", "moderate", "hard"}}}}`` in percent.

    A class without objects scores 0, as officially. Arguments and errors as :func:`kitti_curves`. One warning names the
    classes and difficulties with fewer than 41 objects.
    """
    curves = kitti_curves(ground_truth, detections, overlap, within)
    few = _too_few(curves)
    if few:
        warnings.warn(few, stacklevel=2)
    return _scores(curves)


def _scores(curves: Mapping[str, Any]) -> dict:
    return {
        name: {
            kind: {points: {d: curve.ap[points] for d, curve in by_difficulty.items()} for points in ("R11", "R40")}
            for kind, by_difficulty in kinds.items()
        }
        for name, kinds in curves.items()
    }


def _too_few(curves: Mapping[str, Any]) -> str | None:
    """One line about the classes and difficulties whose AP cannot reach 100; None when all can."""
    few = [
        f"{name} {difficulty} {curve.objects}"
        for name, kinds in curves.items()
        for difficulty, curve in kinds["bbox"].items()
        if curve.objects < SAMPLES
    ]
    if not few:
        return None
    return (
        f"fewer than {SAMPLES} objects to detect ({', '.join(few)}): with n of them even a perfect detector has an AP "
        "R40 of only 100 (n - 1) / 40"
    )


def kitti_curves(
    ground_truth: Labels, detections: Labels, overlap: str = "strict", within: tuple[float, float] | None = None
) -> dict[str, dict[str, dict[str, Curve]]]:
    """``{class: {"bbox" | "bev" | "3d" | "aos": {difficulty: Curve}}}``.

    Args:
        ground_truth, detections: ``{frame: [KittiLabel]}``; detections have scores. Types are
            case-insensitive.
        overlap: "strict", an IoU above 0.7 for cars and 0.5 otherwise, or "loose", 0.5 and 0.25 in "bev" and "3d".
        within: (near, far) in metres: objects with near <= z < far must be detected, others are neutral; unmatched
            detections outside are no false alarms.

    Raises:
        InputError: an unknown overlap, detections of a frame that the ground truth lacks, a number that is not finite.
    """
    cases = kitti_cases(ground_truth, detections, overlap, within)
    curves: dict[str, dict[str, dict[str, Curve]]] = {name: {kind: {} for kind in KINDS} for name in CLASSES}
    for (name, metric, difficulty), case in cases.items():
        objects, score = int(case.valid.sum()), case.detections.score[case.hits()]
        thresholds = recall_thresholds(np.sort(score)[::-1], objects)
        hits, alarms, misses, similarity = (c[0] for c in case.count(thresholds))
        recall = _sampled(hits, hits + misses)
        curves[name][metric][difficulty] = Curve(objects, thresholds, recall, _best(_sampled(hits, hits + alarms)))
        if metric == "bbox":
            no_angles = bool((case.detections.alpha == -10).any())
            aos = np.full(SAMPLES, np.nan) if no_angles else _best(_sampled(similarity, hits + alarms))
            curves[name]["aos"][difficulty] = Curve(objects, thresholds, recall, aos)
    return curves


def kitti_cases(
    ground_truth: Labels, detections: Labels, overlap: str = "strict", within: tuple[float, float] | None = None
) -> dict[tuple[str, str, str], Case]:
    """``{(class, metric, difficulty): Case}``, the matches behind the curves. Arguments and errors as kitti_curves."""
    if overlap not in OVERLAPS:
        raise InputError(f"overlap is {overlap!r}, expected one of {', '.join(OVERLAPS)}")
    frames = list(ground_truth)
    unknown = next((frame for frame in detections if frame not in ground_truth), None)
    if unknown is not None:
        raise InputError(f"detections of frame {unknown!r}, not one of the {len(frames)} of the ground truth")
    truth = as_objects(ground_truth, frames, scores=False)
    return build_cases(truth, as_objects(detections, frames, scores=True), overlap, within)


def recall_thresholds(scores: ArrayLike, objects: int) -> np.ndarray:
    """(T,), T <= 41: of the descending scores (H,) of the hits those whose recalls come closest to 0, 1/40 ... 1."""
    scores = np.asarray(scores, dtype=np.float64)
    kept, recall = [], 0.0
    for i in range(len(scores)):
        current, following = (i + 1) / objects, (i + 2) / objects
        if i < len(scores) - 1 and following - recall < recall - current:  # in this form: ties depend on rounding
            continue
        kept.append(i)
        recall += 1 / (SAMPLES - 1)
    return scores[kept]


def _sampled(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Ratios (..., 41) of counts (..., T), 0 beyond T; 0 / 0 (the official code's NaN) is 0."""
    ratio = np.zeros((*part.shape[:-1], SAMPLES))
    np.divide(part, whole, out=ratio[..., : part.shape[-1]], where=whole > 0)
    return ratio


def _best(precision: np.ndarray) -> np.ndarray:
    """(..., 41): the best at or beyond each."""
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


def bootstrap_kitti(case: Case, weights: ArrayLike) -> dict[str, np.ndarray]:
    """{"R11", "R40"}: AP in percent (B,) of B resamples of the frames.

    case: one of :func:`kitti_cases`. weights: int (B, frames), how often each frame was sampled; ``ones((1,
    frames))`` gives the official score exactly. Frames are matched independently, so matches are computed once per
    score that any resample may sample. A resample without objects is NaN. Raises InputError for weights of another
    number of frames.
    """
    weights = np.asarray(weights).astype(np.int64)
    last = max((int(o.frame[-1]) for o in (case.truth, case.detections) if len(o)), default=-1)
    if weights.ndim != 2 or weights.shape[1] <= last:
        raise InputError(f"weights have shape {weights.shape}, expected (resamples, frames)")
    hits = case.hits()
    hits = hits[np.argsort(-case.detections.score[hits], kind="stable")]
    score, times = case.detections.score[hits], weights[:, case.detections.frame[hits]]
    objects = weights[:, case.truth.frame[case.valid]].sum(axis=1)
    sampled = [recall_thresholds(np.repeat(score, repeats), n) for repeats, n in zip(times, objects, strict=True)]
    levels = np.unique(score)
    precision = np.zeros((len(weights), SAMPLES))
    step = max(1, 20_000_000 // max(1, len(weights), len(case.detections)))  # thresholds per pass, to bound memory
    for first in range(0, len(levels), step):
        part = levels[first : first + step]
        tp, fp, _, _ = case.count(part, weights.astype(np.float64))
        ratio = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
        for b, thresholds in enumerate(sampled):
            inside = np.flatnonzero((thresholds >= part[0]) & (thresholds <= part[-1]))
            precision[b, inside] = ratio[b, np.searchsorted(part, thresholds[inside])]
    return {name: np.where(objects > 0, ap, np.nan) for name, ap in average_precision(_best(precision)).items()}


def kitti_main(
    gt: str | Path,
    pred: str | Path,
    overlap: str = "strict",
    json_out: str | Path | None = None,
    frames: str | Path | None = None,
) -> dict:
    """Score a folder of detection files against one of label files: print a table, write the JSON, return the result.

    frames: a list file such as ``ImageSets/val.txt``, whose frames alone are scored; by default all frames with a label
    file, and detections of another are a fault. Warnings go to stderr. An orientation score that is not defined is
    ``null`` in the JSON. Raises InputError for faults of the files.
    """
    truth = read_ground_truth(gt, None if frames is None else read_frame_list(frames))
    detections = read_detections(pred, truth, others=frames is not None)
    curves = kitti_curves(truth, detections, overlap)
    missing = [frame for frame in truth if frame not in detections]
    if missing:
        print(
            f"kdnb: warning: {len(missing)} of {len(truth)} frames have no detection file and count as frames "
            f"without detections, the first is {missing[0]}",
            file=sys.stderr,
        )
    few = _too_few(curves)
    if few:
        print(f"kdnb: warning: {few}", file=sys.stderr)
    result = _scores(curves)
    print(_table(result, overlap, len(truth)))
    if json_out:
        clean = {
            name: {
                kind: {
                    points: {d: value if np.isfinite(value) else None for d, value in row.items()}
                    for points, row in rows.items()
                }
                for kind, rows in kinds.items()
            }
            for name, kinds in result.items()
        }
        atomic_write(json_out, json.dumps(clean, indent=1) + "\n")
    return result


def _table(result: Mapping[str, Any], overlap: str, frames: int) -> str:
    lines = [f"{'AP in percent':<21}" + "".join(f"{f'{p} {d}':>14}" for p in ("R40", "R11") for d in DIFFICULTIES)]
    for name, kinds in result.items():
        for kind in KINDS:
            limit = OVERLAPS[overlap][kind if kind in METRICS else "bbox"][CLASSES.index(name)]
            cells = [kinds[kind][points][d] for points in ("R40", "R11") for d in DIFFICULTIES]
            row = "".join(f"{value:>14.2f}" if np.isfinite(value) else f"{'-':>14}" for value in cells)
            lines.append(f"{name:<11}{kind:<5}{limit:<5}{row}")
    return "\n".join([*lines, f"{frames} frames, overlap {overlap}"])
