"""KITTI roots as people have them: each case gives the right value or one line; noise never gives a traceback."""

import io
import logging
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from damage import damaged, damaged_json, quietly
from hypothesis import given, settings
from hypothesis import strategies as st
from kitti_roots import SMALL, small_root
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.kitti import KittiObject, read_recipe, write_points
from kdnb.datasets.kitti_boxes import box_in_image, boxes_in_lidar
from kdnb.datasets.kitti_check import check_kitti
from kdnb.datasets.kitti_names import frame_files
from kdnb.errors import InputError
from kdnb.metrics.kitti import evaluate_kitti, read_detections, read_ground_truth
from kdnb.models.depth import depth_model

FEW = settings(max_examples=25, deadline=None, derandomize=True)
NAMES = ["000000", "000001", "000002"]


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def label_path(root, name="000000"):
    return root / "training" / "label_2" / f"{name}.txt"


def recode(path, coding):
    path.write_bytes(path.read_text().encode(coding))


def add_lists(root, coding="utf-8", train="000000\n000001\n", val="000002\n"):
    (root / "ImageSets").mkdir()
    for name, text in (("train", train), ("val", val)):
        (root / "ImageSets" / f"{name}.txt").write_bytes(text.encode(coding))


# ---------------------------------------------------------------- accepted as what was meant


def backup(root):
    label_path(root).with_name("000000.txt~").write_text("x")
    label_path(root).with_name("000000 (1).txt").write_text("x")


def thumbs(root):
    label_path(root).with_name("Thumbs.db").write_bytes(b"\0")
    label_path(root).with_name("._000001.txt").write_bytes(b"\0\5\26\7")
    label_path(root).with_name("classes.txt").write_text("Car\n")


def other_images(root):
    for name, suffix in zip(NAMES, (".JPG", ".jpeg", ".PNG"), strict=True):
        path = root / "training" / "image_2" / f"{name}.png"
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("folder", ["label_2", "calib", "lists"])
def test_texts_with_a_mark_are_the_same(tmp_path, folder, coding):
    root = small_root(tmp_path / "kitti")
    before = KittiObject(root)[1]
    labels, calibration = before.labels, before.calibration
    if folder == "lists":
        add_lists(root, coding)
    else:
        for path in (root / "training" / folder).iterdir():
            recode(path, coding)
    data = KittiObject(root)
    assert data.names == (NAMES[:2] if folder == "lists" else NAMES)
    assert data[1].labels == labels and (data[1].calibration.P2 == calibration.P2).all()
    assert not check_kitti(root).faults


@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        (backup, ["label_2: skipped 2 files, no frame's: 000000 (1).txt, 000000.txt~"]),
        (thumbs, ["label_2: skipped 3 files, no frame's: ._000001.txt, Thumbs.db, classes.txt"]),
        (other_images, []),
    ],
)
def test_frames_come_from_frames_files_alone(tmp_path, caplog, change, skipped):
    root = small_root(tmp_path / "kitti")
    change(root)
    with caplog.at_level(logging.WARNING):
        data = KittiObject(root)
    assert data.names == NAMES and data[0].image().shape == (SMALL[1], SMALL[0], 3)
    assert [line.rpartition(f"{root}/training/")[2] for line in caplog.messages[1:]] == skipped
    report = check_kitti(root)
    assert report.counts["all"]["frames"] == 3 and not report.faults
    assert report.notes == [f"{root}/training/{line}" for line in skipped]


def test_frames_that_no_list_names_are_counted(tmp_path):
    root = small_root(tmp_path / "kitti", 5)
    add_lists(root)
    assert check_kitti(root).notes == [f"{root}/training: skipped 2 frames, in no list: 000003, 000004"]
    result = CliRunner().invoke(main, ["data", "check", "kitti", str(root)])
    assert result.exit_code == 0 and f"note: {root}/training: skipped 2 frames, in no list" in result.output


def test_names_of_ones_own_are_frames_where_there_are_no_others(tmp_path):
    for name in ("drive_01.txt", "drive-02.txt", "drive_01.txt.bak", "copy of a.txt"):
        (tmp_path / name).write_text("")
    files, others = frame_files(tmp_path, (".txt",))
    assert list(files) == ["drive-02", "drive_01"] and others == ["copy of a.txt", "drive_01.txt.bak"]
    assert frame_files(tmp_path / "none", (".txt",)) == ({}, [])


# ---------------------------------------------------------------- refused in one line


