"""Scores of class probabilities: log loss, accuracy, F1 and calibration.

Rates are percent. Probabilities (N, C) need not sum to 1: rows are divided by their sum, as the competition does.
``merged`` (C,) maps each class to the id it counts as (kdnb.datasets.cars.merged): the probabilities of merged classes
are summed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kdnb.errors import InputError

CLIP = 1e-15  # of the competition's log loss


def checked(
    probabilities: ArrayLike, labels: ArrayLike, merged: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float64 (N, C) whose rows sum to 1 and labels (N,), both after merging.

    Raises InputError: NaN, infinite or negative values, a row of zeros, a label out of range, other shapes.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or len(p) == 0 or y.shape != p.shape[:1]:
        raise InputError(f"probabilities have shape {p.shape} and labels {y.shape}, expected (N, C) and (N,)")
    bad = np.flatnonzero(~np.isfinite(p).all(1) | (p < 0).any(1) | ~(p.sum(1) > 0))
    if len(bad):
        raise InputError(f"row {bad[0]} of the probabilities is {p[bad[0]][:4]}..., expected numbers from 0, not all 0")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise InputError(f"labels from {y.min()} to {y.max()}, expected 0 to {p.shape[1] - 1}")
    p = p / p.sum(1, keepdims=True)
    if merged is None:
        return p, y
    merged = np.asarray(merged)
    summed = np.zeros_like(p)
    for k, into in enumerate(merged):
        summed[:, into] += p[:, k]
    return summed, merged[y]


def log_losses(probabilities: ArrayLike, labels: ArrayLike, merged: ArrayLike | None = None) -> np.ndarray:
    """Per row (N,): -log of the true class's probability, clipped to 1e-15 .. 1 - 1e-15."""
    p, y = checked(probabilities, labels, merged)
    return -np.log(np.clip(p[np.arange(len(y)), y], CLIP, 1 - CLIP))


def log_loss(probabilities: ArrayLike, labels: ArrayLike, merged: ArrayLike | None = None) -> float:
    """Mean of ``log_losses``, the competition's score (lower is better)."""
    return float(log_losses(probabilities, labels, merged).mean())


def reliability(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15, merged: ArrayLike | None = None
) -> dict[str, np.ndarray]:
    """Accuracy by confidence, the table behind a reliability diagram.

    Rows fall into ``bins`` equal intervals ]low, high] of confidence, the probability of the most likely class (Guo et
    al., On Calibration of Modern Neural Networks, ICML 2017). Returns {"low", "high" (B,), "count" (B,) int,
    "confidence", "accuracy" (B,) means in 0..1, NaN where a bin is empty}.
    """
    p, y = checked(probabilities, labels, merged)
    top, correct = p.max(1), p.argmax(1) == y
    edges = np.linspace(0, 1, bins + 1)
    row_bins = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    count = np.bincount(row_bins, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(row_bins, top, bins) / count
        accuracy = np.bincount(row_bins, correct, bins) / count
    return {"low": edges[:-1], "high": edges[1:], "count": count, "confidence": confidence, "accuracy": accuracy}


def calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15, merged: ArrayLike | None = None
) -> float:
    """Expected calibration error in percent: the mean gap between confidence and accuracy, weighted by rows."""
    table = reliability(probabilities, labels, bins, merged)
    gap = np.abs(table["confidence"] - table["accuracy"])
    return 100 * float(np.nansum(gap * table["count"]) / table["count"].sum())


def confusion(probabilities: ArrayLike, labels: ArrayLike, merged: ArrayLike | None = None) -> np.ndarray:
    """int64 (C, C): rows are true classes, columns predicted ones; those of a class merged into another are 0."""
    p, y = checked(probabilities, labels, merged)
    classes = p.shape[1]
    return np.bincount(y * classes + p.argmax(1), minlength=classes**2).reshape(classes, classes)


def macro_f1(counts: np.ndarray) -> float:
    """Mean F1 in percent over the classes that occur in truth or prediction, from a confusion matrix (C, C)."""
    total = counts.sum(0) + counts.sum(1)
    present = total > 0
    return 100 * float((2 * np.diag(counts)[present] / total[present]).mean())


def scores(probabilities: ArrayLike, labels: ArrayLike, merged: ArrayLike | None = None) -> dict[str, float]:
    """{"log_loss", "accuracy", "top5", "macro_f1", "calibration_error"}, in percent except the log loss.

    ``top5``: rows with fewer than five classes above the true one; with five classes or fewer it is 100.
    Raises InputError as ``checked`` does.
    """
    p, y = checked(probabilities, labels, merged)
    true = p[np.arange(len(y)), y][:, None]
    return {
        "log_loss": log_loss(p, y),
        "accuracy": 100 * float((p.argmax(1) == y).mean()),
        "top5": 100 * float(((p > true).sum(1) < 5).mean()),
        "macro_f1": macro_f1(confusion(p, y)),
        "calibration_error": calibration_error(p, y),
    }
