"""Point fusion: image features at the projection of a LiDAR point are added to the point's features.

MVX-Net's early fusion (Sindagi et al. 2019, arXiv 1904.01649, section 3.2). Pixels as in KITTI: u right, v down, the
centre of the first pixel at (0, 0).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.datasets.kitti_calib import NEAREST, in_image
from kdnb.models.voxels import Voxels

OUTSIDE = -2.0  # in grid_sample's coordinates, where the image spans -1..1


def project(xyz: Tensor, projections: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 3) velodyne points through their (P, 3, 4) projections → pixels (P, 2), depth (P,)."""
    # not a matrix product, which autocast would run in bfloat16: an error of some four columns
    u, v, depth = ((projections[:, :, :3] * xyz[:, None]).sum(2) + projections[:, :, 3]).unbind(1)
    safe = depth.clamp(min=NEAREST)  # nearer points are not in the image
    return torch.stack([u / safe, v / safe], 1), depth


def sample_at_points(feature_map: Tensor, uv: Tensor, depth: Tensor, frame: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, C) features (B, C, h, w) of the image, bilinear, at pixels (P, 2); 0 for points that are not ``in_image``.

    Args:
        depth: (P,) of the points, in metres.
        frame: (P,) index of each point's image in the batch, in any order.
        size: (H, W) of the image in pixels, which the map covers from edge to edge.
    """
    height, width = size
    # pixel u covers u - 0.5 .. u + 0.5, and the image's edges are at -1 and 1
    grid = torch.stack([(2 * uv[:, 0] + 1) / width - 1, (2 * uv[:, 1] + 1) / height - 1], 1)
    visible = in_image(uv, depth, (width, height))
    grid = torch.where(visible[:, None], grid, OUTSIDE)
    sampled = grid.new_zeros(len(uv), feature_map.shape[1])
    for i in range(len(feature_map)):
        own = (frame == i).nonzero()[:, 0]
        if len(own):
            one_map = feature_map[i : i + 1].to(grid.dtype)  # rather than the grid in the map's precision, maybe half
            values = F.grid_sample(one_map, grid[own][None, None], "bilinear", "border", False)
            sampled = sampled.index_copy(0, own, values[0, :, 0].T * visible[own, None])
    return sampled.to(feature_map.dtype)


class PointFusion(nn.Module):
    """ReLU(BN(linear(point features)) + BN(linear(image features at the point))).

    Args:
        image_channels: of each of the image's feature maps.
        levels: number of those maps; each passes a 3x3 convolution to ``mid`` channels of its own.
        point_channels, out: of the points, before and after.
    """

    def __init__(self, image_channels: int, levels: int, point_channels: int, mid: int, out: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv2d(image_channels, mid, 3, padding=1), activate=nn.ReLU(True)))
            for _ in range(levels)
        )
        self.img_transform = nn.Sequential(nn.Linear(mid * levels, out), nn.BatchNorm1d(out, eps=1e-3))
        self.pts_transform = nn.Sequential(nn.Linear(point_channels, out), nn.BatchNorm1d(out, eps=1e-3))

    def forward(
        self, features: Tensor, voxels: Voxels, maps: list[Tensor], size: tuple[int, int], projections: Tensor
    ) -> Tensor:
        """Fused features (P, out).

        Args:
            features: (P, point_channels) of the points in ``voxels``.
            maps: the image's feature maps, (B, image_channels, h, w) each.
            size: (H, W) of the images; projections: (B, 3, 4), velodyne → their pixels.
        """
        uv, depth = project(voxels.points[:, :3], projections[voxels.frame])
        laterals = [conv(m) for conv, m in zip(self.lateral_convs, maps, strict=True)]
        sampled = torch.cat([sample_at_points(m, uv, depth, voxels.frame, size) for m in laterals], 1)
        return F.relu(self.img_transform(sampled) + self.pts_transform(features))
