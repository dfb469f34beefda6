"""KITTI object detection: a root in the official layout, photographed or rendered, as frames with image, points,
calibration and labels. ``kitti_check`` checks a whole root."""

import copy
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kdnb.datasets.folders import names_in
from kdnb.datasets.images import image_size, read_image
from kdnb.datasets.kitti_calib import Calibration, read_calibration
from kdnb.datasets.kitti_labels import KittiLabel, read_labels
from kdnb.datasets.kitti_names import IMAGES, frame_files, parse_list, shared_frames
from kdnb.datasets.kitti_sense import looks_like
from kdnb.datasets.notes import skipped
from kdnb.datasets.text import read_bytes, read_text
from kdnb.errors import InputError
from kdnb.files import atomic_path

HOME = "https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=3d"
SPLITS = ("train", "val", "trainval", "test")
RECIPE = "pseudo_lidar.json"  # in a root of pseudo-LiDAR: the settings that made it
log = logging.getLogger(__name__)


@dataclass
class Frame:
    """One frame; its files are read on demand. ``labels`` is None without a label file: the frame is not annotated
    (an annotated frame without objects has an empty list)."""

    name: str
    image_path: Path
    points_path: Path | None
    calibration_path: Path
    label_path: Path

    def image(self) -> np.ndarray:
        """uint8 (H, W, 3), RGB; the size varies from frame to frame (1242x375, 1224x370, ...)."""
        return read_image(self.image_path, "PNG")

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels; reads only the file's header."""
        return image_size(self.image_path, "PNG")

    def points(self) -> np.ndarray:
        """float32 (N, 4): x, y, z in the velodyne frame (metres) and intensity 0..1; (0, 4) for an empty cloud."""
        if self.points_path is None:
            raise InputError(f"frame {self.name} has no point cloud: its KittiObject has points=None")
        return read_points(self.points_path)

    @cached_property
    def calibration(self) -> Calibration:
        return read_calibration(self.calibration_path)

    @cached_property
    def labels(self) -> list[KittiLabel] | None:
        """All objects of the label file, DontCare included; None without a label file."""
        return read_labels(self.label_path) if self.label_path.exists() else None


class KittiObject:
    """Frames of one split of a KITTI root (the folder with training/, testing/ and ImageSets/), by index.

    Args:
        split: "train", "val", "trainval" or "test", as ImageSets/<split>.txt lists them; test frames lie in testing/.
            A root without ImageSets gives all frames in training/ for each split, with a warning in the log that also
            counts the files which are no frame's.
        points: name of the clouds' folder beside image_2/; "velodyne" falls back to velodyne_reduced/. A Path, or a str
            with a slash ("made/run1"), is another place: a root that ``write_pseudo_lidar`` wrote, or a folder with
            training/ and testing/ and clouds in them, or a folder of clouds. None: no clouds.

    Labels of test frames are read from testing_label_2/ if it exists (in rendered roots it does).
    Raises InputError naming the file, and the line of the list, for a missing folder, image, cloud or calibration, a
    frame that is listed twice, and one that another list of the same frames (train, val) has too.
    """

    def __init__(self, root: str | Path, split: str = "train", points: str | Path | None = "velodyne"):
        self.root, self.split = Path(root), split
        if split not in SPLITS:
            raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.side, self.frames, lines, faults = list_frames(self.root, split, points)
        faults += shared_frames(list_of(self.root, split), rival_lists(self.root, split))
        if faults:
            raise InputError(faults[0])
        self.names = [frame.name for frame in self.frames]
        _require_files(self.frames, lines)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]

    def annotated(self) -> "KittiObject":
        """A copy without the frames that have no label file."""
        frames = [frame for frame in self.frames if frame.label_path.exists()]
        other = copy.copy(self)
        other.frames, other.names = frames, [frame.name for frame in frames]
        return other


def list_frames(root: Path, split: str, points: str | Path | None) -> tuple[str, list[Frame], list[str], list[str]]:
    """("training" or "testing", the frames of a split, "list:line: " of each, faults of the list); does not check that
    files exist."""
    names, lines, faults = _names(root, split)
    side = _side(root, split)
    clouds = _points_folder(root, side, points)
    return side, [_frame(root, side, clouds, name) for name in names], lines, faults


def list_of(root: Path, split: str) -> Path:
    """The file that lists a split's frames, whether it exists or not."""
    return root / "ImageSets" / f"{split}.txt"


def rival_lists(root: Path, split: str) -> list[Path]:
    """Lists that must not share a frame with that of ``split``: train, val, and test where it lies in training/ too."""
    if split == "trainval":
        return []
    side = _side(root, split)
    others = [other for other in SPLITS if other not in (split, "trainval") and _side(root, other) == side]
    return [list_of(root, other) for other in others if list_of(root, other).is_file()]


