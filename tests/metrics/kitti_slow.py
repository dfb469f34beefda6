"""KITTI's rules once more, one frame, object and detection after the other: slow, and no code of kdnb.metrics in it.

Overlaps of rotated boxes come from shapely.
"""

import math

from shapely import Polygon

RULES = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}


def outline(b):
    """The rectangle seen from above, its corners one by one: forward is (cos, -sin) in x and z, sideways (sin, cos)."""
    forward = (math.cos(b.rotation_y), -math.sin(b.rotation_y))
    side = (math.sin(b.rotation_y), math.cos(b.rotation_y))
    corners = []
    for i, j in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        corners.append(
            (
                b.x + i * b.length / 2 * forward[0] + j * b.width / 2 * side[0],
                b.z + i * b.length / 2 * forward[1] + j * b.width / 2 * side[1],
            )
        )
    return Polygon(corners)


def overlap(metric, d, g):
    if metric == "bbox":
        return overlap_2d(d.bbox, g.bbox)
    if min(d.height, d.width, d.length, g.height, g.width, g.length) <= 0:
        return 0.0
    ground = outline(d).intersection(outline(g)).area
    if metric == "bev":
        return ground / (d.width * d.length + g.width * g.length - ground)
    tall = max(0.0, min(d.y, g.y) - max(d.y - d.height, g.y - g.height))
    shared = ground * tall
    return shared / (d.height * d.width * d.length + g.height * g.width * g.length - shared)


def overlap_2d(d, g, own=False):
    w = min(d[2], g[2]) - max(d[0], g[0])
    h = min(d[3], g[3]) - max(d[1], g[1])
    if w <= 0 or h <= 0:
        return 0.0
    area_d, area_g = (d[2] - d[0]) * (d[3] - d[1]), (g[2] - g[0]) * (g[3] - g[1])
    return w * h / (area_d if own else area_d + area_g - w * h)


def object_state(g, name, difficulty):
    """'valid', 'neutral' or None."""
    height, occluded, truncated = RULES[difficulty]
    kind = g.type.lower()
    if (name, kind) in (("Car", "van"), ("Pedestrian", "person_sitting")):
        return "neutral"
    if kind != name.lower():
        return None
    bad = g.occluded > occluded or g.truncated > truncated or g.bbox[3] - g.bbox[1] <= height
    return "neutral" if bad else "valid"


def detection_state(d, name, difficulty):
    if abs(d.bbox[3] - d.bbox[1]) < RULES[difficulty][0]:
        return "small"
    return "valid" if d.type.lower() == name.lower() else None


def frame_counts(objects, detections, name, metric, difficulty, least, least_2d, threshold):
    """One frame: (scores of hits, false alarms, misses, similarity); threshold None is the pass that goes by score."""
    free = [
        detection_state(d, name, difficulty) if threshold is None or d.score >= threshold else None for d in detections
    ]
    scores, misses, similarity = [], 0, 0.0
    for g in objects:
        state = object_state(g, name, difficulty)
        if state is None:
            continue
        candidates = [j for j, s in enumerate(free) if s and overlap(metric, detections[j], g) > least]
        if not candidates:
            misses += state == "valid"
            continue
        if threshold is None:
            best = max(candidates, key=lambda j: (detections[j].score, -j))
        else:
            valid = [j for j in candidates if free[j] == "valid"]
            best = max(valid, key=lambda j: (overlap(metric, detections[j], g), -j)) if valid else candidates[0]
        if state == "valid" and free[best] == "valid":
            scores.append(detections[best].score)
            similarity += (1 + math.cos(g.alpha - detections[best].alpha)) / 2
        free[best] = None
    alarms = 0
    for j, d in enumerate(detections):
        if free[j] == "valid":
            stuff = metric == "bbox" and any(
                g.type.lower() == "dontcare" and overlap_2d(d.bbox, g.bbox, own=True) > least_2d for g in objects
            )
            alarms += not stuff
    return scores, alarms, misses, similarity


def slow_curve(truth, found, name, metric, difficulty, least, least_2d):
    """{"recall", "precision", "aos"}: lists of 41."""

    def count(threshold):
        rows = [
            frame_counts(objects, found.get(frame, []), name, metric, difficulty, least, least_2d, threshold)
            for frame, objects in truth.items()
        ]
        return [s for row in rows for s in row[0]], *(sum(row[k] for row in rows) for k in (1, 2, 3))

    n = sum(object_state(g, name, difficulty) == "valid" for objects in truth.values() for g in objects)
    scores = sorted(count(None)[0], reverse=True)
    thresholds, wanted = [], 0.0
    for rank, score in enumerate(scores, start=1):
        last = rank == len(scores)
        if last or not (rank + 1) / n - wanted < wanted - rank / n:
            thresholds.append(score)
            wanted += 1 / 40
    out = {"recall": [0.0] * 41, "precision": [0.0] * 41, "aos": [0.0] * 41}
    for k, threshold in enumerate(thresholds):
        hits, alarms, misses, similarity = count(threshold)
        if hits:
            out["recall"][k] = len(hits) / (len(hits) + misses)
        if hits or alarms:
            out["precision"][k] = len(hits) / (len(hits) + alarms)
            out["aos"][k] = similarity / (len(hits) + alarms)
    for key in ("precision", "aos"):
        out[key] = [max(out[key][k:]) for k in range(41)]
    return out
