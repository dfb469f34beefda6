"""Objects as peaks of a map: the head, its targets, its loss, and decoding its outputs to boxes.

CenterPoint's idea (Yin et al. 2021, arXiv 2006.11275) with one regression for all classes. A box is (x, y, z of its
centre, length, width, height, yaw) in the velodyne frame; classes are numbered as in ``CLASSES``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.datasets.kitti_labels import CLASSES
from kdnb.errors import InputError
from kdnb.models.bev import convolution
from kdnb.models.rotated_nms import rotated_nms
from kdnb.models.voxels import Grid

# regression channels: offset from the cell's centre in cells (x, y), z, log sizes (3), sin 2yaw, cos 2yaw
CODE, YAW = 8, 6  # their number, and the first of the yaw
# a box rotated by 180 degrees has the same code; a direction channel separates the two. Their border is at 45 degrees,
# where few cars stand, as in the original's direction classifier
TURN = math.pi / 4


class CentreHead(nn.Module):
    """BEV map (B, C, H, W) → "heatmap" logits (B, 3, H, W) and "boxes" (B, 9, H, W): code and direction."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.shared_conv = nn.Sequential(*convolution(inputs, width))
        self.conv_cls = nn.Conv2d(width, len(CLASSES), 1)
        self.conv_reg = nn.Conv2d(width, CODE, 1)
        self.conv_dir_cls = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.conv_cls.bias, -2.19)  # a prior of 10 %, as in CenterNet

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        x = self.shared_conv(bev)
        return {"heatmap": self.conv_cls(x), "boxes": torch.cat([self.conv_reg(x), self.conv_dir_cls(x)], 1)}


def encode(boxes: Tensor, centres: Tensor, cell: float) -> Tensor:
    """Boxes (..., 7) relative to cells with these centres (..., 2) → (..., 9): the code and the direction, 0 or 1."""
    yaw = boxes[..., 6:]
    offset = (boxes[..., :2] - centres) / cell
    ahead = (torch.cos(yaw - TURN) >= 0).to(boxes.dtype)
    return torch.cat(
        [offset, boxes[..., 2:3], boxes[..., 3:6].clamp(min=0.01).log(), (2 * yaw).sin(), (2 * yaw).cos(), ahead], -1
    )


def decode_code(code: Tensor, centres: Tensor, cell: float) -> Tensor:
    """The inverse of ``encode``; the direction is a logit here."""
    axis = torch.atan2(code[..., 6:7], code[..., 7:8]) / 2  # known up to 180 degrees
    ahead = torch.cos(axis - TURN) >= 0
    yaw = torch.where(ahead == (code[..., 8:9] > 0), axis, axis + math.pi)
    yaw = torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi
    return torch.cat([code[..., :2] * cell + centres, code[..., 2:3], code[..., 3:6].clamp(-5, 5).exp(), yaw], -1)


def make_targets(
    boxes: list[Tensor], labels: list[Tensor], grid: Grid, spread: float = 0.8, least: float = 0.25
) -> dict[str, Tensor]:
    """Targets for the head.

    Args:
        boxes, labels: per frame (M, 7) and (M,). Objects with a centre out of range are ignored.
        spread: standard deviation of an object's peak, in cells.
        least: cells where a peak is at least this high also learn its box, weighted by the height.

    Returns:
        "heatmap" (B, 3, H, W) in 0..1, 1 at the cell of a centre; "boxes" (B, 9, H, W); "weight" (B, 1, H, W).
    """
    centres = grid.centres(boxes[0].device)
    frames = [frame_targets(b.float(), k, grid, centres, spread, least) for b, k in zip(boxes, labels, strict=True)]
    return {key: torch.stack([frame[key] for frame in frames]) for key in ("heatmap", "boxes", "weight")}


def frame_targets(
    boxes: Tensor, labels: Tensor, grid: Grid, centres: Tensor, spread: float, least: float
) -> dict[str, Tensor]:
    """``make_targets`` of one frame, without batch dimension; centres (2, H, W) from ``grid.centres``."""
    rows, columns = grid.output
    place = ((boxes[:, :2] - boxes.new_tensor(grid.range[:2])) / grid.output_cell).floor().long()
    inside = ((place >= 0) & (place < torch.tensor([columns, rows], device=boxes.device))).all(1)
    boxes, labels, place = boxes[inside], labels[inside], place[inside]
    heatmap = boxes.new_zeros(len(CLASSES), rows, columns)
    if len(boxes) == 0:
        return {"heatmap": heatmap, "boxes": boxes.new_zeros(CODE + 1, rows, columns), "weight": heatmap[:1]}
    x, y = torch.arange(columns, device=boxes.device), torch.arange(rows, device=boxes.device)
    squared = (x - place[:, :1])[:, None, :] ** 2 + (y - place[:, 1:])[:, :, None] ** 2
    peaks = torch.exp(-squared / (2 * spread**2))  # (M, H, W)
    for k in labels.unique().tolist():
        heatmap[k] = peaks[labels == k].amax(0)
    height, owner = peaks.max(0)
    code = encode(boxes[owner], centres.permute(1, 2, 0), grid.output_cell)
    return {"heatmap": heatmap, "boxes": code.permute(2, 0, 1), "weight": (height * (height >= least))[None]}


