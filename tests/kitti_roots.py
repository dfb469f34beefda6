"""What tests need to write a KITTI root by hand."""

from pathlib import Path

import numpy as np
from PIL import Image

from kdnb.datasets.kitti import write_points
from kdnb.datasets.kitti_boxes import labels_from_boxes
from kdnb.datasets.kitti_calib import KEYS, Calibration
from kdnb.datasets.kitti_labels import write_labels

SMALL = (124, 38)  # width, height: a tenth of KITTI's


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the official text file, 13 significant digits."""
    rows = [(key, getattr(calibration, name).ravel()) for key, name, _ in KEYS]
    lines = [f"{key}: " + " ".join(f"{value:.12e}" for value in values) for key, values in rows]
    path.write_text("\n".join([*lines, "", ""]))


def small_calibration() -> Calibration:
    """KITTI's for images of ``SMALL``."""
    camera = np.array([[72.0, 0, 61, 4.5], [0, 72, 17.3, 0.02], [0, 0, 1, 0.003]])
    mounted = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27]])
    return Calibration(camera, camera, camera, camera, np.eye(3), mounted, np.eye(3, 4))


def small_root(root: Path, count: int = 3) -> Path:
    """A root without lists of ``count`` frames: a car and a pedestrian, whose 2D and 3D boxes fit, and 300 points."""
    for folder in ("image_2", "velodyne", "calib", "label_2"):
        (root / "training" / folder).mkdir(parents=True)
    calibration, rng = small_calibration(), np.random.default_rng(0)
    boxes = [[12, 2, -0.9, 4, 1.6, 1.5, 0.1], [15, -3, -0.8, 0.8, 0.6, 1.75, 1.0]]
    for k in range(count):
        place, name = root / "training", f"{k:06d}"
        Image.new("RGB", SMALL, (60 * k, 90, 120)).save(place / "image_2" / f"{name}.png")
        write_calibration(place / "calib" / f"{name}.txt", calibration)
        write_points(place / "velodyne" / f"{name}.bin", rng.uniform((5, -20, -2, 0), (60, 20, 1, 1), (300, 4)))
        labels = labels_from_boxes(boxes, ["Car", "Pedestrian"], None, calibration, SMALL)
        write_labels(place / "label_2" / f"{name}.txt", labels)
    return root
