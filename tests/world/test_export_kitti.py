"""The KITTI set: official layout, LiDAR on the objects' masks, labels that say what the images show."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdnb.datasets.kitti import KittiObject
from kdnb.datasets.kitti_boxes import box_in_image, boxes_in_lidar, points_in_boxes
from kdnb.datasets.kitti_calib import Calibration
from kdnb.datasets.kitti_check import check_kitti
from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES, TYPES, counts_as, read_labels
from kdnb.errors import InputError
from kdnb.world import export_kitti as kitti
from kdnb.world.annotate import annotate
from kdnb.world.camera import render, silhouettes
from kdnb.world.drive import CAST, make_drive

SIZE = (414, 125)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return kitti.export_kitti(tmp_path_factory.mktemp("kitti") / "set", 6, 2, 3, SIZE, workers=1)


@pytest.fixture(scope="module")
def frames():
    """(frame's labels with their things, view) of some scenes, rendered larger than the set's."""
    out, camera = [], kitti.kitti_camera((828, 250))
    for k in range(4):
        scene = make_drive(0, "train", k)
        view = render(scene, camera=camera, supersample=1)
        out.append((scene, camera, view, annotate(scene, view)))
    return out


def test_layout(root):
    assert sorted(p.name for p in root.iterdir()) == ["ImageSets", "testing", "testing_label_2", "training"]
    assert sorted(p.name for p in (root / "training").iterdir()) == ["calib", "image_2", "label_2", "velodyne"]
    assert sorted(p.name for p in (root / "testing").iterdir()) == ["calib", "image_2", "velodyne"]
    lists = {p.stem: p.read_text().split() for p in (root / "ImageSets").iterdir()}
    assert lists["train"] == [f"{k:06d}" for k in range(6)] and lists["val"] == ["000006", "000007"]
    assert lists["trainval"] == lists["train"] + lists["val"] and lists["test"] == ["000000", "000001", "000002"]
    for folder, end in (("image_2", "png"), ("velodyne", "bin"), ("calib", "txt"), ("label_2", "txt")):
        names = sorted(p.name for p in (root / "training" / folder).iterdir())
        assert names == [f"{k:06d}.{end}" for k in range(8)]
    keys = [line.split(":")[0] for line in (root / "training/calib/000000.txt").read_text().splitlines()]
    assert keys == ["P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"]


def test_the_reader_reads_it_without_a_fault(root):
    report = check_kitti(root)
    assert not report.faults and list(report.counts) == ["train", "val", "test"]
    assert [c["with labels"] for c in report.counts.values()] == [6, 2, 3]
    frame = KittiObject(root, "test")[0]
    assert frame.image().shape == (*SIZE[::-1], 3) and frame.points().shape[1] == 4 and frame.labels
    assert len(frame.points()) > 8000 and frame.points()[:, 3].min() >= 0 and frame.points()[:, 3].max() <= 1


def test_matrices_are_rotations_and_offsets_as_kittis(root):
    c = KittiObject(root, "train")[0].calibration
    for turn in (c.R0, c.velo_to_cam[:, :3], c.imu_to_velo[:, :3]):
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(c.velo_to_cam[:, :3], [[0, -1, 0], [0, 0, -1], [1, 0, 0]], atol=0.03)  # axes change
    np.testing.assert_allclose(c.velo_to_cam[:, 3], [0, -0.08, -0.28], atol=0.03)
    focal = c.P2[0, 0]
    baselines = [p[0, 3] / focal for p in (c.P0, c.P1, c.P2, c.P3)]
    np.testing.assert_allclose(baselines, [0, -0.54, 0.06, -0.47], atol=0.005)
    field = 2 * np.degrees(np.arctan(SIZE[0] / 2 / focal))
    assert field == pytest.approx(81.5, abs=1)


def test_lidar_points_land_on_the_masks(frames):
    on, total = 0, 0
    for scene, camera, view, annotations in frames:
        c = _calibration(camera)
        points = kitti.scan(scene, sensor=kitti.kitti_lidar(64, 45))
        for a, label in _labels(annotations, camera):
            if label.occluded or label.truncated > 0.15:
                continue
            box = boxes_in_lidar([label], c)
            box[:, 2], box[:, 5] = box[:, 2] + 0.1, box[:, 5] - 0.2  # not the ground below it
            uv, _ = c.lidar_to_image(points[points_in_boxes(points, box)[:, 0], :3])
            column, row = np.round(uv).astype(int).T
            inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
            hits = view.instance[row[inside], column[inside]] == a.thing.instance
            on, total = on + hits.sum(), total + len(hits)
    assert total > 1500 and on / total > 0.9  # the scanner sees past things from where it stands


def test_depth_of_the_image_is_that_of_the_points(frames):
    """Points of the scan, projected, have the depth of the image."""
    scene, camera, view, _ = frames[0]
    c = _calibration(camera)
    uv, z = c.lidar_to_image(kitti.scan(scene, sensor=kitti.kitti_lidar(64, 45))[:, :3])
    column, row = np.round(uv[z > 0]).astype(int).T
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    error = np.abs(view.depth[row[inside], column[inside]] - z[z > 0][inside])
    assert np.median(error) < 0.1 and np.mean(error < 0.5) > 0.9


def test_labels_are_the_things(frames):
    for _, camera, _, annotations in frames:
        c = _calibration(camera)
        for a, label in _labels(annotations, camera):
            box = boxes_in_lidar([label], c)[0]
            np.testing.assert_allclose(box[:3], a.thing.centre - kitti.LIDAR, atol=0.02)
            np.testing.assert_allclose(box[3:6], a.thing.size, atol=0.006)
            assert np.cos(box[6] - a.thing.yaw) > 0.9999
            assert np.cos(label.alpha - label.rotation_y + np.arctan2(label.x, label.z)) > 0.9998
            whole = np.array(box_in_image(box, c))  # the silhouette lies in the projected box, and nearly fills it
            amodal = np.array(a.amodal_box) - 0.5
            if label.truncated == 0:
                assert (amodal[:2] > whole[:2] - 2).all() and (amodal[2:] < whole[2:] + 2).all()
                area = np.prod(amodal[2:] - amodal[:2]) / np.prod(whole[2:] - whole[:2])
                assert area > 0.5


def test_levels_of_occlusion_and_truncation_follow_the_masks(frames):
    levels = set()
    for scene, camera, view, annotations in frames:
        for a, label in _labels(annotations, camera):
            won = (view.instance == a.thing.instance).sum()
            hidden = 1 - won / silhouettes(scene, [a.thing.instance], camera).sum()
            assert label.occluded == np.digitize(hidden, [kitti.PARTLY, kitti.LARGELY, kitti.HARDLY])
            left, top, right, bottom = label.bbox
            at_border = left == 0 or top == 0 or right == camera.width - 1 or bottom == camera.height - 1
            assert at_border or label.truncated == 0
            levels.add(label.occluded)
    assert {0, 1, 2} <= levels


def test_a_turned_thing_by_hand():
    """KITTI's turns: 0 drives to the right, -pi/2 away from the camera, which sees it from behind at alpha -pi/2."""
    camera = kitti.kitti_camera((1242, 375))
    thing = make_drive(0).things[0]
    thing.centre, thing.size = np.array([20.0, -0.061, 0.75]), np.array([4.0, 1.6, 1.5])
    for yaw, turn in ((0, -np.pi / 2), (-np.pi / 2, 0), (np.pi / 2, np.pi)):
        thing.yaw = yaw
        x, y, z, rotation_y, alpha = kitti.in_rect(thing, camera)
        assert np.cos(rotation_y - turn) > 0.9999 and np.cos(alpha - turn) > 0.9999
        assert (x, z) == (pytest.approx(0, abs=0.01), pytest.approx(20, abs=0.02))
        assert y == pytest.approx(1.65 - 20 * 0.008, abs=0.01)  # the ground in a camera that looks down a little


def test_riders_and_sitters(root):
    scenes = [make_drive(0, "train", k) for k in range(40)]
    names = [t.category for s in scenes for t in s.things]
    assert set(names) == set(CAST) == set(kitti.TYPE) and set(kitti.TYPE.values()) | {"DontCare"} == set(TYPES)
    assert all(t.size[2] > 1.5 and t.size[0] > 1.5 for s in scenes for t in s.things if t.category == "cyclist")
    sitters = [t for s in scenes for t in s.things if t.category == "sitting person"]
    assert all(1.2 < t.size[2] < 1.5 for t in sitters)
    distance = [t.centre[0] for s in scenes for t in s.things if abs(t.centre[1]) < t.centre[0] * 0.8]
    assert np.mean([3 < d < 45 for d in distance]) > 0.85


def test_enough_objects_count():
    """60 frames of test have 41 and more per class and difficulty; a fourth of them shows it."""
    camera, counts, frames = kitti.kitti_camera((828, 250)), dict.fromkeys(CLASSES, 0), 15
    for k in range(frames):
        scene = make_drive(0, "test", k)
        for _, label in _labels(annotate(scene, render(scene, camera=camera, supersample=1)), camera):
            if label.type in CLASSES:
                counts[label.type] += counts_as(label, "easy")  # who counts as easy counts as moderate and hard
    assert set(DIFFICULTIES) == {"easy", "moderate", "hard"}
    assert min(counts.values()) >= 41 * frames / 60, counts


def test_processes_do_not_change_the_result(root, tmp_path):
    other = kitti.export_kitti(tmp_path / "set", 6, 2, 3, SIZE, workers=2)
    files = sorted(p for p in root.rglob("*") if p.is_file())
    assert len(files) == 8 * 4 + 3 * 4 + 4
    for path in files:
        assert path.read_bytes() == (other / path.relative_to(root)).read_bytes(), path


def test_pictures_are_what_render_draws(root):
    scene = make_drive(0, "val", 1)
    expected = render(scene, camera=kitti.kitti_camera(SIZE)).image
    np.testing.assert_array_equal(np.asarray(Image.open(root / "training/image_2/000007.png")), expected)


def test_bad_settings_and_an_existing_folder_are_refused(root, tmp_path):
    for message, settings in (
        ("val=0", {"val": 0}),
        ("size is 400x300", {"size": (400, 300)}),
        ("sector=5", {"sector": 5}),
        ("beams=1", {"beams": 1}),
    ):
        with pytest.raises(InputError, match=message):
            kitti.export_kitti(tmp_path / "new", **settings)
    with pytest.raises(InputError, match="already exists"):
        kitti.export_kitti(root, 1, 1, 1, SIZE)
    with pytest.raises(InputError, match="unknown setting frames"):
        kitti.rendered_kitti(tmp_path, frames=3)
    assert not list(tmp_path.iterdir())


def test_a_whole_turn_of_64_beams():
    points = kitti.scan(make_drive(0, "train", 2), sensor=kitti.kitti_lidar(64, 180))
    assert 60_000 < len(points) < 130_000
    assert (points[:, 0] < -3).any()


def _labels(annotations, camera):
    """(Annotation, KittiLabel) of all that is no DontCare."""
    text = [kitti.label_line(a, camera) for a in annotations]
    labels = _read(text)
    return [(a, label) for a, label in zip(annotations, labels, strict=True) if label.type != "DontCare"]


def _read(lines):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.txt"
        path.write_text("\n".join(lines))
        return read_labels(path)


def _calibration(camera):
    m = kitti.calibration(camera)
    return Calibration(m["P0"], m["P1"], m["P2"], m["P3"], m["R0_rect"], m["Tr_velo_to_cam"], m["Tr_imu_to_velo"])
