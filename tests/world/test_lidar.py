"""LiDAR points lie on what they say they hit."""

import numpy as np
import pytest

from kdnb.world.lidar import Lidar, scan
from kdnb.world.scene import make_scene

QUIET = dict(noise=0.0, dropout=0.0)


def test_points_lie_on_ground_or_within_noise_of_a_solid():
    scene, sensor = make_scene(5), Lidar(beams=32, columns=512)
    points = scan(scene, sensor=sensor)[:, :3] + (0, 0, sensor.above)
    off_ground = np.abs(points[:, 2]) > 0.1
    assert 0.2 < off_ground.mean() < 0.95 and points[:, 2].min() > -0.15
    lows = []
    for k in range(len(scene.solids)):  # distance to each solid's oriented bounding box
        cos, sin = np.cos(scene.solids.yaw[k]), np.sin(scene.solids.yaw[k])
        p = points[off_ground] - scene.solids.centre[k]
        p = np.abs(np.stack([cos * p[:, 0] + sin * p[:, 1], cos * p[:, 1] - sin * p[:, 0], p[:, 2]], 1))
        reach = np.abs(scene.solids.inset[k]).max() if (scene.solids.inset[k] < 0).any() else 0
        lows.append(np.linalg.norm(np.maximum(p - scene.solids.size[k] / 2 - (reach, 0, 0), 0), axis=1))
    assert np.min(lows, 0).max() < 5 * sensor.noise


def test_without_noise_a_scan_agrees_with_an_unwindowed_cast():
    from kdnb.world.raycast import cast

    scene, sensor = make_scene(6), Lidar(beams=24, columns=256, reach=1e9, **QUIET)
    rays, _ = sensor.rays()
    everywhere = np.tile([0, 24, 0, 256], (len(scene.solids), 1))
    hits = cast(scene.solids, np.array([0, 0, sensor.above]), rays, everywhere, (24, 256))
    stretch = np.sqrt(1 + rays[2] ** 2)
    ground = np.where(rays[2] < 0, -sensor.above / rays[2], np.inf)
    expected = (np.minimum(hits.distance, ground) * stretch).ravel()
    measured = np.linalg.norm(scan(scene, sensor=sensor)[:, :3], axis=1)
    glass = len(measured) / np.isfinite(expected).sum()
    assert glass > 0.9  # only the dark and glassy are lost
    expected = np.sort(expected[np.isfinite(expected)])
    at = np.searchsorted(expected, measured).clip(1, len(expected) - 1)
    nearest = np.minimum(np.abs(expected[at] - measured), np.abs(expected[at - 1] - measured))
    assert (nearest / measured).max() < 1e-4


def test_span_intensity_and_reach():
    points = scan(make_scene(5), beams=64)
    assert points.dtype == np.float32 and points.shape[1] == 4
    elevation = np.degrees(np.arctan2(points[:, 2], np.linalg.norm(points[:, :2], axis=1)))
    assert elevation.min() == pytest.approx(-24.8, abs=0.1) and elevation.max() <= 2.1
    assert points[:, 3].min() >= 0 and points[:, 3].max() <= 1
    assert np.linalg.norm(points[:, :3], axis=1).max() < 80.5
    np.testing.assert_array_equal(points, scan(make_scene(5), beams=64))


def test_a_sector_looks_ahead_only():
    points = scan(make_scene(5), sensor=Lidar(sector=45, columns=256))
    assert np.abs(np.degrees(np.arctan2(points[:, 1], points[:, 0]))).max() <= 45
