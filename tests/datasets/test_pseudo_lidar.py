import json
from pathlib import Path

import numpy as np
import pytest
from kitti_roots import write_calibration
from PIL import Image

from kdnb.datasets.kitti import KittiObject, read_points
from kdnb.datasets.kitti_calib import Calibration
from kdnb.datasets.pseudo_lidar import MAX_HEIGHT, beam_indices, grey, pseudo_points, write_pseudo_lidar
from kdnb.datasets.sparse_depth import sparse_depth
from kdnb.errors import InputError
from kdnb.models.depth import DepthModel
from kdnb.world.lidar import BOTTOM, TOP

SHAPE = (40, 120)
AXES = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # velodyne to camera


def calibration(turn=0.01):
    cos, sin = np.cos(turn), np.sin(turn)
    P2 = np.array([[70.0, 0, 60, 4.5], [0, 70, 18, -0.3], [0, 0, 1, 0.005]])
    velo_to_cam = np.c_[AXES, [0.01, -0.08, -0.27]]
    zero = np.zeros((3, 4))
    return Calibration(zero, zero, P2, zero, np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]), velo_to_cam, zero)


def image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)


def test_every_pixel_comes_back_where_it_was_with_its_depth():
    depth = np.random.default_rng(0).uniform(3, 60, SHAPE).astype(np.float32)
    points = pseudo_points(depth, image(), calibration(), "all")
    uv, z = calibration().lidar_to_image(points[:, :3])
    column, row = np.rint(uv).astype(int).T
    np.testing.assert_allclose(uv, np.rint(uv), atol=2e-3)
    np.testing.assert_allclose(z, depth[row, column], rtol=1e-5)
    assert len(points) > 0.5 * depth.size and points[:, 2].max() < MAX_HEIGHT
    np.testing.assert_array_equal(sparse_depth(points, calibration(), SHAPE) > 0, sparse_depth_mask(uv))


def sparse_depth_mask(uv):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(np.rint(uv).astype(int).T[::-1])] = True
    return mask


def test_a_wall_at_20_metres_stands_at_20_metres_and_p2s_offset_moves_it_by_6_centimetres():
    depth = np.full(SHAPE, 20.0, np.float32)
    flat = calibration(turn=0.0)
    points = pseudo_points(depth, image(), flat, "all")
    np.testing.assert_allclose(points[:, 0], 20.27, rtol=1e-6)
    bare = Calibration(**{**vars(flat), "P2": flat.P2 * [1, 1, 1, 0]})
    shift = pseudo_points(depth, image(), bare, "all")[:, 1].mean() - points[:, 1].mean()
    assert shift == pytest.approx(-4.5 / 70, abs=0.01)  # without it everything stands 6 cm further to the right


def test_ground_truth_plane():
    """A road 1.65 m below the camera, whose depth by row is f h / (v - c)."""
    flat = calibration(turn=0.0)
    rows = np.arange(SHAPE[0], dtype=float)[:, None]
    below = rows > 19
    z = np.where(below, (70 * 1.65 + -0.3 - 0.005 * rows) / np.where(below, rows - 18, 1), 0)
    points = pseudo_points(np.broadcast_to(z, SHAPE), image(), flat, "all")
    np.testing.assert_allclose(points[:, 2], -1.65 - 0.08, atol=1e-5)


def test_of_two_points_in_a_pixel_the_nearest_wins_and_what_is_behind_is_not_seen():
    flat = calibration(turn=0.0)
    ray = flat.rect_to_lidar(flat.image_to_rect(np.full(3, 30), np.full(3, 12), np.array([9.0, 5.0, 30.0])))
    depth = sparse_depth(np.r_[ray, [[-5.0, 0, 0]]], flat, SHAPE)
    assert depth[12, 30] == pytest.approx(5) and (depth > 0).sum() == 1
    small = sparse_depth(ray, flat, SHAPE, into=(20, 60))
    assert small[6, 15] == pytest.approx(5) and (small > 0).sum() == 1
    assert sparse_depth(np.zeros((0, 4), np.float32), flat, SHAPE).max() == 0


def test_random_sampling_keeps_its_share_and_its_seed():
    depth = np.full(SHAPE, 15.0, np.float32)
    all_points = pseudo_points(depth, image(), calibration(), "all")
    tenth = pseudo_points(depth, image(), calibration(), seed=1)
    assert len(tenth) == round(0.1 * len(all_points)) and set(map(bytes, tenth)) <= set(map(bytes, all_points))
    np.testing.assert_array_equal(tenth, pseudo_points(depth, image(), calibration(), seed=1))
    assert bytes(tenth) != bytes(pseudo_points(depth, image(), calibration(), seed=2))
    assert (tenth[:, 3] == 0.5).all()


