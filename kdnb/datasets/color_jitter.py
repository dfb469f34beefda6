"""Random exposure, contrast, tint, gamma and haze. Test streets have a light of their own, so a network that learns
one light fails there."""

import numpy as np
import torch
from torch.utils.data import Dataset

SEPARATOR = "@"  # between a view and the number of its colour jitter: "flip@2"; number 0 leaves the colours as they are


def color_jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image with another exposure, contrast, tint, gamma and haze, sampled from ``rng``.

    Each channel changes by one curve for all pixels, so a table of 256 values does it in a fraction of a millisecond.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        uint8 (H, W, 3).
    """
    mean = image.mean() / 255
    tone = np.linspace(0, 1, 256)[:, None]  # (256, 1), becomes (256, 3) with the tint
    contrast, gamma = np.exp(rng.normal(0, (0.25, 0.2)))
    gain = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.1, 3))
    haze, haze_colour = rng.uniform(0, 0.25), rng.uniform(0.5, 1)
    curve = ((tone - mean) * contrast + mean).clip(0) * gain
    curve = (curve * (1 - haze) + haze * haze_colour).clip(0, 1) ** gamma
    table = (255 * curve).round().astype(np.uint8)
    return np.stack([table[:, k][image[..., k]] for k in range(3)], -1)


class ColorJitterViews(Dataset):
    """``views[(index, "flip@2")]``: the sample of ``views[(index, "flip")]`` with its second colour jitter.

    The same index, view and number always give the same colours.

    Args:
        views: a data set like ``SegmentationViews``: samples with "image" uint8 (3, H, W).
    """

    def __init__(self, views: Dataset):
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, name = key
        view, _, number = name.partition(SEPARATOR)
        sample = self.views[index, view]
        if not int(number or 0):
            return sample
        rng = np.random.default_rng((index, int(number), *view.encode()))
        image = color_jitter(np.ascontiguousarray(sample["image"].permute(1, 2, 0)), rng)
        return {**sample, "view": name, "image": torch.from_numpy(image).permute(2, 0, 1).contiguous()}


def with_color_jitters(views: list[str], num_color_jitters: int) -> tuple[str, ...]:
    """Each view and its jittered ones: ("plain", "plain@1", ..., "flip", "flip@1", ...)."""
    return tuple(f"{view}{SEPARATOR}{k}" if k else view for view in views for k in range(num_color_jitters + 1))
