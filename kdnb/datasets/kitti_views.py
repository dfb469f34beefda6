"""KITTI frames for a detector: cropped to its range, kept in memory, mirrored, rotated or scaled, and batched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

from kdnb.datasets.color_jitter import color_jitter
from kdnb.datasets.kitti import Frame, read_points
from kdnb.datasets.kitti_augment import View, transform_boxes, transform_image, transform_points, transform_projection
from kdnb.datasets.kitti_boxes import boxes_in_lidar, points_in_boxes
from kdnb.datasets.kitti_calib import Calibration, in_image
from kdnb.datasets.kitti_labels import CLASSES, KittiLabel
from kdnb.errors import InputError

PLAIN = {"plain": View()}
MARGIN = 1.1  # factor on the range: rotated and scaled views need points a little beyond it


def objects_to_detect(labels: Iterable[KittiLabel] | None) -> list[KittiLabel]:
    """The labels of the classes that the benchmark scores."""
    return [label for label in labels or () if label.type in CLASSES]


def shrink(image: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) shrunk to ``width`` pixels (not if 0 or larger), and (3, 3) from old to new pixels."""
    high, wide = image.shape[:2]
    if not 0 < width < wide:
        return image, np.eye(3)
    height = round(high * width / wide)
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    x, y = width / wide, height / high
    # pixel centres are at 0, 1, ...; the left and top edges, which do not move, are at -0.5
    return small, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def crop(
    points: np.ndarray, calibration: Calibration, size: tuple[int, int], point_cloud_range: Sequence[float]
) -> np.ndarray:
    """The points (N, 4) inside the image (``size``: width, height) and inside the range with a margin.

    As in the official "reduced" clouds: only objects that the camera sees are labelled.
    """
    low, high = MARGIN * np.minimum(point_cloud_range[:2], 0), MARGIN * np.array(point_cloud_range[3:5])
    points = points[((points[:, :2] >= low) & (points[:, :2] < high)).all(1)]
    return points[in_image(*calibration.lidar_to_image(points[:, :3]), size)]


