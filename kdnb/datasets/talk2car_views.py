"""Talk2Car as networks read it: boxes in 0..1, crops of proposals, and the mirrored view of an image and its command.

P is the number of proposals that each command is filled up to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.region_splits import CONTEXT
from kdnb.datasets.region_views import GREY, cut, window
from kdnb.datasets.talk2car import HEIGHT, WIDTH, Command, Talk2Car, to_pixels

VIEWS = ("plain", "flip")
MIRRORED = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}

# --- boxes ------------------------------------------------------------------------------------------------------


def normalize_boxes(boxes: Tensor, width: int = WIDTH, height: int = HEIGHT) -> Tensor:
    """(..., 4) boxes in an image of this size, by default the official 1600 x 900 → 0..1."""
    return boxes / boxes.new_tensor([width, height, width, height])


def pad_proposals(proposals: Tensor, most: int) -> dict[str, Tensor]:
    """ "boxes" (P, 4) and "proposal_mask" (P,) of up to P = ``most`` proposals (n, 4) in 0..1."""
    padding = proposals.new_tensor([0.0, 0.0, 1.0, 1.0]).repeat(most - len(proposals), 1)  # any box with an area
    return {"boxes": torch.cat([proposals, padding]), "proposal_mask": torch.arange(most) < len(proposals)}


def read_boxes(data: Talk2Car, most: int) -> dict[str, Tensor]:
    """ "boxes" (N, P, 4) in 0..1, "proposal_mask" (N, P) and "truth" (N, 4) of all N commands."""
    items = [data[i] for i in range(len(data))]
    padded = [pad_proposals(normalize_boxes(item["proposals"]), most) for item in items]
    return collate([{**one, "truth": normalize_boxes(item["box"])} for one, item in zip(padded, items, strict=True)])


def boxes_by_token(commands: Sequence[Command], boxes: Tensor) -> dict[str, list[float]]:
    """(N, 4) boxes in 0..1 → {token: [x, y, w, h]} in 1600 x 900, as the leaderboard takes them."""
    scaled = boxes.clamp(0, 1) * boxes.new_tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    corner, size = scaled[:, :2], (scaled[:, 2:] - scaled[:, :2]).clamp(min=1.0)
    rows = torch.cat([corner, size], 1).tolist()
    return {command.token: row for command, row in zip(commands, rows, strict=True)}


def grid_proposals(image: Tensor, across: int = 5, down: int = 3) -> Tensor:
    """(across · down, 4) overlapping boxes all over an image, in its pixels, for an image without detections."""
    height, width = image.shape[1:]
    step_x, step_y = width / (across + 1), height / (down + 1)
    grid = [(x, y) for y in range(down) for x in range(across)]
    return torch.tensor([[step_x * x, step_y * y, step_x * (x + 2), step_y * (y + 2)] for x, y in grid])


# --- images -----------------------------------------------------------------------------------------------------


def proposal_crops(image: Tensor, proposals: Tensor, size: int, most: int) -> Tensor:
    """uint8 (3, H, W) and up to P boxes in its pixels → uint8 (P, 3, size, size): squares as in 01, then grey ones."""
    pixels = image.permute(1, 2, 0).numpy()
    crops = np.full((most, 3, size, size), GREY, np.uint8)
    for row, box in enumerate(proposals.tolist()):
        crops[row] = cut(pixels, window(box, "plain", CONTEXT), size)
    return torch.from_numpy(crops)


def resize_image(image: Tensor, width: int) -> Tensor:
    """uint8 (3, H, W) → uint8 (3, height, width) in the data set's 16 to 9."""
    small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, round(width * HEIGHT / WIDTH)))
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def item_in_pixels(data: Talk2Car, index: int) -> dict:
    """A command with its image, all boxes in the image's own pixels: "id", "image", "command", "box", "twin_box",
    "proposals"."""
    item, image = data[index], data.image(index)
    height, width = image.shape[1:]
    named = {key: item[key] for key in ("box", "twin_box", "proposals")}
    scaled = {key: None if boxes is None else to_pixels(boxes, width, height) for key, boxes in named.items()}
    return {"id": item["token"], "image": image, "command": item["command"], **scaled}


# --- the mirrored view ------------------------------------------------------------------------------------------


def mirrored_text(command: str) -> str:
    """The command for the mirrored image: left and right change places."""
    return re.sub(r"\b(left|right)(most)?\b", lambda word: MIRRORED[word[0]], command.lower())


def mirrored_boxes(boxes: Tensor) -> Tensor:
    """(..., 4) boxes in 0..1, mirrored left to right."""
    return boxes[..., [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1]) + boxes.new_tensor([1, 0, 1, 0])


# --- batches ----------------------------------------------------------------------------------------------------


class Grounded(Dataset):
    """``grounded[(index, view)]`` → what a model reads of one command in a view, "plain" or "flip".

    Args:
        views: view → tensors (N, ...) of all commands, or lists of N; float16 is read as float32.
        images: ``images(index, view)`` gives {"crops": ...} or {"images": ...}, where an encoder runs too.
    """

    def __init__(self, views: dict[str, dict], images: Callable[[int, str], dict] | None = None):
        self.views, self.images = views, images

    def __len__(self) -> int:
        return len(next(iter(self.views["plain"].values())))

    def __getitem__(self, key: tuple[int, str]) -> dict:
        index, view = key
        rows = {name: values[index] for name, values in self.views[view].items()}
        images = self.images(index, view) if self.images else {}
        return {"ids": index, "views": view, **{name: _float32(row) for name, row in rows.items()}, **images}


def _float32(row: Tensor | str) -> Tensor | str:
    return row.float() if torch.is_tensor(row) and row.dtype == torch.float16 else row


def collate(samples: list[dict]) -> dict:
    """Tensors are stacked; everything else becomes a list."""
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    return {name: torch.stack(rows) if torch.is_tensor(rows[0]) else rows for name, rows in columns.items()}
