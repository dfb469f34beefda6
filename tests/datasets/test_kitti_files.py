"""Calibration, labels and boxes of KITTI: inverses, the real frames, one-line errors with file and line."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from kitti_roots import write_calibration

from kdnb.datasets.kitti_boxes import box_in_image, boxes_in_lidar, corners, labels_from_boxes, points_in_boxes
from kdnb.datasets.kitti_calib import NEAREST, Calibration, guessed_calibration, in_image, read_calibration
from kdnb.datasets.kitti_labels import KittiLabel, read_labels, write_labels
from kdnb.errors import InputError


def calibration(offset=(45.0, 0.2, 0.003)):
    p2 = np.array([[720.0, 0, 610, offset[0]], [0, 720, 173, offset[1]], [0, 0, 1, offset[2]]])
    small = 0.01
    r0 = np.array([[np.cos(small), np.sin(small), 0], [-np.sin(small), np.cos(small), 0], [0, 0, 1]])
    tr = np.array([[0.0, -1, 0, -0.01], [0, 0, -1, -0.08], [1, 0, 0, -0.27]])
    return Calibration(p2, p2, p2, p2, r0, tr, np.eye(4)[:3])


@pytest.fixture
def kitti(real_data):
    folder = real_data / "kitti" / "training"
    if not folder.is_dir():
        pytest.skip("needs the real KITTI frames in ../shared/data")
    return folder


def error_of(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- calibration


def test_projection_and_its_inverses():
    rng, c = np.random.default_rng(0), calibration()
    rect = rng.uniform((-20, -2, 2), (20, 3, 70), (200, 3))
    uv = c.rect_to_image(rect)
    np.testing.assert_allclose(uv[:, 0], (720 * rect[:, 0] + 610 * rect[:, 2] + 45) / (rect[:, 2] + 0.003))
    np.testing.assert_allclose(c.image_to_rect(*uv.T, rect[:, 2]), rect, atol=1e-9)
    lidar = c.rect_to_lidar(rect)
    np.testing.assert_allclose(c.lidar_to_rect(lidar), rect, atol=1e-9)
    uv2, depth = c.lidar_to_image(lidar)
    np.testing.assert_allclose(uv2, uv)
    np.testing.assert_allclose(depth, rect[:, 2])
    homogeneous = np.c_[lidar, np.ones(200)] @ c.projection().T
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], uv)


def test_the_offset_of_camera_2_is_six_centimetres():
    c, bare = calibration(), calibration((0, 0, 0))
    shift = bare.image_to_rect([610.0], [173.0], [10.0]) - c.image_to_rect([610.0], [173.0], [10.0])
    assert shift[0, 0] == pytest.approx(45 / 720, abs=0.005)


def test_a_sheared_projection_is_inverted_too():
    c = calibration()
    c.P2[0, 1], c.P2[1, 0], c.P2[2, :2] = 3.0, -2.0, (0.002, -0.001)
    rect = np.array([[4.0, 1.0, 20.0], [-3, 0.5, 9]])
    np.testing.assert_allclose(c.image_to_rect(*c.rect_to_image(rect).T, rect[:, 2]), rect, atol=1e-9)


def test_nothing_behind_the_camera_is_in_the_image():
    assert np.isnan(calibration().rect_to_image(np.array([[0.0, 0, -5], [0, 0, -0.003]]))).all()
    assert calibration().rect_to_image(np.zeros((0, 3))).shape == (0, 2)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_an_image_shows_what_falls_on_its_pixels(kind):
    """Half a pixel around the centres of the outer ones, which are 0 and 99, 0 and 39."""
    inside = [(-0.5, 0.0), (0.0, -0.5), (99.4, 39.4)]
    outside = [(-0.6, 5.0), (99.5, 5.0), (5.0, -0.6), (5.0, 39.5), (np.nan, np.nan)]
    uv, depth = kind([*inside, *outside, (5.0, 5.0), (5.0, 5.0)]), kind([9.0] * 8 + [NEAREST, 0.9 * NEAREST])
    assert in_image(uv, depth, (100, 40)).tolist() == [True] * 3 + [False] * 5 + [True, False]


def test_calibration_files_come_back(tmp_path):
    write_calibration(tmp_path / "c.txt", calibration())
    back = read_calibration(tmp_path / "c.txt")
    for field in dataclasses.fields(Calibration):
        np.testing.assert_allclose(getattr(back, field.name), getattr(calibration(), field.name), atol=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("Tr_velo_to_cam", "Tr_velo"), "c.txt: no line Tr_velo_to_cam, expected 12 numbers"),
        (lambda t: t.replace("P2: 7.2", "P2: seven"), "c.txt:3: P2 has 12 values"),
        (lambda t: t.replace("R0_rect: ", "R0_rect: 1 "), "c.txt:5: R0_rect has 10 values"),
        (lambda t: "", "c.txt: no line P2"),
        (
            lambda t: re.sub("R0_rect: .*", "R0_rect:" + " 0" * 9, t),
            "R0_rect has the determinant 0, expected a rotation",
        ),
    ],
)
def test_calibration_errors(tmp_path, change, message):
    path = tmp_path / "c.txt"
    write_calibration(path, calibration())
    path.write_text(change(path.read_text()))
    assert message in error_of(read_calibration, path)


def test_a_guessed_calibration_spans_its_field_of_view():
    guessed = guessed_calibration((201, 101), fov=90)
    # 10 m ahead of the camera and 10 m to either side, which is 10.27 m ahead of the LiDAR
    uv, depth = guessed.lidar_to_image(np.array([[10.27, 10, -0.08], [10.27, -10, -0.08], [10.27, 0, -0.08]]))
    assert np.allclose(uv, [[-0.5, 50], [200.5, 50], [100, 50]]) and np.allclose(depth, 10)
    assert "fov is 200" in error_of(guessed_calibration, (201, 101), 200)


def test_calibration_missing(tmp_path):
    assert "no such file" in error_of(read_calibration, tmp_path / "c.txt")


# ---------------------------------------------------------------- labels

CAR = "Car 0.25 1 -1.50 100.00 150.50 200.00 220.00 1.50 1.60 4.00 -2.00 1.70 15.00 -1.63"
DONT = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def test_labels_come_back_as_they_were(tmp_path):
    (tmp_path / "a.txt").write_text(f"{CAR}\n{DONT}\n\n")
    labels = read_labels(tmp_path / "a.txt")
    assert labels[0] == KittiLabel("Car", 0.25, 1, -1.5, (100, 150.5, 200, 220), 1.5, 1.6, 4, -2, 1.7, 15, -1.63)
    assert labels[1].type == "DontCare" and labels[1].z == -1000
    write_labels(tmp_path / "b.txt", labels)
    assert (tmp_path / "b.txt").read_text() == f"{CAR}\n{DONT}\n"


def test_detections_have_a_score(tmp_path):
    (tmp_path / "a.txt").write_text(f"{CAR} 0.875\n")
    labels = read_labels(tmp_path / "a.txt", scores=True)
    assert labels[0].score == 0.875
    write_labels(tmp_path / "b.txt", labels)
    assert read_labels(tmp_path / "b.txt", scores=True) == labels
    (tmp_path / "empty.txt").write_text("")
    assert read_labels(tmp_path / "empty.txt", scores=True) == []
    (tmp_path / "odd.txt").write_text(CAR.replace("0.25 1", "9 9") + " 0.5\n")
    assert read_labels(tmp_path / "odd.txt", scores=True)[0].occluded == 9  # the official tool reads past it
    (tmp_path / "turned.txt").write_text(CAR.replace("200.00", "20.00") + " 0.5\n")
    assert read_labels(tmp_path / "turned.txt", scores=True)[0].bbox[2] == 20  # and counts a false alarm


@pytest.mark.parametrize(
    ("line", "scores", "message"),
    [
        (CAR.rsplit(" ", 1)[0], False, "a.txt:2: 14 fields, expected 15"),
        (CAR, True, "a.txt:2: 15 fields, expected 16"),
        (CAR + " 0.5", False, "a.txt:2: 16 fields, expected 15"),
        (CAR.replace("Car", "car"), False, "a.txt:2: type is 'car', expected one of Car, Van"),
        (CAR.replace("15.00", "far"), False, "a.txt:2: z is 'far', expected a number"),
        (CAR.replace("15.00", "nan"), False, "a.txt:2: z is 'nan', expected a number"),
        (CAR.replace("15.00", "1e300"), False, "a.txt:2: z is 1e300, expected a number up to 1e+06"),
        (CAR.replace("0.25 1", "0.25 7"), False, "a.txt:2: occluded is 7"),
        (CAR.replace("200.00", "20.00"), False, "a.txt:2: box 100 150.5 20 220"),
    ],
)
def test_label_errors_name_file_and_line(tmp_path, line, scores, message):
    (tmp_path / "a.txt").write_text(f"{CAR}{' 0.5' * scores}\n{line}\n")
    assert message in error_of(read_labels, tmp_path / "a.txt", scores)


def test_label_file_missing(tmp_path):
    assert "no such file" in error_of(read_labels, tmp_path / "a.txt")


# ---------------------------------------------------------------- boxes


def test_labels_to_boxes_by_hand():
    straight = dataclasses.replace(calibration(), R0=np.eye(3))
    ahead = KittiLabel("Car", 0, 0, 0, (0, 0, 1, 1), 1.5, 1.6, 4, -2, 1.7, 15, -np.pi / 2)
    box = boxes_in_lidar([ahead], straight)[0]
    # forward 15 + 0.27, left 2 - 0.01, up -(1.7 - 0.75) - 0.08; faces away from the camera: yaw 0
    np.testing.assert_allclose(box, [15.27, 1.99, -1.03, 4, 1.6, 1.5, 0], atol=1e-9)
    assert boxes_in_lidar([], straight).shape == (0, 7)


def test_boxes_and_labels_are_inverse():
    rng, c = np.random.default_rng(1), calibration()
    boxes = np.c_[
        rng.uniform((8, -4, -1), (50, 4, 0), (40, 3)), rng.uniform(0.5, 4, (40, 3)), rng.uniform(-np.pi, np.pi, 40)
    ]
    labels = labels_from_boxes(boxes, ["Car"] * 40, None, c, (1242, 375))
    assert len(labels) == 40
    np.testing.assert_allclose(boxes_in_lidar(labels, c), boxes, atol=1e-3)
    for label in labels:
        assert np.cos(label.alpha - label.rotation_y + np.arctan2(label.x, label.z)) == pytest.approx(1)
        assert 0 <= label.bbox[0] < label.bbox[2] <= 1241 and 0 <= label.bbox[1] < label.bbox[3] <= 374


def test_boxes_behind_and_beside_the_image_have_no_label():
    boxes = np.array([[-10.0, 0, -1, 4, 2, 1.5, 0], [10, 30, -1, 4, 2, 1.5, 0], [10, 0, -1, 4, 2, 1.5, 0]])
    labels = labels_from_boxes(boxes, ["Car", "Van", "Truck"], [0.1, 0.2, 0.3], calibration(), (1242, 375))
    assert [(b.type, b.score) for b in labels] == [("Truck", 0.3)]


def test_a_box_around_the_camera_is_cut_and_clipped():
    box = np.array([2.0, 0.5, -1, 6, 2, 1.5, 0])
    left, _, right, bottom = box_in_image(box, calibration())
    assert left < 0 and bottom > 375 and np.isfinite([left, right]).all()
    (label,) = labels_from_boxes(box, ["Car"], None, calibration(), (1242, 375))
    assert label.bbox[3] == 374 and 0 < label.truncated < 1


def test_corners_and_points_on_the_edge():
    box = np.array([[1.0, 2, 3, 4, 2, 1, np.pi / 2]])
    points = corners(box)[0]
    np.testing.assert_allclose(points[0], [0, 4, 2.5], atol=1e-12)  # front left of a box that looks left
    np.testing.assert_allclose(points[4] - points[0], [0, 0, 1])
    assert points_in_boxes(points, box).all()
    assert not points_in_boxes(points + (points - box[0, :3]) * 1e-3, box).any()
    assert points_in_boxes(np.zeros((0, 4), np.float32), box).shape == (0, 1)
    assert points_in_boxes(points, np.zeros((0, 7))).shape == (8, 0)


# ---------------------------------------------------------------- the real frames


@pytest.mark.parametrize("name", [f"{k:06d}" for k in range(6)])
def test_real_labels_survive_the_way_through_boxes(kitti, name):
    c = read_calibration(kitti / "calib" / f"{name}.txt")
    labels = [b for b in read_labels(kitti / "label_2" / f"{name}.txt") if b.type != "DontCare"]
    back = labels_from_boxes(boxes_in_lidar(labels, c), [b.type for b in labels], None, c, (1242, 375))
    for old, new in zip(labels, back, strict=True):
        np.testing.assert_allclose([new.x, new.y, new.z], [old.x, old.y, old.z], atol=1e-6)
        assert abs(np.angle(np.exp(1j * (new.rotation_y - old.rotation_y)))) < 1e-3
        assert abs(np.angle(np.exp(1j * (new.alpha - old.alpha)))) < 0.02  # printed with two decimals
        np.testing.assert_allclose(new.bbox, old.bbox, atol=12)
