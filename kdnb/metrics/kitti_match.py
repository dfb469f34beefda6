"""Matches of detections and objects by KITTI's rules (devkit_object, ``evaluate_object.cpp``), all frames at once.

A *case* is one class, difficulty and metric. An object is *valid* (must be detected), *neutral* (too small, occluded or
truncated, or of the neighbouring class: a match counts neither way) or not part of the case. A detection is *valid*
(right class, tall enough), *small* (too few pixels tall, of **any** class, as in the official code: neither a hit nor a
false alarm, but it can take an object) or not part of the case. Frame by frame and in the order of the file, each
object takes a free detection that overlaps it by more than the class's threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES
from kdnb.metrics.kitti_read import Objects
from kdnb.metrics.rotated_iou import rotated_ious

METRICS = ("bbox", "bev", "3d")
NEIGHBOUR = {"Car": "Van", "Pedestrian": "Person_sitting", "Cyclist": ""}  # "" matches no type
# IoU to exceed, for Car, Pedestrian, Cyclist
OVERLAPS = {
    "strict": {"bbox": (0.7, 0.5, 0.5), "bev": (0.7, 0.5, 0.5), "3d": (0.7, 0.5, 0.5)},
    "loose": {"bbox": (0.7, 0.5, 0.5), "bev": (0.5, 0.25, 0.25), "3d": (0.5, 0.25, 0.25)},
}
LEAST_SCORE = -1e7  # the official mark of "no detection": scores that low match nothing
CHUNK = 500_000  # pairs of an object and a detection per pass


@dataclass
class Case:
    """One class, difficulty and metric. G objects, D detections, P pairs that overlap enough, sorted by object.

    valid: bool (G,); other objects in the pairs are neutral. detection_valid: bool (D,); other detections in the pairs
    are small. excused: bool (D,), no false alarm when unmatched. gt, det, overlap: (P,), the pairs. turn: int (P,), how
    many of the frame's objects in ``gt`` come before.
    """

    truth: Objects
    detections: Objects
    valid: np.ndarray
    detection_valid: np.ndarray
    excused: np.ndarray
    gt: np.ndarray
    det: np.ndarray
    overlap: np.ndarray
    turn: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        objects, where = np.unique(self.gt, return_inverse=True)
        frame = self.truth.frame[objects]
        self.turn = (np.arange(len(objects)) - np.searchsorted(frame, frame))[where]

    def hits(self) -> np.ndarray:
        """First pass, for the thresholds: rows (H,) of ``detections`` that match a valid object when each object takes
        its detection with the highest score."""
        order = np.lexsort((self.det, -self.detections.score[self.det], self.gt))
        usable = (self.detections.score[self.det[order]] > LEAST_SCORE)[:, None]
        taken = order[self._assign(order, usable)[:, 0]]
        return self.det[taken[self.valid[self.gt[taken]] & self.detection_valid[self.det[taken]]]]

    def count(
        self, thresholds: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Second pass, at each score threshold (T,): each object takes the valid detection that overlaps it most, or
        else the first small one.

        weights: (B, frames), how often each frame counts; by default once, B = 1. Returns four (B, T): hits, false
        alarms, misses and the hits' orientation similarity, the sum of (1 + cos(difference of alpha)) / 2.
        """
        small = ~self.detection_valid[self.det]
        order = np.lexsort((self.det, np.where(small, 0, -self.overlap), small, self.gt))
        gt, det = self.gt[order], self.det[order]
        chosen = self._assign(order, self.detections.score[det][:, None] >= thresholds)

        def weigh(frame: np.ndarray) -> np.ndarray:
            return np.ones((1, len(frame))) if weights is None else weights[:, frame]

        on_valid = self.valid[gt]
        hit = chosen & (on_valid & self.detection_valid[det])[:, None]
        similar = (1 + np.cos(self.truth.alpha[gt] - self.detections.alpha[det])) / 2
        pairs = weigh(self.truth.frame[gt])
        objects = weigh(self.truth.frame[self.valid]).sum(axis=1, keepdims=True)
        misses = objects - (pairs * on_valid) @ chosen.astype(np.float64)

        taken = np.zeros((len(self.detections), len(thresholds)), dtype=bool)
        row, column = np.nonzero(chosen)
        taken[det[row], column] = True
        unexcused = np.flatnonzero(self.detection_valid & ~self.excused)
        alarm = (self.detections.score[unexcused][:, None] >= thresholds) & ~taken[unexcused]
        alarms = weigh(self.detections.frame[unexcused]) @ alarm.astype(np.float64)
        hit = hit.astype(np.float64)
        return pairs @ hit, alarms, misses, (pairs * similar) @ hit

    def _assign(self, order: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """bool (P, T): each object takes the first of its pairs in ``order`` that is usable (P, T) and whose detection
        is free. Frames share no detections, so the first objects of all frames choose at once, then the second ones,
        and so on."""
        gt, det, turn = self.gt[order], self.det[order], self.turn[order]
        chosen = np.zeros((len(order), usable.shape[1]), dtype=bool)
        taken = np.zeros((len(self.detections), usable.shape[1]), dtype=bool)
        by_turn = np.argsort(turn, kind="stable")
        rounds = np.split(by_turn, np.flatnonzero(np.diff(turn[by_turn])) + 1) if len(order) else []
        for pairs in rounds:
            free = usable[pairs] & ~taken[det[pairs]]
            place = np.where(free, np.arange(len(pairs))[:, None], len(pairs))
            starts = np.flatnonzero(np.diff(gt[pairs], prepend=-1))
            first = np.minimum.reduceat(place, starts, axis=0)
            row, column = np.nonzero(first < len(pairs))
            winner = pairs[first[row, column]]
            chosen[winner, column] = True
            taken[det[winner], column] = True
        return chosen


def build_cases(
    truth: Objects, detections: Objects, overlap: str = "strict", within: tuple[float, float] | None = None
) -> dict[tuple[str, str, str], Case]:
    """``{(class, metric, difficulty): Case}`` for all classes, metrics "bbox", "bev", "3d" and difficulties.

    within: (near, far) in metres of z: objects outside are neutral, detections outside no false alarms (not an
    official rule; for scores by distance). ``truth`` and ``detections`` are sorted by frame.
    """
    least = {metric: _least_overlap(truth, OVERLAPS[overlap][metric]) for metric in METRICS}
    pairs = _overlapping(truth, detections, least)
    dont_care = truth.take(truth.type == "dontcare")
    cases = {}
    for name, minimum in zip(CLASSES, OVERLAPS[overlap]["bbox"], strict=True):
        ignored = _in_dont_care(dont_care, detections, minimum)
        for difficulty in DIFFICULTIES:
            valid, neutral = _object_states(truth, name, difficulty)
            detection_valid, small = _detection_states(detections, name, difficulty)
            outside = np.zeros(len(detections), dtype=bool)
            if within is not None:
                inside, outside = (_between(o.box3d[:, 2], within) for o in (truth, detections))
                valid, neutral, outside = valid & inside, neutral | (valid & ~inside), ~outside
            for metric in METRICS:
                gt, det, iou = pairs[metric]
                keep = (valid | neutral)[gt] & (detection_valid | small)[det]
                excused = outside | ignored if metric == "bbox" else outside
                cases[name, metric, difficulty] = Case(
                    truth, detections, valid, detection_valid, excused, gt[keep], det[keep], iou[keep]
                )
    return cases


def _between(z: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (z >= limits[0]) & (z < limits[1])


def _object_states(truth: Objects, name: str, difficulty: str) -> tuple[np.ndarray, np.ndarray]:
    """Masks (G,): valid and neutral objects of class ``name``."""
    height, occlusion, truncation = DIFFICULTIES[difficulty]
    hard = truth.occluded > occlusion
    hard |= truth.truncated > truncation
    hard |= truth.bbox[:, 3] - truth.bbox[:, 1] <= height
    own, neighbour = truth.type == name.lower(), truth.type == NEIGHBOUR[name].lower()
    return own & ~hard, neighbour | (own & hard)


def _detection_states(detections: Objects, name: str, difficulty: str) -> tuple[np.ndarray, np.ndarray]:
    """Masks (D,): valid detections of class ``name``, and small ones of any class."""
    small = np.abs(detections.bbox[:, 3] - detections.bbox[:, 1]) < DIFFICULTIES[difficulty][0]
    return (detections.type == name.lower()) & ~small, small


def _least_overlap(truth: Objects, minimum: tuple[float, ...]) -> np.ndarray:
    """(G,): the IoU that a pair with this object must exceed; infinite for types that no class considers."""
    least = np.full(len(truth), np.inf)
    for name, value in zip(CLASSES, minimum, strict=True):
        least[np.isin(truth.type, [name.lower(), NEIGHBOUR[name].lower()])] = value
    return least


def _overlapping(
    truth: Objects, detections: Objects, least: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, ...]]:
    """``{metric: (gt (P,), det (P,), overlap (P,))}`` of the pairs in one frame that overlap enough, sorted by gt."""
    kept = {metric: [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))] for metric in METRICS}
    considered = np.flatnonzero(np.isfinite(least["bbox"]))
    for gt, det in _same_frame(truth.frame[considered], detections.frame):
        gt = considered[gt]
        bbox = box_overlap(truth.bbox[gt], detections.bbox[det])
        bev, volume = rotated_ious(truth.box3d[gt], detections.box3d[det])
        for metric, iou in zip(METRICS, (bbox, bev, volume), strict=True):
            keep = iou > least[metric][gt]
            kept[metric].append((gt[keep], det[keep], iou[keep]))
    joined = {metric: [np.concatenate(column) for column in zip(*parts, strict=True)] for metric, parts in kept.items()}
    order = {metric: np.argsort(columns[0], kind="stable") for metric, columns in joined.items()}
    return {metric: tuple(column[order[metric]] for column in columns) for metric, columns in joined.items()}


