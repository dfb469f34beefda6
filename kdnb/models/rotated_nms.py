"""Non-maximum suppression of rotated boxes in bird's-eye view."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdnb.metrics.rotated_iou import rotated_ious


def overlaps(boxes: Tensor) -> np.ndarray:
    """(K, K) bird's-eye intersection over union of velodyne boxes (K, 7): x, y, z, length, width, height, yaw."""
    x, y, _, length, width, height, yaw = boxes.double().numpy().T
    # the camera's second ground axis points the other way; z = -y keeps the yaw
    camera = np.stack([x, np.zeros_like(x), -y, height, width, length, yaw], 1)
    first, second = np.triu_indices(len(boxes), 1)
    iou = np.zeros((len(boxes), len(boxes)))
    iou[first, second] = rotated_ious(camera[first], camera[second])[0]
    return iou + iou.T


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float) -> Tensor:
    """Indices (K',) of the boxes that are kept, best first. A box is removed if a better kept box of its class has
    an IoU with it above ``overlap``. Args: boxes (K, 7), scores (K,), labels (K,), on CPU."""
    order = scores.argsort(descending=True, stable=True)
    ranked = labels[order].numpy()
    clash = (overlaps(boxes[order]) > overlap) & (ranked[:, None] == ranked[None, :])
    keep = np.ones(len(order), bool)
    for i in range(len(order)):
        if keep[i]:
            keep[i + 1 :] &= ~clash[i, i + 1 :]
    return order[torch.from_numpy(keep)]