def in_lidar_frame(root):
    for name in NAMES:
        frame = KittiObject(root)[int(name)]
        boxes = boxes_in_lidar(frame.labels, frame.calibration)
        rows = [line.split() for line in label_path(root, name).read_text().splitlines()]
        for row, box in zip(rows, boxes, strict=True):
            row[11:14] = [f"{value:.2f}" for value in box[:3]]
        label_path(root, name).write_text("".join(" ".join(row) + "\n" for row in rows))


def in_degrees(root):
    rows = [line.split() for line in label_path(root).read_text().splitlines()]
    for row in rows:
        row[3], row[14] = (f"{np.degrees(float(row[k])):.1f}" for k in (3, 14))
    label_path(root).write_text("".join(" ".join(row) + "\n" for row in rows))


def halved(root):
    path = root / "training" / "image_2" / "000000.png"
    Image.open(path).resize((SMALL[0] // 2, SMALL[1] // 2)).save(path)


def doubled(root):
    path = root / "training" / "image_2" / "000000.png"
    Image.open(path).resize((SMALL[0] * 2, SMALL[1] * 2)).save(path)


def cloud(kind):
    def change(root):
        path = root / "training" / "velodyne" / "000000.bin"
        rng = np.random.default_rng(1)
        points = rng.uniform((-60, -40, -2, 0), (60, 40, 2, 1), (4000, 4)).astype(np.float32)
        if kind == "float64":
            path.write_bytes(points.astype("<f8").tobytes())
        elif kind == "five columns":
            path.write_bytes(np.c_[points, rng.integers(0, 32, 4000)].astype("<f4").tobytes())
        elif kind == "three columns":
            path.write_bytes(points[:, :3].tobytes())
        elif kind == "bytes of intensity":
            write_points(path, points * (1, 1, 1, 255))
        elif kind == "millimetres":
            write_points(path, points * (1000, 1000, 1000, 1))
        elif kind == "nan":
            points[17, 2], points[30, 0] = np.nan, np.inf
            write_points(path, points)

    return change


TABLE = {
    "labels in the LiDAR frame": (
        in_lidar_frame,
        3,
        "label_2/000000.txt:1: the 2D box and the projected 3D box overlap by 0.00 (median of 2 objects 0.00), "
        "expected 0.3 or more, as a rule 0.8: x, y, z look like those of the velodyne frame; labels are in the rect "
        "camera frame",
    ),
    "angles in degrees": (
        in_degrees,
        1,
        "label_2/000000.txt:1: alpha is -85.9 (and 3 more), expected radians, -2 pi to 2 pi; these look like degrees",
    ),
    "halved images": (
        halved,
        2,
        "image_2/000000.png: 62 x 19 pixels, but P2 has its centre at 0.98 of the width, expected 0.3 to 0.7",
    ),
    "box outside": (halved, 2, "reaches outside, expected it inside the image of 62 x 19 pixels"),
    "doubled images": (doubled, 1, "248 x 76 pixels, but P2 has its centre at 0.25 of the width, expected 0.3 to 0.7"),
    "float64": (
        cloud("float64"),
        1,
        "% of the points are more than 250 m away, expected x, y, z in metres and intensity as float32; it looks like "
        "float64: write x, y, z, intensity as float32",
    ),
    "five columns": (
        cloud("five columns"),
        1,
        "expected 0..1; it looks like five float32 a point: write x, y, z, intensity as float32",
    ),
    "three columns": (
        cloud("three columns"),
        1,
        "expected 0..1; it looks like three float32 a point: write x, y, z, intensity as float32",
    ),
    "bytes of intensity": (
        cloud("bytes of intensity"),
        1,
        "velodyne/000000.bin: the intensity goes from 0.",
    ),
    "millimetres": (cloud("millimetres"), 1, "% of the points are more than 250 m away, expected x, y, z in metres"),
    "nan": (
        cloud("nan"),
        1,
        "velodyne/000000.bin: point 17 (from 0) is ",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_cannot_be_is_named(tmp_path, case):
    change, count, line = TABLE[case]
    root = small_root(tmp_path / "kitti")
    assert not check_kitti(root).faults
    change(root)
    faults = check_kitti(root).faults
    assert len(faults) == count and any(line in fault for fault in faults), faults
    assert all(fault.startswith(f"{root}/training/") and "\n" not in fault for fault in faults)


def test_what_the_intensity_may_be(tmp_path):
    root = small_root(tmp_path / "kitti")
    cloud("bytes of intensity")(root)
    (fault,) = check_kitti(root).faults
    assert fault.endswith("% outside 0..1), expected 0..1: divide it by 255")


def test_a_cloud_with_a_number_that_is_none_is_not_read(tmp_path):
    root = small_root(tmp_path / "kitti")
    cloud("nan")(root)
    message = error_of(KittiObject(root)[0].points)
    assert "point 17 (from 0)" in message and "and 1 more are not finite, expected x, y, z, intensity" in message


def test_lists_that_share_a_frame_or_repeat_one(tmp_path):
    root = small_root(tmp_path / "kitti")
    add_lists(root, train="000000\n000001\n000000\n", val="000002\n000001\n")
    lists = root / "ImageSets"
    repeated = f"{lists}/train.txt:3: frame 000000 is listed again (first in line 1)"
    shared = f"{lists}/val.txt:2: frame 000001 is in {lists}/train.txt:2 too, expected lists that share no frame"
    assert check_kitti(root).faults == [repeated, shared]
    assert error_of(lambda: KittiObject(root)) == repeated and error_of(lambda: KittiObject(root, "val")) == shared
    (lists / "train.txt").write_text("000000\n../000001\n")
    message = error_of(lambda: KittiObject(root))
    assert message == f"{lists}/train.txt:2: found '../000001', expected the name of a frame, such as 000003"


def test_real_frames_make_sense(real_data):
    if not (real_data / "kitti/training").is_dir():
        pytest.skip("needs the real KITTI frames in ../shared/data")
    report = check_kitti(real_data / "kitti")
    assert not report.faults and not report.notes and report.counts["all"]["frames"] == 6


# ---------------------------------------------------------------- the evaluation's folders


def scored(gt, pred, *options):
    result = CliRunner().invoke(main, ["eval", "kitti", "--gt", str(gt), "--pred", str(pred), *options])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def folders(tmp_path):
    """Labels of three frames, tall enough to count, and detections that fit them."""
    truth = "Car 0.00 0 -1.57 20.00 150.00 140.00 250.00 1.50 1.60 3.90 -10.00 1.70 15.00 -1.57"
    for name, end in (("gt", ""), ("pred", " 0.9")):
        (tmp_path / name).mkdir()
        for frame in NAMES:
            (tmp_path / name / f"{frame}.txt").write_text(f"{truth}{end}\n")
    return tmp_path / "gt", tmp_path / "pred"


@pytest.mark.filterwarnings("ignore:fewer than 41 objects")
@pytest.mark.parametrize("case", ["mark on labels", "mark on detections", "utf-16", "mac", "official results", "stats"])
def test_folders_as_they_are_score_as_clean_ones(folders, case, caplog):
    gt, pred = folders
    want = evaluate_kitti(read_ground_truth(gt), read_detections(pred, NAMES))
    if case in ("mark on labels", "mark on detections", "utf-16"):
        for path in (gt if case == "mark on labels" else pred).iterdir():
            recode(path, "utf-16" if case == "utf-16" else "utf-8-sig")
    elif case == "mac":
        (gt / "._000000.txt").write_bytes(b"\0\5\26\7")
        (pred / "._000000.txt").write_bytes(b"\0\5\26\7")
    else:
        (pred / "stats_car_detection.txt").write_text("0.5 0.5\n")
        if case == "official results":
            (pred / "data").mkdir()
            for name in NAMES:
                (pred / f"{name}.txt").rename(pred / "data" / f"{name}.txt")
    truth = read_ground_truth(gt)
    found = read_detections(pred, truth)
    assert list(truth) == list(found) == NAMES and evaluate_kitti(truth, found) == want
    assert want["Car"]["bbox"]["R40"]["easy"] == pytest.approx(100 * 2 / 40)
    assert ("skipped 1 file, no frame's" in caplog.text) == (case in ("mac", "stats"))


def test_a_list_of_frames_leaves_other_detections_out(folders, tmp_path, caplog):
    gt, pred = folders
    (tmp_path / "val.txt").write_bytes("000001\n000002\n".encode("utf-8-sig"))
    result = scored(gt, pred, "--frames", str(tmp_path / "val.txt"))
    assert result.exit_code == 0 and "2 frames, overlap strict" in result.output
    assert f"{pred}: skipped 1 frame, not asked for: 000000" in caplog.text
    (tmp_path / "val.txt").write_text("000007\n")
    (gt / "000007.txt").write_text("")
    result = scored(gt, pred, "--frames", str(tmp_path / "val.txt"))
    assert result.exit_code == 1 and "000000.txt: detections of an unknown frame" in result.output
    (pred / "000009.txt").write_text("")
    result = scored(gt, pred)
    assert result.exit_code == 1 and "000009.txt: detections of an unknown frame" in result.output


# ---------------------------------------------------------------- noise


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return small_root(tmp_path_factory.mktemp("noise") / "kitti", 1)


FILES = {
    "label_2": label_path,
    "calib": lambda root: root / "training" / "calib" / "000000.txt",
    "image_2": lambda root: root / "training" / "image_2" / "000000.png",
    "velodyne": lambda root: root / "training" / "velodyne" / "000000.bin",
    "lists": lambda root: root / "ImageSets" / "train.txt",
}


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
@FEW
def test_a_damaged_file_is_a_fault_of_its_own(kind, data, place):
    """The checker ends with a report, the reader with what it read, finite, or one line."""
    path = FILES[kind](place)
    (place / "ImageSets").mkdir(exist_ok=True)
    good = path.read_bytes() if kind != "lists" else b"000000\n000001\n000002\n"
    if kind != "lists":
        (place / "ImageSets" / "train.txt").write_text("000000\n")
    path.write_bytes(data.draw(damaged(good)))
    try:
        report = quietly(lambda: check_kitti(place))
        assert report is not None and not any("\n" in fault or "cannot be checked" in fault for fault in report.faults)
        frames = quietly(lambda: KittiObject(place))
        if frames is None:
            return
        frame = frames[0]
        image, points = quietly(frame.image), quietly(frame.points)
        labels, calibration = quietly(lambda: frame.labels), quietly(lambda: frame.calibration)
        assert image is None or image.dtype == np.uint8
        assert points is None or np.isfinite(points).all()
        if labels and calibration is not None:
            boxes = boxes_in_lidar([label for label in labels if label.type != "DontCare"], calibration)
            assert np.isfinite(boxes).all() and all(
                len(box_in_image(box, calibration) or (0,) * 4) == 4 for box in boxes
            )
    finally:
        path.write_bytes(good)


DETECTIONS = b"""Car -1 -1 -1.57 20.00 150.00 140.00 250.00 1.50 1.60 3.90 -10.00 1.70 15.00 -1.57 0.9
Pedestrian -1 -1 0.10 320.00 150.00 350.00 250.00 1.80 0.60 0.90 1.00 1.70 12.00 0.20 -3.5
"""


@given(content=damaged(DETECTIONS), of_truth=st.booleans())
@FEW
def test_damaged_detections_give_scores_or_one_line(content, of_truth, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged detections"
    for name in ("gt", "pred"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    truth = b"\n".join(line.rpartition(b" ")[0] for line in DETECTIONS.splitlines()).replace(b" -1 -1 ", b" 0 0 ")
    (folder / "gt" / "000000.txt").write_bytes(content if of_truth else truth)
    (folder / "pred" / "000000.txt").write_bytes(DETECTIONS if of_truth else content)

    def score():
        labels = read_ground_truth(folder / "gt")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fewer than")
            return evaluate_kitti(labels, read_detections(folder / "pred", labels))

    scores = quietly(score)
    if scores is not None:
        flat = [scores[c][m][r][d] for c in scores for m in scores[c] for r in ("R11", "R40") for d in ("easy", "hard")]
        assert np.isfinite([value for value in flat if value is not None]).mean() >= 0.75  # alpha -10 has no aos
        kinds = [scores[c][m]["R40"]["hard"] for c in scores for m in ("bbox", "bev", "3d")]
        assert np.isfinite(kinds).all() and min(kinds) >= 0 and max(kinds) <= 100


def depth_file(suffix):
    metres = np.random.default_rng(0).uniform(1, 80, (6, 9))
    file = io.BytesIO()
    if suffix == "png":
        Image.fromarray((metres * 256).astype(np.uint16)).save(file, "PNG")
    else:
        np.save(file, metres)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["png", "npy"])
@given(data=st.data())
@FEW
def test_damaged_depth_is_depth_or_one_line(suffix, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / f"damaged {suffix}"
    folder.mkdir(exist_ok=True)
    (folder / f"a.{suffix}").write_bytes(data.draw(damaged(depth_file(suffix))))
    model = depth_model(f"folder:{folder}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depth = quietly(lambda: model(np.zeros((6, 9, 3), np.uint8), "a"))
    assert depth is None or (np.isfinite(depth).all() and depth.min() >= 0)


@given(content=damaged_json({"points": "pseudo", "seed": 0, "depth": "tiny-1"}))
@FEW
def test_damaged_settings_of_pseudo_lidar_are_settings_or_one_line(content, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged settings"
    folder.mkdir(exist_ok=True)
    (folder / "pseudo_lidar.json").write_bytes(content)
    recipe = quietly(lambda: read_recipe(folder / "pseudo_lidar.json"))
    assert recipe is None or isinstance(recipe["points"], str)
