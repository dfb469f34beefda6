"""05's lessons: what the original got wrong, measured; the notebook shows what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from kdnb.datasets.camvid import CLASSES, VOID
from kdnb.distill.segmentation import dead_kl, pixel_kl
from kdnb.metrics.segmentation import confusion, scores_from
from kdnb.models.segmenter import SMALLEST, resized

SIZES = [(1, 2), (3, 4), (6, 8), (24, 32), (60, 80), (120, 160)]


def unclamped(student: Tensor, teacher: Tensor) -> Tensor:
    return dead_kl(student, teacher, largest=float("inf"))


def mean_per_pixel(student: Tensor, teacher: Tensor) -> Tensor:
    """With the factor and the temperature of ``dead_kl``."""
    return 0.1 * pixel_kl(student, teacher, 5.0)


def kl_at_sizes(student_logits: Tensor, teacher_logits: Tensor, sizes: Sequence[tuple[int, int]] = SIZES):
    """Value and pull (the sum of all absolute gradients) of three KLs, of the same logits at several sizes.

    Args:
        student_logits, teacher_logits: (N, C, H, W).

    Returns:
        A table with a row per size and the columns (loss, "value"), (loss, "pull").
    """
    losses = {"as released": dead_kl, "without the clamp": unclamped, "mean per pixel": mean_per_pixel}
    rows = {}
    for size in sizes:
        student, teacher = (
            F.interpolate(logits.detach(), size, mode="area") for logits in (student_logits, teacher_logits)
        )
        student.requires_grad_()
        row = rows.setdefault("{} x {}".format(*size), {})
        for name, loss in losses.items():
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
    """mIoU in percent of a network that is shown pictures at ``size`` (height, width), in the pixels of the labels."""
    size, total, device = [max(SMALLEST, round(side)) for side in size], 0, device_of(model)
    for one in items:
        logits = model(resize(one["image"], size, antialias=True)[None].to(device))["logits"].cpu()
        total = total + confusion(resized(logits, one["label"].shape)[0].argmax(0), one["label"])
    return scores_from(total)["mIoU"]


@torch.no_grad()
def cells(body: nn.Module, items: Sequence[dict], every: int = 4) -> tuple[Tensor, Tensor]:
    """Features (n, C + 1), a 1 at the end of each, and classes (n,) of some cells of pictures; void left out."""
    features, classes, device = [], [], device_of(body)
    for one in items:
        found = body.feature_map(one["image"][None].to(device))[0].cpu()
        label = F.interpolate(one["label"][None, None].float(), found.shape[1:])[0, 0].long()
        features.append(found[:, ::every, ::every].flatten(1).T)
        classes.append(label[::every, ::every].flatten())
    features, classes = torch.cat(features), torch.cat(classes)
    features = torch.cat([features, torch.ones(len(features), 1)], 1).float()
    return features[classes != VOID], classes[classes != VOID]


def right_with_hint(body: nn.Module, train: Sequence[dict], test: Sequence[dict]) -> pd.DataFrame:
    """How many cells the best linear map from features to classes gets right, in percent (columns: train, test).

    The second map was fitted with the true class among the features, which is not there on test: zeros stand for it.
    """
    (x, y), (test_x, test_y) = cells(body, train), cells(body, test)
    told, untold = F.one_hot(y, len(CLASSES)).float(), torch.zeros(len(test_y), len(CLASSES))
    inputs = {"features": (x, test_x), "features and truth": (torch.cat([x, told], 1), torch.cat([test_x, untold], 1))}
    rows = {}
    for name, (seen, unseen) in inputs.items():
        best = torch.linalg.lstsq(seen, told, driver="gelsd").solution
        rows[name] = {"train": share_right(seen @ best, y), "test": share_right(unseen @ best, test_y)}
    return pd.DataFrame(rows).T


def share_right(scores: Tensor, classes: Tensor) -> float:
    return 100 * (scores.argmax(1) == classes).float().mean().item()
