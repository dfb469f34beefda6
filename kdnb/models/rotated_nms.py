"""Non-maximum suppression of rotated boxes seen from above: of those that overlap, the best score stays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdnb.metrics.rotated_iou import rotated_ious


def overlaps(boxes: Tensor) -> np.ndarray:
    """(K, K) bird's-eye intersection over union of velodyne boxes (K, 7): x, y, z, length, width, height, yaw."""
    x, y, _, length, width, height, yaw = boxes.double().numpy().T
    # in the camera's frame the second axis of the ground points the other way: -y for z makes the yaw the same
    camera = np.stack([x, np.zeros_like(x), -y, height, width, length, yaw], 1)
    first, second = np.triu_indices(len(boxes), 1)
    iou = np.zeros((len(boxes), len(boxes)))
    iou[first, second] = rotated_ious(camera[first], camera[second])[0]
    return iou + iou.T


def rotated_nms(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float) -> Tensor:
    """Indices (K',) of the boxes that stay, best first. A box goes if a better one of its class that stays overlaps it
    by more than ``overlap``. Args: boxes (K, 7), scores (K,), labels (K,), on CPU."""
    order = scores.argsort(descending=True, stable=True)
    ranked = labels[order].numpy()
    clash = (overlaps(boxes[order]) > overlap) & (ranked[:, None] == ranked[None, :])
    stays = np.ones(len(order), bool)
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~clash[i, i + 1 :]
    return order[torch.from_numpy(stays)]
