"""LiDAR points as a sparse depth map of the image: the ground truth that depth networks are trained and scored with."""

from __future__ import annotations

import numpy as np

from kdnb.datasets.kitti_calib import Calibration, in_image


def sparse_depth(
    points: np.ndarray, calibration: Calibration, shape: tuple[int, int], into: tuple[int, int] | None = None
) -> np.ndarray:
    """Project LiDAR points into the image; of several in one pixel, keep the nearest.

    Args:
        points: (N, 3 or more), velodyne frame, metres.
        shape: (height, width) of the image that the calibration belongs to.
        into: (height, width) of a map smaller than the image.

    Returns:
        float32 (height, width): z in the rect camera frame, metres; 0 where there is no point.
    """
    height, width = into or shape
    uv, z = calibration.lidar_to_image(points[:, :3])
    inside = in_image(uv, z, shape[::-1])
    uv, z = uv[inside], z[inside]
    # the centre of the first pixel is at 0, so its edges are at -0.5 and 0.5
    column, row = ((uv + 0.5) / shape[::-1] * (width, height)).astype(int).T
    order = np.argsort(-z, kind="stable")  # numpy keeps the last value written to a pixel, here the nearest
    depth = np.zeros((height, width), np.float32)
    depth[row[order], column[order]] = z[order]
    return depth
