"""04's way from images to point clouds: data for the depth network, its errors, and the clouds of all frames."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.color_jitter import color_jitter
from kdnb.datasets.kitti import Frame, KittiObject
from kdnb.datasets.pseudo_lidar import check_recipe, write_pseudo_lidar
from kdnb.datasets.sparse_depth import sparse_depth
from kdnb.errors import InputError
from kdnb.metrics.depth import evaluate_depth
from kdnb.models.depth import DepthModel, resized

COLOR_JITTERS = 8  # of each image: its own colours, and seven more
VIEWS = tuple(f"{side}{light}" for side in ("plain", "flip") for light in ("", *range(1, COLOR_JITTERS)))
POINTS = "pseudo"  # name of the clouds' folder


class DepthViews(Dataset):
    """``views[(index, view)]`` → {"image" uint8 (3, h, w), "depth" (h, w)}, a LiDAR's points as the depth to learn.

    Args:
        size: (height, width) in pixels.
        keep: keep them in memory.
    """

    def __init__(self, frames: Sequence[Frame], size: tuple[int, int], keep: bool = False):
        self.frames, self.size, self.keep = frames, tuple(size), keep
        self._kept: dict[int, tuple[np.ndarray, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: tuple[int, str]) -> dict[str, Tensor]:
        index, view = key
        if view not in VIEWS:
            raise InputError(f"unknown view {view!r}; expected one of {VIEWS}")
        image, depth = self._kept.get(index) or self._read(index)
        if view not in ("plain", "flip"):
            image = color_jitter(image, np.random.default_rng((index, VIEWS.index(view))))
        if view.startswith("flip"):
            image, depth = image[:, ::-1], depth.flip(-1)
        return {"image": torch.from_numpy(image.copy()).permute(2, 0, 1), "depth": depth}

    def _read(self, index: int) -> tuple[np.ndarray, Tensor]:
        frame = self.frames[index]
        image = frame.image()
        depth = sparse_depth(frame.points(), frame.calibration, image.shape[:2], self.size)
        if not depth.any():
            raise InputError(
                f"{frame.points_path}: no point of it lies in the image, expected the cloud of frame {frame.name}"
            )
        small = resized(torch.from_numpy(image).permute(2, 0, 1)[None], self.size)[0].permute(1, 2, 0).numpy()
        pair = small, torch.from_numpy(depth)
        if self.keep:
            self._kept[index] = pair
        return pair


def collate_depth(samples: list[dict]) -> dict[str, Tensor]:
    """A batch for ``depth_step``."""
    images = torch.stack([sample["image"] for sample in samples])
    return {
        "images": images.contiguous(memory_format=torch.channels_last),
        "depth": torch.stack([sample["depth"] for sample in samples]),
    }


def depth_errors(depth: DepthModel, frames: Sequence[Frame]) -> dict:
    """Scores of a depth model against the LiDAR, at the images' own size; see ``evaluate_depth``."""

    def pairs():
        for frame in frames:
            image = frame.image()
            yield depth(image, frame.name), sparse_depth(frame.points(), frame.calibration, image.shape[:2])

    return evaluate_depth(pairs())


def cloud_path(folder: Path, frame: Frame) -> Path:
    """Where ``write_clouds`` puts the pseudo-LiDAR of a frame."""
    return folder / frame.image_path.parent.parent.name / POINTS / f"{frame.name}.bin"


def write_clouds(sources: Sequence[KittiObject], folder: Path, depth: Callable[[], DepthModel], acc, **how) -> None:
    """The pseudo-LiDAR of all frames below ``folder``, a KITTI root; done already, it only looks.

    Each process of ``acc`` writes its share; all of them have to call this.

    Args:
        depth: makes the depth model, if it is needed.
        how: of ``pseudo_points``.
    """
    done = all(cloud_path(folder, frame).exists() for source in sources for frame in source)
    acc.wait_for_everyone()  # all of them look before one of them writes
    if done:
        return
    model = depth()
    with acc.main_process_first():
        check_recipe(folder, model.name, POINTS, how)
    for source in sources:
        share = copy.copy(source)
        share.frames = source.frames[acc.process_index :: acc.num_processes]
        write_pseudo_lidar(share, folder, model, POINTS, **how)
    acc.wait_for_everyone()