def require_boxes(boxes: list[Tensor], labelled: list[bool] | None = None, ids: list[str] | None = None) -> None:
    """Refuse a batch without boxes: its loss of 0 would look like a perfect detector.

    Raises:
        InputError: no labelled frame has a box.
    """
    labelled = [True] * len(boxes) if labelled is None else labelled
    known = [i for i, is_labelled in enumerate(labelled) if is_labelled]
    if known and not any(len(boxes[i]) for i in known):
        which = ", ".join(ids[i] for i in known) if ids else f"of {len(known)} frames"
        raise InputError(
            f"batch {which}: not one ground-truth box of {', '.join(CLASSES)}; the detection loss would "
            "teach nothing. Give frames with labels, or mark them as unlabelled"
        )


def detection_loss(output: dict, targets: dict) -> dict[str, Tensor]:
    """{"heat", "box", "yaw", "direction"}: what ``total_loss`` sums.

    heat: CenterNet's focal loss with alpha 2 and beta 4, per object (Zhou et al. 2019, arXiv 1904.07850, equation 1).
    The others are weighted means over cells: L1 of position and log sizes, summed over the six; squared distance of
    (sin 2yaw, cos 2yaw); cross-entropy of the direction. L1 would fit the median yaw: most objects point along the
    street, and those across it would be predicted likewise (rendered street, 400 steps, one seed, nothing else changed:
    cyclists' 3D AP at 0.25 is 25 with L1 and 93 with the square; cars' at 0.7 is 63 and 53).
    """
    logits, heat = output["heatmap"].float(), targets["heatmap"]
    p, peak = logits.sigmoid(), heat == 1
    positive = (1 - p) ** 2 * F.logsigmoid(logits) * peak
    negative = (1 - heat) ** 4 * p**2 * F.logsigmoid(-logits)
    focal = -(positive + negative).sum() / peak.sum().clamp(min=1)
    weight, boxes, truth = targets["weight"], output["boxes"].float(), targets["boxes"]
    total = weight.sum().clamp(min=1)
    distance = boxes[:, :CODE] - truth[:, :CODE]
    direction = F.binary_cross_entropy_with_logits(boxes[:, CODE:], truth[:, CODE:], weight, reduction="sum")
    return {
        "heat": focal,
        "box": (weight * distance[:, :YAW].abs()).sum() / total,
        "yaw": (weight * distance[:, YAW:].pow(2)).sum() / total,
        "direction": direction / total,
    }


def total_loss(parts: dict[str, Tensor]) -> Tensor:
    """The weighted sum of ``detection_loss``."""
    return parts["heat"] + parts["box"] + 2 * parts["yaw"] + 0.5 * parts["direction"]


@torch.no_grad()
def decode(output: dict, grid: Grid, threshold: float = 0.1, top: int = 60, overlap: float = 0.1) -> list[dict]:
    """Boxes from the head's maps: cells that are the maximum of their 3x3 neighbourhood, then rotated NMS per class.

    Args:
        threshold: minimum score, 0..1. top: maximum number of boxes of a frame before NMS.
        overlap: of two boxes of a class with a larger IoU in bird's-eye view, the weaker one is removed.

    Returns:
        Per frame {"boxes" (K, 7), "scores" (K,), "labels" (K,)}, best first, on CPU.
    """
    heat = output["heatmap"].float().sigmoid()
    heat = heat * (heat == F.max_pool2d(heat, 3, 1, 1))
    scores, where = heat.flatten(1).topk(min(top, heat[0].numel()))
    cells = heat.shape[2] * heat.shape[3]
    centres = grid.centres(heat.device).flatten(1).T
    detections = []
    for i in range(len(heat)):
        keep = scores[i] > threshold
        place, label, score = where[i][keep] % cells, where[i][keep] // cells, scores[i][keep].cpu()
        code = output["boxes"][i].float().flatten(1).T[place]
        boxes, label = decode_code(code, centres[place], grid.output_cell).cpu(), label.cpu()
        best = rotated_nms(boxes, score, label, overlap)
        detections.append({"boxes": boxes[best], "scores": score[best], "labels": label[best]})
    return detections
