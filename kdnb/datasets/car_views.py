"""Training views of cars: resized to one size, with the aspect ratio and colour of the original, fixed or augmented."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.cars import describe, read_car
from kdnb.errors import InputError

META = {"A": [], "B": [0], "C": [1, 2, 3], "D": [0, 1, 2, 3]}  # columns of (aspect, red, green, blue) per experiment
AUGMENTED = "aug"  # "aug7": the augmentation of seed 7
DETAIL, KEPT = 1.25, 2  # resolution and size of a kept image, as multiples of a view's size
AREA, SHAPE, ANGLE, TONE = 0.35, 0.1, 8.0, 0.25  # largest changes of an augmentation; see ``augmentation``
FILL = (124, 116, 104)  # outside the image: ImageNet's mean colour


class CarViews(Dataset):
    """``views[(index, view)]`` → one car as it is ("plain"), flipped left to right ("flip"), or augmented ("aug7").

    A sample is {"id": "<folder>/<file>", "view": str, "image": uint8 (3, h, w), "meta": float (M,), "label": int, -1 if
    it may not be used, "labelled": bool, "index": int}. "meta" describes the original image, not the view: width over
    height and mean colour, standardised with ``constants``. An augmentation is seeded with (index, its number), so the
    same name always gives the same pixels, in any process.

    Args:
        items: (path of an image, class id); class None or -1 where it is not known.
        size: (height, width) of the samples in pixels; the whole image is resized to it, as the original does.
        experiment: columns of "meta": "A" none, "B" the aspect ratio, "C" the colour, "D" both.
        labelled: indices whose labels may be used, None means all that are known.
        constants: of ``meta_constants``, from training images; experiment "A" needs none. All folds share them, since
            an ensemble shares its batches.
        keep: keep decoded images (16 bytes a pixel of ``size``) for the next epoch.

    Raises:
        InputError: a size that is not positive, an unknown experiment or view, an index that is not in the set,
            missing constants; an unreadable image, when it is needed.
    """

    def __init__(
        self,
        items: Sequence[tuple[Path | str, int | None]],
        size: tuple[int, int],
        experiment: str = "D",
        labelled: Iterable[int] | None = None,
        constants: tuple[Tensor, Tensor] | None = None,
        keep: bool = True,
    ):
        self.items, self.size, self.keep = list(items), tuple(size), keep
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"size is {self.size}, expected (height, width) in pixels")
        self.ids = ["/".join(Path(path).parts[-2:]) for path, _ in self.items]
        self._kept: dict[int, tuple[Image.Image, list[float]]] = {}
        self._set(experiment, labelled, constants)

    def _set(self, experiment: str, labelled: Iterable[int] | None, constants) -> None:
        if experiment not in META:
            raise InputError(f"experiment is {experiment!r}, expected one of {', '.join(META)}")
        if META[experiment] and constants is None:
            raise InputError(f"experiment {experiment} needs constants: call meta_constants()")
        self.experiment, self.constants = experiment, constants
        mean, spread = ([], []) if constants is None else (values.tolist() for values in constants)
        self._scale = [(column, mean[column], spread[column]) for column in META[experiment]]
        self.labelled = None if labelled is None else {int(index) for index in labelled}
        outside = sorted(index for index in self.labelled or () if not 0 <= index < len(self))
        if outside:
            raise InputError(f"labelled image {outside[0]} is not in the set, expected 0 to {len(self) - 1}")

    def like(
        self, experiment: str, labelled: Iterable[int] | None = None, constants: tuple[Tensor, Tensor] | None = None
    ) -> CarViews:
        """The same images, sharing those already decoded, for another experiment or with other labels."""
        other = copy.copy(self)
        other._set(experiment, labelled, constants if constants is not None else self.constants)
        return other

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, view = key
        label = self.items[index][1]
        image, numbers = self.read(index)
        known = label is not None and label >= 0 and (self.labelled is None or index in self.labelled)
        image = to_tensor(make_view(image, self.size, index, view))
        return {
            "id": self.ids[index],
            "view": view,
            "image": image,
            "meta": self.standardised(numbers),
            "label": int(label) if known else -1,
            "labelled": known,
            "index": index,
        }

    def read(self, index: int) -> tuple[Image.Image, list[float]]:
        """The image as it is kept, and (aspect, red, green, blue) of the original."""
        if index in self._kept:
            return self._kept[index]
        original, facts = read_car(self.items[index][0])
        image = shrink(original, self.size), as_numbers(facts)
        if self.keep:
            self._kept[index] = image
        return image

    def standardised(self, numbers: list[float]) -> Tensor:
        """Four numbers → (M,): those of the experiment, in units of their spread."""
        return torch.tensor([(numbers[column] - mean) / spread for column, mean, spread in self._scale])


def views_of_image(
    image: Tensor, size: tuple[int, int], experiment: str, constants: tuple[Tensor, Tensor] | None
) -> CarViews:
    """One image, uint8 (3, H, W) of any size, as a data set of its own; see ``CarViews``."""
    views = CarViews([("image", None)], size, experiment, None, constants)
    views._kept[0] = shrink(image, views.size), as_numbers(describe(image))
    return views


def as_numbers(facts: dict) -> list[float]:
    """(aspect, red, green, blue) of the dict of ``describe``."""
    return [facts["aspect"], *facts["colour"]]


def meta_constants(items: Sequence[tuple[Path | str, int | None]], most: int = 2000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (4,) of (aspect, red, green, blue), over at most ``most`` items, evenly chosen.

    They do not depend on labels, so use the images of all folds, but no test images. Raises InputError without items.
    """
    if not items:
        raise InputError("no training image to take the constants of aspect and colour from")
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    numbers = torch.tensor([as_numbers(read_car(items[index][0])[1]) for index in chosen])
    spread = numbers.std(0, unbiased=False)
    return numbers.mean(0), torch.where(spread > 1e-3, spread, 1.0)  # no division by 0


