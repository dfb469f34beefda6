"""The pinhole camera, and ``render``: image, depth, instance and semantic masks of a scene from one cast of rays."""

from dataclasses import dataclass

import numpy as np

from kdnb.world import shade
from kdnb.world.raycast import Hits, cast
from kdnb.world.scene import Scene

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

    def rays(self, columns=None, rows=None):
        """Ego directions (x, y, z) through pixel positions, as arrays (R,1), (1,C), (R,1); depth grows by 1 along them.

        ``columns``, ``rows``: positions in pixels, by default all pixel centres.
        """
        columns = np.arange(self.width) + 0.5 if columns is None else columns
        rows = np.arange(self.height) + 0.5 if rows is None else rows
        right = ((columns - self.cx) / self.fx)[None, :]
        down = ((rows - self.cy) / self.fy)[:, None]
        _, axis_down, axis = self.rotation
        x, y, z = axis[0] + down * axis_down[0], -right, axis[2] + down * axis_down[2]
        # an exact zero would divide by zero for a face seen edge on
        return tuple(np.where(a == 0, 1e-7, a).astype(np.float32) for a in (x, y, z))

    def project(self, points: np.ndarray):
        """Pixels (..., 2) and depth (...) of ego points (..., 3); pixels of points with depth <= 0 mean nothing."""
        p = (points - self.origin) @ self.rotation.T
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = np.stack([self.fx * p[..., 0] / p[..., 2] + self.cx, self.fy * p[..., 1] / p[..., 2] + self.cy], -1)
        return uv, p[..., 2]

    def unproject(self, uv: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Ego points (..., 3) of pixels (..., 2) at a depth (...) in metres."""
        right, down = (uv[..., 0] - self.cx) / self.fx, (uv[..., 1] - self.cy) / self.fy
        return np.stack([right, down, np.ones_like(right)], -1) * depth[..., None] @ self.rotation + self.origin

    def bounds(self, corners: np.ndarray) -> np.ndarray:
        """(N, 4) pixel bounds x1, y1, x2, y2 of the part of each box (N, 8, 3) in front of the camera, unclipped.

        Boxes wholly behind get an empty interval (x1 > x2).
        """
        p = (corners - self.origin) @ self.rotation.T
        z = p[..., 2]
        cut = np.flatnonzero((z.min(1) < NEAR) & (z.max(1) > NEAR))
        bounds = self._pixel_bounds(p, z > NEAR)
        if len(cut):
            a, b = p[cut][:, EDGES[:, 0]], p[cut][:, EDGES[:, 1]]
            crosses = (a[..., 2] > NEAR) != (b[..., 2] > NEAR)
            share = (NEAR - a[..., 2]) / np.where(crosses, b[..., 2] - a[..., 2], 1)
            extra = a + share[..., None] * (b - a)
            front = np.concatenate([z[cut] > NEAR, crosses], 1)
            bounds[cut] = self._pixel_bounds(np.concatenate([p[cut], extra], 1), front)
        return bounds

    def _pixel_bounds(self, p, front):
        z = np.where(front, np.maximum(p[..., 2], NEAR), 1)
        u, v = self.fx * p[..., 0] / z + self.cx, self.fy * p[..., 1] / z + self.cy
        low = [np.where(front, a, np.inf).min(1) for a in (u, v)]
        high = [np.where(front, a, -np.inf).max(1) for a in (u, v)]
        return np.stack(low + high, 1)


def windows(bounds: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N, 4) first row, end row, first column, end column of the grid positions inside pixel bounds (N, 4)."""
    slack = 0.02
    return np.stack([np.searchsorted(rows, bounds[:, 1] - slack), np.searchsorted(rows, bounds[:, 3] + slack),
                     np.searchsorted(columns, bounds[:, 0] - slack), np.searchsorted(columns, bounds[:, 2] + slack)], 1)


def scene_camera(scene: Scene, width: int, height: int) -> Camera:
    """The scene's own camera for an image format."""
    focal = scene.lens * float(np.sqrt(width * height))
    return Camera(width, height, focal, focal, width / 2, height / 2, scene.camera_height, scene.camera_pitch)


@dataclass
class View:
    """What a camera sees. ``image`` uint8 (H, W, 3); ``depth`` float32 (H, W) in metres along the optical axis, inf for
    the sky; ``instance`` int32 (H, W), 0 for scenery; ``semantic`` uint8 (H, W), indices into solids.SEMANTICS."""

    image: np.ndarray
    depth: np.ndarray
    instance: np.ndarray
    semantic: np.ndarray
    camera: Camera


def render(scene: Scene, width: int = 160, height: int = 128, camera: Camera | None = None,
           supersample: int = 2) -> View:
    """Draw a scene.

    Args:
        camera: by default the scene's own for this image size.
        supersample: 2 casts rays also half-way between pixel centres and filters with a tent; 1 is faster and jagged.
            Depth and masks are those of the pixel centres either way.
    """
    camera = camera or scene_camera(scene, width, height)
    step, first = (0.5, 0.0) if supersample == 2 else (1.0, 0.5)
    columns = np.arange(first, camera.width + first / 2, step)
    rows = np.arange(first, camera.height + first / 2, step)
    if supersample == 2:
        columns, rows = np.append(columns, camera.width), np.append(rows, camera.height)
    rays = camera.rays(columns, rows)
    solids = scene.solids
    area = windows(camera.bounds(solids.corners()), columns, rows)
    hits = cast(solids, camera.origin, rays, area, (len(rows), len(columns)))
    colour, semantic, distance = shade.shade(scene, camera, rays, hits, (columns, rows), step)
    centres = (slice(1, None, 2), slice(1, None, 2)) if supersample == 2 else (slice(None), slice(None))
    image = _tent(colour) if supersample == 2 else colour
    solid = hits.solid[centres]
    instance = np.where(solid >= 0, solids.instance[solid], 0).astype(np.int32)
    return View(_develop(scene, image), distance[centres], instance, semantic[centres], camera)


def silhouette(scene: Scene, instance: int, camera: Camera, columns: np.ndarray, rows: np.ndarray) -> Hits:
    """One thing cast alone on a grid of pixel positions (which may lie outside the image)."""
    own = scene.solids.take(scene.solids.instance == instance)
    area = windows(camera.bounds(own.corners()), columns, rows)
    return cast(own, camera.origin, camera.rays(columns, rows), area, (len(rows), len(columns)))


def _tent(colour: np.ndarray) -> np.ndarray:
    """(2H+1, 2W+1, 3) to (H, W, 3) with weights 1 2 1 along both axes."""
    rows = colour[0:-2:2] + colour[2::2] + 2 * colour[1:-1:2]
    return (rows[:, 0:-2:2] + rows[:, 2::2] + 2 * rows[:, 1:-1:2]) * np.float32(1 / 16)


def _develop(scene: Scene, image: np.ndarray) -> np.ndarray:
    """Exposure, sensor noise and 8 bits. The noise is drawn from the scene's own seed."""
    seed, _, index = scene.seed
    rng = np.random.Generator(np.random.PCG64([seed, 77, index]))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(scene.look.noise)
    return np.clip(image * np.float32(255 * scene.look.exposure) + noise + 0.5, 0, 255).astype(np.uint8)