def _frame(root, side, clouds, name):
    labels = root / "training" / "label_2" if side == "training" else root / "testing_label_2"
    images = [root / side / "image_2" / f"{name}{suffix}" for low in IMAGES for suffix in (low, low.upper())]
    image = next((path for path in images if path.exists()), images[0])
    cloud = None if clouds is None else clouds / f"{name}.bin"
    return Frame(name, image, cloud, root / side / "calib" / f"{name}.txt", labels / f"{name}.txt")


def _names(root, split):
    """Names of a split's frames, where each is listed, for messages, and the list's faults."""
    path = list_of(root, split)
    if path.is_file():
        return parse_list(path)
    if path.parent.is_dir():
        raise InputError(f"{path}: no such list, expected one of train.txt, val.txt, test.txt with a name a line")
    for folder, suffixes in ((root / "training" / "label_2", (".txt",)), (root / "training" / "image_2", IMAGES)):
        files, others = frame_files(folder, suffixes)
        if files:
            log.warning("%s has no ImageSets: all %d frames in %s are taken as %s", root, len(files), folder, split)
            if others:
                log.warning("%s", skipped(folder, others, "no frame's"))
            return list(files), [""] * len(files), []
    what = "nothing" if not root.exists() else "a folder" if root.is_dir() else "a file"
    raise InputError(
        f"{root / 'training' / 'image_2'}: no frames ({root} is {what}), expected a KITTI object root "
        f"with training/ in it; get it from {HOME}"
    )


def _side(root, split):
    """Test frames lie in testing/, unless a root keeps everything in training/."""
    apart = (root / "ImageSets").is_dir() and (root / "testing").is_dir()
    return "testing" if split == "test" and apart else "training"


def _points_folder(root, side, points):
    if points is None:
        return None
    if isinstance(points, Path) or len(Path(points).parts) > 1:
        folders = _in_place(Path(points), side)
    else:
        folders = [root / side / points, *([root / side / "velodyne_reduced"] if points == "velodyne" else [])]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise InputError(f"{folders[0]}: no such folder, expected point clouds (.bin), as points={str(points)!r}")


def _in_place(place, side):
    """Folders that may hold the clouds of ``place``; a root of ``write_pseudo_lidar`` names its own in a file."""
    recipe = place / RECIPE
    if recipe.is_file():
        return [place / side / read_recipe(recipe)["points"]]
    return [place / side, place]


def read_recipe(path: Path) -> dict:
    """The settings that made pseudo-LiDAR, with the clouds' folder as "points". Raises InputError for another file."""
    try:
        recipe = json.loads(read_text(path, "the settings of pseudo-LiDAR"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({error}), expected the settings of pseudo-LiDAR") from None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("points"), str):
        raise InputError(
            f"{path}: no 'points', expected the settings of pseudo-LiDAR with the name of the clouds' folder"
        )
    return recipe


def _require_files(frames, lines):
    """Raise InputError for the first frame with a file missing: better now than an hour into training."""
    existing = {}
    for frame, line in zip(frames, lines, strict=True):
        wanted = (("image", frame.image_path), ("calibration", frame.calibration_path), ("cloud", frame.points_path))
        for what, path in wanted:
            if path is None:
                continue
            if path.parent not in existing:
                existing[path.parent] = names_in(path.parent)
            if path.name not in existing[path.parent]:
                raise InputError(f"{line}frame {frame.name} has no {what}, expected {path}")


def read_points(path: str | Path) -> np.ndarray:
    """float32 (N, 4) of a velodyne file, four little-endian float32 a point; (0, 4) when it is empty.

    Raises InputError when it is missing, its size is no multiple of 16 or a number is not finite; it says what the file
    looks like, such as float64. ``kitti_sense.cloud_faults`` tells more.
    """
    content = read_bytes(path, "a point cloud (.bin)")
    expected = "expected x, y, z, intensity as float32"
    if len(content) % 16:
        raise InputError(f"{path}: {len(content)} bytes are no multiple of 16, {expected}{looks_like(content)}")
    points = np.frombuffer(content, "<f4").reshape(-1, 4).astype(np.float32)
    finite = np.isfinite(points).all(1)
    if not finite.all():
        number = int(np.argmin(finite))
        found = f"point {number} (from 0) is {' '.join(f'{value:.3g}' for value in points[number])}"
        more = f" and {int((~finite).sum()) - 1} more are not finite"
        raise InputError(f"{path}: {found}{more}, {expected}{looks_like(content)}")
    return points


def write_points(path: str | Path, points: np.ndarray) -> None:
    """Write points (N, 4) as a velodyne file, four little-endian float32 a point, atomically."""
    with atomic_path(Path(path)) as part:
        part.write_bytes(np.ascontiguousarray(points, dtype="<f4").reshape(-1, 4).tobytes())
