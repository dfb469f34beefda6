"""Overlap of upright boxes that are turned about the vertical axis, on arrays of pairs: numpy, float64, no tolerance.

Boxes are columns (..., 7) as in KITTI's labels, rect camera frame (x right, y down, z forward), metres and radians:
``x, y, z`` of the middle of the *bottom*, ``height, width, length``, ``rotation_y`` (turns x towards -z). A box without
a positive size overlaps nothing.
"""

import numpy as np

CHUNK = 50_000  # pairs clipped at a time: some 100 MB


def shared_ground(a, b) -> np.ndarray:
    """Area (P,) in m² that the outlines of paired boxes (P, 7) share, seen from above."""
    area = np.zeros(len(a))
    solid = (a[:, 3:6] > 0).all(axis=1) & (b[:, 3:6] > 0).all(axis=1)
    reach = (np.hypot(a[:, 4], a[:, 5]) + np.hypot(b[:, 4], b[:, 5])) / 2  # of the circles around both
    near = np.flatnonzero(solid & (np.hypot(a[:, 0] - b[:, 0], a[:, 2] - b[:, 2]) < reach))
    for part in np.split(near, range(CHUNK, len(near), CHUNK)):
        area[part] = _clipped_area(a[part], b[part])
    return area


def _clipped_area(a, b):
    """Clip each outline of ``a`` by that of ``b``, in whose own frame the latter is a rectangle along the axes.

    Pushing every point of a polygon's boundary to the nearest of the rectangle gives a closed curve around exactly what
    both share. So: split each edge where it crosses one of the rectangle's four lines, push, take the shoelace formula.
    """
    half = np.stack([b[:, 5], b[:, 4]], axis=1)[:, None, :] / 2  # (P, 1, 2): along b, across b
    corners = _turn(_outline(a) - b[:, None, [0, 2]], -b[:, 6])
    step = np.roll(corners, -1, axis=1) - corners
    with np.errstate(divide="ignore", invalid="ignore"):  # an edge along an axis never crosses two of the lines
        crossings = np.concatenate([(half - corners) / step, (-half - corners) / step], axis=2)
    crossings = np.sort(np.clip(np.nan_to_num(crossings), 0, 1), axis=2)  # (P, 4 edges, 4): parts of the edge
    points = corners[:, :, None] + crossings[..., None] * step[:, :, None]
    points = np.concatenate([corners[:, :, None], points], axis=2).reshape(len(a), 20, 2)
    points = np.clip(points, -half, half)
    x, y, ahead = points[..., 0], points[..., 1], np.roll(points, -1, axis=1)
    return np.abs((x * ahead[..., 1] - y * ahead[..., 0]).sum(axis=1)) / 2


def _outline(boxes):
    """Corners (P, 4, 2) on the ground, x and z."""
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2
    return _turn(signs * boxes[:, None, [5, 4]], boxes[:, 6]) + boxes[:, None, [0, 2]]


def _turn(points, angle):
    """Points (P, K, 2) in x and z after a turn by rotation_y (P,)."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, z = points[..., 0], points[..., 1]
    return np.stack([cos * x + sin * z, cos * z - sin * x], axis=-1)


def rotated_ious(a, b):
    """Intersection over union of paired boxes (P, 7), seen from above (P,) and of the volumes (P,)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    ground = shared_ground(a, b)
    tall = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 1] - a[:, 3], b[:, 1] - b[:, 3])  # y points down
    volume = ground * np.clip(tall, 0, None)
    return (
        _over_union(ground, a[:, 4] * a[:, 5], b[:, 4] * b[:, 5]),
        _over_union(volume, a[:, 3:6].prod(axis=1), b[:, 3:6].prod(axis=1)),
    )


def _over_union(shared, size_a, size_b):
    return np.divide(shared, size_a + size_b - shared, out=np.zeros_like(shared), where=shared > 0)
