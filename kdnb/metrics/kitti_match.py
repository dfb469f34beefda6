"""Which detection finds which object by KITTI's rules (devkit_object, ``evaluate_object.cpp``), all frames at once.

A *case* is one class, difficulty and metric. In it an object is *valid* (to be found), *neutral* (too small, hidden or
cut, or of the neighbouring class: finding it counts neither way) or no part of it. A detection is *valid* (right class,
tall enough), *small* (too low in the image, of **any** class, as the official code has it: never a hit nor a false
alarm, but it can take an object) or no part of it. Frame by frame and in the order of the file each object takes a
detection not yet taken that overlaps it by more than the class's threshold.
"""

from dataclasses import dataclass, field

import numpy as np

from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES
from kdnb.metrics.kitti_read import Objects
from kdnb.metrics.rotated_iou import rotated_ious

METRICS = ("bbox", "bev", "3d")
NEIGHBOUR = {"Car": "Van", "Pedestrian": "Person_sitting", "Cyclist": ""}  # no type is empty
# the overlap to exceed, for Car, Pedestrian, Cyclist
OVERLAPS = {
    "strict": {"bbox": (0.7, 0.5, 0.5), "bev": (0.7, 0.5, 0.5), "3d": (0.7, 0.5, 0.5)},
    "loose": {"bbox": (0.7, 0.5, 0.5), "bev": (0.5, 0.25, 0.25), "3d": (0.5, 0.25, 0.25)},
}
LEAST_SCORE = -1e7  # the official mark of "no detection": scores that low find nothing
CHUNK = 500_000  # pairs of an object and a detection looked at in one go


@dataclass
class Case:
    """One class, difficulty and metric. G objects, D detections, P pairs that overlap enough, sorted by object.

    valid: bool (G,), the rest of the objects in ``pairs`` is neutral. detection_valid: bool (D,), the rest of those in
    ``pairs`` is small. excused: bool (D,), no false alarm when it finds nothing. gt, det, overlap: (P,), the pairs.
    turn: int (P,), how many of the frame's objects in ``gt`` come before.
    """

    truth: Objects
    found: Objects
    valid: np.ndarray
    detection_valid: np.ndarray
    excused: np.ndarray
    gt: np.ndarray
    det: np.ndarray
    overlap: np.ndarray
    turn: np.ndarray = field(init=False)

    def __post_init__(self):
        objects, where = np.unique(self.gt, return_inverse=True)
        frame = self.truth.frame[objects]
        self.turn = (np.arange(len(objects)) - np.searchsorted(frame, frame))[where]

    def hits(self):
        """First pass, for the thresholds: rows (H,) of ``found`` that find a valid object, when every object takes the
        surest of its detections."""
        order = np.lexsort((self.det, -self.found.score[self.det], self.gt))
        usable = (self.found.score[self.det[order]] > LEAST_SCORE)[:, None]
        taken = order[self._assign(order, usable)[:, 0]]
        return self.det[taken[self.valid[self.gt[taken]] & self.detection_valid[self.det[taken]]]]

    def count(self, thresholds, weights=None):
        """Second pass, at each score threshold (T,): every object takes the valid detection that overlaps it most, for
        want of one the first small one.

        weights: (B, frames), how often each frame counts; once by default, B = 1. Returns four (B, T): hits, false
        alarms, misses and the hits' orientation similarity, the sum of (1 + cos(difference of alpha)) / 2.
        """
        small = ~self.detection_valid[self.det]
        order = np.lexsort((self.det, np.where(small, 0, -self.overlap), small, self.gt))
        gt, det = self.gt[order], self.det[order]
        chosen = self._assign(order, self.found.score[det][:, None] >= thresholds)
        weigh = (lambda frame: np.ones((1, len(frame)))) if weights is None else (lambda frame: weights[:, frame])

        on_valid = self.valid[gt]
        hit = chosen & (on_valid & self.detection_valid[det])[:, None]
        similar = (1 + np.cos(self.truth.alpha[gt] - self.found.alpha[det])) / 2
        pairs = weigh(self.truth.frame[gt])
        objects = weigh(self.truth.frame[self.valid]).sum(axis=1, keepdims=True)
        misses = objects - (pairs * on_valid) @ chosen.astype(np.float64)

        taken = np.zeros((len(self.found), len(thresholds)), dtype=bool)
        row, column = np.nonzero(chosen)
        taken[det[row], column] = True
        blamed = np.flatnonzero(self.detection_valid & ~self.excused)
        alarm = (self.found.score[blamed][:, None] >= thresholds) & ~taken[blamed]
        alarms = weigh(self.found.frame[blamed]) @ alarm.astype(np.float64)
        hit = hit.astype(np.float64)
        return pairs @ hit, alarms, misses, (pairs * similar) @ hit

    def _assign(self, order, usable):
        """bool (P, T): each object takes the first pair, of its own in ``order``, that is usable (P, T) and whose
        detection is free. Frames share no detections: the first objects of all frames choose together, then the second
        ones, and so on."""
        gt, det, turn = self.gt[order], self.det[order], self.turn[order]
        chosen = np.zeros((len(order), usable.shape[1]), dtype=bool)
        taken = np.zeros((len(self.found), usable.shape[1]), dtype=bool)
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


