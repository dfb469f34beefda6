"""Segmentation networks: a small U-Net, a timm backbone with a light decoder, and one that classifies by text prompts.

All take uint8 images (N, 3, H, W) and return {"logits": (N, K, H, W), "features": (N, C, h, w)}, the map that the
logits are computed from. Their ``feature_map`` returns that map alone, with ``channels`` channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from kdnb.datasets.camvid import CLASSES, VOID
from kdnb.errors import InputError
from kdnb.models.clip import clipped_scale, normalised
from kdnb.models.depth_net import Block, conv
from kdnb.models.pretrained import image_pyramid

SMALLEST = 32  # pixels; a smaller image would leave the coarsest map without a cell
MIDDLE = (0.5, 0.5, 0.5)  # mean and standard deviation of pixels, without pretrained weights

# --- networks ---------------------------------------------------------------------------------------------------


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597) from scratch, for small images on a CPU.

    It works at half the image's size, and its logits are interpolated: the full-size layers of the paper would take
    most of the time. Skip connections are added instead of concatenated, for the same reason.

    Args:
        width: channels at stride 2; at strides 4, 8, 16 and 32 it has 2, 4, 6 and 8 times as many.
        classes: of the logits.
    """

    def __init__(self, width: int, classes: int = len(CLASSES)):
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 6, 8)]
        self.channels = width
        self.stem = conv(3, widths[0], 2, 5)
        self.down = nn.ModuleList(Block(*pair) for pair in zip(widths[:-1], widths[1:], strict=True))
        self.decode = Pyramid(widths, widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)
        self.to(memory_format=torch.channels_last)  # a fifth faster on a CPU

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W), H and W from 32 on → "logits" (N, classes, H, W), "features" (N, width, H/2, W/2)."""
        features = self.feature_map(images)
        return {"logits": resized(self.head(features), images.shape[2:]), "features": features}

    def feature_map(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, width, H/2, W/2)."""
        maps = [self.stem(pixels(images))]
        for down in self.down:
            maps.append(down(maps[-1]))
        return self.decode(maps)


class TimmSegmenter(nn.Module):
    """A timm backbone and a light decoder over all of its maps, as a feature pyramid (Lin et al. 2017, 1612.03144).

    Args:
        name: of a timm backbone with several scales, such as "mobilenetv3_small_100" or "resnet50".
        pretrained: timm's ImageNet weights.
        classes: of the logits.
        width: channels of the decoder.
        parts: of an EfficientNet, see ``kdnb.models.pretrained.image_pyramid``.

    Raises:
        InputError: a name unknown to timm or without maps at several scales; weights that cannot be loaded.
    """

    def __init__(self, name: str, pretrained: bool = False, classes: int = len(CLASSES), width: int = 64, **parts: int):
        super().__init__()
        self.trunk, channels = image_pyramid(name, pretrained, **parts)
        config = self.trunk.pretrained_cfg
        self.mean, self.std = config.get("mean", MIDDLE), config.get("std", MIDDLE)
        self.channels = width
        self.decode = Pyramid(channels, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W), H and W from 32 on → "logits" (N, classes, H, W), "features" (N, width, h, w).

        h and w are those of the backbone's finest map: H/2 for mobile networks and ResNets, H/4 for ConvNeXts.
        """
        features = self.feature_map(images)
        return {"logits": resized(self.head(features), images.shape[2:]), "features": features}

    def feature_map(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, width, h, w)."""
        return self.decode(self.trunk(pixels(images, self.mean, self.std)))


class Pyramid(nn.Module):
    """From the coarsest map to the finest: project, upsample, add to the next finer map, smooth.

    Args:
        channels: of the input maps, finest first.
        widths: of its own maps, finest first, one fewer than ``channels``; each level adds the input map of its
            resolution, projected if its channels differ. A single number stands for all levels.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int] | int):
        super().__init__()
        widths = [widths] * (len(channels) - 1) if isinstance(widths, int) else list(widths)
        above = [*widths[1:], channels[-1]]
        self.lateral = nn.ModuleList(nn.Conv2d(a, w, 1) for a, w in zip(above, widths, strict=True))
        self.skip = nn.ModuleList(
            nn.Identity() if c == w else nn.Conv2d(c, w, 1) for c, w in zip(channels, widths, strict=False)
        )
        self.smooth = nn.ModuleList(conv(w, w) for w in widths)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C_l, h_l, w_l), finest first → (N, width, h_0, w_0)."""
        x = maps[-1]
        for k in reversed(range(len(self.smooth))):
            upsampled = F.interpolate(self.lateral[k](x), maps[k].shape[2:], mode="nearest")
            x = self.smooth[k](upsampled + self.skip[k](maps[k]))
        return x


