"""Exercises about losses: their references, inputs and typical mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.distill.losses import kd_kl, pkd, rkd_distance
from kdnb.distill.segmentation import pixel_mse
from kdnb.exercises.checking import Exercise, normal


def kd_gradient() -> Exercise:
    """(student's logits (N, C), teacher's logits (N, C), T) → (N, C)."""

    def by_autograd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return torch.autograd.grad(kd_kl(student.requires_grad_(), teacher, temperature), student)[0]

    def apart(s: Tensor, t: Tensor, temperature: float, dim: int = 1) -> Tensor:
        return (s / temperature).softmax(dim) - (t / temperature).softmax(dim)

    mistakes = {
        "this is the gradient of one image's divergence: you forgot the factor T², and the mean over the images": (
            lambda s, t, T: apart(s, t, T) / T
        ),
        "you forgot the factor T²": lambda s, t, T: apart(s, t, T) / T / len(s),
        "you forgot the inner derivative: the logits are divided by T, which gives a factor 1/T": (
            lambda s, t, T: T**2 * apart(s, t, T) / len(s)
        ),
        "the loss is a mean over the images: divide by N": lambda s, t, T: T * apart(s, t, T),
        "student and teacher are swapped": lambda s, t, T: -T * apart(s, t, T) / len(s),
        "softmax over the wrong axis: over the images, expected over the classes": (
            lambda s, t, T: T * apart(s, t, T, 0) / len(s)
        ),
        "softmax of the logits as they are, expected of the logits divided by T": (
            lambda s, t, T: T * apart(s, t, 1) / len(s)
        ),
    }
    return by_autograd, [(2 * normal(0, 6, 5), 2 * normal(1, 6, 5), 4.0)], mistakes


def relation_loss() -> Exercise:
    """(student's features (N, D), teacher's features (N, E)) → a number."""

    def relative(points: Tensor) -> Tensor:
        return F.pdist(points) / F.pdist(points).mean()

    def with_zeros(points: Tensor) -> Tensor:
        every = torch.cdist(points, points)
        return every / every.mean()

    def squared(points: Tensor) -> Tensor:
        return F.pdist(points) ** 2 / (F.pdist(points) ** 2).mean()

    mistakes = {
        "the distances are not divided by their mean": lambda s, t: F.smooth_l1_loss(F.pdist(s), F.pdist(t)),
        "both are divided by the teacher's mean distance, expected each by its own": (
            lambda s, t: F.smooth_l1_loss(F.pdist(s) / F.pdist(t).mean(), relative(t))
        ),
        "this is the squared error, expected the Huber loss: half of that up to a difference of 1, linear beyond": (
            lambda s, t: F.mse_loss(relative(s), relative(t))
        ),
        "half the squared error: the Huber loss is linear where the difference is above 1": (
            lambda s, t: F.mse_loss(relative(s), relative(t)) / 2
        ),
        "this is the absolute error, expected the Huber loss": lambda s, t: F.l1_loss(relative(s), relative(t)),
        "the distance of an image to itself is counted too, expected each pair of two images once": (
            lambda s, t: F.smooth_l1_loss(with_zeros(s), with_zeros(t))
        ),
        "the distances are squared": lambda s, t: F.smooth_l1_loss(squared(s), squared(t)),
    }
    outlier = torch.tensor([[8.0]] + 5 * [[1.0]])  # else no difference is above 1
    return rkd_distance, [(normal(2, 6, 4) * outlier, 3 * normal(3, 6, 7))], mistakes


def pkd_loss() -> Exercise:
    """(student's maps, teacher's maps: per level (N, C, H_l, W_l)) → a number."""

    def variant(dims: tuple[int, ...] = (0, 2, 3), power: float = 0.5, unbiased: bool = False) -> Callable:
        def standard(x: Tensor) -> Tensor:
            return (x - x.mean(dims, keepdim=True)) / x.var(dims, unbiased=unbiased, keepdim=True) ** power

        return lambda s, t: sum(F.mse_loss(standard(a), standard(b)) for a, b in zip(s, t, strict=True)) / len(s) / 2

    right = variant()
    mistakes = {
        "you forgot the factor ½": lambda s, t: 2 * right(s, t),
        "the sum over the levels, expected their mean": lambda s, t: len(s) * right(s, t),
        "the maps are compared as they are, expected standardised": (
            lambda s, t: sum(F.mse_loss(a, b) for a, b in zip(s, t, strict=True)) / len(s) / 2
        ),
        "the mean is removed, but the maps are not divided by the standard deviation": variant(power=0),
        "the maps are divided by the variance, expected the standard deviation": variant(power=1),
        "each image is standardised for itself, expected each channel over all images and cells": variant((2, 3)),
        "all channels are standardised together, expected each channel for itself": variant((0, 1, 2, 3)),
        "each cell is standardised over its channels, expected each channel over images and cells": variant((1,)),
        "the variance is divided by n − 1, expected n: unbiased=False": variant(unbiased=True),
    }
    sizes = ((2, 3, 6, 8), (2, 3, 3, 4), (2, 3, 2, 2))
    offset = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1) + torch.tensor([0.0, 1.0, 5.0]).view(1, 3, 1, 1)
    maps = [[(1 + seed) * normal(seed + k, *size) + offset for k, size in enumerate(sizes)] for seed in (4, 20)]
    return pkd, [tuple(maps)], mistakes


def centred_error() -> Exercise:
    """(student's logits (N, C, H, W), teacher's logits, mask (N, H, W)) → a number."""

    def squares(s: Tensor, t: Tensor, dims: tuple[int, ...] = (1,)) -> Tensor:
        return ((s - t) - (s - t).mean(dims, keepdim=True)) ** 2

    def masked(per_pixel: Tensor, mask: Tensor) -> Tensor:
        return per_pixel[mask].mean()

    mistakes = {
        "the logits are not centred": lambda s, t, mask: masked(((s - t) ** 2).mean(1), mask),
        "centred over the wrong axes: over the pixels, expected over the classes of each pixel": (
            lambda s, t, mask: masked(squares(s, t, (2, 3)).mean(1), mask)
        ),
        "one mean is removed from everything, expected the mean over the classes of each pixel": (
            lambda s, t, mask: masked(squares(s, t, (0, 1, 2, 3)).mean(1), mask)
        ),
        "the mean is over all pixels, expected over those of the mask": lambda s, t, mask: squares(s, t).mean(),
        "the errors outside the mask are 0, but they still count in the mean": (
            lambda s, t, mask: (squares(s, t) * mask[:, None]).mean()
        ),
        "the sum over the classes, expected the mean over classes and pixels": (
            lambda s, t, mask: masked(squares(s, t).sum(1), mask)
        ),
        "the sum over the pixels divided by the number of frames, expected the mean over the pixels of the mask": (
            lambda s, t, mask: squares(s, t).mean(1)[mask].sum() / len(s)
        ),
        "the mean of the frames' means, expected one mean over all pixels of the mask": (
            lambda s, t, mask: sum(masked(one, m) for one, m in zip(squares(s, t).mean(1), mask, strict=True)) / len(s)
        ),
        "probabilities are compared, expected logits": (
            lambda s, t, mask: masked((s.softmax(1) - t.softmax(1)).pow(2).mean(1), mask)
        ),
    }
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, :2], mask[1, 1:] = True, True
    scale = torch.tensor([1.0, 4.0]).view(2, 1, 1, 1)
    inputs = (normal(10, 2, 3, 4, 5) * scale, normal(11, 2, 3, 4, 5) + 2 * normal(12, 2, 1, 4, 5), mask)
    return lambda s, t, mask: pixel_mse(s, t, mask=mask), [inputs], mistakes
