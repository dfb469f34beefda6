"""KITTI frames for a depth network: small images, and the LiDAR's points in them as the depth to learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.color_jitter import color_jitter
from kdnb.datasets.kitti import Frame
from kdnb.datasets.sparse_depth import sparse_depth
from kdnb.errors import InputError

COLOR_JITTERS = 8  # of each image: its own colours, and seven more
VIEWS = tuple(f"{side}{jitter}" for side in ("plain", "flip") for jitter in ("", *range(1, COLOR_JITTERS)))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (N, 3, H, W) in another (height, width), antialiased when made smaller."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    pixels = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return pixels.round().clamp(0, 255).byte()


class DepthViews(Dataset):
    """``views[(index, view)]`` → {"id" str, "view" str, "image" uint8 (3, h, w), "depth" (h, w) in metres}.

    Args:
        size: (height, width) in pixels.
        keep: keep small images and their depth in memory.

    Raises:
        InputError: an unknown view, a cloud without a point in the image.
    """

    def __init__(self, frames: Sequence[Frame], size: tuple[int, int], keep: bool = False):
        self.frames, self.size, self.keep = frames, size, keep
        self._kept: dict[int, tuple[np.ndarray, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, view = key
        if view not in VIEWS:
            raise InputError(f"unknown view {view!r}; expected one of {VIEWS}")
        image, depth = self._kept.get(index) or self._read(index)
        if view not in ("plain", "flip"):
            image = color_jitter(image, np.random.default_rng((index, VIEWS.index(view))))
        if view.startswith("flip"):
            image, depth = image[:, ::-1], depth.flip(-1)
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
        return {"id": self.frames[index].name, "view": view, "image": pixels, "depth": depth}

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


def collate_depth(samples: list[dict]) -> dict:
    """A batch for ``depth_step``: "images" uint8 (N, 3, h, w), "depth" (N, h, w), and lists "ids" and "views"."""
    images = torch.stack([sample["image"] for sample in samples])
    return {
        "ids": [sample["id"] for sample in samples],
        "views": [sample["view"] for sample in samples],
        "images": images.contiguous(memory_format=torch.channels_last),
        "depth": torch.stack([sample["depth"] for sample in samples]),
    }
