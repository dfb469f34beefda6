"""The student of image-text alignment: a small ConvNeXt that learns the teacher's image embedding."""

from __future__ import annotations

import math

import timm
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from kdnb.distill.alignment import multi_positive_infonce
from kdnb.errors import InputError
from kdnb.models.clip import clipped_scale, normalised
from kdnb.models.hubs import reachable, timm_hub


class Student(nn.Module):
    """A timm ConvNeXt whose cells are projected linearly into the teacher's space, without a final ReLU.

    The normalisation before the projection acts on each cell, not on the pooled vector as in timm's classifier, and the
    rest is linear: the embedding is exactly the mean of the feature map, so single cells lie in the same space. Neither
    has unit length; the steps normalise.

    Args:
        backbone: name of a timm ConvNeXt, such as "convnext_tiny" or "test_convnext2".
        embed_dim: the teacher's width D.
        pretrained: timm's ImageNet weights.
        output_stride: pixels per cell of the last stage, 8, 16 or 32; 16 gives a 32 px crop 2 x 2 cells.
        multi_scale: fuse the last three stages by one linear layer, on the cells of the middle one.

    Raises:
        InputError: a backbone that is not a timm ConvNeXt.
    """

    def __init__(
        self,
        backbone: str,
        embed_dim: int,
        pretrained: bool = False,
        output_stride: int = 32,
        multi_scale: bool = False,
    ):
        super().__init__()
        if not timm.is_model(backbone) or "convnext" not in backbone:
            raise InputError(
                f"student backbone {backbone!r} is not a timm ConvNeXt; expected one such as convnext_tiny"
            )
        # without pooling, timm's head is the last normalisation, per cell
        options = {"num_classes": 0, "global_pool": "", "output_stride": output_stride}
        with reachable(f"ImageNet weights of timm's {backbone!r}", timm_hub(backbone)):
            self.trunk: ConvNeXt = timm.create_model(backbone, pretrained, **options)
        if not pretrained:
            open_layer_scales(self.trunk)
        channels = [stage["num_chs"] for stage in self.trunk.feature_info]
        self.norms = nn.ModuleList(LayerNorm2d(c) for c in channels[-3:-1]) if multi_scale else None
        self.project = nn.Linear(sum(channels[-3:]) if multi_scale else channels[-1], embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # of the InfoNCE, as CLIP keeps its own

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → embeddings (N, D), not of unit length."""
        return self.project(self.cells(images).mean((2, 3)))

    def feature_map(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, D, h, w), the projection of each cell; ``forward`` is its mean."""
        return self.project(self.cells(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def cells(self, images: Tensor) -> Tensor:
        """(N, C, h, w), normalised per cell, before the projection."""
        pixels = normalised(images)
        if self.norms is None:
            return self.trunk(pixels)
        fine, middle, coarse = self.trunk.forward_intermediates(pixels, indices=3, intermediates_only=True)
        size = middle.shape[2:]
        fine = F.adaptive_avg_pool2d(self.norms[0](fine), size)
        coarse = F.interpolate(self.trunk.head(coarse), size, mode="nearest")
        return torch.cat([fine, self.norms[1](middle), coarse], 1)


def open_layer_scales(trunk: ConvNeXt) -> None:
    """Initialise layer scales to 1: timm's 1e-6 suits a hundred epochs."""
    for name, parameter in trunk.named_parameters():
        if name.endswith(".gamma"):
            nn.init.ones_(parameter)


def alignment_step(student: Student, batch: dict, weight: float = 1.0) -> dict:
    """The student's own task, for a ``Distiller``: multi-positive InfoNCE with its learned scale, on frozen texts.

    Args:
        batch: "images" uint8 (N, 3, H, W); "texts" (M, D) the teacher's unit embeddings of distinct texts; "positive"
            (N, M) bool, all False in the row of an unlabelled image.
        weight: of the InfoNCE; 0 trains with the terms only.

    Returns:
        "loss"; for the terms "embedding" (N, D), unit vectors, and "texts".
    """
    embedding = F.normalize(student(batch["images"]).float(), dim=-1)
    loss = multi_positive_infonce(embedding, batch["texts"], batch["positive"], clipped_scale(student))
    return {"loss": weight * loss, "embedding": embedding, "texts": batch["texts"]}