def test_beams_keep_one_point_per_cell_near_the_beam():
    rng = np.random.default_rng(0)
    elevation, azimuth = np.radians(rng.uniform(-35, 10, 40000)), np.radians(rng.uniform(-40, 40, 40000))
    xyz = np.stack([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)], 1) * rng.uniform(4, 60, (40000, 1))
    kept = beam_indices(xyz, 32, 512)
    elevations = np.degrees(elevation[kept])
    step = (TOP - BOTTOM) / 31
    beam = np.rint((TOP - elevations) / step)
    assert elevations.max() <= TOP + step / 2 and elevations.min() >= BOTTOM - step / 2
    cells = set(zip(beam, np.floor((azimuth[kept] / (2 * np.pi) + 0.5) * 512), strict=True))
    assert len(cells) == len(kept) and set(beam) == set(range(32))
    assert (
        np.abs(TOP - beam * step - elevations).mean() < 0.15 * step
    )  # of many in a cell the nearest: chance is a quarter
    assert len(beam_indices(np.zeros((0, 3)))) == 0


def test_grey_values_as_intensity():
    assert grey(np.array([[255, 255, 255], [0, 0, 0]])).tolist() == pytest.approx([1, 0])
    points = pseudo_points(np.full(SHAPE, 9.0), image(), calibration(), "beams", intensity="grey")
    assert 0 <= points[:, 3].min() < 0.2 and 0.8 < points[:, 3].max() <= 1


def test_wrong_settings_are_named():
    depth = np.ones(SHAPE)
    for arguments, message in (
        ({"sampling": "every"}, "sampling is 'every', expected one of random, beams, all"),
        ({"intensity": "red"}, "intensity is 'red'"),
    ):
        with pytest.raises(InputError, match=message):
            pseudo_points(depth, image(), calibration(), **arguments)
    with pytest.raises(InputError, match=r"expected \(40, 120\) as its image"):
        pseudo_points(np.ones((4, 4)), image(), calibration())


def test_without_any_depth_there_are_no_points():
    assert pseudo_points(np.zeros(SHAPE), image(), calibration()).shape == (0, 4)


# --- folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """Three frames of a KITTI root without clouds."""
    for folder in ("training/image_2", "training/calib", "training/label_2", "ImageSets"):
        (tmp_path / "kitti" / folder).mkdir(parents=True)
    for k in range(3):
        Image.fromarray(image(k)).save(tmp_path / f"kitti/training/image_2/00000{k}.png")
        write_calibration(tmp_path / f"kitti/training/calib/00000{k}.txt", calibration())
        text = "Car 0.00 0 -1.57 10.00 10.00 50.00 30.00 1.50 1.60 4.00 1.00 1.70 9.00 -1.57\n" if k else ""
        (tmp_path / f"kitti/training/label_2/00000{k}.txt").write_text(text)
    (tmp_path / "kitti/ImageSets/train.txt").write_text("000000\n000001\n000002\n")
    return tmp_path / "kitti"


def nine_metres(image, frame):
    return np.full(image.shape[:2], 9.0)


def test_a_written_folder_is_a_kitti_root_with_labels_calibration_and_images(root, tmp_path):
    frames = KittiObject(root, "train", points=None)
    out = write_pseudo_lidar(frames, tmp_path / "out", nine_metres, sampling="beams", beams=32)
    again = KittiObject(out, "train", points="pseudo")
    assert again.names == frames.names
    for made, real in zip(again, frames, strict=True):
        assert made.labels == real.labels and made.labels is not None
        np.testing.assert_array_equal(made.image(), real.image())
        expected = pseudo_points(nine_metres(real.image(), ""), real.image(), real.calibration, "beams", beams=32)
        np.testing.assert_array_equal(made.points(), expected)
    for place in (out, str(out), out / "training" / "pseudo"):  # beside the frames' own root
        np.testing.assert_array_equal(KittiObject(root, "train", points=place)[1].points(), again[1].points())


def test_clouds_of_another_name_are_found_by_their_root_too(root, tmp_path, monkeypatch):
    frames = KittiObject(root, "train", points=None)
    write_pseudo_lidar(frames, tmp_path / "out", nine_metres, "of_run_1")
    monkeypatch.chdir(tmp_path)
    assert len(KittiObject(root, "train", points=Path("out"))[1].points()) > 100
    with pytest.raises(InputError, match="training/out: no such folder"):  # a str without a folder in it is a name
        KittiObject(root, "train", points="out")


