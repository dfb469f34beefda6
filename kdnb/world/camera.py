"""``render``: image, depth, instance and semantic masks of a scene from one cast of rays."""

from dataclasses import dataclass

import numpy as np

from kdnb.world import shade
from kdnb.world.pinhole import Camera
from kdnb.world.raycast import cast, intersect
from kdnb.world.scene import Scene


def scene_camera(scene: Scene, width: int, height: int) -> Camera:
    """The scene's own camera for an image format."""
    focal = scene.lens * float(np.sqrt(width * height))
    return Camera(width, height, focal, focal, width / 2, height / 2, scene.camera_height, scene.camera_pitch)


@dataclass
class View:
    """A rendered frame. ``image`` uint8 (H, W, 3); ``depth`` float32 (H, W) in metres along the optical axis, inf for
    the sky; ``instance`` int32 (H, W), 0 for scenery; ``semantic`` uint8 (H, W), indices into solids.SEMANTICS."""

    image: np.ndarray
    depth: np.ndarray
    instance: np.ndarray
    semantic: np.ndarray
    camera: Camera


def render(
    scene: Scene, width: int = 160, height: int = 128, camera: Camera | None = None, supersample: int = 2
) -> View:
    """Render a scene.

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


def silhouettes(
    scene: Scene,
    instances: list[int],
    camera: Camera,
    columns: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """(K, R, C) bool: the rays that hit each of K things when it stands alone.

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
    """Exposure, sensor noise and 8 bits. The noise is sampled from the scene's own seed."""
    seed, _, index = scene.seed
    rng = np.random.Generator(np.random.PCG64([seed, 77, index]))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(scene.look.noise)
    return np.clip(image * np.float32(255 * scene.look.exposure) + noise + 0.5, 0, 255).astype(np.uint8)
