"""Training views of a detection set: plain, flipped or augmented, labelled or not; and batches of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.augment import AUGMENTED, augmentation, is_augmentation
from kdnb.errors import InputError

VIEWS = ("plain", "flip")
VISIBLE = 0.4  # share of a box that must be seen for its object to count


class DetectionViews(Dataset):
    """``views[(index, view)]`` → one training sample of a detection set: as it is ("plain"), flipped left to right
    ("flip") or augmented ("aug7"). An augmentation is seeded with (index, its number): the same name always gives the
    same pixels and boxes, in any process.

    Args:
        data: a set whose items hold "id", "image" uint8 (3, H, W), "boxes" (N, 4) xyxy in pixels, "labels" (N,) and
            "difficult" (N,); difficult objects are left out of training, as the VOC protocol leaves them out of the
            score. Ids must be unique.
        labelled: indices whose labels may be used; None means all.
        teacher_boxes: index → (N, 4) boxes that a teacher predicts in an image without labels; they tell foreground
            from background there and are never used as labels.
    """

    def __init__(
        self, data: Dataset, labelled: Iterable[int] | None = None, teacher_boxes: dict[int, Tensor] | None = None
    ):
        self.data = data
        self.labelled = None if labelled is None else set(labelled)
        self.teacher_boxes = teacher_boxes or {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, view = key
        item = self.data[index]
        is_labelled = self.labelled is None or index in self.labelled
        if is_labelled:
            keep = ~item["difficult"]
            boxes, labels = item["boxes"][keep], item["labels"][keep]
        else:
            boxes = self.teacher_boxes.get(index, torch.zeros(0, 4))
            labels = torch.ones(len(boxes), dtype=torch.int64)
        image, boxes, kept = make_view(item["image"], boxes, index, view)
        return {
            "id": item["id"],
            "view": view,
            "image": image.float() / 255,
            "boxes": boxes[kept],
            "labels": labels[kept],
            "labelled": is_labelled,
        }


def make_view(image: Tensor, boxes: Tensor, index: int, view: str) -> tuple[Tensor, Tensor, Tensor]:
    """A view of an image uint8 (3, H, W) and of its boxes (N, 4) xyxy, and which boxes can be seen in it, bool (N,)."""
    everything = torch.ones(len(boxes), dtype=torch.bool)
    if view == "plain":
        return image, boxes, everything
    if view == "flip":
        return image.flip(-1), flip_boxes(boxes, image.shape[-1]), everything
    if not is_augmentation(view):
        raise InputError(f"unknown view {view!r}; expected one of {VIEWS} or {AUGMENTED} with a number")
    window = augmentation(index, view, image.shape[-1], image.shape[-2])
    boxes, seen = boxes_in_window(boxes, window.left, window.top, window.width, window.height)
    return window.show(image), flip_boxes(boxes, window.width) if window.flip else boxes, seen


def boxes_in_window(boxes: Tensor, left: int, top: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) in pixels of a window, cut at its edges, and bool (N,): ``VISIBLE`` of the box lies in it."""
    moved = boxes - torch.tensor([left, top, left, top], dtype=boxes.dtype)
    cut = torch.stack([moved[:, 0::2].clamp(0, width), moved[:, 1::2].clamp(0, height)], 2).flatten(1)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (cut, moved)]
    return cut, areas[0] > VISIBLE * areas[1]


def flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """(N, 4) xyxy boxes of an image ``width`` pixels wide, flipped left to right."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], 1)


def collate(samples: list[dict]) -> dict:
    """A batch for ``detection_step``: lists "ids", "views", "images", "targets" (boxes, labels), "labelled"."""
    return {
        "ids": [sample["id"] for sample in samples],
        "views": [sample["view"] for sample in samples],
        "images": [sample["image"] for sample in samples],
        "targets": [{"boxes": sample["boxes"], "labels": sample["labels"]} for sample in samples],
        "labelled": [sample["labelled"] for sample in samples],
    }
