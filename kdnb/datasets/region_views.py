"""Square crops around objects in a few named views, so that a teacher's answers can be kept per object and view."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdnb.errors import InputError

VIEWS = ("plain", "plain_flip", "left", "left_flip", "right", "right_flip")
CROPS = ("plain", "left", "right")
SIDE_CONTEXT = 2.2  # side of the windows "left" and "right" over the object's longer side
SIDE_PLACE = {"left": 0.27, "right": 0.73}  # where in them the object's centre lies: the widest just fits its half
GREY = 128  # what lies outside the image


def side_in(view: str) -> str | None:
    """Where a view shows its object: "left", "right", or None in the plain ones. A flipped "left" shows it right."""
    crop = _crop_of(view)
    if crop == "plain":
        return None
    return crop if crop == view else {"left": "right", "right": "left"}[crop]


def _crop_of(view: str) -> str:
    if view not in VIEWS:
        raise InputError(f"unknown view {view!r}, expected one of {', '.join(VIEWS)}")
    return view.removesuffix("_flip")


def window(box, crop: str, context: float) -> tuple[float, float, float, float]:
    """The square (x1, y1, x2, y2) that a crop shows of the image, in its pixel edges; it may reach beyond it.

    "plain" is ``context`` times the longer side of ``box``, which lies in its middle; "left" and "right" are 2.2 times
    the longer side, with the box in that half and upright in the middle.
    """
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1) * (context if crop == "plain" else SIDE_CONTEXT)
    left = (x1 + x2) / 2 - side * SIDE_PLACE.get(crop, 0.5)
    top = (y1 + y2) / 2 - side / 2
    return left, top, left + side, top + side


def cut(image: np.ndarray, square, size: int) -> np.ndarray:
    """A window of an image uint8 (H, W, 3), grey where it leaves it, as uint8 (3, size, size); antialiased."""
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
        indices: the regions to offer, by default all; ``index`` always counts in ``regions``.

    Raises:
        InputError: an unknown view, or a region that is not offered.
    """

    def __init__(self, regions, crop: int = 32, indices: Iterable[int] | None = None):
        self.data, self.crop = regions, crop
        self.indices = list(range(len(regions)) if indices is None else indices)
        self._row = {index: row for row, index in enumerate(self.indices)}
        self._crops = {}

    def __len__(self) -> int:
        return len(self.indices)

    def precompute(self, crops: Iterable[str] = CROPS) -> "RegionViews":
        """Cut every region once and keep the crops (3 kB each at 32 pixels); flips need none of their own."""
        missing = [crop for crop in crops if crop not in self._crops]
        kept = {crop: np.empty((len(self), 3, self.crop, self.crop), np.uint8) for crop in missing}
        # image by image, so that each is decoded once
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
            raise InputError(f"region {index} is not among the {len(self)} offered, expected one of their indices")
        region = self.data.regions[index]
        if crop in self._crops:
            image = self._crops[crop][self._row[index]]
        else:
            square = window(region.box, crop, self.data.context)
            image = torch.from_numpy(cut(self.data.image(index), square, self.crop).copy())
        image = image.clone() if view == crop else image.flip(-1)  # a caller that writes must not write into the crops
        return {"id": region.id, "view": view, "image": image, "region": index}


def collate(samples: list[dict]) -> dict:
    """{"ids": [...], "views": [...], "images": uint8 (N, 3, crop, crop), "regions": int64 (N,)}."""
    images: Tensor = torch.stack([sample["image"] for sample in samples])
    return {
        "ids": [sample["id"] for sample in samples],
        "views": [sample["view"] for sample in samples],
        "images": images,
        "regions": torch.tensor([sample["region"] for sample in samples]),
    }
