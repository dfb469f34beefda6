"""Occlusion, truncation and boxes of scenes worked out by hand, and against the masks of rendered streets."""

from dataclasses import replace

import numpy as np
import pytest

from kdnb.world.annotate import annotate
from kdnb.world.camera import Camera, render
from kdnb.world.scene import Thing, make_scene
from kdnb.world.solids import Kit, solids

LEVEL = Camera(100, 80, 100.0, 100.0, 50.0, 40.0, above=1.5)


def plates(*boxes):
    """Thin upright boxes facing the camera: (distance, y of the middle, width, height), centred at camera height."""
    placed, things = [], []
    for x, y, width, height in boxes:
        kit = Kit("car")
        kit.add((0, 0, 1.5), (0.01, width, height), (0.8, 0.1, 0.1))
        instance = len(things) + 1
        placed.append((np.array(kit.rows), x + 0.005, y, 0.0, instance))
        things.append(Thing(instance, "car", {}, np.array([x, y, 1.5]), np.array([0.01, width, height]), 0.0))
    scene = replace(make_scene(0), solids=solids(placed), things=things)
    return annotate(scene, render(scene, camera=LEVEL))


def test_half_hidden_by_hand():
    # 2 m wide at 10 m: columns 40..60. The near plate covers columns 50..60 and more.
    near, far = plates((5, -0.75, 1.5, 2), (10, 0, 2, 1))
    assert far.occlusion == pytest.approx(0.5)
    assert far.box == (40, 35, 60, 45) and far.visible_box == (40, 35, 50, 45)
    assert far.pixels == 100 and far.truncation == 0
    assert near.occlusion == 0


def test_truncation_by_hand():
    # 2 m wide at 10 m, its middle at y = 5: columns -10..10, half of it outside
    (plate,) = plates((10, 5, 2, 2))
    assert plate.truncation == pytest.approx(0.5, abs=0.03)
    assert plate.box == (0, 30, 10, 50)
    assert plate.amodal_box[0] == pytest.approx(-10, abs=1) and plate.amodal_box[2] == pytest.approx(10, abs=1)
    assert plate.occlusion == 0


def test_hidden_and_unseen_things_are_left_out():
    annotations = plates((5, 0, 3, 3), (10, 0, 1, 1), (10, 30, 1, 1))
    assert [a.thing.instance for a in annotations] == [1]


@pytest.mark.parametrize("index", range(6))
def test_boxes_agree_with_the_masks(index):
    scene = make_scene(2, "train", index)
    view = render(scene, 160, 128, supersample=1)
    annotations = annotate(scene, view)
    assert {a.thing.instance for a in annotations} == set(np.unique(view.instance)) - {0}
    for a in annotations:
        rows, columns = np.nonzero(view.instance == a.thing.instance)
        assert a.visible_box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert a.pixels == len(rows)
        inner, outer = np.array(a.visible_box), np.array(a.box)
        assert (outer[:2] <= inner[:2]).all() and (outer[2:] >= inner[2:]).all()
        assert (np.array(a.amodal_box[:2]) <= outer[:2]).all() and (np.array(a.amodal_box[2:]) >= outer[2:]).all()
        assert 0 <= a.occlusion < 1 and 0 <= a.truncation < 1
        if a.truncation == 0 and a.amodal_box == a.box:
            uv, depth = view.camera.project(corners(a.thing))
            if depth.min() > 0.5:  # the 3D box, projected, holds the silhouette
                assert (uv.min(0) <= outer[:2] + 1).all() and (uv.max(0) >= outer[2:] - 1).all()


def corners(thing):
    signs = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    x, y, z = (signs * thing.size / 2).T
    cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], 1) + thing.centre
