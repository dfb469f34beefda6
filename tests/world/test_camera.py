"""Depth, projection and masks of scenes one can work out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from street_points import visible_points

from kdnb.world.camera import Camera, render, scene_camera
from kdnb.world.scene import Thing, make_scene
from kdnb.world.solids import SEMANTIC, Kit, solids


def boxes_scene(*boxes):
    """A scene with nothing but boxes: (x, y, z, length, width, height, yaw)."""
    placed, things = [], []
    for x, y, z, length, width, height, yaw in boxes:
        kit = Kit("car")
        kit.add((0, 0, z), (length, width, height), (0.8, 0.1, 0.1))
        placed.append((np.array(kit.rows), x, y, yaw, len(things) + 1))
        things.append(Thing(len(things) + 1, "car", {}, np.array([x, y, z]), np.array([length, width, height]), yaw))
    return replace(make_scene(0), solids=solids(placed), things=things)


LEVEL = Camera(100, 80, 100.0, 100.0, 50.0, 40.0, above=1.5)


def test_depth_of_a_known_box():
    # the near face of a 4 m long box centred 12 m ahead is 10 m away
    view = render(boxes_scene((12, 0, 1.5, 4, 2, 2, 0)), camera=LEVEL)
    assert view.depth[40, 50] == pytest.approx(10, abs=1e-4)
    inside = view.instance == 1
    assert np.flatnonzero(inside.any(0))[[0, -1]].tolist() == [40, 59]  # +-1 m at 10 m and f = 100
    assert np.flatnonzero(inside.any(1))[[0, -1]].tolist() == [30, 49]
    assert view.depth[inside] == pytest.approx(10, abs=1e-3)
    assert view.semantic[40, 50] == SEMANTIC["car"]


def test_ground_and_sky_depth():
    view = render(boxes_scene((12, 30, 1.5, 4, 2, 2, 0)), camera=LEVEL)
    # 1.5 m above the ground, row centre 20.5 px below the axis: depth = f h / v
    assert view.depth[60, 50] == pytest.approx(100 * 1.5 / 20.5, rel=1e-4)
    assert np.isinf(view.depth[5]).all() and (view.semantic[5] == SEMANTIC["sky"]).all()


@pytest.mark.parametrize("pitch", [0.0, 0.1, -0.05])
def test_a_ray_through_a_projected_point_meets_it(pitch):
    camera = Camera(160, 128, 140.0, 150.0, 81.0, 60.0, above=1.7, pitch=pitch)
    points = np.random.default_rng(0).uniform((3, -5, 0), (40, 5, 4), (50, 3))
    uv, depth = camera.project(points)
    for point, (u, v), metres in zip(points, uv, depth, strict=True):
        x, y, z = camera.rays(np.array([u]), np.array([v]))
        ray = np.array([x[0, 0], y[0, 0], z[0, 0]]) * metres + camera.origin
        np.testing.assert_allclose(ray, point, atol=1e-4)


def test_depth_lies_on_the_faces_of_the_box():
    scene = boxes_scene((9, 1.0, 1.0, 3, 1.6, 2.0, 0.6))
    view = render(scene, camera=replace(LEVEL, pitch=0.08))
    points = visible_points(view)[view.instance == 1] - scene.things[0].centre
    cos, sin = np.cos(0.6), np.sin(0.6)
    x, y, z = points.T
    local = np.stack([cos * x + sin * y, cos * y - sin * x, z], 1)
    room = np.array([1.5, 0.8, 1.0]) - np.abs(local)
    assert len(points) > 200
    assert np.abs(room.min(1)).max() < 2e-3


def test_bounds_of_a_box_that_reaches_behind_the_camera():
    scene = boxes_scene((2, 2.5, 1.5, 20, 1, 3, 0))
    bounds = LEVEL.bounds(scene.solids.corners)[0]
    assert bounds[0] < 0 and bounds[2] == pytest.approx(50 - 100 * 2 / 12, abs=1e-6)
    assert (render(scene, camera=LEVEL).instance[40, :20] == 1).all()


def test_labels_do_not_depend_on_supersampling_and_images_hardly():
    scene = make_scene(4)
    smooth, plain = render(scene, supersample=2), render(scene, supersample=1)
    assert (smooth.instance != plain.instance).mean() < 1e-3  # ties within rounding
    assert np.abs(smooth.image.astype(float) - plain.image).mean() < 6


@pytest.mark.parametrize("width, height", [(160, 128), (480, 160), (310, 94)])
def test_every_format_gets_its_shape(width, height):
    scene = make_scene(1)
    view = render(scene, width, height)
    assert view.image.shape == (height, width, 3) and view.image.dtype == np.uint8
    assert view.depth.shape == view.instance.shape == view.semantic.shape == (height, width)
    assert scene_camera(scene, width, height).fx == pytest.approx(scene.lens * np.sqrt(width * height))
    assert set(np.unique(view.instance)) <= set(range(len(scene.things) + 1))
