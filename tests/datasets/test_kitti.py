"""KittiObject and its checker: real and hand-made roots, variants of the layout, every fault in one line."""

import logging
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.kitti import KittiObject, read_points, write_points
from kdnb.datasets.kitti_boxes import boxes_in_lidar, points_in_boxes
from kdnb.datasets.kitti_calib import in_image
from kdnb.datasets.kitti_check import check_kitti
from kdnb.errors import InputError

CALIB = """P2: 720 0 610 45 0 720 173 0.2 0 0 1 0.003
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
"""
CAR = "Car 0.00 0 -1.50 464.42 181.43 556.79 267.43 1.50 1.60 4.00 -2.00 1.70 15.00 -1.63\n"
COUNTS = ([376], [70, 9, 18], [1351, 67], [680], [77, 26], [70])  # points in the boxes of the real frames
DONT = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n"


def add_frame(root, side, name, size=(1242, 375), points=5, labels=CAR, cloud="velodyne"):
    folder = root / side
    for sub in ("image_2", cloud, "calib", "label_2"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(folder / "image_2" / f"{name}.png")
    write_points(folder / cloud / f"{name}.bin", np.full((points, 4), 0.5))
    (folder / "calib" / f"{name}.txt").write_text(CALIB)
    if labels is not None:
        (folder / "label_2" / f"{name}.txt").write_text(labels)


def add_list(root, split, names):
    (root / "ImageSets").mkdir(exist_ok=True)
    (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "kitti"
    add_frame(root, "training", "000000")
    add_frame(root, "training", "000003", size=(1224, 370), labels=CAR + DONT)
    add_frame(root, "training", "000007", labels=None)
    add_frame(root, "testing", "000000", points=2, labels=None)
    add_list(root, "train", ["000003", "000000"])
    add_list(root, "val", ["000007"])
    add_list(root, "test", ["000000"])
    return root


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what comes out


def test_frames(root):
    train = KittiObject(root)
    assert len(train) == 2 and [f.name for f in train] == ["000003", "000000"]  # the list's order
    frame = train[0]
    image = frame.image()
    assert image.shape == (370, 1224, 3) and image.dtype == np.uint8 and frame.image_size == (1224, 370)
    assert frame.points().shape == (5, 4) and frame.points().dtype == np.float32
    assert [label.type for label in frame.labels] == ["Car", "DontCare"]
    assert frame.calibration.P2[0, 3] == 45 and not frame.calibration.P0.any()


def test_frames_without_labels_are_not_frames_without_objects(root):
    assert KittiObject(root, "val")[0].labels is None and KittiObject(root, "test")[0].labels is None
    (root / "training/label_2/000007.txt").write_text("")
    assert KittiObject(root, "val")[0].labels == []


def test_test_frames_are_those_in_testing(root):
    frame = KittiObject(root, "test")[0]
    assert frame.name == "000000" and len(frame.points()) == 2
    (root / "testing_label_2").mkdir()
    (root / "testing_label_2/000000.txt").write_text(CAR)
    assert len(KittiObject(root, "test")[0].labels) == 1


def test_reduced_and_pseudo_clouds(root, tmp_path):
    (root / "training/velodyne").rename(root / "training/velodyne_reduced")
    assert len(KittiObject(root)[0].points()) == 5
    for name in ("000000", "000003"):
        (root / "training/pseudo").mkdir(exist_ok=True)
        write_points(root / f"training/pseudo/{name}.bin", np.zeros((7, 4)))
    assert len(KittiObject(root, points="pseudo")[0].points()) == 7
    shutil.move(root / "training/pseudo", tmp_path / "run/training")
    assert len(KittiObject(root, points=tmp_path / "run")[0].points()) == 7
    assert len(KittiObject(root, points=str(tmp_path / "run/training"))[0].points()) == 7
    images_only = KittiObject(root, points=None)[0]
    assert images_only.image().shape and "points=None" in error_of(images_only.points)


def test_an_empty_cloud_has_four_columns(tmp_path):
    write_points(tmp_path / "a.bin", np.zeros((0, 4)))
    assert (tmp_path / "a.bin").stat().st_size == 0 and read_points(tmp_path / "a.bin").shape == (0, 4)


def test_a_root_without_lists_is_every_split(root, caplog):
    shutil.rmtree(root / "ImageSets")
    with caplog.at_level(logging.WARNING):
        assert [len(KittiObject(root, split)) for split in ("train", "val", "test")] == [2, 2, 2]
    assert "no ImageSets: all 2 frames" in caplog.text and len(caplog.records) == 3
    shutil.rmtree(root / "training/label_2")
    assert len(KittiObject(root)) == 3  # then all images


# ---------------------------------------------------------------- what is refused


def test_missing_files_are_named_with_their_line(root):
    (root / "training/image_2/000000.png").unlink()
    assert "train.txt:2: frame 000000 has no image, expected" in error_of(lambda: KittiObject(root))
    add_list(root, "train", ["000003"])
    (root / "training/velodyne/000003.bin").unlink()
    assert "train.txt:1: frame 000003 has no cloud" in error_of(lambda: KittiObject(root))
    (root / "training/calib/000003.txt").unlink()
    assert "frame 000003 has no calibration" in error_of(lambda: KittiObject(root))


def test_roots_splits_and_folders_that_are_not_there(root, tmp_path):
    assert "no frames" in error_of(lambda: KittiObject(tmp_path / "nowhere"))
    assert "split is 'dev', expected one of train" in error_of(lambda: KittiObject(root, "dev"))
    assert "trainval.txt: no such list" in error_of(lambda: KittiObject(root, "trainval"))
    assert "pseudo: no such folder, expected point clouds" in error_of(lambda: KittiObject(root, points="pseudo"))
    outside = error_of(lambda: KittiObject(root, points=tmp_path / "made"))
    assert "made/training: no such folder, expected point clouds" in outside
    add_list(root, "val", [])
    assert "val.txt: no frames" in error_of(lambda: KittiObject(root, "val"))


def test_broken_files(root):
    frame = KittiObject(root)[1]
    frame.points_path.write_bytes(b"x" * 40)
    assert "000000.bin: 40 bytes are no multiple of 16" in error_of(frame.points)
    frame.points_path.unlink()
    assert "000000.bin: no such file" in error_of(frame.points)
    frame.calibration_path.write_text(CALIB.replace("Tr_velo_to_cam", "Tr"))
    assert "000000.txt: no line Tr_velo_to_cam" in error_of(lambda: frame.calibration)
    frame.label_path.write_text(CAR + CAR.rsplit(" ", 1)[0])
    assert "000000.txt:2: 14 fields, expected 15" in error_of(lambda: frame.labels)
    content = frame.image_path.read_bytes()
    frame.image_path.write_bytes(content[: len(content) // 2])
    assert "000000.png: cannot be decoded" in error_of(frame.image)
    frame.image_path.write_text("no image")
    assert "000000.png: not an image, expected a PNG file" in error_of(frame.image)
    assert "not an image" in error_of(lambda: frame.image_size)


# ---------------------------------------------------------------- checker


def test_checker_counts_and_names_every_fault(root):
    report = check_kitti(root)
    assert not report.faults and list(report.counts) == ["train", "val", "test"]
    assert report.counts["train"]["image sizes"] == 2 and report.counts["val"]["with labels"] == 0
    assert report.types["train"]["Car"] == 2 and report.types["train"]["DontCare"] == 1
    assert report.valid["train"]["Car", "easy"] == 2 and report.valid["val"]["Car", "hard"] == 0
    (root / "training/velodyne/000000.bin").write_bytes(b"123")
    (root / "training/velodyne/000003.bin").write_bytes(np.full(4, np.nan, np.float32).tobytes())
    (root / "training/label_2/000000.txt").write_text("Car")
    (root / "testing/calib/000000.txt").unlink()
    report = check_kitti(root)
    assert len(report.faults) == 4 and not any("\n" in fault for fault in report.faults)
    assert "4 faults" in str(report)


def test_checker_names_every_missing_file_and_unknown_types(root):
    for name in ("000000", "000003"):
        (root / f"training/velodyne/{name}.bin").unlink()
    (root / "training/label_2/000003.txt").write_text(CAR + CAR.replace("Car", "car"))
    faults = "\n".join(check_kitti(root).faults)
    assert "000000.bin: no such file" in faults and "000003.bin: no such file" in faults
    assert "000003.txt:2: type is 'car', expected one of Car, Van" in faults


def test_checker_on_the_command_line(root):
    result = CliRunner().invoke(main, ["data", "check", "kitti", str(root)])
    assert result.exit_code == 0 and "no faults" in result.output
    assert "Pedestrian moderate" in result.output and "Person_sitting" in result.output
    (root / "training/velodyne/000000.bin").write_bytes(b"123")
    result = CliRunner().invoke(main, ["data", "check", "kitti", str(root)])
    assert result.exit_code == 1 and "1 fault" in result.output
    result = CliRunner().invoke(main, ["data", "check", "kitti", str(root / "nowhere")])
    assert result.exit_code == 1 and "no frames" in result.output and "Traceback" not in result.output


def test_making_on_the_command_line(tmp_path):
    small = ["--train", "1", "--val", "1", "--test", "1", "--size", "320x97"]
    result = CliRunner().invoke(main, ["data", "make", "kitti", "--out", str(tmp_path / "k"), *small])
    assert result.exit_code == 0 and len(KittiObject(tmp_path / "k", "test")) == 1


# ---------------------------------------------------------------- the real frames


@pytest.fixture
def frames(real_data):
    if not (real_data / "kitti/training").is_dir():
        pytest.skip("needs the real KITTI frames in ../shared/data")
    return KittiObject(real_data / "kitti", "val")


def test_real_frames(frames):
    assert [f.name for f in frames] == [f"{k:06d}" for k in range(6)]
    assert {f.image_size for f in frames} == {(1242, 375), (1224, 370)}
    assert frames[0].image().shape == (370, 1224, 3)
    sizes = [f.points_path.stat().st_size for f in frames]
    assert [len(f.points()) for f in frames] == [s // 16 for s in sizes]
    assert sum(label.type == "DontCare" for f in frames for label in f.labels) == 15


@pytest.mark.parametrize(("index", "expected"), list(enumerate(COUNTS)))
def test_points_that_the_image_shows_in_real_boxes(frames, index, expected):
    """LiDAR projected into the image, cut to it, counted inside each label's 3D box, edges inclusive; and those inside
    lie within the 2D box that was annotated by hand around the object."""
    frame = frames[index]
    points = frame.points()
    uv, depth = frame.calibration.lidar_to_image(points[:, :3])
    visible = in_image(uv, depth, frame.image_size)
    labels = [label for label in frame.labels if label.type != "DontCare"]
    inside = points_in_boxes(points[visible], boxes_in_lidar(labels, frame.calibration))
    np.testing.assert_allclose(inside.sum(0), expected, rtol=0.01, atol=2)
    for label, on_object in zip(labels, inside.T, strict=True):
        left, top, right, bottom = np.add(label.bbox, (-6, -6, 6, 6))
        in_box = ((uv[visible][on_object] >= (left, top)) & (uv[visible][on_object] <= (right, bottom))).all(1)
        assert in_box.mean() > 0.97
