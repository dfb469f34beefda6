"""LiDAR points as a sparse depth map of the image: what a depth network is taught by, and measured against."""

from __future__ import annotations

import numpy as np

from kdnb.datasets.kitti_calib import Calibration, in_image


def sparse_depth(
    points: np.ndarray, calibration: Calibration, shape: tuple[int, int], into: tuple[int, int] | None = None
) -> np.ndarray:
    """Project LiDAR points and keep, where several meet in one pixel, the nearest.

    Args:
        points: (N, 3 or more), velodyne frame, metres.
        shape: (height, width) of the image that the calibration belongs to.
        into: (height, width) of the map, when it is to be smaller than the image.

    Returns:
        float32 (height, width): z in the rect camera frame, metres; 0 where no point fell.
    """
    height, width = into or shape
    uv, z = calibration.lidar_to_image(points[:, :3])
    seen = in_image(uv, z, shape[::-1])
    uv, z = uv[seen], z[seen]
    # the centre of the first pixel is at 0, so its edges are at -0.5 and 0.5
    column, row = ((uv + 0.5) / shape[::-1] * (width, height)).astype(int).T
    order = np.argsort(-z, kind="stable")  # of repeated places numpy keeps the last, here the nearest
    depth = np.zeros((height, width), np.float32)
    depth[row[order], column[order]] = z[order]
    return depth
