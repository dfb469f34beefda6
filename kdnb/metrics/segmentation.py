"""Scores of semantic segmentation: IoU from one confusion matrix over the set, boundary IoU, calibration. Numpy only,
except for the erosion of masks.

Labels and predictions are ids 0 to 10; pixels labelled ``void`` are ignored. Rates are percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from kdnb.datasets.camvid import CLASSES, VOID
from kdnb.datasets.voc_files import as_array
from kdnb.errors import InputError


def confusion(
    pred: ArrayLike | Tensor, label: ArrayLike | Tensor, classes: int = len(CLASSES), void: int = VOID
) -> np.ndarray:
    """int64 (classes, classes): pixels of true class (row) and predicted class (column).

    Args:
        pred, label: integers of one shape, arrays or tensors.

    Raises:
        InputError: shapes that differ, a label out of range and not void, a prediction out of range.
    """
    pred, label = as_array(pred, np.int64), as_array(label, np.int64)
    if pred.shape != label.shape:
        raise InputError(f"prediction is {pred.shape}, expected {label.shape} as the label")
    known = label != void
    pred, label = pred[known], label[known]
    for what, values in (("label", label), ("prediction", pred)):
        if len(values) and not 0 <= values.min() <= values.max() < classes:
            wrong = values.min() if values.min() < 0 else values.max()
            raise InputError(f"{what} holds {wrong}, expected classes 0 to {classes - 1}")
    return np.bincount(classes * label + pred, minlength=classes**2).reshape(classes, classes)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """IoU in percent (..., K) of confusion matrices (..., K, K); NaN for a class neither in truth nor in prediction."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix.sum(-2) - hit
    return np.where(union > 0, 100 * hit / np.where(union > 0, union, 1), np.nan)


def mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, NaN left out; NaN where all are."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def scores_from(matrix: np.ndarray, names: Sequence[str] = CLASSES) -> dict:
    """{"mIoU", "pixel_accuracy", "iou": {class: value}} in percent, from the confusion matrix (K, K) of a whole set.

    As ``torchmetrics.classification.MulticlassJaccardIndex``: absent classes are left out of the mean, and a class that
    is absent from the truth but was predicted counts as 0.
    """
    iou, total = class_iou(matrix), matrix.sum()
    accuracy = 100 * np.trace(matrix) / total if total else np.nan
    return {
        "mIoU": float(mean_known(iou)),
        "pixel_accuracy": float(accuracy),
        "iou": {name: float(value) for name, value in zip(names, iou, strict=True)},
    }


def bootstrap_miou(per_frame: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """mIoU in percent (B,) of resampled sets of frames.

    Args:
        per_frame: (F, K, K) confusion matrix of each frame.
        weights: (B, F) how often each frame was sampled.
    """
    frames, classes = per_frame.shape[:2]
    matrices = np.asarray(weights, np.float64) @ per_frame.reshape(frames, -1)
    return mean_known(class_iou(matrices.reshape(-1, classes, classes)))


# --- boundaries -------------------------------------------------------------------------------------------------


def boundary_iou(
    pred: Iterable, label: Iterable, classes: int = len(CLASSES), void: int = VOID, share: float = 0.02
) -> float:
    """Boundary IoU in percent (Cheng et al. 2021, arXiv 2103.16562), mean over classes, one total over the set.

    Only the pixels of a class within a distance d of its outline count, in truth and prediction alike, so that the
    inside of a large object cannot hide a wrong edge. d is ``share`` of the image's diagonal; the image's border is an
    outline too. Where the truth is void, the prediction is set to void too and makes no edge.

    Args:
        pred, label: per frame integers (H, W), arrays or tensors; sizes may differ from frame to frame.
    """
    both, either = np.zeros(classes), np.zeros(classes)
    for one_pred, one_label in zip(pred, label, strict=True):
        truth = torch.as_tensor(as_array(one_label, np.int64))
        ids = torch.as_tensor(as_array(one_pred, np.int64))
        if ids.shape != truth.shape:
            raise InputError(f"prediction is {tuple(ids.shape)}, expected {tuple(truth.shape)} as the label")
        distance = max(1, round(share * float(np.hypot(truth.shape[0], truth.shape[1]))))
        ids = torch.where(truth == void, void, ids)
        a, b = _rims(truth, classes, distance), _rims(ids, classes, distance)
        both += (a & b).sum((1, 2)).numpy()
        either += (a | b).sum((1, 2)).numpy()
    return float(mean_known(np.where(either > 0, 100 * both / np.maximum(either, 1), np.nan)))


def _rims(ids: Tensor, classes: int, distance: int) -> Tensor:
    """bool (K, H, W): pixels of each class within ``distance`` of another class or of the image's border."""
    masks = F.one_hot(ids.clamp(max=classes), classes + 1)[..., :classes].permute(2, 0, 1)
    other = F.pad(1.0 - masks.float(), (distance,) * 4, value=1.0)
    width = 2 * distance + 1
    near = F.max_pool2d(F.max_pool2d(other, (1, width), 1), (width, 1), 1)
    return masks.bool() & near.bool()


# --- calibration ------------------------------------------------------------------------------------------------


def calibration_error(probabilities: Iterable, label: Iterable, bins: int = 15, void: int = VOID) -> float:
    """Expected calibration error in percent (Guo et al. 2017, arXiv 1706.04599): the mean of
    |accuracy − confidence| over bins of confidence, weighted by pixels. NaN when every pixel is void.

    Args:
        probabilities: per frame (K, H, W), which sum to 1 over K; label: per frame (H, W). Arrays or tensors.
    """
    count, confidence, correct = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for one, truth in zip(probabilities, label, strict=True):
        one, truth = as_array(one, np.float32), as_array(truth, np.int64)
        if one.shape[1:] != truth.shape:
            raise InputError(f"probabilities are {one.shape}, expected (classes, {truth.shape[0]}, {truth.shape[1]})")
        known = truth != void
        top = one.max(0)[known].astype(np.float64)
        pixel_bins = np.minimum((top * bins).astype(np.int64), bins - 1)
        hit = one.argmax(0)[known] == truth[known]
        count += np.bincount(pixel_bins, minlength=bins)
        confidence += np.bincount(pixel_bins, top, bins)
        correct += np.bincount(pixel_bins, hit, bins)
    return float(100 * np.abs(correct - confidence).sum() / count.sum()) if count.sum() else float("nan")
