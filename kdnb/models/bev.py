"""Bird's-eye-view layers of the detector: slabs of height, a SECOND backbone and its neck. Maps are (B, C, y, x)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdnb.models.voxels import Grid, Voxels, segment_max


def convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """3x3 convolution, BatchNorm, ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU(True)]


class SlabEncoder(nn.Module):
    """Voxels → a dense map whose channels are slabs of height; replaces the original's sparse 3D convolutions.

    The original halves the voxels' resolution three times by sparse 3D convolutions, to an eighth and two layers of
    height. Here a voxel's features and its offset within its cell pass one linear layer, the maximum of each (slab,
    cell) is taken, and a strided 2D convolution mixes slabs and neighbours. Voxels of a cell therefore interact in the
    maximum only; in return no sparse library is needed, and any device works.
    """

    def __init__(self, inputs: int, channels: int, outputs: int, grid: Grid):
        super().__init__()
        self.grid, self.channels = grid, channels
        norm = nn.BatchNorm1d(channels, eps=1e-3)
        self.project = nn.Sequential(nn.Linear(inputs + 3, channels, bias=False), norm, nn.ReLU(True))
        self.mix = nn.Sequential(*convolution(channels * grid.slabs, outputs, grid.stride))

    def forward(self, features: Tensor, voxels: Voxels, frames: int) -> Tensor:
        """Voxel features (V, inputs) → (B, outputs, H, W); B is ``frames``."""
        rows, columns = self.grid.cells
        values = self.project(torch.cat([features, voxels.within], 1))
        cell, counts = torch.unique_consecutive(voxels.cell, return_counts=True)
        dense = values.new_zeros(frames * rows * columns * self.grid.slabs, self.channels)
        dense = dense.index_copy(0, cell, segment_max(values, counts))
        return self.mix(dense.view(frames, rows, columns, -1).permute(0, 3, 1, 2))


class SECOND(nn.Module):
    """Two stages of plain convolutions, the second at half the resolution (Yan et al. 2018, Sensors 18 (10), 3337).

    Args:
        layers: convolutions of each stage besides its first one.
    """

    def __init__(self, inputs: int, widths: tuple[int, int], layers: tuple[int, int]):
        super().__init__()
        stages = []
        for before, width, count, stride in zip((inputs, widths[0]), widths, layers, (1, 2), strict=True):
            rest = [module for _ in range(count) for module in convolution(width, width)]
            stages.append(nn.Sequential(*convolution(before, width, stride), *rest))
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of both stages."""
        first = self.blocks[0](x)
        return [first, self.blocks[1](first)]


class SECONDFPN(nn.Module):
    """Upsamples the second stage and concatenates both: (B, 2 · width, H, W)."""

    def __init__(self, inputs: tuple[int, int], width: int):
        super().__init__()
        self.deblocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(i, width, stride, stride, bias=False), nn.BatchNorm2d(width, eps=1e-3), nn.ReLU(True)
            )
            for i, stride in zip(inputs, (1, 2), strict=True)
        )

    def forward(self, stages: list[Tensor]) -> Tensor:
        rows, columns = stages[0].shape[2:]
        return torch.cat([block(x)[..., :rows, :columns] for block, x in zip(self.deblocks, stages, strict=True)], 1)
