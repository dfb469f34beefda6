import numpy as np
import pytest
import torch

from kdnb.datasets.kitti_calib import NEAREST, Calibration
from kdnb.datasets.kitti_views import crop
from kdnb.datasets.sparse_depth import sparse_depth
from kdnb.metrics.depth import error_by_distance
from kdnb.models.point_fusion import project, sample_at_points
from kdnb.viz import points as pictures
from kdnb.viz.style import arm_colour

SHAPE = (40, 120)
BOXES = np.array([[20.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.0], [10.0, -3.0, -1.0, 4.0, 2.0, 1.5, 0.3]])
ZERO = np.zeros((3, 4))
CALIBRATION = Calibration(
    ZERO,
    ZERO,
    np.array([[70.0, 0, 60, 0], [0, 70, 20, 0], [0, 0, 1, 0]]),
    ZERO,
    np.eye(3),
    np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
    ZERO,
)


def cloud(count=500):
    rng = np.random.default_rng(0)
    return rng.uniform((1, -15, -2, 0), (45, 15, 1, 1), (count, 4)).astype(np.float32)


def image():
    return np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)


def texts(figure):
    figure.draw_without_rendering()
    return [t.get_text() for ax in figure.axes for t in (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label)]


def test_from_above_forward_is_up_left_is_left_and_a_box_faces_forward():
    figure, ax = pictures.new_figure(4, 5)
    pictures.draw_birds_eye(ax, np.array([[20.0, 5, -1, 0], [-3, 0, 0, 0], [99, 0, 0, 0]]), {"teacher": BOXES[:1]})
    figure.draw_without_rendering()
    at = ax.transData.transform
    assert at((5, 30))[1] > at((5, 10))[1] and at((5, 10))[0] < at((-5, 10))[0]
    assert ax.collections[0].get_offsets().tolist() == [[5, 20]]  # not what is behind or too far
    outline, front = ax.lines
    assert sorted(set(map(tuple, outline.get_xydata()))) == [(4, 18), (4, 22), (6, 18), (6, 22)]
    assert front.get_xydata().tolist() == [[5, 20], [5, 22]] and outline.get_color() == arm_colour("teacher")


def test_points_lie_on_the_image_where_they_project():
    figure, ax = pictures.new_figure(4, 2)
    straight, beside, behind = [10.0, 0, 0, 0], [10.0, 30, 0, 0], [-10.0, 0, 0, 0]
    pictures.draw_over_image(ax, image(), np.array([straight, beside, behind]), CALIBRATION)
    assert ax.collections[0].get_offsets().tolist() == [[60, 20]]
    assert ax.collections[0].get_array().tolist() == [10]


def test_picture_depth_map_detector_and_fusion_agree_on_what_the_image_shows():
    """Points all around the image's border, and from behind the camera to 3 m before it, each in a pixel of its own."""
    u, v = np.meshgrid(np.arange(-3, SHAPE[1] + 3), np.arange(-3, SHAPE[0] + 3))
    u, v, z = u.ravel(), v.ravel(), np.random.default_rng(0).uniform(-1, 3, u.size)
    points = CALIBRATION.rect_to_lidar(CALIBRATION.image_to_rect(u + 0.2, v - 0.2, z))
    points = np.c_[points, np.zeros(len(points))].astype(np.float32)
    size = SHAPE[::-1]
    cropped = crop(points, CALIBRATION, size, (0, -40, -3, 70, 40, 1))
    seen = (u >= 0) & (u < size[0]) & (v >= 0) & (v < size[1]) & (z > NEAREST)
    np.testing.assert_array_equal(cropped, points[seen])
    depth = sparse_depth(points, CALIBRATION, SHAPE)
    assert (depth > 0).sum() == len(cropped) and np.isclose(depth.sum(), cropped[:, 0].sum())
    figure, ax = pictures.new_figure(4, 2)
    pictures.draw_over_image(ax, image(), points, CALIBRATION)
    assert np.allclose(np.sort(ax.collections[0].get_array()), np.sort(cropped[:, 0]), atol=1e-5)
    projection = torch.from_numpy(CALIBRATION.projection()).float().expand(len(points), 3, 4)
    uv, z = project(torch.from_numpy(points[:, :3]), projection)
    lit = sample_at_points(torch.ones(1, 1, *SHAPE), uv, z, torch.zeros(len(points), dtype=torch.long), SHAPE)
    np.testing.assert_array_equal(points[lit[:, 0].numpy() > 0], cropped)


@pytest.mark.parametrize("boxes", [None, {}, {"teacher": BOXES[:0]}, {"ground truth": BOXES, "distilled": BOXES}])
def test_clouds_side_by_side_with_units_and_a_legend(boxes):
    figure = pictures.compare_clouds(image(), CALIBRATION, {"LiDAR": cloud(), "pseudo-LiDAR": cloud(40)}, boxes)
    said = texts(figure)
    assert {"LiDAR: 500 points", "pseudo-LiDAR: 40 points", "x, metres ahead", "depth z, m"} <= set(said)
    legend = figure.axes[2].get_legend()
    shown = [text.get_text() for text in legend.get_texts()] if legend else []
    assert shown == (["ground truth", "distilled"] if boxes and "distilled" in boxes else [])


def test_an_empty_cloud_is_drawn_as_one():
    assert "LiDAR: 0 points" in texts(pictures.compare_clouds(image(), CALIBRATION, {"LiDAR": np.zeros((0, 4))}))


def test_depth_errors_say_their_mean_and_survive_an_image_without_points():
    truth = np.zeros(SHAPE)
    truth[20, 30], truth[20, 31] = 10.0, 20.0
    figure = pictures.depth_errors(image(), np.full(SHAPE, 15.0), truth)
    assert figure.axes[2].collections[0].get_array().tolist() == [0.5, -0.25]
    assert any("mean 38 % of the distance" in text for text in texts(figure))
    assert any("no LiDAR point" in t for t in texts(pictures.depth_errors(image(), np.ones(SHAPE), 0 * truth)))


def test_error_curves_leave_empty_bins_out():
    rows = error_by_distance(np.array([5.0, 26.0]), np.array([4.0, 25.0]))
    line = pictures.error_curves({"tiny": rows}).axes[0].lines[0]
    assert line.get_xydata().tolist() == [[5, 1], [25, 1]]


def test_the_figure_to_turn_is_light_and_has_every_edge():
    figure = pictures.cloud_3d(cloud(pictures.MOST + 10), {"distilled": BOXES, "baseline": np.zeros((0, 7))})
    points, boxes, none = figure.data
    assert len(points.x) == pictures.MOST and len(none.x) == 0
    edges = np.stack([boxes.x, boxes.y, boxes.z], 1).reshape(2, 12, 3, 3)
    assert np.isnan(edges[:, :, 2]).all()
    lengths = np.linalg.norm(edges[:, :, 0] - edges[:, :, 1], axis=-1)
    np.testing.assert_allclose(np.sort(lengths, 1), [4 * [1.5] + 4 * [2.0] + 4 * [4.0]] * 2, atol=0.02)
    assert figure.layout.scene.aspectmode == "data" and len(figure.to_json()) < 600_000
