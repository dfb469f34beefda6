"""Frames for all networks: truth against the KITTI export's own labels, windows against the networks' own cameras."""

import numpy as np
import pytest

from kdnb.datasets import street_frames as frames
from kdnb.datasets.kitti_boxes import boxes_in_lidar, points_in_boxes
from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.datasets.kitti_labels import read_labels
from kdnb.datasets.kitti_views import objects_to_detect
from kdnb.errors import InputError
from kdnb.metrics.rotated_iou import rotated_ious
from kdnb.viz.explore_kitti import upright
from kdnb.world.annotate import annotate
from kdnb.world.camera import render, scene_camera
from kdnb.world.car_models import MODELS
from kdnb.world.export_kitti import calibration, kitti_camera, label_line


@pytest.fixture(scope="module")
def scene():
    return frames.street(0, 2)


@pytest.fixture(scope="module")
def frame(scene):
    return frames.render_frame(scene, "two")


def test_the_kitti_window_is_what_kittis_camera_takes(scene, frame):
    window = frame.kitti_window()
    image, camera = frame.cut_out(window)
    own = kitti_camera((828, 250))
    assert window == (0, 94, 828, 344) and np.allclose(camera.P2, calibration(own)["P2"])
    rendered = render(scene, camera=own).image
    assert np.abs(image.astype(int) - rendered).mean() < 6  # another noise on the same image
    shifted = frame.cut_out((0, 84, 828, 334))[0]
    assert np.abs(shifted.astype(int) - rendered).mean() > 10


@pytest.mark.parametrize("size", [(160, 96), (160, 120), (320, 180)])
def test_a_street_window_has_the_focal_length_of_the_streets_camera(scene, frame, size):
    window = frame.street_window(size)
    image, camera = frame.cut_out(window)
    zoom = size[0] / image.shape[1]
    assert image.shape[0] * zoom == pytest.approx(size[1], abs=0.5)
    scene.lens = 1.0
    assert camera.P2[0, 0] * zoom == pytest.approx(scene_camera(scene, *size).fx, rel=0.01)
    assert (camera.P2[1, 2] + 0.5) * zoom == pytest.approx(size[1] / 2, rel=0.03)  # its axis is in the middle


def test_the_truth_is_that_of_kittis_labels(scene, frame, tmp_path):
    """Boxes written as label lines by the exporter and read back, against boxes taken from the scene."""
    camera = frames.wide_camera()
    annotations = annotate(scene, render(scene, camera=camera))
    (tmp_path / "000000.txt").write_text("".join(label_line(one, camera) + "\n" for one in annotations))
    theirs = upright(boxes_in_lidar(objects_to_detect(read_labels(tmp_path / "000000.txt")), frame.calibration))
    ours = upright(frame.truth["boxes"])
    overlap = np.array([[rotated_ious(a[None], b[None])[1][0] for b in theirs] for a in ours])
    assert len(ours) >= 5 and (overlap.max(1) > 0.9).all()
    near = np.linalg.norm(frame.truth["boxes"][:, :2], axis=1) < 15
    assert near.any() and points_in_boxes(frame.points, frame.truth["boxes"][near]).any(0).all()


def test_cars_are_of_known_models_and_the_command_means_one(frame):
    assert frame.cars and all(model in {one.name for one in MODELS} for _, model in frame.cars)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box, _ in frame.cars]
    assert areas == sorted(areas, reverse=True)
    assert frame.target is not None and "car" in frame.command


def test_a_narrow_photograph_keeps_the_shape_of_every_window():
    photo = frames.photo_frame("mine", np.zeros((200, 300, 3), np.uint8), 40)
    for window, aspect in ((photo.kitti_window(), 1242 / 375), (photo.street_window((160, 120)), 4 / 3)):
        left, top, right, bottom = window
        assert min(left, top) >= 0 and right <= 300 and bottom <= 200
        assert (right - left) / (bottom - top) == pytest.approx(aspect, rel=0.02)
    assert np.allclose(photo.calibration.P2, guessed_calibration((300, 200), 40).P2)
    assert photo.points is None and photo.truth is None and photo.target is None and photo.cars == []


def test_an_image_too_small_is_refused():
    with pytest.raises(InputError, match="mine: an image of 20x40 pixels, expected at least 32x32"):
        frames.photo_frame("mine", np.zeros((40, 20, 3), np.uint8), 80)


def test_a_drive_comes_nearer_with_one_command():
    first, *rest = frames.drive(0, 1.0, 0.5)
    assert len(rest) == 2 and all(one.command == first.command for one in rest)

    def nearest(frame):
        return np.sort(frame.truth["boxes"][:, 0])[-3:]  # of the farthest, which are seen all the time

    assert np.allclose(nearest(first) - nearest(rest[0]), 0.5, atol=0.02)
    assert [one.name.split(", ")[1] for one in (first, *rest)] == ["0.0 m on", "0.5 m on", "1.0 m on"]


@pytest.mark.parametrize(("metres", "step"), [(1000.0, 1.0), (1.0, 0.0), (0.5, 1.0)])
def test_a_drive_off_the_street_is_refused(metres, step):
    with pytest.raises(InputError, match="expected steps above 0 and at most 25.0 m"):
        next(frames.drive(0, metres, step))
