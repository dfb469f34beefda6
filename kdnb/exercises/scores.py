"""Exercises about levels, ensembles and scores: their references, inputs and typical mistakes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kdnb.exercises.checking import Exercise, normal
from kdnb.metrics.classification import CLIP, log_loss
from kdnb.metrics.segmentation import class_iou
from kdnb.models.classifier import mean_probabilities
from kdnb.models.detector import pyramid_level


def level_of() -> Exercise:
    """(boxes (N, 4), base, levels) → (N,)."""

    def variant(size: Callable, whole: Callable = torch.floor, log: Callable = torch.log2) -> Callable:
        return lambda boxes, base, levels: whole(log(size(boxes) / base)).clamp(0, levels - 1)

    def area(boxes: Tensor) -> Tensor:
        return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    def side(boxes: Tensor) -> Tensor:
        return area(boxes).sqrt()

    mistakes = {
        "the logarithm of the area, expected of its square root": variant(area),
        "rounded to the nearest level, expected down to the next one": variant(side, torch.round),
        "rounded up, expected down": variant(side, torch.ceil),
        "the natural logarithm, expected to base 2: each level halves the resolution": variant(side, log=torch.log),
        "the boxes are read as x, y, width, height, expected two corners": (
            variant(lambda boxes: (boxes[:, 2] * boxes[:, 3]).sqrt())
        ),
        "the longer side, expected the square root of the area": (
            variant(lambda boxes: (boxes[:, 2:] - boxes[:, :2]).amax(1))
        ),
        "tiny and huge boxes get levels that do not exist: clamp to 0 … levels − 1": (
            lambda boxes, base, levels: torch.log2(side(boxes) / base).floor()
        ),
        "the coarsest level is levels − 1, not levels": (
            lambda boxes, base, levels: torch.log2(side(boxes) / base).floor().clamp(0, levels)
        ),
    }
    corner = 200 * torch.rand(40, 2, generator=torch.Generator().manual_seed(8))
    boxes = torch.cat([corner, corner + 2 ** (3 + 2.2 * normal(9, 40, 2).abs())], 1)
    return pyramid_level, [(boxes, 9.0, 4)], mistakes


def iou_per_class() -> Exercise:
    """(confusion matrix (K, K)) → (K,) in percent."""

    def per_class(below: Callable, factor: float = 100) -> Callable:
        return lambda m: factor * np.diagonal(m) / below(m)

    def union(m: np.ndarray) -> np.ndarray:
        return m.sum(1) + m.sum(0) - np.diagonal(m)

    mistakes = {
        "the hits are counted twice in the union: subtract them once": per_class(lambda m: m.sum(1) + m.sum(0)),
        "this is the Dice score 2 · hits / (truth + predicted), expected intersection over union": (
            per_class(lambda m: m.sum(1) + m.sum(0), 200)
        ),
        "this is the recall: pixels wrongly predicted as the class are missing in the union": (
            per_class(lambda m: m.sum(1))
        ),
        "this is the precision: pixels of the class that were missed are missing in the union": (
            per_class(lambda m: m.sum(0))
        ),
        "a share, expected percent": per_class(union, 1),
        "the union has all pixels, expected those that are the class in the truth or in the prediction": (
            per_class(lambda m: m.sum())
        ),
        "a class neither in the truth nor in the prediction counts as 0, expected NaN: it says nothing": (
            lambda m: np.nan_to_num(per_class(union)(m))
        ),
    }
    present = np.array([[50, 3, 7, 1], [2, 9, 4, 0], [0, 11, 30, 5], [6, 0, 0, 8]])
    absent = np.pad(present, (0, 1))
    return class_iou, [(present,), (absent,)], mistakes


def ensemble_logits() -> Exercise:
    """(logits (models, N, C)) → (N, C)."""
    mistakes = {
        "the mean of the logits, expected the logarithm of the mean probability": lambda z: z.mean(0),
        "the mean of the log-probabilities, expected the logarithm of the mean probability": (
            lambda z: z.log_softmax(2).mean(0)
        ),
        "these are probabilities: you forgot the logarithm": lambda z: z.softmax(2).mean(0),
        "the sum over the models, expected the mean": lambda z: z.log_softmax(2).logsumexp(0),
        "softmax over the wrong axis: over the models, expected over the classes": lambda z: z.softmax(0).mean(0).log(),
        "softmax over the wrong axis: over the images, expected over the classes": lambda z: z.softmax(1).mean(0).log(),
        "the mean is over the images, expected over the models": lambda z: z.softmax(2).mean(1).log(),
        "−inf: a probability was too small for float32. Stay with logarithms: log_softmax, then logsumexp": (
            lambda z: z.softmax(2).mean(0).log()
        ),
    }
    return mean_probabilities, [(2 * normal(13, 3, 6, 4),), (120 * normal(14, 3, 6, 4),)], mistakes


def mean_log_loss() -> Exercise:
    """(probabilities (N, C), labels (N,)) → a number."""

    def losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
        return -np.log(np.clip((p / p.sum(1, keepdims=True))[np.arange(len(y)), y], CLIP, 1 - CLIP))

    mistakes = {
        "a true class with probability 0 makes it infinite: clip to 1e-15 … 1 − 1e-15": (
            lambda p, y: -np.log((p / p.sum(1, keepdims=True))[np.arange(len(y)), y]).mean()
        ),
        "the rows are not divided by their sum": lambda p, y: -np.log(p[np.arange(len(y)), y]).mean(),
        "the sign is wrong: a loss is minus the logarithm": lambda p, y: -losses(p, y).mean(),
        "the sum over the images, expected the mean": lambda p, y: losses(p, y).sum(),
        "the mean is over images and classes, expected only over images": lambda p, y: losses(p, y).mean() / p.shape[1],
        "the probability of the most likely class, expected that of the true class": (
            lambda p, y: losses(p, p.argmax(1)).mean()
        ),
        "the rows are probabilities already, no softmax: divide them by their sum": (
            lambda p, y: losses(np.exp(p), y).mean()
        ),
    }
    probabilities = 2 * np.random.default_rng(0).random((8, 5))
    labels = np.array([0, 3, 1, 4, 2, 2, 0, 1])
    with_zero = probabilities * (np.arange(5) != 3)
    return log_loss, [(probabilities, labels), (with_zero, labels)], mistakes
