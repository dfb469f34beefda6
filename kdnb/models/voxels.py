"""Dynamic voxels: points keep their own features, and a voxel holds any number of them, without padding or truncation.

As in dynamic MVX-Net (Sindagi et al. 2019, arXiv 1904.01649; Zhou et al. 2020, arXiv 1910.06528). Points are sorted
once, by cell of the bird's-eye map and by voxel within it: the maximum of a voxel or cell is that of a range of rows,
which is several times faster than scattering, and deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Grid:
    """The range of the detector and its cells, in the velodyne frame (x forward, y left, z up), in metres.

    Attributes:
        range: minimum (x, y, z), then maximum (x, y, z). Points outside are dropped.
        voxel: (dx, dy, dz) of a voxel.
        cell: side of a cell of the bird's-eye map; a multiple of dx and dy.
        slabs: layers of height of that map.
        stride: cells of the map per cell of the output.
    """

    range: tuple[float, ...]
    voxel: tuple[float, float, float]
    cell: float
    slabs: int
    stride: int = 2

    @property
    def voxels(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        return tuple(round((self.range[k + 3] - self.range[k]) / self.voxel[k]) for k in range(3))

    @property
    def per_cell(self) -> tuple[int, int, int]:
        """Voxels in a cell of one slab along x, y, z."""
        height = (self.range[5] - self.range[2]) / self.slabs
        return tuple(round(side / v) for side, v in zip((self.cell, self.cell, height), self.voxel, strict=True))

    @property
    def cells(self) -> tuple[int, int]:
        """(H, W) of the map: cells along y and along x."""
        return tuple(round((self.range[k + 3] - self.range[k]) / self.cell) for k in (1, 0))

    @property
    def output(self) -> tuple[int, int]:
        """(H, W) of the output."""
        return tuple(-(-n // self.stride) for n in self.cells)

    @property
    def output_cell(self) -> float:
        """Side of a cell of the output, in metres."""
        return self.cell * self.stride

    def centres(self, device: torch.device | str | None = None) -> Tensor:
        """(2, H, W) x and y of the centres of the output's cells."""
        rows, columns = self.output
        x = self.range[0] + (torch.arange(columns, device=device) + 0.5) * self.output_cell
        y = self.range[1] + (torch.arange(rows, device=device) + 0.5) * self.output_cell
        return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]))


@dataclass
class Voxels:
    """Points of a batch, sorted by voxel.

    Attributes:
        points: (P, 4) x, y, z, intensity of the points in range.
        frame: (P,) index of each point's frame in the batch.
        owner: (P,) index of each point's voxel, ascending.
        counts: (V,) points per voxel, at least 1.
        centre: (V, 3) centres of the voxels in metres.
        cell: (V,) index of each voxel's cell of the map, ((frame · H + row) · W + column) · slabs + slab, ascending.
        within: (V, 3) from the cell's centre to the voxel's, in cells along x, y, z: -0.5 to 0.5.
    """

    points: Tensor
    frame: Tensor
    owner: Tensor
    counts: Tensor
    centre: Tensor
    cell: Tensor
    within: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """(P, C) → (V, C), by ``index_add``: a difference of cumulative sums would lose centimetres in float32."""
        total = values.new_zeros(len(self.counts), values.shape[1]).index_add(0, self.owner, values)
        return total / self.counts[:, None]

    def max(self, values: Tensor) -> Tensor:
        """(P, C) → (V, C)."""
        return segment_max(values, self.counts)


def segment_max(values: Tensor, counts: Tensor) -> Tensor:
    """Maximum of each of G ranges of rows: (N, C), lengths (G,) of at least 1 → (G, C)."""
    return torch.segment_reduce(values, "max", lengths=counts, axis=0)


def voxelize(clouds: list[Tensor], grid: Grid) -> Voxels:
    """Group the points (N_i, 4) of each frame by voxel; a point on the near side of a voxel belongs to it.

    Points out of range or with a coordinate that is not finite are dropped.
    """
    points = torch.cat(clouds)
    frame = torch.cat([points.new_full((len(cloud),), i, dtype=torch.long) for i, cloud in enumerate(clouds)])
    low, size = points.new_tensor(grid.range[:3]), points.new_tensor(grid.voxel)
    step = ((points[:, :3] - low) / size).floor()
    inside = ((step >= 0) & (step < points.new_tensor(grid.voxels))).all(1)  # False for NaN
    points, frame, step = points[inside], frame[inside], step[inside].long()
    per_cell = torch.tensor(grid.per_cell, device=points.device)
    (x, y, z), (i, j, k) = (step // per_cell).unbind(1), (step % per_cell).unbind(1)
    rows, columns = grid.cells
    cell = ((frame * rows + y) * columns + x) * grid.slabs + z
    number = ((cell * per_cell[0] + i) * per_cell[1] + j) * per_cell[2] + k
    order = number.sort(stable=True).indices
    points, frame = points[order], frame[order]
    _, owner, counts = torch.unique_consecutive(number[order], return_inverse=True, return_counts=True)
    first = order[counts.cumsum(0) - counts]  # a point of each voxel
    centre = low + (step[first] + 0.5) * size
    within = (step[first] % per_cell + 0.5) / per_cell - 0.5
    return Voxels(points, frame, owner, counts, centre, cell[first], within)


def point_features(voxels: Voxels) -> Tensor:
    """(P, 10): x, y, z, intensity, offset to the mean of the voxel's points, offset to the voxel's centre."""
    xyz = voxels.points[:, :3]
    to_mean = xyz - voxels.mean(xyz)[voxels.owner]
    to_centre = xyz - voxels.centre[voxels.owner]
    return torch.cat([voxels.points, to_mean, to_centre], 1)


class DynamicVFE(nn.Module):
    """Voxel feature encoder: each layer is linear, BatchNorm, ReLU on points; between layers the maximum over its voxel
    is concatenated to each point. After the last, image features are fused point by point, and the maximum of each
    voxel is returned.

    Args:
        widths: channels of the layers.
        fusion_layer: called with (point features (P, C), voxels, ...) → (P, C'); see ``point_fusion``.
    """

    def __init__(self, widths: tuple[int, ...], fusion_layer: nn.Module):
        super().__init__()
        inputs = [10, *(2 * width for width in widths[:-1])]
        self.vfe_layers = nn.ModuleList(
            nn.Sequential(nn.Linear(i, o, bias=False), nn.BatchNorm1d(o, eps=1e-3), nn.ReLU(True))
            for i, o in zip(inputs, widths, strict=True)
        )
        self.fusion_layer = fusion_layer

    def forward(self, voxels: Voxels, maps: list[Tensor], size: tuple[int, int], projections: Tensor) -> Tensor:
        """(V, C') features of the voxels, non-negative; ``maps``, ``size``, ``projections`` as ``PointFusion``."""
        features = point_features(voxels)
        for k, layer in enumerate(self.vfe_layers):
            if k:
                features = torch.cat([features, voxels.max(features)[voxels.owner]], 1)
            features = layer(features)
        return voxels.max(self.fusion_layer(features, voxels, maps, size, projections))
