"""Data of 04 on its way to pseudo-LiDAR: which frames of a root are used, and that each of them gets its cloud."""

import numpy as np
import pytest
from kitti_roots import write_calibration
from PIL import Image

from kdnb.datasets.kitti import KittiObject, write_points
from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.engine import accelerator
from kdnb.models.depth import DepthModel
from kdnb.options import load_settings
from kdnb.projects.kitti_pseudo_lidar import KittiPseudoLidarSettings, cloud_path, open_data
from kdnb.projects.kitti_pseudo_lidar.clouds import write_clouds

CAR = "Car 0.00 0 -1.57 10.00 10.00 50.00 30.00 1.50 1.60 4.00 1.00 1.70 9.00 -1.57\n"
NINE_METRES = DepthModel("nine", lambda image, frame: np.full(image.shape[:2], 9.0))


@pytest.fixture
def root(tmp_path):
    """Training frames 0 to 4, of which 2 is not annotated, and 5 and 6 for validation, of which 6 is not."""
    for folder in ("image_2", "calib", "velodyne", "label_2"):
        (tmp_path / "kitti" / "training" / folder).mkdir(parents=True)
    for k in range(7):
        place = tmp_path / "kitti" / "training"
        Image.new("RGB", (120, 40), (40 * k, 90, 90)).save(place / "image_2" / f"{k:06d}.png")
        write_calibration(place / "calib" / f"{k:06d}.txt", guessed_calibration((120, 40)))
        write_points(place / "velodyne" / f"{k:06d}.bin", np.full((5, 4), 9.0))
        if k not in (2, 6):
            (place / "label_2" / f"{k:06d}.txt").write_text(CAR)
    (tmp_path / "kitti" / "ImageSets").mkdir()
    for split, frames in (("train", range(5)), ("val", (5, 6))):
        (tmp_path / "kitti" / "ImageSets" / f"{split}.txt").write_text("".join(f"{k:06d}\n" for k in frames))
    return tmp_path / "kitti"


def test_frames_without_labels_are_left_out_from_the_lists_to_the_clouds(root, tmp_path):
    data = open_data(load_settings(KittiPseudoLidarSettings, "smoke"), root)
    used = [frame.name for part in (data.train, data.validation, data.test) for frame in part]
    assert used == ["000000", "000001", "000003", "000004", "000005"]
    write_clouds(data.sources, tmp_path / "pseudo", lambda: NINE_METRES, accelerator("no", cpu=True), share=1.0)
    for split, names in (("train", used[:4]), ("val", used[4:])):
        made = KittiObject(tmp_path / "pseudo", split, points="pseudo")
        assert made.names == names and all(len(frame.labels) == 1 for frame in made)
        beside = KittiObject(root, split).annotated()
        assert [cloud_path(tmp_path / "pseudo", frame) for frame in beside] == [frame.points_path for frame in made]
        assert all(len(frame.points()) > 1000 for frame in made)


def test_a_root_without_lists_is_cut_into_three_of_annotated_frames(root):
    for file in (root / "ImageSets").iterdir():
        file.unlink()
    (root / "ImageSets").rmdir()
    data = open_data(load_settings(KittiPseudoLidarSettings, "smoke"), root)
    parts = [[frame.name for frame in part] for part in (data.train, data.validation, data.test)]
    assert parts == [["000000", "000001"], ["000003"], ["000004", "000005"]]
    assert [source.names for source in data.sources] == [sum(parts, [])]


def test_finished_clouds_need_no_depth_model(root, tmp_path):
    sources, acc = [KittiObject(root, "train").annotated()], accelerator("no", cpu=True)
    write_clouds(sources, tmp_path / "pseudo", lambda: NINE_METRES, acc)
    write_clouds(sources, tmp_path / "pseudo", lambda: pytest.fail("asked for"), acc)
    cloud_path(tmp_path / "pseudo", sources[0][1]).unlink()
    with pytest.raises(pytest.fail.Exception, match="asked for"):
        write_clouds(sources, tmp_path / "pseudo", lambda: pytest.fail("asked for"), acc)
