"""LiDAR points as a sparse depth map of the image: what a depth network is taught by, and measured against."""

from __future__ import annotations

import numpy as np

from kdnb.datasets.kitti_calib import Calibration

NEAREST = 0.5  # metres; nothing nearer to the camera is a point of the street


def sparse_depth(points: np.ndarray, calibration: Calibration, shape: tuple[int, int],
                 into: tuple[int, int] | None = None) -> np.ndarray:  # fmt: skip
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
    # the centre of the first pixel is at 0, so its edges are at -0.5 and 0.5
    share = (uv + 0.5) / (shape[1], shape[0])
    seen = (z > NEAREST) & (share >= 0).all(1) & (share < 1).all(1)
    column, row = (share[seen] * (width, height)).astype(int).T
    order = np.argsort(-z[seen], kind="stable")  # of repeated places numpy keeps the last, here the nearest
    depth = np.zeros((height, width), np.float32)
    depth[row[order], column[order]] = z[seen][order]
    return depth
