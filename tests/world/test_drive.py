"""Driving on along a street, and the free distance ahead."""

import numpy as np
import pytest
from street_points import visible_points

from kdnb.world.annotate import annotate
from kdnb.world.camera import render
from kdnb.world.car_models import MODELS, model_car
from kdnb.world.drive import advance, free_ahead, make_drive
from kdnb.world.export_kitti import kitti_camera

CAMERA = kitti_camera((414, 125))


def test_what_stood_ahead_comes_nearer_by_what_was_driven():
    """Points that one camera sees have the expected depth in one that stands 3 m farther on."""
    scene = make_drive(3, "test", 2)
    view = render(scene, camera=CAMERA, supersample=1)
    points = visible_points(view)[np.isfinite(view.depth) & (view.depth > 8) & (view.depth < 25)]
    cos, sin = np.cos(scene.street.heading), np.sin(scene.street.heading)
    later = render(advance(scene, 3.0), camera=CAMERA, supersample=1)

    def agreement(step):
        """Share of the points that the later view shows where they would be after a step ahead of so many metres."""
        uv, depth = CAMERA.project(points - np.array([step * cos, -step * sin, 0.0]))
        c, r = np.floor(uv).astype(int).T
        inside = (depth > 1) & (r >= 0) & (r < 125) & (c >= 0) & (c < 414)
        return np.mean(np.abs(later.depth[r[inside], c[inside]] - depth[inside]) < 0.35)

    assert agreement(3.0) > 0.75  # the others are hidden now, or lie at an edge
    assert max(agreement(2.0), agreement(4.0)) < agreement(3.0) - 0.2


def test_the_ground_moves_with_the_things():
    """Lane marks are six metres apart: after six the marks look as before, after three they do not."""
    scene = make_drive(3, "test", 2)
    x, y = np.meshgrid(np.arange(4, 20, 0.2, dtype=np.float32), np.array([scene.street.lane / 2], np.float32))

    def marks(metres):
        street = advance(scene, metres).street
        sx, _ = street.from_ego(x, y)
        return np.mod(sx, 6.0) < 2.6

    assert (marks(6.0) == marks(0.0)).mean() > 0.97 and (marks(3.0) == marks(0.0)).mean() < 0.6


def test_steps_add_up_and_leave_the_street_alone():
    scene = make_drive(1, "test", 5)
    once, twice = advance(scene, 4.0), advance(advance(scene, 1.5), 2.5)
    assert np.allclose(once.solids.centre, twice.solids.centre) and once.street.along == twice.street.along == 4.0
    assert scene.street.along == 0.0 and once.street.zebra == scene.street.zebra


def test_free_ahead_ends_before_the_first_thing_in_the_way():
    scene = make_drive(1, "test", 0)
    scene.things = [thing for thing in scene.things if thing.category == "car"][:1]
    car = scene.things[0]
    x, y, _ = scene.street.to_ego(12.0, scene.street.offset, 0.0)
    car.centre = np.array([x, y, 0.8])
    assert free_ahead(scene) == pytest.approx(12 - np.hypot(*car.size[:2]) / 2, abs=1e-3)
    car.centre = np.array([*scene.street.to_ego(12.0, scene.street.offset + 6, 0.0)[:2], 0.8])
    assert free_ahead(scene) == np.inf


def test_cars_of_models_stand_where_others_would():
    scene = make_drive(0, "test", 3, car=lambda rng: model_car(rng, MODELS[int(rng.integers(len(MODELS)))]))
    cars = [thing for thing in scene.things if thing.category == "car"]
    assert cars and all(car.attributes["model"] in {model.name for model in MODELS} for car in cars)
    view = render(scene, camera=CAMERA, supersample=1)
    assert any(one.thing.category == "car" for one in annotate(scene, view))
