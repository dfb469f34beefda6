"""The official KITTI object score (devkit_object, ``evaluate_object.cpp``) without compiler or GPU: numpy only.

Ground truth and detections are ``{frame: [KittiLabel]}``; a frame that the detections lack has none. Precision is
sampled at 41 scores, those at which the recall comes closest to 0, 1/40 ... 1, and smoothed to the best at or beyond
each. AP is its mean at all but the first (R40, since 2019, arXiv 1905.12365) or at every fourth (R11); numbers of the
two do not compare. With n < 41 objects there are n scores at most: a perfect detector has an R40 of (n - 1) / 40
only, and a warning says so.
"""

import json
import sys
import warnings
from dataclasses import dataclass

import numpy as np

from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.metrics.kitti_match import METRICS, OVERLAPS, build_cases
from kdnb.metrics.kitti_read import as_objects, read_detections, read_frame_list, read_ground_truth

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

    objects: how many are to be found. thresholds: (T,), T <= 41, the scores sampled, falling. recall: (41,), share of
    the objects found at each; precision: (41,), the best at or beyond each; both 0 beyond T, shares of 1. For "aos"
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


def average_precision(precision) -> dict:
    """{"R11", "R40"}: percent (...) of precisions (..., 41)."""
    return {"R11": 100 * precision[..., ::4].mean(axis=-1), "R40": 100 * precision[..., 1:].mean(axis=-1)}


def evaluate_kitti(ground_truth, detections, overlap="strict", within=None) -> dict:
    """``{class: {"bbox" | "bev" | "3d" | "aos": {"R11" | "R40": {"easy", "moderate", "hard"}}}}`` in percent.

    A class without objects scores 0, as officially. Arguments and errors as :func:`kitti_curves`. Warns, once, of every
    class and difficulty with fewer than 41 objects.
    """
    curves = kitti_curves(ground_truth, detections, overlap, within)
    few = _too_few(curves)
    if few:
        warnings.warn(few, stacklevel=2)
    return _scores(curves)


def _scores(curves):
    return {
        name: {
            kind: {points: {d: curve.ap[points] for d, curve in by_difficulty.items()} for points in ("R11", "R40")}
            for kind, by_difficulty in kinds.items()
        }
        for name, kinds in curves.items()
    }


def _too_few(curves):
    """One line about classes and difficulties whose AP cannot reach 100; None when all can."""
    few = [
        f"{name} {difficulty} {curve.objects}"
        for name, kinds in curves.items()
        for difficulty, curve in kinds["bbox"].items()
        if curve.objects < SAMPLES
    ]
    if not few:
        return None
    return (
        f"fewer than {SAMPLES} objects to find ({', '.join(few)}): with n of them a perfect detector has an AP R40 "
        "of only 100 (n - 1) / 40"
    )


def kitti_curves(ground_truth, detections, overlap="strict", within=None) -> dict:
    """``{class: {"bbox" | "bev" | "3d" | "aos": {difficulty: Curve}}}``.

    Args:
        ground_truth, detections: ``{frame: [KittiLabel]}``; detections have scores. Types compare without case.
        overlap: "strict", 0.7 for cars and 0.5 else, or "loose", 0.5 and 0.25 in "bev" and "3d".
        within: (near, far) in metres: only objects with near <= z < far are to be found, the others are neutral;
            unmatched detections outside are no false alarms.

    Raises:
        InputError: an unknown overlap, detections of a frame that the ground truth lacks, a number that is not finite.
    """
    cases = kitti_cases(ground_truth, detections, overlap, within)
    curves = {name: {kind: {} for kind in KINDS} for name in CLASSES}
    for (name, metric, difficulty), case in cases.items():
        objects, score = int(case.valid.sum()), case.found.score[case.hits()]
        thresholds = recall_thresholds(np.sort(score)[::-1], objects)
        hits, alarms, misses, similarity = (c[0] for c in case.count(thresholds))
        recall = _sampled(hits, hits + misses)
        curves[name][metric][difficulty] = Curve(objects, thresholds, recall, _best(_sampled(hits, hits + alarms)))
        if metric == "bbox":
            no_angles = bool((case.found.alpha == -10).any())
            aos = np.full(SAMPLES, np.nan) if no_angles else _best(_sampled(similarity, hits + alarms))
            curves[name]["aos"][difficulty] = Curve(objects, thresholds, recall, aos)
    return curves