# --- views ------------------------------------------------------------------------------------------------------


def shrink(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """uint8 (3, H, W) → an image of twice ``size`` with the detail of 1.25 times.

    In so fine an image, the nearest pixel is at most a quarter of a view's pixel away: ``warp`` takes it without
    interpolation, which would take ten times longer at each step.
    """
    image = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    for factor in (DETAIL, KEPT):
        image = image.resize((round(factor * size[1]), round(factor * size[0])), Image.Resampling.BILINEAR)
    return image


def make_view(image: Image.Image, size: tuple[int, int], index: int, view: str) -> Image.Image:
    """A view of size (height, width) of a kept image; (index, the view's number) seeds an augmentation."""
    if view in ("plain", "flip"):
        return warp(image, size, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), flip=view == "flip")
    number = view.removeprefix(AUGMENTED)
    if number == view or not number.isdigit():
        raise InputError(f"unknown view {view!r}, expected plain, flip or {AUGMENTED} with a number, as {AUGMENTED}7")
    place, flip, colours = augmentation(index, int(number))
    return warp(image, size, place, flip).convert("RGB", colours)


def augmentation(index: int, number: int) -> tuple[tuple[float, ...], bool, tuple[float, ...]]:
    """A random window, flip and colour change, seeded with (index, number).

    The window has 65 to 100 % of the image's area, its shape changed by up to 10 %; it lies within the image and is
    then rotated by up to 8 degrees. Brightness, contrast and saturation change by up to a quarter.

    Returns:
        place: (a, b, c, d, e, f): point (x, y) of the view, in -1..1, shows (ax + by + c, dx + ey + f) of the image.
        flip: left to right.
        colours: 12 numbers, three rows of red, green, blue and one of 255ths, as Pillow's ``convert`` takes them.
    """
    sample = np.random.default_rng((index, number)).random(9).tolist()
    signed = [2 * value - 1 for value in sample]
    side, shape = math.sqrt(1 - AREA * sample[0]), math.exp(SHAPE * signed[1] / 2)
    wide, high = min(1.0, side * shape), min(1.0, side / shape)
    right, down = (1 - wide) * signed[2], (1 - high) * signed[3]
    angle = math.radians(ANGLE * signed[4])
    cos, sin = math.cos(angle), math.sin(angle)
    place = (wide * cos, -high * sin, right, wide * sin, high * cos, down)
    brightness, contrast, saturation = (1 + TONE * value for value in signed[5:8])
    return place, sample[8] < 0.5, colour_matrix(brightness, contrast, saturation)


def colour_matrix(brightness: float, contrast: float, saturation: float) -> tuple[float, ...]:
    """12 numbers, as Pillow's ``convert`` takes them: brightness scales all, contrast the distance from mid grey,
    saturation the distance from the pixel's own grey."""
    gain = brightness * contrast
    offset = 127.5 * (1 - contrast)
    grey = [(1 - saturation) * share * gain for share in (0.299, 0.587, 0.114)]  # of luma, ITU-R BT.601
    own = saturation * gain
    rows = [[value + (own if row == column else 0) for column, value in enumerate(grey)] for row in range(3)]
    return tuple(number for row in rows for number in (*row, offset))


def warp(image: Image.Image, size: tuple[int, int], place: tuple, flip: bool) -> Image.Image:
    """The view of ``size`` (height, width) that ``place`` shows of the image, see ``augmentation``."""
    height, width = size
    half_w, half_h = image.width / 2, image.height / 2
    a, b, c, d, e, f = place
    # from pixels of the view to -1..1, through ``place``, to pixels of the image
    across = (a * half_w * 2 / width, b * half_w * 2 / height, half_w * (1 + c - a - b))
    along = (d * half_h * 2 / width, e * half_h * 2 / height, half_h * (1 + f - d - e))
    affine, nearest = Image.Transform.AFFINE, Image.Resampling.NEAREST
    view = image.transform((width, height), affine, (*across, *along), nearest, fillcolor=FILL)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, h, w)."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


# --- batches ----------------------------------------------------------------------------------------------------


def collate(samples: list[dict]) -> dict:
    """A batch: lists "ids" and "views"; "images" uint8 (N, 3, h, w), "meta" float (N, M), "labels" int64 (N,), -1 where
    unknown, "labelled" bool (N,), "indices" int64 (N,)."""
    return {
        "ids": [sample["id"] for sample in samples],
        "views": [sample["view"] for sample in samples],
        "images": torch.stack([sample["image"] for sample in samples]),
        "meta": torch.stack([sample["meta"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples]),
        "labelled": torch.tensor([sample["labelled"] for sample in samples]),
        "indices": torch.tensor([sample["index"] for sample in samples]),
    }
