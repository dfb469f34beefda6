"""The pinhole camera, and ``render``: image, depth, instance and semantic masks of a scene from one cast of rays."""

from dataclasses import dataclass

import numpy as np

from kdnb.world import shade
from kdnb.world.raycast import cast, intersect
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

    def to_camera(self, points: np.ndarray):
        """x, y, z (...) in the camera frame of ego points (..., 3); written out, as BLAS rounds as it pleases."""
        up, (_, (sin, _, cos), _) = points[..., 2] - self.above, -self.rotation
        return -points[..., 1], -sin * points[..., 0] - cos * up, cos * points[..., 0] - sin * up

    def project(self, points: np.ndarray):
        """Pixels (..., 2) and depth (...) of ego points (..., 3); pixels of points with depth <= 0 mean nothing."""
        x, y, z = self.to_camera(points)
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = np.stack([self.fx * x / z + self.cx, self.fy * y / z + self.cy], -1)
        return uv, z

    def unproject(self, uv: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Ego points (..., 3) of pixels (..., 2) at a depth (...) in metres."""
        right, down = (uv[..., 0] - self.cx) / self.fx, (uv[..., 1] - self.cy) / self.fy
        return np.stack([right, down, np.ones_like(right)], -1) * depth[..., None] @ self.rotation + self.origin

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


def render(
    scene: Scene, width: int = 160, height: int = 128, camera: Camera | None = None, supersample: int = 2
) -> View:
    """Draw a scene.

    Args:
        camera: by default the scene's own for this image size.
        supersample: 2 also samples the corners of pixels, which smooths edges; 1 is faster and jagged. Depth and masks
            are those of the pixel centres either way.
    """
    camera = camera or scene_camera(scene, width, height)
    h, w = camera.height, camera.width
    fine, light = supersample == 2, shade.ground_light(scene, camera)
    samples, lights = [_cast_grid(scene, camera, np.arange(w) + 0.5, np.arange(h) + 0.5)], [light.reshape(2, -1)]
    if fine:
        samples.append(_cast_grid(scene, camera, np.arange(w + 1.0), np.arange(h + 1.0)))
        lights.append(_at_corners(light).reshape(2, -1))
    # pixel centres first, then, when supersampling, pixel corners
    directions, reach, solid = (np.concatenate(parts, -1) for parts in zip(*samples, strict=True))
    light = np.concatenate(lights, 1)
    colour, semantic, distance = shade.shade(scene, camera, directions, reach, solid, light)
    n = h * w
    image = colour[:, :n].reshape(3, h, w)
    if fine:  # quincunx: half a pixel's value from its centre, an eighth from each corner
        c = colour[:, n:].reshape(3, h + 1, w + 1)
        image = image * 0.5 + (c[:, :-1, :-1] + c[:, 1:, :-1] + c[:, :-1, 1:] + c[:, 1:, 1:]) * np.float32(0.125)
    on_solid = (solid >= 0) & (distance == reach)
    instance = np.where(on_solid, scene.solids.instance[solid], 0).astype(np.int32)
    instance, distance, semantic = (a[:n].reshape(h, w) for a in (instance, distance, semantic))
    return View(_develop(scene, image.transpose(1, 2, 0)), distance, instance, semantic, camera)


def _cast_grid(scene, camera, columns, rows):
    """Directions (3, M), distance (M,) and solid (M,) of the rays through a grid of pixel positions."""
    rays, shape = camera.rays(columns, rows), (len(rows), len(columns))
    hits = cast(scene.solids, camera.origin, rays, camera.windows(scene.solids.corners, columns, rows), shape)
    directions = np.stack([np.broadcast_to(a, shape).ravel() for a in rays])
    return directions, hits.distance.ravel(), hits.solid.ravel()


def silhouettes(scene: Scene, instances: list[int], camera: Camera, columns=None, rows=None) -> np.ndarray:
    """(K, R, C) bool: which rays each of K things meets, as if nothing else were there.

    ``columns``, ``rows``: pixel positions of the grid (they may lie outside the image), by default all pixel centres.
    """
    columns = np.arange(camera.width) + 0.5 if columns is None else columns
    rows = np.arange(camera.height) + 0.5 if rows is None else rows
    layer = np.full(len(scene.things) + 1, -1)
    layer[instances] = np.arange(len(instances))
    own = scene.solids.take(layer[scene.solids.instance] >= 0)
    masks = np.zeros((len(instances), len(rows), len(columns)), bool)
    origin, rays = tuple(camera.origin.astype(np.float32)), camera.rays(columns, rows)

    def rays_of(r, c):
        return origin, (rays[0][r, 0], rays[1][0, c], rays[2][r, 0])

    for r, c, _, solid in intersect(own, camera.windows(own.corners, columns, rows), rays_of):
        masks[layer[own.instance[solid]], r, c] = True
    return masks


def _at_corners(maps: np.ndarray) -> np.ndarray:
    """(K, H, W) at pixel centres to (K, H+1, W+1) at pixel corners."""
    m = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return (m[:, :-1, :-1] + m[:, 1:, :-1] + m[:, :-1, 1:] + m[:, 1:, 1:]) * np.float32(0.25)


def _develop(scene: Scene, image: np.ndarray) -> np.ndarray:
    """Exposure, sensor noise and 8 bits. The noise is drawn from the scene's own seed."""
    seed, _, index = scene.seed
    rng = np.random.Generator(np.random.PCG64([seed, 77, index]))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(scene.look.noise)
    return np.clip(image * np.float32(255 * scene.look.exposure) + noise + 0.5, 0, 255).astype(np.uint8)
