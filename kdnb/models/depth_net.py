"""A small network for monocular depth, and its losses: one image → dense depth, supervised by LiDAR."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEAR, FAR = 1.5, 80.0  # metres: the range of the network's output

# --- losses -----------------------------------------------------------------------------------------------------


def silog(predicted: Tensor, truth: Tensor, variance_focus: float = 0.85) -> Tensor:
    """Scale-invariant logarithmic error: sqrt(mean(e²) − variance_focus · mean(e)²) with e = ln predicted − ln truth.

    With a focus of 1 a common factor costs nothing, with 0 it is the RMSE of the logarithm (Eigen et al. 2014,
    arXiv 1406.2283, section 3.2); the root and 0.85 are those of BTS (Lee et al. 2019, arXiv 1907.10326, section 3.3).

    Args:
        predicted: any shape, metres, positive.
        truth: same shape, metres; 0 where nothing was measured. The loss without a measured pixel is 0.
    """
    error, count = log_errors(predicted, truth)
    mean, square = error.sum() / count, error.pow(2).sum() / count
    # the constant keeps the root's slope finite for a perfect prediction
    return (square - variance_focus * mean**2 + 1e-8).sqrt() - 1e-4


def log_errors(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(ln predicted − ln truth where measured and 0 elsewhere, number of measured pixels but at least 1)."""
    valid = truth > 0
    error = torch.where(valid, predicted, 1.0).log() - torch.where(valid, truth, 1.0).log()
    return error, valid.sum().clamp(min=1)


def sparse_l1(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error in metres over the measured pixels (truth > 0); 0 without any."""
    valid = truth > 0
    return ((predicted - truth).abs() * valid).sum() / valid.sum().clamp(min=1)


# --- the network ------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut; the first one halves the map."""

    def __init__(self, before: int, after: int, stride: int = 2):
        super().__init__()
        self.first = conv(before, after, stride)
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        # rounds odd sizes up, as the convolution does
        self.shortcut = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.second(self.first(x)))


def conv(before: int, after: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)
    )


class TinyDepth(nn.Module):
    """A U-Net for the depth z of each pixel, in metres between ``NEAR`` and ``FAR``.

    Two channels with the pixel coordinates join the colours and the input of the last layers: on a road the row alone
    gives most of the depth (van Dijk and de Croon 2019, arXiv 1905.07005), and a convolution does not know it. So the
    network only works for the camera it was trained with: the same focal length and horizon relative to the image.

    Depth is decoded at a quarter of the image's size and interpolated: finer layers would take most of the time.

    Args:
        size: (height, width) in pixels of the training images.
        widths: channels at strides 2, 4, 8, 16 and 32.
    """

    def __init__(self, size: tuple[int, int] = (128, 416), widths: tuple[int, ...] = (12, 20, 32, 48, 64)):
        super().__init__()
        self.size = size
        self.stem = conv(5, widths[0], 2, 5)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(Block(before, after) for before, after in pairs)
        self.lateral = nn.ModuleList(nn.Conv2d(after, before, 1) for before, after in pairs[1:])
        self.up = nn.ModuleList(conv(before, before) for before, _ in pairs[1:])
        self.mix = conv(widths[1] + 2, widths[1])
        self.depth = nn.Conv2d(widths[1], 1, 3, 1, 1)
        nn.init.normal_(self.depth.weight, std=0.01)
        nn.init.zeros_(self.depth.bias)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W), H and W at least 32 → z (N, H, W) in metres."""
        maps = [self.stem(with_coordinates(images.float() / 127.5 - 1))]
        for down in self.down:
            maps.append(down(maps[-1]))
        x = maps[-1]
        for k in reversed(range(len(self.up))):
            x = self.up[k](F.interpolate(self.lateral[k](x), maps[k + 1].shape[2:], mode="nearest") + maps[k + 1])
        raw = self.depth(self.mix(with_coordinates(x)))
        return bounded_depth(F.interpolate(raw, images.shape[2:], mode="bilinear", align_corners=False)[:, 0])


def with_coordinates(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C + 2, H, W): two more channels, row and column, each from -1 to 1."""
    n, _, height, width = maps.shape
    rows = torch.linspace(-1, 1, height, device=maps.device, dtype=maps.dtype)[:, None].expand(n, 1, height, width)
    columns = torch.linspace(-1, 1, width, device=maps.device, dtype=maps.dtype).expand(n, 1, height, width)
    return torch.cat([maps, rows, columns], 1)


def bounded_depth(raw: Tensor) -> Tensor:
    """Real numbers → metres: a sigmoid in log depth, 0 halfway between ``NEAR`` and ``FAR``."""
    return NEAR * (math.log(FAR / NEAR) * raw.float().sigmoid()).exp()


def depth_step(model: nn.Module, batch: dict, l1: float = 0.1) -> dict:
    """One step's loss, for a ``Distiller`` without terms: SiLog plus ``l1`` (per metre) times the L1 error.

    Args:
        batch: "images" uint8 (N, 3, H, W); "depth" (N, H, W), metres, 0 where nothing was measured.
    """
    predicted = model(batch["images"])
    parts = {"silog": silog(predicted, batch["depth"]), "l1": l1 * sparse_l1(predicted, batch["depth"])}
    return {"loss": sum(parts.values()), "parts": parts, "predicted": predicted}
