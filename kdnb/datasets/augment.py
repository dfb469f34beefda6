"""Augmentations by name: "aug7" of an item always shows the same window in the same colours, in any process."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdnb.datasets.color_jitter import color_jitter
from kdnb.errors import InputError

AUGMENTED = "aug"
AREA, SHAPE = 0.35, 0.2  # the least share of the image's area that a window shows; by how much its shape changes


@dataclass(frozen=True)
class Augmentation:
    """A window of an image in pixels, flipped left to right or not, in other colours or not."""

    left: int
    top: int
    width: int
    height: int
    flip: bool
    colours: np.random.Generator | None

    def cut(self, image: Tensor) -> Tensor:
        """The window of (..., H, W), flipped if so, in the colours that it has."""
        cut = image[..., self.top : self.top + self.height, self.left : self.left + self.width]
        return (cut.flip(-1) if self.flip else cut).contiguous()

    def show(self, image: Tensor) -> Tensor:
        """``cut`` of uint8 (3, H, W), in other colours if so."""
        cut = self.cut(image)
        if self.colours is None:
            return cut
        pixels = np.ascontiguousarray(cut.permute(1, 2, 0))
        return torch.from_numpy(color_jitter(pixels, self.colours)).permute(2, 0, 1).contiguous()


def augmentations(count: int) -> list[str]:
    """The names of so many augmentations."""
    return [f"{AUGMENTED}{number}" for number in range(count)]


def is_augmentation(view: str) -> bool:
    number = view.removeprefix(AUGMENTED)
    return number != view and number.isdigit()


def augmentation(index: int, view: str, width: int, height: int) -> Augmentation:
    """The augmentation of this name of an image ``width`` x ``height`` pixels, seeded with (index, its number).

    The window has 35 to 100 % of the image's area, its shape changed by up to 10 % either way. Half of all windows are
    flipped, half have other colours. Raises InputError for the name of another view.
    """
    if not is_augmentation(view):
        raise InputError(f"unknown view {view!r}, expected {AUGMENTED} with a number, as {AUGMENTED}7")
    rng = np.random.default_rng((index, int(view.removeprefix(AUGMENTED))))
    side, shape = math.sqrt(rng.uniform(AREA, 1)), math.exp(rng.uniform(-SHAPE, SHAPE) / 2)
    wide = max(1, round(min(1.0, side * shape) * width))
    high = max(1, round(min(1.0, side / shape) * height))
    left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    flip, other = rng.random(2) < 0.5
    return Augmentation(left, top, wide, high, bool(flip), rng if other else None)
