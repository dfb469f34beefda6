"""Normalisation of image pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdnb.errors import InputError


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (N, 3, H, W) → float, (pixel − mean) / std per channel, given for pixels in 0..1.

    Raises InputError on images of another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images are {images.dtype} {tuple(images.shape)}, expected uint8 (N, 3, H, W)")
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std
