"""The street as a KITTI object set in the official format: images, LiDAR scans, calibration and labels of drives."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.files import atomic_folder
from kdnb.world.annotate import Annotation, annotate
from kdnb.world.camera import Camera, render
from kdnb.world.drive import make_drive
from kdnb.world.export import render_all, rendered
from kdnb.world.lidar import Lidar, scan
from kdnb.world.scene import SPLITS, Thing

TYPE = {
    "car": "Car",
    "van": "Van",
    "truck": "Truck",
    "tram": "Tram",
    "person": "Pedestrian",
    "sitting person": "Person_sitting",
    "cyclist": "Cyclist",
    "trailer": "Misc",
}
FULL = (1242, 375)  # KITTI's usual image
FOCAL, MIDDLE = 720.0, (612.0, 176.0)  # pixels of the full image; the first pixel's centre is (0, 0)
ABOVE, PITCH = 1.65, 0.008  # camera 2 above the ground in metres; radians that it looks down
BASELINES = {
    "P0": (0.0, 0.0, 0.0),
    "P1": (-0.54, 0.0, 0.0),
    "P2": (0.061, -0.0004, 0.0031),
    "P3": (-0.474, 0.0018, 0.0029),
}  # rect camera origin in each camera's frame, metres
LIDAR = (-0.28, -0.055, 1.73)  # place of the scanner in the ego frame, whose origin lies below camera 2
RECTIFY = (0.0042, -0.0071, 0.0093)  # rotations of the unrectified camera about x, y, z, radians
COLUMNS = 2048  # of a full turn of the scanner
PARTLY, LARGELY, HARDLY = 0.10, 0.45, 0.80  # hidden shares at which the levels of occlusion 1, 2 and 3 begin
SMALLEST, FEWEST, HIDDEN = 9, 20, 0.93  # height in pixels, visible pixels, hidden share; beyond these: DontCare


def kitti_camera(size: tuple[int, int]) -> Camera:
    """Camera 2 for images of ``size``, with KITTI's field of view. Our pixels' centres lie at i + 0.5, KITTI's at i."""
    wide, high = size[0] / FULL[0], size[1] / FULL[1]
    return Camera(*size, FOCAL * wide, FOCAL * wide, (MIDDLE[0] + 0.5) * wide, (MIDDLE[1] + 0.5) * high, ABOVE, PITCH)


def kitti_lidar(beams: int, sector: float) -> Lidar:
    """A scanner with KITTI's angles that scans ``sector`` degrees to either side of straight ahead."""
    ahead, left, above = LIDAR
    return Lidar(beams, round(COLUMNS * sector / 180), above, sector=sector, ahead=ahead, left=left)


def calibration(camera: Camera) -> dict[str, np.ndarray]:
    """Matrices of the calibration file by key."""
    own = np.array([[camera.fx, 0, camera.cx - 0.5], [0, camera.fy, camera.cy - 0.5], [0, 0, 1.0]])
    out = {key: own @ np.c_[np.eye(3), offset] for key, offset in BASELINES.items()}
    rectify = _rotation(*RECTIFY)
    # velodyne -> ego -> camera 2 -> rect; the file leaves out the rectifying rotation
    move = camera.rotation @ (np.array(LIDAR) - camera.origin) - BASELINES["P2"]
    out["R0_rect"] = rectify
    out["Tr_velo_to_cam"] = rectify.T @ np.c_[camera.rotation, move]
    out["Tr_imu_to_velo"] = np.c_[_rotation(0.0148, 0.0020, -0.0008), (-0.80, 0.31, -0.79)]
    return out