def test_a_killed_run_goes_on_where_it_stopped(root, tmp_path):
    frames, calls = KittiObject(root, "train", points=None), []

    def dying(image, frame):
        calls.append(frame)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return nine_metres(image, frame)

    with pytest.raises(KeyboardInterrupt):
        write_pseudo_lidar(frames, tmp_path / "out", dying)
    assert [p.name for p in (tmp_path / "out/training/pseudo").iterdir()] == ["000000.bin"]
    write_pseudo_lidar(frames, tmp_path / "out", dying)
    assert calls == ["000000", "000001", "000001", "000002"]
    write_pseudo_lidar(frames, tmp_path / "whole", nine_metres)
    for name in frames.names:  # the same as of a run that was not killed
        files = [tmp_path / out / f"training/pseudo/{name}.bin" for out in ("out", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not [p for p in (tmp_path / "out").rglob(".*")]


def test_clouds_made_in_another_way_are_not_mixed(root, tmp_path):
    frames = KittiObject(root, "train", points=None)
    write_pseudo_lidar(frames, tmp_path / "out", nine_metres)
    write_pseudo_lidar(frames, tmp_path / "out", nine_metres, share=0.1)  # the default, named
    with pytest.raises(InputError, match="made with share 0.1, expected 0.2; choose a new folder"):
        write_pseudo_lidar(frames, tmp_path / "out", nine_metres, share=0.2)
    with pytest.raises(InputError, match="made with depth '', expected 'other'"):
        write_pseudo_lidar(frames, tmp_path / "out", DepthModel("other", nine_metres))
    with pytest.raises(InputError, match="made with points 'pseudo', expected 'velodyne'"):
        write_pseudo_lidar(frames, tmp_path / "out", nine_metres, "velodyne")
    for file in (tmp_path / "out/training/pseudo").iterdir():  # nothing was written over
        assert len(read_points(file)) == len(pseudo_points(np.full(SHAPE, 9.0), image(), calibration()))


def test_a_recipe_is_compared_whole(root, tmp_path):
    frames, file = KittiObject(root, "train", points=None), tmp_path / "out/pseudo_lidar.json"
    write_pseudo_lidar(frames, tmp_path / "out", nine_metres, seed=3)
    recipe = {
        "depth": "",
        "points": "pseudo",
        "sampling": "random",
        "share": 0.1,
        "beams": 64,
        "intensity": "constant",
        "seed": 3,
    }
    assert json.loads(file.read_text()) == recipe
    with pytest.raises(InputError, match="made with seed 3, expected 0"):
        write_pseudo_lidar(frames, tmp_path / "out", nine_metres)
    file.write_text(json.dumps({key: value for key, value in recipe.items() if key != "beams"}))
    with pytest.raises(InputError, match="made with beams left open, expected 64"):
        write_pseudo_lidar(frames, tmp_path / "out", nine_metres, seed=3)
    file.write_text(json.dumps({**recipe, "cut": 0.5}))
    with pytest.raises(InputError, match="made with cut 0.5, expected left open"):
        write_pseudo_lidar(frames, tmp_path / "out", nine_metres, seed=3)
    with pytest.raises(InputError, match="setting of pseudo_points is 'shares', expected one of sampling, share"):
        write_pseudo_lidar(frames, tmp_path / "new", nine_metres, shares=0.2)
    assert not (tmp_path / "new").exists()


def test_a_training_frame_without_labels_is_refused(root, tmp_path):
    (root / "training/label_2/000001.txt").unlink()
    with pytest.raises(InputError, match="000001.txt: no such file, expected the labels of frame 000001"):
        write_pseudo_lidar(KittiObject(root, "train", points=None), tmp_path / "out", nine_metres)
    assert not (tmp_path / "out/training/pseudo/000001.bin").exists()


# --- real frames ------------------------------------------------------------------------------------------------


def test_real_lidar_through_sparse_depth_and_back(real_data):
    """Points that won their pixel come back within the half pixel that rounding costs."""
    for frame in KittiObject(real_data / "kitti", "train"):
        image, cloud = frame.image(), frame.points()
        depth = sparse_depth(cloud, frame.calibration, image.shape[:2])
        assert 0.02 < (depth > 0).mean() < 0.08  # KITTI's LiDAR covers some 4 % of the image
        points = pseudo_points(depth, image, frame.calibration, "all")
        nearest = winners(cloud, depth, frame.calibration)
        uv, z = frame.calibration.lidar_to_image(points[:, :3])
        column, row = np.rint(uv).astype(int).T
        off = points[:, :3] - cloud[nearest[row, column], :3]
        focal = frame.calibration.P2[0, 0]
        assert (np.abs(off[:, 0]) < 0.02 + 0.02 * z * 0.71 / focal).all()
        assert (np.linalg.norm(off, axis=1) < 0.002 + 0.72 * (z + 0.01) / focal).all()


def winners(cloud, depth, calibration):
    """(H, W) index of the point that stands in each pixel of a sparse depth map, by its depth."""
    uv, z = calibration.lidar_to_image(cloud[:, :3])
    inside = np.flatnonzero((z > 0.5) & (uv >= -0.5).all(1) & (uv < np.array(depth.shape[::-1]) - 0.5).all(1))
    column, row = np.rint(uv[inside]).astype(int).T
    own = inside[np.abs(depth[row, column] - z[inside]) < 1e-4]
    out = np.zeros(depth.shape, int)
    column, row = np.rint(uv[own]).astype(int).T
    out[row, column] = own
    return out
