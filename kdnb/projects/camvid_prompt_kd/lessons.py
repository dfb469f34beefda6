"""05's lessons: what the original got wrong, measured; the notebook shows what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.datasets.camvid import CLASSES, VOID
from kdnb.distill.segmentation import dead_kl, pixel_kl
from kdnb.metrics.segmentation import confusion, scores_from
from kdnb.models.segmenter import SMALLEST, class_probabilities

SIZES = [(1, 2), (3, 4), (6, 8), (24, 32), (60, 80), (120, 160)]
KLS = {  # the last with the factor and the temperature of the others
    "as released": dead_kl,
    "without the clamp": partial(dead_kl, largest=float("inf")),
    "mean per pixel": lambda student, teacher: 0.1 * pixel_kl(student, teacher, 5.0),
}


def kl_at_sizes(student_logits: Tensor, teacher_logits: Tensor, sizes: Sequence[tuple] = SIZES) -> pd.DataFrame:
    """Value and pull (the sum of all absolute gradients) of three KLs, for the same logits at several sizes.

    Args:
        student_logits, teacher_logits: (N, C, H, W).

    Returns:
        A table with a row per size and the columns (loss, "value"), (loss, "pull").
    """
    rows = {}
    for size in sizes:
        student, teacher = (F.interpolate(x.detach(), size, mode="area") for x in (student_logits, teacher_logits))
        student.requires_grad_()
        row = rows.setdefault("{} x {}".format(*size), {})
        for name, loss in KLS.items():
            value = loss(student, teacher)
            row[name, "value"] = value.item()
            row[name, "pull"] = torch.autograd.grad(value, student)[0].abs().sum().item()
    table = pd.DataFrame(rows).T
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def miou_at(model: nn.Module, items: Sequence[dict], size: tuple[int, int]) -> float:
    """mIoU in percent of a network that gets images at ``size`` (height, width), in the pixels of the labels."""
    side_lengths, device = [max(SMALLEST, round(side)) for side in size], device_of(model)
    pairs = ((class_probabilities(model, item["image"], side_lengths, device), item["label"]) for item in items)
    return scores_from(sum(confusion(one.argmax(0), label) for one, label in pairs))["mIoU"]


@torch.no_grad()
def cells(body: nn.Module, items: Sequence[dict], stride: int = 4) -> tuple[Tensor, Tensor]:
    """Features (n, C + 1), a 1 at the end of each, and classes (n,) of some cells of images; void left out."""
    features, classes, device = [], [], device_of(body)
    for item in items:
        feature_map = body.feature_map(item["image"][None].to(device))[0].cpu()
        label = F.interpolate(item["label"][None, None].float(), feature_map.shape[1:])[0, 0].long()
        features.append(feature_map[:, ::stride, ::stride].flatten(1).T)
        classes.append(label[::stride, ::stride].flatten())
    features, classes = torch.cat(features), torch.cat(classes)
    features = torch.cat([features, torch.ones(len(features), 1)], 1).float()
    return features[classes != VOID], classes[classes != VOID]


def right_with_hint(body: nn.Module, train: Sequence[dict], test: Sequence[dict]) -> pd.DataFrame:
    """Percent of cells that the best linear map from features to classes gets right (columns: train, test).

    The second map was fitted with the true class among the features; on test, zeros stand for it.
    """
    (x, y), (test_x, test_y) = cells(body, train), cells(body, test)
    truth, hidden = F.one_hot(y, len(CLASSES)).float(), torch.zeros(len(test_y), len(CLASSES))
    inputs = {"features": (x, test_x), "features and truth": (torch.cat([x, truth], 1), torch.cat([test_x, hidden], 1))}
    rows = {}
    for name, (x, test_x) in inputs.items():
        best = torch.linalg.lstsq(x, truth, driver="gelsd").solution
        rows[name] = {"train": accuracy(x @ best, y), "test": accuracy(test_x @ best, test_y)}
    return pd.DataFrame(rows).T


def accuracy(scores: Tensor, classes: Tensor) -> float:
    """Percent of rows whose highest score is that of the true class."""
    return 100 * (scores.argmax(1) == classes).float().mean().item()