def _rotation(x, y, z):
    """(3, 3) rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos((x, y, z)), np.sin((x, y, z))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_y @ about_x


def in_rect(thing: Thing, camera: Camera) -> tuple[float, float, float, float, float]:
    """(x, y, z of the bottom's middle, rotation_y, alpha) of a thing in the rect camera frame, metres and radians."""
    x, y, z = np.stack(camera.to_camera(thing.centre)) - BASELINES["P2"]
    ahead = camera.rotation @ (np.cos(thing.yaw), np.sin(thing.yaw), 0.0)
    turn = float(np.arctan2(-ahead[2], ahead[0]))
    alpha = (turn - np.arctan2(x, z) + np.pi) % (2 * np.pi) - np.pi
    return float(x), float(y + thing.size[2] / 2), float(z), turn, float(alpha)


def label_line(a: Annotation, camera: Camera) -> str:
    """A thing's line of the label file; DontCare for one that is too small or too hidden to score.

    The 2D box goes from the first to the last pixel of the whole silhouette within the image, hidden parts included.
    """
    left, top, right, bottom = a.box[0], a.box[1], a.box[2] - 1, a.box[3] - 1
    box = f"{left:.2f} {top:.2f} {right:.2f} {bottom:.2f}"
    if bottom - top < SMALLEST or a.pixels < FEWEST or a.occlusion > HIDDEN:
        return f"DontCare -1 -1 -10 {box} -1 -1 -1 -1000 -1000 -1000 -10"
    level = sum(a.occlusion >= limit for limit in (PARTLY, LARGELY, HARDLY))
    x, y, z, turn, alpha = in_rect(a.thing, camera)
    length, width, height = a.thing.size
    return (
        f"{TYPE[a.thing.category]} {a.truncation:.2f} {level} {alpha:.2f} {box} {height:.2f} {width:.2f} "
        f"{length:.2f} {x:.2f} {y:.2f} {z:.2f} {turn:.2f}"
    )


def _render(job) -> str:
    """Render and write one frame."""
    root, side, name, seed, split, index, size, beams, sector = job
    scene, camera = make_drive(seed, split, index), kitti_camera(size)
    view = render(scene, camera=camera)
    points = scan(scene, sensor=kitti_lidar(beams, sector))
    labels = "label_2" if side == "training" else "../testing_label_2"
    Image.fromarray(view.image).save(root / side / "image_2" / f"{name}.png", compress_level=1)
    (root / side / "velodyne" / f"{name}.bin").write_bytes(points.astype("<f4").tobytes())
    (root / side / "calib" / f"{name}.txt").write_text(
        "".join(
            f"{key}: {' '.join(f'{v:.12e}' for v in matrix.ravel())}\n" for key, matrix in calibration(camera).items()
        )
    )
    (root / side / labels / f"{name}.txt").write_text(
        "".join(label_line(a, camera) + "\n" for a in annotate(scene, view))
    )
    return name


def export_kitti(
    out: str | Path,
    train: int = 300,
    val: int = 40,
    test: int = 60,
    size: tuple[int, int] = (828, 250),
    beams: int = 32,
    sector: float = 45,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write ``training/{image_2,velodyne,calib,label_2}``, ``testing/{image_2,velodyne,calib}`` and
    ``ImageSets/{train,val,trainval,test}.txt`` into the folder ``out`` and return its path.

    Frames of train and val lie in training/, those of test in testing/ without labels, as in KITTI. Their labels, which
    KITTI keeps to itself, lie in ``testing_label_2/``. The folder appears when it is complete.

    Args:
        train, val, test: frames of each split; test frames have facades, light and haze of their own.
        size: (width, height) in pixels, about 1242 to 375.
        beams: of the LiDAR; 64 as KITTI's, 32 for a sparser cloud within the same angles.
        sector: degrees scanned to either side; 45 covers the image, 180 is a full scan as KITTI's.
        workers: processes, by default one per usable core; the result does not depend on it.

    Raises:
        InputError: no frame in a split, another aspect ratio, less than 300 pixels wide, fewer than 2 beams, a
            sector beyond 20 to 180, or an existing folder.
    """
    width, height = size
    if min(train, val, test) < 1:
        raise InputError(f"export_kitti: train={train}, val={val}, test={test}, expected at least 1 each")
    if width < 300 or abs(width / height * FULL[1] / FULL[0] - 1) > 0.03:
        raise InputError(f"export_kitti: size is {width}x{height}, expected 1242 to 375 from 300 pixels wide: 828x250")
    if beams < 2 or not 20 <= sector <= 180:
        raise InputError(f"export_kitti: beams={beams}, sector={sector}, expected at least 2 and 20 to 180 degrees")
    with atomic_folder(Path(out)) as build:
        _fill(build, {"train": train, "val": val, "test": test}, tuple(size), beams, sector, seed, workers)
    return Path(out)


def _fill(root: Path, frames: dict, size, beams, sector, seed, workers):
    for folder in (
        "training/image_2",
        "training/velodyne",
        "training/calib",
        "training/label_2",
        "testing/image_2",
        "testing/velodyne",
        "testing/calib",
        "testing_label_2",
        "ImageSets",
    ):
        (root / folder).mkdir(parents=True)
    names = {split: [f"{k:06d}" for k in range(frames[split])] for split in SPLITS}
    names["val"] = [f"{frames['train'] + k:06d}" for k in range(frames["val"])]
    jobs = [
        (root, "testing" if split == "test" else "training", name, seed, split, k, size, beams, sector)
        for split in SPLITS
        for k, name in enumerate(names[split])
    ]
    render_all(_render, jobs, workers)
    for split, listed in {**names, "trainval": names["train"] + names["val"]}.items():
        (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))


def rendered_kitti(root: str | Path, **settings: Any) -> Path:
    """The folder for these settings of export_kitti, rendered only when ``root`` does not hold it yet.

    Raises InputError as export_kitti does, and for an unknown setting.
    """
    known = {"train": 300, "val": 40, "test": 60, "size": (828, 250), "beams": 32, "sector": 45, "seed": 0}
    return rendered(root, "kitti", export_kitti, known, settings)