def build_cases(truth: Objects, found: Objects, overlap="strict", within=None) -> dict:
    """``{(class, metric, difficulty): Case}`` for all classes, metrics "bbox", "bev", "3d" and difficulties.

    within: (near, far) in metres of z: objects outside are neutral, detections outside no false alarms (not part of the
    official rules; for scores by distance). ``truth`` and ``found`` are sorted by frame.
    """
    least = {metric: _least_overlap(truth, OVERLAPS[overlap][metric]) for metric in METRICS}
    pairs = _overlapping(truth, found, least)
    care = truth.take(truth.type == "dontcare")
    cases = {}
    for name, minimum in zip(CLASSES, OVERLAPS[overlap]["bbox"], strict=True):
        in_stuff = _in_stuff(care, found, minimum)
        for difficulty in DIFFICULTIES:
            valid, neutral = _object_states(truth, name, difficulty)
            detection_valid, small = _detection_states(found, name, difficulty)
            outside = np.zeros(len(found), dtype=bool)
            if within is not None:
                inside, outside = (_between(o.box3d[:, 2], within) for o in (truth, found))
                valid, neutral, outside = valid & inside, neutral | (valid & ~inside), ~outside
            for metric in METRICS:
                gt, det, much = pairs[metric]
                keep = (valid | neutral)[gt] & (detection_valid | small)[det]
                excused = outside | in_stuff if metric == "bbox" else outside
                cases[name, metric, difficulty] = Case(
                    truth, found, valid, detection_valid, excused, gt[keep], det[keep], much[keep]
                )
    return cases


def _between(z, limits):
    return (z >= limits[0]) & (z < limits[1])


def _object_states(truth, name, difficulty):
    """Masks (G,): valid and neutral objects of class ``name``."""
    height, occlusion, truncation = DIFFICULTIES[difficulty]
    hard = truth.occluded > occlusion
    hard |= truth.truncated > truncation
    hard |= truth.bbox[:, 3] - truth.bbox[:, 1] <= height
    own, neighbour = truth.type == name.lower(), truth.type == NEIGHBOUR[name].lower()
    return own & ~hard, neighbour | (own & hard)


def _detection_states(found, name, difficulty):
    """Masks (D,): valid detections of class ``name``, and small ones of any class."""
    small = np.abs(found.bbox[:, 3] - found.bbox[:, 1]) < DIFFICULTIES[difficulty][0]
    return (found.type == name.lower()) & ~small, small


def _least_overlap(truth, minimum):
    """(G,): what a pair with this object has to exceed; infinite for types that no class looks at."""
    least = np.full(len(truth), np.inf)
    for name, value in zip(CLASSES, minimum, strict=True):
        least[np.isin(truth.type, [name.lower(), NEIGHBOUR[name].lower()])] = value
    return least


def _overlapping(truth, found, least):
    """``{metric: (gt (P,), det (P,), overlap (P,))}`` of the pairs in one frame that overlap enough, sorted by gt."""
    kept = {metric: [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))] for metric in METRICS}
    looked_at = np.flatnonzero(np.isfinite(least["bbox"]))
    for gt, det in _same_frame(truth.frame[looked_at], found.frame):
        gt = looked_at[gt]
        overlaps = dict(
            zip(
                METRICS,
                (box_overlap(truth.bbox[gt], found.bbox[det]), *rotated_ious(truth.box3d[gt], found.box3d[det])),
                strict=True,
            )
        )
        for metric, much in overlaps.items():
            keep = much > least[metric][gt]
            kept[metric].append((gt[keep], det[keep], much[keep]))
    joined = {metric: [np.concatenate(column) for column in zip(*parts, strict=True)] for metric, parts in kept.items()}
    order = {metric: np.argsort(columns[0], kind="stable") for metric, columns in joined.items()}
    return {metric: tuple(column[order[metric]] for column in columns) for metric, columns in joined.items()}


def _same_frame(a, b):
    """Index pairs (into a, into b) of equal frames, both sorted, in chunks of about CHUNK pairs."""
    first = np.searchsorted(a, b)
    count = np.searchsorted(a, b, side="right") - first
    chunk = np.cumsum(count) // CHUNK
    for part in np.split(np.arange(len(b)), np.flatnonzero(np.diff(chunk)) + 1):
        total = count[part].sum()
        if total:
            offset = np.repeat(np.cumsum(count[part]) - count[part], count[part])
            yield np.arange(total) - offset + np.repeat(first[part], count[part]), np.repeat(part, count[part])


def _in_stuff(care, found, minimum):
    """bool (D,): more than ``minimum`` of the detection's own area lies in one DontCare area of its frame."""
    inside = np.zeros(len(found), dtype=bool)
    for area, det in _same_frame(care.frame, found.frame):
        share = box_overlap(care.bbox[area], found.bbox[det], of_second=True)
        inside[det[share > minimum]] = True
    return inside


def box_overlap(a, b, of_second=False):
    """Intersection over union (P,) of paired boxes (P, 4), left, top, right, bottom; or over the area of ``b``."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b))
    whole = area_b if of_second else area_a + area_b - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