def _same_frame(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index pairs (into a, into b) of equal frames, both sorted, in chunks of about CHUNK pairs."""
    first = np.searchsorted(a, b)
    count = np.searchsorted(a, b, side="right") - first
    chunk = np.cumsum(count) // CHUNK
    for part in np.split(np.arange(len(b)), np.flatnonzero(np.diff(chunk)) + 1):
        total = count[part].sum()
        if total:
            offset = np.repeat(np.cumsum(count[part]) - count[part], count[part])
            yield np.arange(total) - offset + np.repeat(first[part], count[part]), np.repeat(part, count[part])


def _in_dont_care(dont_care: Objects, detections: Objects, minimum: float) -> np.ndarray:
    """bool (D,): more than ``minimum`` of the detection's area lies in one DontCare region of its frame."""
    inside = np.zeros(len(detections), dtype=bool)
    for region, det in _same_frame(dont_care.frame, detections.frame):
        covered = box_overlap(dont_care.bbox[region], detections.bbox[det], of_second=True)
        inside[det[covered > minimum]] = True
    return inside


def box_overlap(a: np.ndarray, b: np.ndarray, of_second: bool = False) -> np.ndarray:
    """Intersection over union (P,) of paired boxes (P, 4), left, top, right, bottom; or over the area of ``b``."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b))
    whole = area_b if of_second else area_a + area_b - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