class PromptSegmenter(nn.Module):
    """Classifies a pixel by the prompt that its features are most similar to.

    Features → 1x1 projection → cosine with one frozen text embedding per class, times a learned scale.
    The classifier is the text: other prompts give other logits without any training.

    Args:
        body: anything with ``feature_map(images) -> (N, dim, h, w)``: ``UNet``, ``TimmSegmenter``, ``DenseClip``. Its
            own head is removed, which would have no gradient.
        embeddings: (K, D), such as from ``kdnb.models.prompts.class_embeddings``; a buffer, saved with the weights.
        dim: channels of the body's features, its ``channels``.
        learned: ``embeddings`` are only the initialisation of learned class vectors.
    """

    def __init__(self, body: nn.Module, embeddings: Tensor, dim: int, learned: bool = False):
        super().__init__()
        self.body = body
        if getattr(body, "head", None) is not None:
            body.head = None
        self.channels = embeddings.shape[1]
        self.project = nn.Conv2d(dim, self.channels, 1)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # initialised and bounded as CLIP's
        vectors = F.normalize(embeddings.detach().float(), dim=-1).clone()
        if learned:
            self.prompts = nn.Parameter(vectors)
        else:
            self.register_buffer("prompts", vectors)

    def set_prompts(self, embeddings: Tensor) -> None:
        """Replace the text embeddings (K, D) of the classes.

        Raises:
            InputError: another number of classes or another width.
        """
        if embeddings.shape != self.prompts.shape:
            raise InputError(
                f"prompt embeddings are {tuple(embeddings.shape)}, expected {tuple(self.prompts.shape)} "
                "(classes, width) as the teacher was trained with"
            )
        self.prompts.data.copy_(F.normalize(embeddings.detach().float(), dim=-1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (N, 3, H, W) → "logits" (N, K, H, W); "features" (N, D, h, w), vectors in the space of the texts."""
        features = self.feature_map(images)
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=1e-8)
        with torch.autocast(features.device.type, enabled=False):  # half precision is too coarse for a scale of 100
            # dividing K maps by the length, rather than D, halves the time
            prompts = F.normalize(self.prompts, dim=-1)  # learned ones may leave the unit sphere
            cosines = F.conv2d(features, prompts[:, :, None, None]) / length
        return {"logits": resized(clipped_scale(self) * cosines, images.shape[2:]), "features": features}

    def feature_map(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, D, h, w), not of unit length."""
        return self.project(self.body.feature_map(images)).float()


def pixels(images: Tensor, mean: Sequence[float] = MIDDLE, std: Sequence[float] = MIDDLE) -> Tensor:
    """uint8 (N, 3, H, W) → float, normalised by mean and std of pixels in 0..1. Raises InputError on other images."""
    if min(images.shape[-2:]) < SMALLEST:
        raise InputError(f"images of {tuple(images.shape[-2:])} pixels, expected at least {SMALLEST} x {SMALLEST}")
    return normalised(images, mean, std)


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """(N, K, h, w) → (N, K, H, W) in float32, bilinear, without aligned corners."""
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


@torch.no_grad()
def class_probabilities(model: nn.Module, image: Tensor, size: Sequence[int], device: torch.device | str) -> Tensor:
    """Probabilities (K, H, W) on the CPU for an image uint8 (3, H, W), in its own pixels.

    Args:
        model: on ``device``; it predicts in eval mode.
        size: (height, width) that the model gets the image in.
    """
    training = model.training
    model.eval()
    logits = model(resize(image, list(size), antialias=True)[None].to(device))["logits"]
    model.train(training)
    return resized(logits, image.shape[1:])[0].softmax(0).cpu()


# --- the task ---------------------------------------------------------------------------------------------------


def segmentation_step(model: nn.Module, batch: dict, class_weights: Tensor | None = None) -> dict:
    """One step's task for a ``Distiller``: cross-entropy, mean over the labelled pixels that are not void.

    Args:
        model: returns "logits" and "features", as all networks here.
        batch: "images" uint8 (N, 3, H, W); "labels" (N, H, W) int64, ``VOID`` where unknown; "labelled"
            (N,) bool; "indices", of the frames in their data set.
        class_weights: (K,); the mean over pixels is weighted by the weights of their true classes.

    Returns:
        "loss", 0 for a batch without labelled frames; "logits", "features"; "labels" and "labelled" of the batch.

    Raises:
        InputError: all pixels of the labelled frames are void.
    """
    labels, labelled = batch["labels"], batch["labelled"]
    known = bool((labels != VOID).any())
    if labelled.any() and not known:
        which = [int(index) for index, has in zip(batch["indices"], labelled, strict=True) if has]
        raise InputError(
            f"the labelled frames {which} of this batch are void in every pixel, expected classes "
            f"0 to {len(CLASSES) - 1}"
        )
    outputs = model(batch["images"])
    weights = None if class_weights is None else class_weights.to(outputs["logits"])
    if known:
        loss = F.cross_entropy(outputs["logits"], labels, weights, ignore_index=VOID)
    else:  # the mean over no pixels would be NaN; this zero has a gradient
        loss = 0 * outputs["logits"].sum()
    return {**outputs, "loss": loss, "labels": labels, "labelled": labelled}
