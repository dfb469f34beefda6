"""Training views of a detection set: plain or flipped, labelled or not; and batches of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.errors import InputError

VIEWS = ("plain", "flip")


class DetectionViews(Dataset):
    """``views[(index, view)]`` → one training sample of a detection set, as it is or flipped left to right.

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
        if view not in VIEWS:
            raise InputError(f"unknown view {view!r}; expected one of {VIEWS}")
        item = self.data[index]
        is_labelled = self.labelled is None or index in self.labelled
        if is_labelled:
            keep = ~item["difficult"]
            boxes, labels = item["boxes"][keep], item["labels"][keep]
        else:
            boxes = self.teacher_boxes.get(index, torch.zeros(0, 4))
            labels = torch.ones(len(boxes), dtype=torch.int64)
        image = item["image"].float() / 255
        if view == "flip":
            image, boxes = image.flip(-1), flip_boxes(boxes, image.shape[-1])
        return {
            "id": item["id"],
            "view": view,
            "image": image,
            "boxes": boxes,
            "labels": labels,
            "labelled": is_labelled,
        }


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