def kitti_cases(ground_truth, detections, overlap="strict", within=None) -> dict:
    """``{(class, metric, difficulty): Case}``, the matches behind the curves. Arguments, errors: kitti_curves."""
    if overlap not in OVERLAPS:
        raise InputError(f"overlap is {overlap!r}, expected one of {', '.join(OVERLAPS)}")
    frames = list(ground_truth)
    unknown = next((frame for frame in detections if frame not in ground_truth), None)
    if unknown is not None:
        raise InputError(f"detections of frame {unknown!r}, not one of the {len(frames)} of the ground truth")
    truth, found = as_objects(ground_truth, frames, False), as_objects(detections, frames, True)
    return build_cases(truth, found, overlap, within)


def recall_thresholds(scores, objects) -> np.ndarray:
    """(T,), T <= 41: of the falling scores (H,) of the hits those whose recalls come closest to 0, 1/40 ... 1."""
    kept, recall = [], 0.0
    for i in range(len(scores)):
        here, ahead = (i + 1) / objects, (i + 2) / objects
        if i < len(scores) - 1 and ahead - recall < recall - here:  # in this form, as ties hang on rounding
            continue
        kept.append(i)
        recall += 1 / (SAMPLES - 1)
    return np.asarray(scores, dtype=np.float64)[kept]


def _sampled(part, whole):
    """Shares (..., 41) of counts (..., T), 0 beyond T; 0 / 0 (the official code's NaN) is 0."""
    share = np.zeros((*part.shape[:-1], SAMPLES))
    np.divide(part, whole, out=share[..., : part.shape[-1]], where=whole > 0)
    return share


def _best(precision):
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]


def bootstrap_kitti(case, weights) -> dict:
    """{"R11", "R40"}: AP in percent (B,) of B resamples of the frames.

    case: one of :func:`kitti_cases`. weights: int (B, frames), how often each frame was drawn; ``ones((1, frames))``
    gives the official score exactly. A frame is matched on its own, so matches are made once per score that any
    resample may sample. A resample without objects is NaN. Raises InputError for weights of another number of frames.
    """
    weights = np.asarray(weights).astype(np.int64)
    last = max((int(o.frame[-1]) for o in (case.truth, case.found) if len(o)), default=-1)
    if weights.ndim != 2 or weights.shape[1] <= last:
        raise InputError(f"weights have shape {weights.shape}, expected (resamples, frames)")
    hits = case.hits()
    hits = hits[np.argsort(-case.found.score[hits], kind="stable")]
    score, drawn = case.found.score[hits], weights[:, case.found.frame[hits]]
    objects = weights[:, case.truth.frame[case.valid]].sum(axis=1)
    sampled = [recall_thresholds(np.repeat(score, times), n) for times, n in zip(drawn, objects, strict=True)]
    levels = np.unique(score)
    precision = np.zeros((len(weights), SAMPLES))
    step = max(1, 20_000_000 // max(1, len(weights), len(case.found)))  # thresholds at a time: bounds the memory
    for first in range(0, len(levels), step):
        part = levels[first : first + step]
        tp, fp, _, _ = case.count(part, weights.astype(np.float64))
        share = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
        for b, thresholds in enumerate(sampled):
            here = np.flatnonzero((thresholds >= part[0]) & (thresholds <= part[-1]))
            precision[b, here] = share[b, np.searchsorted(part, thresholds[here])]
    return {name: np.where(objects > 0, ap, np.nan) for name, ap in average_precision(_best(precision)).items()}


def kitti_main(gt, pred, overlap="strict", json_out=None, frames=None) -> dict:
    """Score a folder of detection files against one of label files: print a table, write the JSON, return the result.

    frames: a list file such as ``ImageSets/val.txt``; by default every frame with a label file counts. Warnings go to
    stderr. An orientation score that cannot be had is ``null`` in the JSON. Raises InputError for faults of the files.
    """
    truth = read_ground_truth(gt, None if frames is None else read_frame_list(frames))
    found = read_detections(pred, truth)
    curves = kitti_curves(truth, found, overlap)
    missing = [frame for frame in truth if frame not in found]
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


def _table(result, overlap, frames):
    lines = [f"{'AP in percent':<21}" + "".join(f"{f'{p} {d}':>14}" for p in ("R40", "R11") for d in DIFFICULTIES)]
    for name, kinds in result.items():
        for kind in KINDS:
            limit = OVERLAPS[overlap][kind if kind in METRICS else "bbox"][CLASSES.index(name)]
            cells = [kinds[kind][points][d] for points in ("R40", "R11") for d in DIFFICULTIES]
            shown = "".join(f"{value:>14.2f}" if np.isfinite(value) else f"{'-':>14}" for value in cells)
            lines.append(f"{name:<11}{kind:<5}{limit:<5}{shown}")
    return "\n".join([*lines, f"{frames} frames, overlap {overlap}"])
