"""A frame as if the street were mirrored, rotated or scaled: points, boxes, image and the projection between them.

A LiDAR box is (x, y, z of its centre, length, width, height, yaw), see ``kitti_boxes``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class View:
    """flip: swap left and right, in the image too. turn: rotation about z in radians, counter-clockwise from above.
    scale: factor on all lengths. Applied in this order, about the sensor."""

    flip: bool = False
    turn: float = 0.0
    scale: float = 1.0

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) from old to new velodyne coordinates."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        mirror = np.diag([1.0, -1.0 if self.flip else 1.0, 1.0])
        return self.scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ mirror


def view_name(view: View) -> str:
    """Such as "flip-5deg x1.05"."""
    return f"{'flip' if view.flip else 'plain'}{np.degrees(view.turn):+g}deg x{view.scale:g}"


def all_views(turns: Iterable[float] = (-5, 0, 5), scales: Iterable[float] = (0.95, 1, 1.05)) -> dict[str, View]:
    """{name: View}, plain and flipped, with each turn (degrees) and scale, for a ``Plan`` that samples by name."""
    views = [View(flip, float(np.radians(turn)), scale) for flip, turn, scale in product((False, True), turns, scales)]
    return {view_name(view): view for view in views}


def transform_points(points: np.ndarray, view: View) -> np.ndarray:
    """Points (N, 4) of the view, float32; intensities do not change."""
    return np.concatenate([points[:, :3] @ view.matrix.T, points[:, 3:]], 1).astype(np.float32)


def transform_boxes(boxes: np.ndarray, view: View) -> np.ndarray:
    """LiDAR boxes (N, 7) of the view."""
    sign = -1.0 if view.flip else 1.0
    yaw = sign * boxes[:, 6:] + view.turn
    return np.concatenate([boxes[:, :3] @ view.matrix.T, boxes[:, 3:6] * view.scale, yaw], 1)


def transform_image(image: np.ndarray, view: View) -> np.ndarray:
    """The image (H, W, 3), mirrored if the view is. Turn and scale do not change it: the camera moves along."""
    return image[:, ::-1] if view.flip else image


def transform_projection(projection: np.ndarray, view: View, width: int) -> np.ndarray:
    """(3, 4) from the view's points to the pixels of the view's image.

    Args:
        projection: (3, 4) from points to pixels of the original image; pixel centres at 0 .. width - 1.
        width: of the image, in pixels.
    """
    back = np.eye(4)
    back[:3, :3] = np.linalg.inv(view.matrix)
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]]) if view.flip else np.eye(3)
    return mirror @ projection @ back
