"""Square crops around objects in a few named views, so that a teacher's outputs can be kept per object and view."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdnb.errors import InputError

VIEWS = ("plain", "plain_flip", "left", "left_flip", "right", "right_flip")
CROPS = ("plain", "left", "right")
SIDE_CONTEXT = 2.2  # side of the windows "left" and "right" over the object's longer side
SIDE_CENTRE = {"left": 0.27, "right": 0.73}  # x of the object's centre in them: the widest object just fits its half
GREY = 128  # outside the image


def side_in(view: str) -> str | None:
    """Where a view shows its object: "left", "right", or None in the plain ones. "left_flip" shows it on the right."""
    crop = _crop_of(view)
    if crop == "plain":
        return None
    return crop if crop == view else {"left": "right", "right": "left"}[crop]


def _crop_of(view: str) -> str:
    if view not in VIEWS:
        raise InputError(f"unknown view {view!r}, expected one of {', '.join(VIEWS)}")
    return view.removesuffix("_flip")


def window(box: Sequence[float], crop: str, context: float) -> tuple[float, float, float, float]:
    """The square (x1, y1, x2, y2) of a crop, in pixel edges of the image; it may reach beyond the image.

    "plain" has ``context`` times the longer side of ``box`` (x1, y1, x2, y2) and the same centre; "left" and "right"
    have 2.2 times the longer side, with the box in that half, vertically centred.
    """
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1) * (context if crop == "plain" else SIDE_CONTEXT)
    left = (x1 + x2) / 2 - side * SIDE_CENTRE.get(crop, 0.5)
    top = (y1 + y2) / 2 - side / 2
    return left, top, left + side, top + side


def cut(image: np.ndarray, square: Sequence[float], size: int) -> np.ndarray:
    """The square of an image uint8 (H, W, 3), grey outside of it, as uint8 (3, size, size); antialiased."""
    x1, y1 = int(np.floor(square[0])), int(np.floor(square[1]))
    x2, y2 = int(np.ceil(square[2])), int(np.ceil(square[3]))
    part = np.full((y2 - y1, x2 - x1, 3), GREY, np.uint8)
    height, width = image.shape[:2]
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    part[top - y1 : bottom - y1, left - x1 : right - x1] = image[top:bottom, left:right]
    inner = (square[0] - x1, square[1] - y1, square[2] - x1, square[3] - y1)
    small = Image.fromarray(part).resize((size, size), Image.Resampling.BILINEAR, box=inner)
    return np.asarray(small).transpose(2, 0, 1)


class RegionViews(torch.utils.data.Dataset):
    """``views[(index, view)]`` → the crop of one region in one of ``VIEWS``.

    A sample is {"id": str, "view": str, "image": uint8 (3, crop, crop), "region": index}; ``collate`` makes a batch.

    Args:
        regions: a ``COCORegionText``, or anything with ``regions`` (each with an id and a box), ``image(index)`` and
            ``context``.
        crop: side of the crops in pixels.
        indices: of the regions to use, by default all; ``index`` always counts in ``regions``.

    Raises:
        InputError: an unknown view, or a region that is not used.
    """

    def __init__(self, regions: Any, crop: int = 32, indices: Iterable[int] | None = None):
        self.data, self.crop = regions, crop
        self.indices = list(range(len(regions)) if indices is None else indices)
        self._row = {index: row for row, index in enumerate(self.indices)}
        self._crops: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def precompute(self, crops: Iterable[str] = CROPS) -> "RegionViews":
        """Cut all regions and keep the crops (3 kB each at 32 pixels), from which flips are made too; returns self."""
        missing = [crop for crop in crops if crop not in self._crops]
        kept = {crop: np.empty((len(self), 3, self.crop, self.crop), np.uint8) for crop in missing}
        # in the order of images, so that each is decoded once
        for index in sorted(self.indices, key=lambda i: self.data.regions[i].image_id):
            image, box = self.data.image(index), self.data.regions[index].box
            for crop, array in kept.items():
                array[self._row[index]] = cut(image, window(box, crop, self.data.context), self.crop)
        self._crops.update({crop: torch.from_numpy(array) for crop, array in kept.items()})
        return self

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, view = key
        crop = _crop_of(view)
        if index not in self._row:
            raise InputError(f"region {index} is not among the {len(self)} used, expected one of their indices")
        region = self.data.regions[index]
        if crop in self._crops:
            image = self._crops[crop][self._row[index]]
        else:
            square = window(region.box, crop, self.data.context)
            image = torch.from_numpy(cut(self.data.image(index), square, self.crop).copy())
        image = image.clone() if view == crop else image.flip(-1)  # a caller may write into it
        return {"id": region.id, "view": view, "image": image, "region": index}


def collate(samples: list[dict]) -> dict:
    """{"ids": [...], "views": [...], "images": uint8 (N, 3, crop, crop), "regions": int64 (N,)}."""
    return {
        "ids": [sample["id"] for sample in samples],
        "views": [sample["view"] for sample in samples],
        "images": torch.stack([sample["image"] for sample in samples]),
        "regions": torch.tensor([sample["region"] for sample in samples]),
    }
