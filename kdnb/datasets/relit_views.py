"""Views of frames, each in several lights: test streets have a light that no training street had."""

import numpy as np
import torch
from torch.utils.data import Dataset

from kdnb.datasets.light import relit

BETWEEN = "@"  # a view's name and the number of its light: "flip@2"; light 0 is the frame's own


class RelitViews(Dataset):
    """``views[(index, "flip@2")]``: the sample that ``views[(index, "flip")]`` gives, in its second light.

    A frame's light of one number and view is always the same.

    Args:
        views: a data set like ``SegmentationViews``: samples with "image" uint8 (3, H, W).
    """

    def __init__(self, views: Dataset):
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, name = key
        view, _, light = name.partition(BETWEEN)
        sample = self.views[index, view]
        if not int(light or 0):
            return sample
        rng = np.random.default_rng((index, int(light), *view.encode()))
        image = relit(np.ascontiguousarray(sample["image"].permute(1, 2, 0)), rng)
        return {**sample, "view": name, "image": torch.from_numpy(image).permute(2, 0, 1).contiguous()}


def in_lights(views: list[str], lights: int) -> tuple[str, ...]:
    """Every view in its own light and in so many others: ("plain", "plain@1", ...)."""
    return tuple(f"{view}{BETWEEN}{light}" if light else view for view in views for light in range(lights + 1))
