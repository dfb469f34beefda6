"""Training views of a segmentation set: one size, a few fixed crops or augmented, labelled or not; and batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from kdnb.datasets.augment import AUGMENTED, augmentation, is_augmentation
from kdnb.datasets.camvid_classes import VOID
from kdnb.errors import InputError

# left and top edge of a crop, and its side, as shares of the image: fixed, so that a teacher's outputs can be kept
CROPS = {"crop0": (0.0, 0.15, 0.75), "crop1": (0.25, 0.15, 0.75), "crop2": (0.1, 0.3, 0.6), "crop3": (0.3, 0.3, 0.6)}
VIEWS = ("plain", "flip", *CROPS)


class SegmentationViews(Dataset):
    """``views[(index, view)]`` → a frame as it is, flipped left to right, a crop of it, or an augmentation ("aug7", see
    ``kdnb.datasets.augment``), resized to ``size``.

    A sample is {"id": str, "view": str, "image": uint8 (3, h, w), "label": int64 (h, w), "labelled": bool, "index":
    int}. Images are resized bilinearly with antialiasing, labels to the class nearest to the middle of a pixel.

    Args:
        dataset: items hold "image" uint8 (3, H, W), "label" (H, W) int64 and "name" (unique); sizes may differ.
        size: (height, width) in pixels.
        labelled: indices whose labels may be used, None means all; the labels of the others are all ``VOID``.
        keep: keep resized frames (4 bytes a pixel), and whole ones to augment, for the next epoch.

    Raises:
        InputError: a size that is not positive, an index that is not in the set, an unknown view.
    """

    def __init__(
        self, dataset: Dataset, size: tuple[int, int], labelled: Iterable[int] | None = None, keep: bool = True
    ):
        self.dataset, self.size, self.keep = dataset, tuple(size), keep
        self.labelled = None if labelled is None else {int(index) for index in labelled}
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"size is {self.size}, expected (height, width) in pixels")
        outside = sorted(index for index in self.labelled or () if not 0 <= index < len(dataset))
        if outside:
            raise InputError(f"labelled frame {outside[0]} is not in the set, expected 0 to {len(dataset) - 1}")
        self._kept: dict[tuple[int, str], tuple[str, Tensor, Tensor]] = {}
        self._frames: dict[int, tuple[str, Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, view = key
        if view not in VIEWS and not is_augmentation(view):
            raise InputError(f"unknown view {view!r}, expected one of {', '.join(VIEWS)} or {AUGMENTED} with a number")
        name, image, label = self._resized(index, "plain" if view == "flip" else view)
        image, label = (image.flip(-1), label.flip(-1)) if view == "flip" else (image.clone(), label)
        known = self.labelled is None or index in self.labelled
        label = label.long() if known else torch.full(self.size, VOID)
        return {"id": name, "view": view, "image": image, "label": label, "labelled": known, "index": index}

    def _resized(self, index: int, view: str) -> tuple[str, Tensor, Tensor]:
        """Name, image and uint8 label of a frame or of a part of it."""
        if (index, view) in self._kept:
            return self._kept[index, view]
        name, image, label = self._whole(index)
        if is_augmentation(view):
            part = augmentation(index, view, image.shape[-1], image.shape[-2])
            image, label = part.show(image), part.cut(label)
        else:
            image, label = cut(image, view), cut(label, view)
        image = tv.resize(image, list(self.size), InterpolationMode.BILINEAR, antialias=True)
        # NEAREST takes the pixel left above the middle and so shifts the label by half a pixel
        label = tv.resize(label[None], list(self.size), InterpolationMode.NEAREST_EXACT)[0]
        if self.keep and view in VIEWS:
            self._kept[index, view] = (name, image, label)
        return name, image, label

    def _whole(self, index: int) -> tuple[str, Tensor, Tensor]:
        """Name, image and uint8 label of a frame; read once."""
        if index in self._frames:
            return self._frames[index]
        item = self.dataset[index]
        frame = (item["name"], item["image"], item["label"].to(torch.uint8))
        if self.keep:
            self._frames[index] = frame
        return frame


def cut(image: Tensor, view: str) -> Tensor:
    """The part of an image (..., H, W) that a view shows, as a copy."""
    left, top, side = CROPS.get(view, (0.0, 0.0, 1.0))
    height, width = image.shape[-2:]
    y, x = round(top * height), round(left * width)
    return image[..., y : y + round(side * height), x : x + round(side * width)].contiguous()


def collate(samples: list[dict]) -> dict:
    """A batch: lists "ids" and "views"; "images" uint8 (N, 3, h, w), "labels" int64 (N, h, w), "labelled" bool (N,),
    "indices" int64 (N,)."""
    return {
        "ids": [sample["id"] for sample in samples],
        "views": [sample["view"] for sample in samples],
        "images": torch.stack([sample["image"] for sample in samples]),
        "labels": torch.stack([sample["label"] for sample in samples]),
        "labelled": torch.tensor([sample["labelled"] for sample in samples]),
        "indices": torch.tensor([sample["index"] for sample in samples]),
    }


def count_pixels(dataset: Dataset, keys: Iterable | None = None) -> Tensor:
    """(F, 12) int64: pixels of each class in each sample, void last.

    Args:
        dataset: samples hold "label" (H, W) int64.
        keys: of the samples to count; None counts all.
    """
    keys = range(len(dataset)) if keys is None else keys
    return torch.stack([torch.bincount(dataset[key]["label"].flatten(), minlength=VOID + 1) for key in keys])


def class_weights(counts: Tensor) -> Tensor:
    """(11,) weights 1 / ln(1.02 + share), as ENet was trained with on CamVid (Paszke et al. 2016, arXiv 1606.02147).

    Args:
        counts: (F, 12) pixels of the frames that the student has labels of, see ``count_pixels``.
    """
    total = counts[:, :VOID].sum(0).double()
    return (1 / torch.log(1.02 + total / total.sum())).float()
