"""Errors of predicted depth: the usual benchmark numbers, and the error by distance, numpy only.

Depth is z along the optical axis in metres. Valid pixels have a measurement (0 < truth <= ``FAR``) and a prediction (0
means unknown, as in KITTI's own files). No scale is fitted: depth is metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kdnb.errors import InputError

FAR = 80.0  # metres; Eigen et al. 2014 (arXiv 1406.2283) and all after them on KITTI
EDGES = (0, 10, 20, 30, 40, 60, 80)


def valid_pixels(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(predicted (K,), truth (K,)) float64 of the valid pixels of two maps of one shape.

    Raises InputError for maps of different shapes, and for a prediction at a measured pixel that is negative or not
    finite.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape:
        raise InputError(f"predicted depth is {predicted.shape}, expected {truth.shape} as the true depth")
    measured = (truth > 0) & (truth <= FAR)
    predicted, truth = predicted[measured], truth[measured]
    wrong = ~(np.isfinite(predicted) & (predicted >= 0))
    if wrong.any():
        raise InputError(
            f"{int(wrong.sum())} predicted depths such as {predicted[wrong][0]}, "
            "expected positive metres, or 0 for unknown"
        )
    known = predicted > 0
    return predicted[known], truth[known]


def depth_scores(predicted: np.ndarray, truth: np.ndarray) -> dict:
    """The scores of one image, or of any set of pixels.

    Returns:
        "AbsRel" mean |p − t| / t; "RMSE" in metres; "delta1.25" percent of pixels with max(p/t, t/p) < 1.25; "MAE" in
        metres; "pixels". Without a valid pixel all but the last are None.
    """
    predicted, truth = valid_pixels(predicted, truth)
    if not len(truth):
        return {"AbsRel": None, "RMSE": None, "delta1.25": None, "MAE": None, "pixels": 0}
    error = np.abs(predicted - truth)
    ratio = np.maximum(predicted / truth, truth / predicted)
    return {
        "AbsRel": float((error / truth).mean()),
        "RMSE": float((error**2).mean() ** 0.5),
        "delta1.25": float(100 * (ratio < 1.25).mean()),
        "MAE": float(error.mean()),
        "pixels": len(truth),
    }


def evaluate_depth(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Scores of many images: means over images, as in benchmarks, and the error by distance over all pixels.

    Args:
        pairs: iterable of (predicted, truth), each (H, W) metres; sizes may differ from image to image.

    Returns:
        ``depth_scores``'s keys, with "images", "by_distance" (see ``error_by_distance``) and "scale", the median of
        true over predicted depth; None without a valid pixel.
    """
    valid = [valid_pixels(predicted, truth) for predicted, truth in pairs]
    each = [depth_scores(*pair) for pair in valid if len(pair[1])]
    names = ("AbsRel", "RMSE", "delta1.25", "MAE")
    mean = {name: float(np.mean([s[name] for s in each])) if each else None for name in names}
    pooled = [np.concatenate([pair[i] for pair in valid]) if valid else np.zeros(0) for i in (0, 1)]
    return {
        **mean,
        "scale": float(np.median(pooled[1] / pooled[0])) if len(pooled[0]) else None,
        "pixels": sum(s["pixels"] for s in each),
        "images": len(each),
        "by_distance": error_by_distance(pooled[0], pooled[1]),
    }


def error_by_distance(predicted: np.ndarray, truth: np.ndarray, edges: Sequence[float] = EDGES) -> list[dict]:
    """One dict per bin (low, high] of the true depth: "low", "high", "pixels", "MAE" and "bias" in metres, "AbsRel".

    The bias is the mean of predicted − true. "MAE", "bias" and "AbsRel" are None in a bin without pixels.
    """
    predicted, truth = valid_pixels(predicted, truth)
    rows = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (truth > low) & (truth <= high)
        error = (predicted - truth)[inside]
        row = {"low": low, "high": high, "pixels": len(error), "MAE": None, "bias": None, "AbsRel": None}
        if len(error):
            relative = np.abs(error) / truth[inside]
            row |= {"MAE": float(np.abs(error).mean()), "bias": float(error.mean()), "AbsRel": float(relative.mean())}
        rows.append(row)
    return rows
