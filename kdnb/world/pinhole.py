"""The pinhole camera: rays through pixels, projection, and the pixels that boxes can cover."""

from dataclasses import dataclass

import numpy as np

NEAR = 0.05
EDGES = np.array([(0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7)])


@dataclass
class Camera:
    """Pinhole camera above the ego frame's origin, without roll or yaw.

    Pixel i covers [i, i + 1) and its centre is at i + 0.5; fx, fy, cx, cy are in pixels of that convention. ``height``
    of the image in pixels, ``above`` the ground in metres; ``pitch`` in radians, positive looks down. Camera frame:
    x right, y down, z along the optical axis.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    above: float
    pitch: float = 0.0

    @property
    def origin(self) -> np.ndarray:
        return np.array([0.0, 0.0, self.above])

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) from ego directions to camera directions."""
        cos, sin = np.round(np.cos(self.pitch), 9), np.round(np.sin(self.pitch), 9)
        return np.array([[0, -1, 0], [-sin, 0, -cos], [cos, 0, -sin]])

    def matrix(self) -> np.ndarray:
        """(3, 3) intrinsics in this class's pixel convention."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def rays(
        self, columns: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ego directions (x, y, z) through pixel positions, as arrays (R,1), (1,C), (R,1); depth grows by 1 along them.

        ``columns``, ``rows``: positions in pixels, by default all pixel centres.
        """
        columns = np.arange(self.width) + 0.5 if columns is None else columns
        rows = np.arange(self.height) + 0.5 if rows is None else rows
        right = ((columns - self.cx) / self.fx)[None, :]
        down = ((rows - self.cy) / self.fy)[:, None]
        _, axis_down, axis = self.rotation
        x, y, z = axis[0] + down * axis_down[0], -right, axis[2] + down * axis_down[2]
        # a face parallel to a ray would divide by an exact zero
        return tuple(np.where(a == 0, 1e-7, a).astype(np.float32) for a in (x, y, z))

    def to_camera(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z (...) in the camera frame of ego points (..., 3); written out, since BLAS rounds differently."""
        up, (_, (sin, _, cos), _) = points[..., 2] - self.above, -self.rotation
        return -points[..., 1], -sin * points[..., 0] - cos * up, cos * points[..., 0] - sin * up

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (..., 2) and depth (...) of ego points (..., 3); pixels of points with depth <= 0 are meaningless."""
        x, y, z = self.to_camera(points)
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = np.stack([self.fx * x / z + self.cx, self.fy * y / z + self.cy], -1)
        return uv, z

    def bounds(self, corners: np.ndarray) -> np.ndarray:
        """(N, 4) pixel bounds x1, y1, x2, y2 of the part of each box (N, 8, 3) in front of the camera, unclipped.

        Boxes wholly behind get an empty interval (x1 > x2).
        """
        x, y, z = self.to_camera(corners)
        front = z > NEAR
        bounds = self._pixel_bounds(x, y, z, front)
        cut = np.flatnonzero(front.any(1) & ~front.all(1))
        if len(cut):  # cut their edges at the near plane
            x, y, z, front = x[cut], y[cut], z[cut], front[cut]
            a, b = EDGES.T
            crosses = front[:, a] != front[:, b]
            share = (NEAR - z[:, a]) / np.where(crosses, z[:, b] - z[:, a], 1)
            x, y, z = (np.concatenate([v, v[:, a] + share * (v[:, b] - v[:, a])], 1) for v in (x, y, z))
            bounds[cut] = self._pixel_bounds(x, y, z, np.concatenate([front, crosses], 1))
        return bounds

    def windows(self, corners: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(N, 4) first row, end row, first column, end column of the grid positions that boxes (N, 8, 3) can cover."""
        x1, y1, x2, y2 = self.bounds(corners).T
        slack = 0.02
        return np.stack(
            [
                np.searchsorted(rows, y1 - slack),
                np.searchsorted(rows, y2 + slack),
                np.searchsorted(columns, x1 - slack),
                np.searchsorted(columns, x2 + slack),
            ],
            1,
        )

    def _pixel_bounds(self, x, y, z, front):
        z = np.maximum(z, NEAR)
        u, v = self.fx * x / z + self.cx, self.fy * y / z + self.cy
        low = [np.where(front, a, np.inf).min(1) for a in (u, v)]
        high = [np.where(front, a, -np.inf).max(1) for a in (u, v)]
        return np.stack(low + high, 1)
