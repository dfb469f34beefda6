"""Overlap of rotated boxes (about the vertical axis), on arrays of pairs: numpy, float64, no tolerance.

Boxes are arrays (P, 7) as in KITTI's labels, rect camera frame (x right, y down, z forward), metres and radians:
``x, y, z`` of the centre of the *bottom*, ``height, width, length``, ``rotation_y`` (rotates x towards -z). A box
without a positive size overlaps nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

CHUNK = 50_000  # pairs per pass: some 100 MB


def shared_ground(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area (P,) in m² of the intersection of paired boxes (P, 7) in bird's-eye view."""
    area = np.zeros(len(a))
    solid = (a[:, 3:6] > 0).all(axis=1) & (b[:, 3:6] > 0).all(axis=1)
    reach = (
        np.hypot(a[:, 4], a[:, 5]) + np.hypot(b[:, 4], b[:, 5])
    ) / 2  # sum of the radii of their circumscribed circles
    near = np.flatnonzero(solid & (np.hypot(a[:, 0] - b[:, 0], a[:, 2] - b[:, 2]) < reach))
    for part in np.split(near, range(CHUNK, len(near), CHUNK)):
        area[part] = _clipped_area(a[part], b[part])
    return area


def _clipped_area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Clip the outlines of ``a`` by those of ``b``, in the frame where ``b`` is an axis-aligned rectangle.

    Moving each point of a polygon's boundary to the nearest point of the rectangle gives a closed curve around exactly
    the intersection. So: split each edge where it crosses one of the rectangle's four lines, clamp, apply the shoelace
    formula.
    """
    half = np.stack([b[:, 5], b[:, 4]], axis=1)[:, None, :] / 2  # (P, 1, 2): along b, across b
    corners = _rotate(_outline(a) - b[:, None, [0, 2]], -b[:, 6])
    step = np.roll(corners, -1, axis=1) - corners
    with np.errstate(divide="ignore", invalid="ignore"):  # an edge along an axis never crosses two of the lines
        crossings = np.concatenate([(half - corners) / step, (-half - corners) / step], axis=2)
    crossings = np.sort(np.clip(np.nan_to_num(crossings), 0, 1), axis=2)  # (P, 4 edges, 4): fractions of the edge
    points = corners[:, :, None] + crossings[..., None] * step[:, :, None]
    points = np.concatenate([corners[:, :, None], points], axis=2).reshape(len(a), 20, 2)
    points = np.clip(points, -half, half)
    x, y, following = points[..., 0], points[..., 1], np.roll(points, -1, axis=1)
    return np.abs((x * following[..., 1] - y * following[..., 0]).sum(axis=1)) / 2


def _outline(boxes: np.ndarray) -> np.ndarray:
    """Corners (P, 4, 2) on the ground, x and z."""
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) / 2
    return _rotate(signs * boxes[:, None, [5, 4]], boxes[:, 6]) + boxes[:, None, [0, 2]]


def _rotate(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (P, K, 2) in x and z, rotated by rotation_y (P,)."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, z = points[..., 0], points[..., 1]
    return np.stack([cos * x + sin * z, cos * z - sin * x], axis=-1)


def rotated_ious(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union of paired boxes (P, 7), in bird's-eye view (P,) and of the volumes (P,)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    ground = shared_ground(a, b)
    height = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 1] - a[:, 3], b[:, 1] - b[:, 3])  # y points down
    volume = ground * np.clip(height, 0, None)
    return (
        _over_union(ground, a[:, 4] * a[:, 5], b[:, 4] * b[:, 5]),
        _over_union(volume, a[:, 3:6].prod(axis=1), b[:, 3:6].prod(axis=1)),
    )


def _over_union(shared: np.ndarray, size_a: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    return np.divide(shared, size_a + size_b - shared, out=np.zeros_like(shared), where=shared > 0)
