"""A spinning LiDAR in the same scene, with the same ray caster."""

from dataclasses import dataclass

import numpy as np

from kdnb.world.raycast import Triple, cast, faces
from kdnb.world.scene import Scene
from kdnb.world.solids import CABIN, LAMP, SEMANTIC, SIGN

TOP, BOTTOM = 2.0, -24.8  # degrees of elevation, the span of KITTI's 64 beams
GROUND_REFLECTANCE = {"road": 0.18, "lane mark": 0.75, "pavement": 0.30, "grass": 0.42}


@dataclass
class Lidar:
    """A sensor at (``ahead``, ``left``, ``above``) in the ego frame, upright. Its frame is the ego frame moved to that
    point: x forward, y left, z up. ``sector`` is the half-angle around straight ahead that is scanned, in degrees."""

    beams: int = 64
    columns: int = 2048
    above: float = 1.73
    reach: float = 80.0
    sector: float = 180.0
    noise: float = 0.02
    dropout: float = 0.04
    ahead: float = 0.0
    left: float = 0.0

    @property
    def origin(self) -> np.ndarray:
        return np.array([self.ahead, self.left, self.above])

    def rays(self) -> tuple[Triple, np.ndarray]:
        """Ego directions (x (1,C), y (1,C), z (B,1)) of unit horizontal length, azimuths (C,) from left to right."""
        half = np.radians(self.sector)
        azimuth = half - (np.arange(self.columns) + 0.5) * (2 * half / self.columns)
        elevation = np.radians(np.linspace(TOP, BOTTOM, self.beams))
        x, y = (np.round(f(azimuth), 9)[None, :].astype(np.float32) for f in (np.cos, np.sin))
        return (x, y, np.round(np.tan(elevation), 9)[:, None].astype(np.float32)), azimuth


def _windows(corners: np.ndarray, sensor: Lidar, azimuth: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """(N, 4) rows and columns of the scan that boxes (N, 8, 3) can cover: azimuth and elevation of their corners.

    A box the sensor stands in, or that straddles straight behind, gets all columns.
    """
    x, y, z = corners[..., 0] - sensor.ahead, corners[..., 1] - sensor.left, corners[..., 2] - sensor.above
    angle = np.arctan2(y, x)
    low, high = angle.min(1), angle.max(1)
    around = high - low > np.pi
    first, last = np.searchsorted(-azimuth, -high - 1e-4), np.searchsorted(-azimuth, -low + 1e-4)
    first, last = np.where(around, 0, first), np.where(around, len(azimuth), last)
    # the box's nearest point may be on an edge or a face, nearer than any corner
    far = np.hypot(x, y).max(1)
    size = np.linalg.norm(corners.max(1) - corners.min(1), axis=1)
    near = np.maximum(far - size, 0.05)
    top = np.where(z.max(1) > 0, z.max(1) / near, z.max(1) / far)
    bottom = np.where(z.min(1) < 0, z.min(1) / near, z.min(1) / far)
    down = -slope
    return np.stack([np.searchsorted(down, -top - 1e-4), np.searchsorted(down, -bottom + 1e-4), first, last], 1)


def scan(scene: Scene, beams: int = 64, sensor: Lidar | None = None) -> np.ndarray:
    """(N, 4) float32 points x, y, z, intensity in the sensor frame, beam by beam from the top one.

    Range noise, dropout (more of it far away and on glass) and intensity (0..1, by material and angle) are sampled
    from the scene's own seed.

    Args:
        beams: such as 64 or 32; ``sensor`` overrides it.
    """
    sensor = sensor or Lidar(beams=beams)
    rays, azimuth = sensor.rays()
    shape = (sensor.beams, sensor.columns)
    solids = scene.solids
    area = _windows(solids.corners, sensor, azimuth, rays[2][:, 0].astype(float))
    hits = cast(solids, sensor.origin, rays, area, shape)
    x, y, z = (np.broadcast_to(a, shape) for a in rays)
    with np.errstate(divide="ignore"):
        ground = np.where(z < 0, np.float32(-sensor.above) / z, np.float32(np.inf))
    flat = np.minimum(hits.distance, ground)
    stretch = np.sqrt(1 + z * z)  # length of a ray of horizontal length 1
    reached = np.flatnonzero((flat * stretch < sensor.reach).ravel())
    direction = np.stack([a.ravel()[reached] for a in (x, y, z)])
    solid, flat, on_solid = (a.ravel()[reached] for a in (hits.solid, flat, hits.distance < ground))
    intensity = _intensity(scene, sensor, direction, flat, solid, on_solid)
    return _measure(scene, sensor, direction, flat, stretch[:, 0][reached // sensor.columns], intensity)


def _intensity(scene, sensor, direction, flat, solid, on_solid):
    solids = scene.solids
    out = np.empty(len(flat), np.float32)
    points = direction * flat + sensor.origin.astype(np.float32)[:, None]
    ground = ~on_solid
    kind = scene.street.ground(*scene.street.from_ego(points[0, ground], points[1, ground]))
    table = np.zeros(len(SEMANTIC), np.float32)
    for name, value in GROUND_REFLECTANCE.items():
        table[SEMANTIC[name]] = value
    out[ground] = table[kind]
    own = solid[on_solid]
    _, normal, _ = faces(solids, own, points[:, on_solid])
    unit = direction[:, on_solid] / np.sqrt((direction[:, on_solid] ** 2).sum(0))
    facing = np.abs((unit * normal).sum(0))
    base = 0.15 + 0.6 * solids.colour.mean(1)
    base = np.where(np.isin(solids.texture, (SIGN, LAMP)), 1.0, base)
    base = np.where(solids.texture == CABIN, 0.12, base)  # mostly glass
    out[on_solid] = base[own].astype(np.float32) * (0.35 + 0.65 * facing)
    return out


def _measure(scene, sensor, direction, flat, stretch, intensity):
    """Add range noise, drop points, and turn distances into points."""
    seed, _, index = scene.seed
    rng = np.random.Generator(np.random.PCG64([seed, 78, index]))
    distance = flat * stretch
    noisy = distance + rng.standard_normal(len(flat), dtype=np.float32) * np.float32(sensor.noise)
    share = sensor.dropout * (0.5 + distance / sensor.reach) + np.where(intensity < 0.08, 0.3, 0)
    kept = rng.uniform(size=len(flat)) >= share
    points = (direction * (noisy / stretch)).T[kept]
    glow = np.clip(intensity[kept] + rng.standard_normal(int(kept.sum()), dtype=np.float32) * np.float32(0.02), 0, 1)
    return np.concatenate([points, np.round(glow, 2)[:, None]], 1).astype(np.float32)
