"""KITTI calibration files and the three frames they connect, without torch.

velodyne: x forward, y left, z up. rect camera: x right, y down, z forward, the rectified camera 0. image: u right, v
down, pixels of camera 2; the centre of the first pixel is at (0, 0) as in KITTI's own boxes. Metres throughout.
Geiger, Lenz, Urtasun: Are we ready for autonomous driving?, CVPR 2012, and the readme of the object development kit.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kdnb.datasets.text import read_text
from kdnb.errors import InputError

# key in the file, field, shape
KEYS = (
    ("P0", "P0", (3, 4)),
    ("P1", "P1", (3, 4)),
    ("P2", "P2", (3, 4)),
    ("P3", "P3", (3, 4)),
    ("R0_rect", "R0", (3, 3)),
    ("Tr_velo_to_cam", "velo_to_cam", (3, 4)),
    ("Tr_imu_to_velo", "imu_to_velo", (3, 4)),
)
REQUIRED = ("P2", "R0_rect", "Tr_velo_to_cam")
LARGEST = 1e9  # of a number in a calibration
# metres of depth: a point closer to the camera has no meaningful projection
NEAREST = 0.5


@dataclass(frozen=True)
class Calibration:
    """P0..P3: projections (3, 4) of the rect camera frame into the four images. R0: (3, 3) rectifying rotation.
    velo_to_cam, imu_to_velo: rigid (3, 4). All float64. Points are arrays (N, 3), metres."""

    P0: np.ndarray
    P1: np.ndarray
    P2: np.ndarray
    P3: np.ndarray
    R0: np.ndarray
    velo_to_cam: np.ndarray
    imu_to_velo: np.ndarray

    def lidar_to_rect(self, xyz: ArrayLike) -> np.ndarray:
        """(N, 3) velodyne points in the rect camera frame: R0 (R x + t)."""
        camera = np.asarray(xyz, np.float64) @ self.velo_to_cam[:, :3].T + self.velo_to_cam[:, 3]
        return camera @ self.R0.T

    def rect_to_lidar(self, xyz: ArrayLike) -> np.ndarray:
        """(N, 3) rect camera points in the velodyne frame; by matrix inverses: printed rotations are not orthogonal."""
        camera = np.asarray(xyz, np.float64) @ np.linalg.inv(self.R0).T
        return (camera - self.velo_to_cam[:, 3]) @ np.linalg.inv(self.velo_to_cam[:, :3]).T

    def rect_to_image(self, xyz: ArrayLike) -> np.ndarray:
        """uv (N, 2) in pixels of camera 2, with P2's offsets; NaN for points that are not in front of that camera."""
        xyz = np.asarray(xyz, np.float64)
        u, v, w = (xyz @ self.P2[:, :3].T + self.P2[:, 3]).T
        w = np.where(w > 1e-6, w, np.nan)
        return np.stack([u / w, v / w], 1)

    def lidar_to_image(self, xyz: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """(uv (N, 2) in pixels, depth (N,)): depth is z in the rect camera frame, not the length of the ray."""
        rect = self.lidar_to_rect(xyz)
        return self.rect_to_image(rect), rect[:, 2]

    def image_to_rect(self, u: ArrayLike, v: ArrayLike, z: ArrayLike) -> np.ndarray:
        """(N, 3) rect camera points of pixels u, v (N,) at depth z (N,): the exact inverse of rect_to_image.

        P2 [x y z 1] = w [u v 1] with w = z + P2[2, 3]; two linear equations in x and y. Without P2's last column
        everything would be 6 cm to the side, the distance between camera 2 and camera 0.
        """
        u, v, z = (np.asarray(a, np.float64) for a in (u, v, z))
        (fx, skew, cx, tx), (sheared, fy, cy, ty), (a, b, c, tz) = self.P2
        right, down = u * (c * z + tz) - cx * z - tx, v * (c * z + tz) - cy * z - ty
        # (fx - a u) x + (skew - b u) y = right;  (sheared - a v) x + (fy - b v) y = down
        m00, m01, m10, m11 = fx - a * u, skew - b * u, sheared - a * v, fy - b * v
        scale = m00 * m11 - m01 * m10
        x, y = (right * m11 - m01 * down) / scale, (m00 * down - right * m10) / scale
        return np.stack([x, y, np.broadcast_to(z, scale.shape)], -1)

    def projection(self) -> np.ndarray:
        """(3, 4) matrix from homogeneous velodyne points to homogeneous pixels: P2 R0 Tr_velo_to_cam."""
        rect, velo = np.eye(4), np.eye(4)
        rect[:3, :3], velo[:3] = self.R0, self.velo_to_cam
        return self.P2 @ rect @ velo


def in_image(uv: Any, depth: Any, size: tuple[int, int]) -> Any:
    """Which points lie on the image's pixels and at least ``NEAREST`` in front of the camera.

    The detector, the depth network and the figures all use this rule.

    Args:
        uv: (N, 2) in pixels, depth: (N,) in metres, as from ``lidar_to_image``; arrays or tensors.
        size: (width, height) of the image; its first pixel covers -0.5 to 0.5.

    Returns:
        bool (N,); False for NaN.
    """
    u, v, (width, height) = uv[:, 0], uv[:, 1], size
    return (depth >= NEAREST) & (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)


def read_calibration(path: str | Path) -> Calibration:
    """Read ``calib/<frame>.txt``. Missing P0, P1, P3 and Tr_imu_to_velo become zeros: nothing uses them.

    Raises InputError, naming file and line or key: no such file, a key without its numbers, P2, R0_rect or
    Tr_velo_to_cam missing, or without an inverse: R0_rect and the left part of Tr_velo_to_cam are rotations.
    ``Tr_velo_cam`` and ``R_rect`` of the tracking benchmark are accepted too.
    """
    lines = read_text(path, "a KITTI calibration").split("\n")
    shapes = {key: shape for key, _, shape in KEYS}
    aliases = {"Tr_velo_cam": "Tr_velo_to_cam", "R_rect": "R0_rect", "Tr_imu_velo": "Tr_imu_to_velo"}
    matrices = {}
    for number, line in enumerate(lines, 1):
        key, *values = line.replace(":", " ", 1).split() or [""]
        key = aliases.get(key, key)
        if key in shapes:
            matrices[key] = _matrix(f"{path}:{number}", key, values, shapes[key])
    for key in REQUIRED:
        if key not in matrices:
            raise InputError(f"{path}: no line {key}, expected {math.prod(shapes[key])} numbers after '{key}:'")
        _require_inverse(path, key, matrices[key][:, :3])
    return Calibration(**{name: matrices.get(key, np.zeros(shape)) for key, name, shape in KEYS})


def guessed_calibration(image_size: tuple[int, int], fov: float = 81.0) -> Calibration:
    """A calibration for an image of which only the field of view is known.

    It assumes square pixels, an optical axis through the middle, no lens distortion, and a camera mounted as KITTI's:
    level, 27 cm ahead of and 8 cm below the (imagined) LiDAR. Where that is wrong, boxes are too.

    Args:
        image_size: (width, height) in pixels.
        fov: horizontal field of view in degrees; 81 is KITTI's. Raises InputError outside of 10 to 150.
    """
    if not 10 <= fov <= 150:
        raise InputError(f"fov is {fov}, expected the horizontal field of view in degrees, 10 to 150")
    width, height = image_size
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    camera = np.array([[focal, 0, (width - 1) / 2, 0], [0, focal, (height - 1) / 2, 0], [0, 0, 1.0, 0]])
    mounted = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27]])
    return Calibration(camera, camera, camera, camera, np.eye(3), mounted, np.eye(3, 4))


def _matrix(where, key, texts, shape):
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = []
    if len(values) != math.prod(shape) or not all(abs(value) < LARGEST for value in values):
        raise InputError(
            f"{where}: {key} has {len(texts)} values ({' '.join(texts)[:40]}), expected {math.prod(shape)} numbers"
        )
    return np.array(values).reshape(shape)


def _require_inverse(path, key, matrix):
    """Points go through the matrix both ways. P2 scales by the focal lengths, the others only turn."""
    with np.errstate(all="ignore"):  # of numbers that are next to 0
        size = abs(np.linalg.det(matrix))
    low, high, what = (
        (1e-3, math.inf, "a camera's projection") if key == "P2" else (0.5, 2.0, "a rotation, which has 1")
    )
    if not low < size < high:
        raise InputError(f"{path}: {key} has the determinant {size:.3g}, expected {what}")