class PreparedFrames:
    """Frames as a detector needs them, prepared on demand.

    Args:
        frames: with LiDAR clouds.
        point_cloud_range: the detector's, in metres of the velodyne frame: (x, y, z) of the least, then the greatest.
        width: of the images, in pixels; 0 leaves them as they are.
        least_points: objects with fewer LiDAR points are left out.
        pseudo: frame → file of its pseudo-LiDAR.
        keep: keep prepared frames in memory.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        point_cloud_range: Sequence[float],
        width: int = 0,
        least_points: int = 3,
        pseudo: Callable[[Frame], Path] | None = None,
        keep: bool = False,
    ):
        self.frames, self.point_cloud_range, self.width, self.least_points = (
            frames,
            point_cloud_range,
            width,
            least_points,
        )
        self.pseudo, self.keep = pseudo, keep
        self._kept: dict = {}

    def __len__(self) -> int:
        return len(self.frames)

    def annotated_image(self, index: int) -> dict:
        """A frame without its points: "image" uint8 (H, W, 3), "projection" (3, 4) from velodyne points to its pixels,
        "boxes" (M, 7) and "labels" (M,) of the objects to detect."""
        return self._cached(("image", index), lambda: self._annotated_image(index))

    def cloud(self, index: int, points: str) -> np.ndarray:
        """The "velodyne" or "pseudo" points, float32 (N, 4). Raises InputError when there are none."""
        return self._cached((points, index), lambda: self._cloud(index, points))

    def _cached(self, key, make):
        if key in self._kept:
            return self._kept[key]
        value = make()
        if self.keep:
            self._kept[key] = value
        return value

    def _annotated_image(self, index):
        frame = self.frames[index]
        image, scale = shrink(frame.image(), self.width)
        objects = objects_to_detect(frame.labels)
        boxes = boxes_in_lidar(objects, frame.calibration)
        labels = np.array([CLASSES.index(label.type) for label in objects], int)
        if len(boxes):
            hit = points_in_boxes(self.cloud(index, "velodyne"), boxes).sum(0) >= self.least_points
            if hit.any():  # else keep all: a frame with objects must not look empty
                boxes, labels = boxes[hit], labels[hit]
        return {"image": image, "projection": scale @ frame.calibration.projection(), "boxes": boxes, "labels": labels}

    def _cloud(self, index, points):
        frame = self.frames[index]
        path = self.pseudo(frame) if points == "pseudo" else frame.points_path
        points = read_points(path)
        inside = crop(points, frame.calibration, frame.image_size, self.point_cloud_range)
        if not len(inside):
            x, y = self.point_cloud_range[3], self.point_cloud_range[4]
            raise InputError(
                f"{path}: {len(points)} points, none of them in the image within {x:g} m ahead and {y:g} m "
                f"to either side, expected the cloud of frame {frame.name}"
            )
        return inside


class KittiViews(Dataset):
    """``views[(index, view)]`` → a frame, mirrored, rotated or scaled as the view says.

    A sample is {"id": str, "view": str, "image": uint8 (3, H, W), "projection": (3, 4), "points": (N, 4), "boxes":
    (M, 7), "labels": (M,), "labelled": bool}.

    Args:
        points: the detector's cloud, "velodyne" or "pseudo".
        views: name → View.
        labelled: indices whose labels may be used; None means all.
        image: False replaces the image by a black one.
        teacher: add the LiDAR's points, as "teacher_points".
        color_jitter: give each view but the first its own colour jitter, always the same.
    """

    def __init__(
        self,
        prepared: PreparedFrames,
        points: str,
        views: dict[str, View] = PLAIN,
        labelled: Iterable[int] | None = None,
        image: bool = True,
        teacher: bool = False,
        color_jitter: bool = False,
    ):
        self.color_jitter = color_jitter
        self.prepared, self.points, self.views, self.image, self.teacher = prepared, points, views, image, teacher
        self.labelled = None if labelled is None else set(labelled)

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, name = key
        if name not in self.views:
            raise InputError(f"unknown view {name!r}; expected one of {tuple(self.views)}")
        view, frame = self.views[name], self.prepared.annotated_image(index)
        labelled = self.labelled is None or index in self.labelled
        count = len(frame["boxes"]) if labelled else 0
        image, number = frame["image"], list(self.views).index(name)
        if self.color_jitter and number:
            image = color_jitter(image, np.random.default_rng((index, number)))
        sample = as_sample(image, frame["projection"], self.prepared.cloud(index, self.points), view)
        sample["boxes"] = torch.from_numpy(transform_boxes(frame["boxes"][:count], view)).float()
        sample["labels"] = torch.from_numpy(frame["labels"][:count])
        if not self.image:
            sample["image"] = torch.zeros_like(sample["image"])
        if self.teacher:
            sample["teacher_points"] = torch.from_numpy(transform_points(self.prepared.cloud(index, "velodyne"), view))
        return {"id": self.prepared.frames[index].name, "view": name, **sample, "labelled": labelled}


def as_sample(image: np.ndarray, projection: np.ndarray, points: np.ndarray, view: View = PLAIN["plain"]) -> dict:
    """Tensors of a view: "image" uint8 (3, H, W), "projection" (3, 4), "points" (N, 4)."""
    return {
        "image": torch.from_numpy(transform_image(image, view).copy()).permute(2, 0, 1),
        "projection": torch.from_numpy(transform_projection(projection, view, image.shape[1])).float(),
        "points": torch.from_numpy(transform_points(points, view)),
    }


def collate(samples: list[dict]) -> dict:
    """A batch for ``fusion_step``.

    Images become float 0..1 and are padded at the right and below to the largest.

    Returns:
        lists "ids" and "views" (both absent for samples of ``as_sample``, which have none), "points",
        "teacher_points", "boxes", "labels" and "labelled", as far as the samples have them; "images" float
        (N, 3, H, W); "projections" (N, 3, 4).
    """
    high, wide = (max(sample["image"].shape[k] for sample in samples) for k in (1, 2))
    images = [F.pad(s["image"], (0, wide - s["image"].shape[2], 0, high - s["image"].shape[1])) for s in samples]
    same = ("points", "teacher_points", "boxes", "labels", "labelled")
    keys = {"id": "ids", "view": "views"} | {key: key for key in same}
    batch = {plural: [sample[key] for sample in samples] for key, plural in keys.items() if key in samples[0]}
    return {
        **batch,
        "images": torch.stack(images).float() / 255,
        "projections": torch.stack([sample["projection"] for sample in samples]),
    }
