"""3D boxes between KITTI's labels (rect camera, bottom centre, rotation_y) and the velodyne frame (centre, yaw).

A LiDAR box is (x, y, z of its centre, length, width, height, yaw): metres and radians; yaw about z, 0 looks forward
along x, counter-clockwise seen from above.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from kdnb.datasets.kitti_calib import Calibration
from kdnb.datasets.kitti_labels import KittiLabel

NEAR = 0.1  # metres in front of the camera, where projected boxes are cut
SLACK = 1e-6  # metres, so that rounding does not decide about points on an edge
# corners: front left, front right, rear right, rear left of the bottom, then of the top
SIGNS = np.array([(1, 1, -1), (1, -1, -1), (-1, -1, -1), (-1, 1, -1), (1, 1, 1), (1, -1, 1), (-1, -1, 1), (-1, 1, 1)])
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))


def wrap(angle: ArrayLike) -> np.ndarray:
    """Angles in [-pi, pi)."""
    return (np.asarray(angle, np.float64) + np.pi) % (2 * np.pi) - np.pi


def boxes_in_lidar(labels: list[KittiLabel], calibration: Calibration) -> np.ndarray:
    """(N, 7) float64 LiDAR boxes of labels with a 3D box (not DontCare, which has none).

    The calibration rotates the heading, which differs by a few hundredths from the usual -rotation_y - pi/2.
    """
    if not labels:
        return np.zeros((0, 7))
    x, y, z, height, width, length, turn = np.array(
        [(b.x, b.y, b.z, b.height, b.width, b.length, b.rotation_y) for b in labels]
    ).T
    centre = np.stack([x, y - height / 2, z], 1)
    ahead = centre + np.stack([np.cos(turn), np.zeros_like(turn), -np.sin(turn)], 1)
    centre, ahead = calibration.rect_to_lidar(centre), calibration.rect_to_lidar(ahead)
    yaw = np.arctan2(*(ahead - centre)[:, 1::-1].T)
    return np.concatenate([centre, np.stack([length, width, height, yaw], 1)], 1)


def labels_from_boxes(
    boxes: ArrayLike,
    names: Sequence[str],
    scores: Sequence[float] | None,
    calibration: Calibration,
    image_size: tuple[int, int],
) -> list[KittiLabel]:
    """KittiLabels of LiDAR boxes (N, 7), the inverse of boxes_in_lidar.

    The 2D box encloses the projected corners, cut at the camera and clipped to the image. Boxes outside the image are
    left out, as in the benchmark, so the list may be shorter than ``boxes``.

    Args:
        names: N types; scores: N numbers, or None for ground truth; image_size: (width, height) in pixels.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    scores = [None] * len(boxes) if scores is None else [float(s) for s in scores]
    centre, yaw = boxes[:, :3], boxes[:, 6]
    ahead = centre + np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], 1)
    centre, ahead = calibration.lidar_to_rect(centre), calibration.lidar_to_rect(ahead)
    turn = np.arctan2(-(ahead - centre)[:, 2], (ahead - centre)[:, 0])
    out = []
    for k, (x, y, z) in enumerate(centre):
        length, width, height = (float(v) for v in boxes[k, 3:6])
        amodal = box_in_image(boxes[k], calibration)
        box = None if amodal is None else clip_box(amodal, image_size)
        if box is None:
            continue
        truncated, occluded = (_outside(amodal, box), 0) if scores[k] is None else (-1.0, -1)
        alpha = float(wrap(turn[k] - np.arctan2(x, z)))
        pose = (float(x), float(y + height / 2), float(z), float(turn[k]))
        name, size = str(names[k]), (height, width, length)
        out.append(KittiLabel(name, truncated, occluded, alpha, box, *size, *pose, scores[k]))
    return out


def box_in_image(box: ArrayLike, calibration: Calibration) -> Box | None:
    """(left, top, right, bottom) in pixels around the projection of a LiDAR box (7,), also beyond the image; None for a
    box behind the camera. Edges that cross the plane NEAR in front of the camera are cut there."""
    rect = calibration.lidar_to_rect(corners(np.asarray(box)[None])[0])
    front = rect[:, 2] >= NEAR
    if not front.any():
        return None
    crossing = [(a, b) for a, b in EDGES if front[a] != front[b]]
    cut = [rect[a] + (NEAR - rect[a, 2]) / (rect[b, 2] - rect[a, 2]) * (rect[b] - rect[a]) for a, b in crossing]
    uv = calibration.rect_to_image(np.concatenate([rect[front], *[c[None] for c in cut]]))
    return (*uv.min(0).tolist(), *uv.max(0).tolist())


def clip_box(box: Box, image_size: tuple[int, int]) -> Box | None:
    """The part of a box inside an image of (width, height), from 0 to width - 1; None if it is empty."""
    width, height = image_size
    left, top, right, bottom = (min(max(v, 0.0), size - 1.0) for v, size in zip(box, (width, height) * 2, strict=True))
    return (left, top, right, bottom) if right > left and bottom > top else None


def _outside(whole, inside):
    """Share of the box ``whole`` outside the box ``inside``."""
    area = (inside[2] - inside[0]) * (inside[3] - inside[1])
    return 1 - area / ((whole[2] - whole[0]) * (whole[3] - whole[1]))


def corners(boxes: ArrayLike) -> np.ndarray:
    """(N, 8, 3) corners of LiDAR boxes (N, 7): front left, front right, rear right, rear left at the bottom, then the
    same at the top. EDGES lists the twelve edges."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    local = SIGNS[None] * boxes[:, None, 3:6] / 2
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    rotated = np.stack(
        [cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1], local[..., 2]], -1
    )
    return rotated + boxes[:, None, :3]


def points_in_boxes(xyz: ArrayLike, boxes: ArrayLike) -> np.ndarray:
    """(N_points, N_boxes) bool: which points (N_points, 3 or more) lie in which LiDAR boxes, edges inclusive."""
    xyz = np.asarray(xyz, np.float64)[:, :3]
    boxes = np.asarray(boxes, np.float64).reshape(-1, 7)
    inside = np.zeros((len(xyz), len(boxes)), bool)
    for k, (x, y, z, length, width, height, yaw) in enumerate(boxes):
        px, py, pz = (xyz - (x, y, z)).T
        along, across = np.cos(yaw) * px + np.sin(yaw) * py, np.cos(yaw) * py - np.sin(yaw) * px
        inside[:, k] = (
            (np.abs(along) <= length / 2 + SLACK)
            & (np.abs(across) <= width / 2 + SLACK)
            & (np.abs(pz) <= height / 2 + SLACK)
        )
    return inside
