import numpy as np
import pytest

from kdnb.datasets.kitti_augment import (
    View,
    all_views,
    transform_boxes,
    transform_image,
    transform_points,
    transform_projection,
)
from kdnb.datasets.kitti_boxes import corners, points_in_boxes

PROJECTION = np.array([[100.0, -150, 3, 5], [32, 1, -150, 2], [1, 0.01, 0, 0.1]])
BOXES = np.array([[12.0, 3, -0.9, 4.2, 1.7, 1.5, 0.4], [20, -5, -0.8, 0.7, 0.6, 1.7, 2.0]])


@pytest.mark.parametrize("view", all_views().values())
def test_a_view_shows_the_same_street(view):
    points = np.random.default_rng(0).uniform([5, -8, -2, 0], [30, 8, 0, 1], (2000, 4)).astype(np.float32)
    moved, boxes = transform_points(points, view), transform_boxes(BOXES, view)
    # each point stays in its box, with room for rounding to float32
    clear = (
        points_in_boxes(points, BOXES * [1, 1, 1, 0.99, 0.99, 0.99, 1])
        == points_in_boxes(points, BOXES * [1, 1, 1, 1.01, 1.01, 1.01, 1])
    ).all(1)
    assert (points_in_boxes(points, BOXES) == points_in_boxes(moved, boxes))[clear].all()
    assert np.allclose(moved[:, 3], points[:, 3]) and moved.dtype == np.float32
    # each point stays on its pixel, which mirrors
    before, after = pixels(points, PROJECTION), pixels(moved, transform_projection(PROJECTION, view, 208))
    assert np.allclose(after[:, 0], 207 - before[:, 0] if view.flip else before[:, 0], atol=1e-2)
    assert np.allclose(after[:, 1], before[:, 1], atol=1e-2)
    # the front of a box is still its front
    front = corners(BOXES)[:, [0, 1]].mean(1) @ view.matrix.T
    assert np.allclose(corners(boxes)[:, [0, 1]].mean(1), front)


def pixels(points, projection):
    u, v, w = projection @ np.c_[points[:, :3], np.ones(len(points))].T
    return np.stack([u / w, v / w], 1)


def test_views():
    assert len(all_views()) == 18 and "flip-5deg x1.05" in all_views()
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert (transform_image(image, View()) == image).all()
    assert (transform_image(image, View(flip=True))[:, 0] == image[:, -1]).all()
    assert transform_points(np.zeros((0, 4), np.float32), View(True)).shape == (0, 4)
    assert transform_boxes(np.zeros((0, 7)), View(True)).shape == (0, 7)
