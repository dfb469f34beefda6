"""Classifiers of cars by a square image and by metadata that the square has lost, such as the aspect ratio.

All take uint8 images (N, 3, h, w) and metadata (N, M), and return {"logits": (N, C)}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdnb.datasets.car_views import collate
from kdnb.errors import InputError
from kdnb.models.depth_net import conv
from kdnb.models.pixels import normalised
from kdnb.models.pretrained import FirstBlocks, PooledBlocks, image_backbone
from kdnb.options import Settings

PLAIN = "plain"  # the only backbone that is not timm's
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # timm.data's, of pixels in 0..1
UNKNOWN = -1  # the label of an image whose class may not be used

# --- networks ---------------------------------------------------------------------------------------------------


class CarClassifier(nn.Module):
    """A backbone, and Linear-BN-ReLU-Dropout-Linear on its pooled features and the metadata.

    ``CarClassifier("efficientnet_b5", classes, meta)`` at 384 pixels is the original's; ``CarClassifier("plain",
    classes, meta, width=16)`` at 64 is one for a CPU. BatchNorm needs training batches of at least two, better sixteen.

    Args:
        backbone: the name of a timm model, or "plain" for a ``PlainBackbone``.
        classes: C, of the logits.
        meta: M, numbers of metadata per image; 0 for none.
        hidden: width of the head's hidden layer, which holds most parameters of a small network.
        dropout: of the head.
        pretrained: timm's ImageNet weights.
        options: further arguments of the backbone, such as timm's ``drop_path_rate``, the plain one's ``width``, or the
            ``blocks`` of ``kdnb.models.pretrained.image_backbone``.

    Raises:
        InputError: a name unknown to timm, an option that the backbone does not take, weights that cannot be loaded.
    """

    def __init__(
        self,
        backbone: str,
        classes: int,
        meta: int = 0,
        hidden: int = 512,
        dropout: float = 0.3,
        pretrained: bool = False,
        **options: Any,
    ):
        super().__init__()
        self.backbone = make_backbone(backbone, pretrained, options)
        self.meta = meta
        config = getattr(self.backbone, "pretrained_cfg", {})
        self.mean = config.get("mean") or IMAGENET_MEAN
        self.std = config.get("std") or IMAGENET_STD
        # some timm models widen the pooled features once more
        self.features = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.head = nn.Sequential(
            nn.Linear(self.features + meta, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
        self.to(memory_format=torch.channels_last)  # nearly twice as fast on a CPU

    def forward(self, images: Tensor, meta: Tensor | None = None) -> dict[str, Tensor]:
        """uint8 (N, 3, h, w) and float (N, M) → "logits" (N, C), "features" (N, F), pooled and without metadata.

        Raises:
            InputError: images that are not uint8 (N, 3, h, w); metadata of another width; a training batch of
                one, of which BatchNorm has no variance.
        """
        given = 0 if meta is None else meta.shape[1]
        if given != self.meta:
            raise InputError(f"meta has {given} columns, model expects {self.meta}")
        if self.training and len(images) < 2:
            raise InputError("a batch of one image, expected two or more: BatchNorm would see no variance")
        pixels = normalised(images, self.mean, self.std)
        features = self.backbone(pixels)
        inputs = torch.cat([features, meta.to(features)], 1) if self.meta else features
        return {"logits": self.head(inputs).float(), "features": features}


class PlainBackbone(nn.Module):
    """Seven 3x3 convolutions with BatchNorm and ReLU down to stride 16, and a mean over the map.

    For small images on a CPU, where it learns twice as fast as the mobile networks of timm: those save multiplications
    by many thin layers, but on a CPU layers cost more than multiplications.

    Args:
        width: channels at stride 2; at strides 4, 8 and 16 it has 2, 4 and 8 times as many.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        layers = [conv(3, width, 2)]
        for factor in (2, 4, 8):
            layers += [conv(factor * width // 2, factor * width, 2), conv(factor * width, factor * width)]
        self.layers, self.num_features = nn.Sequential(*layers), 8 * width

    def forward(self, pixels: Tensor) -> Tensor:
        """Float (N, 3, h, w) → (N, 8 · width)."""
        return self.layers(pixels).mean((2, 3))


def make_backbone(name: str, pretrained: bool, options: dict) -> nn.Module:
    """Images → pooled features: a plain one, a timm model without its classifier, or the first blocks of one.

    Raises InputError for a name or an option that is unknown, and for weights that are not to be had.
    """
    if name != PLAIN:
        backbone = image_backbone(name, pretrained, num_classes=0, **options)
        return PooledBlocks(backbone) if isinstance(backbone, FirstBlocks) else backbone
    if pretrained:
        raise InputError(f"backbone {PLAIN!r} has no pretrained weights, expected pretrained=False")
    try:
        return PlainBackbone(**options)
    except TypeError as error:
        raise InputError(f"backbone {PLAIN!r}, options {options}: {error}") from None


class ClassifierConfig(Settings):
    """What a ``CarClassifier`` is made of, beside its classes and the numbers that come with an image."""

    backbone: str = PLAIN  # or a timm model
    hidden: int = 512
    dropout: float = 0.3
    pretrained: bool = False
    options: dict = {}  # more arguments of the backbone, such as the plain one's width


def build_classifier(config: ClassifierConfig, classes: int, meta: int, seed: int) -> CarClassifier:
    """A fresh classifier; ``seed`` gives its random weights, and goes on as the global random numbers."""
    torch.manual_seed(seed)
    head = (config.hidden, config.dropout)
    return CarClassifier(config.backbone, classes, meta, *head, config.pretrained, **config.options)


# --- several networks as one ------------------------------------------------------------------------------------


class Ensemble(nn.Module):
    """Several classifiers as one: the mean of their probabilities.

    With the mean of the *logits* one very confident network outvotes all others.

    Args:
        models: take the same inputs and have the same classes.
        average: "probabilities", or "logits" for comparison.
    """

    def __init__(self, models: Sequence[nn.Module], average: str = "probabilities"):
        super().__init__()
        if average not in ("probabilities", "logits"):
            raise InputError(f"average is {average!r}, expected 'probabilities' or 'logits'")
        if not models:
            raise InputError("an ensemble of no models, expected at least one")
        self.models, self.average = nn.ModuleList(models), average

    def forward(self, images: Tensor, meta: Tensor | None = None) -> dict[str, Tensor]:
        """uint8 (N, 3, h, w), float (N, M) → "logits" (N, C): the log of the mean probabilities."""
        logits = torch.stack([model(images, meta)["logits"] for model in self.models])
        return {"logits": logits.mean(0) if self.average == "logits" else mean_probabilities(logits)}


def mean_probabilities(logits: Tensor) -> Tensor:
    """(models, ..., C) → (..., C): the log of the mean of their softmaxes, computed in log space."""
    return F.log_softmax(logits.float(), -1).logsumexp(0) - math.log(len(logits))


# --- the task ---------------------------------------------------------------------------------------------------


def classifier_step(model: nn.Module, batch: dict, label_smoothing: float = 0.0) -> dict:
    """One step's task for a ``Distiller``: cross-entropy, mean over the labelled images.

    Args:
        model: returns "logits", as all networks here.
        batch: "images" uint8 (N, 3, h, w); "meta" float (N, M), M may be 0; "labels" int64 (N,), -1 where
            unknown; "labelled" bool (N,); "indices" (N,), of the images in their data set.
        label_smoothing: the part of each label that is spread over all classes.

    Returns:
        "loss", 0 for a batch without labelled images; "logits", "features"; "labels" and "labelled" of the batch.

    Raises:
        InputError: a label out of range.
    """
    outputs = model(batch["images"], batch["meta"])
    labels, labelled = batch["labels"], batch["labelled"]
    classes = outputs["logits"].shape[1]
    wrong = labelled & ((labels < 0) | (labels >= classes))
    if wrong.any():
        which = int(wrong.nonzero()[0])
        raise InputError(
            f"image {int(batch['indices'][which])} has label {int(labels[which])}, expected 0 to {classes - 1}"
        )
    if labelled.any():
        known = torch.where(labelled, labels, UNKNOWN)
        loss = F.cross_entropy(outputs["logits"], known, ignore_index=UNKNOWN, label_smoothing=label_smoothing)
    else:  # the mean over no images would be NaN; this zero has a gradient
        loss = 0 * outputs["logits"].sum()
    return {**outputs, "loss": loss, "labels": labels, "labelled": labelled}


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    views: Dataset,
    keys: Iterable[tuple[int, str]],
    device: torch.device | str = "cpu",
    batch: int = 128,
) -> Tensor:
    """Logits (n, C), float32 on the CPU, of the images ``views[key]``; the network is left in the mode it was in."""
    keys, training, logits = list(keys), model.training, []
    model.eval()
    for start in range(0, len(keys), batch):
        samples = collate([views[key] for key in keys[start : start + batch]])
        outputs = model(samples["images"].to(device), samples["meta"].to(device))
        logits.append(outputs["logits"].float().cpu())
    model.train(training)
    return torch.cat(logits)
