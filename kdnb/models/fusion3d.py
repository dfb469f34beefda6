"""MVX-Net in plain torch: points and image → objects in 3D. A small network, and one of the original's size.

Sindagi, Zhou, Tuzel 2019, arXiv 1904.01649; parts, widths and module names as in mmdetection3d's config
``mvxnet_fpn_dv_second_secfpn_8x2_80e_kitti-3d-3class``, so that shared parts of its checkpoints load without renaming.
Two parts differ: ``pts_middle_encoder`` (see ``bev.SlabEncoder``) and ``pts_bbox_head``, which detects centres where
the original classifies anchors.

  points → pts_voxel_encoder (+ image features from img_backbone, img_neck) → pts_middle_encoder → pts_backbone
  → pts_neck → pts_bbox_head
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FeaturePyramidNetwork

from kdnb.models.bev import SECOND, SECONDFPN, SlabEncoder, convolution
from kdnb.models.centre_head import CentreHead, decode, detection_loss, make_targets, require_boxes, total_loss
from kdnb.models.hubs import torchvision_hub
from kdnb.models.point_fusion import PointFusion
from kdnb.models.voxels import DynamicVFE, Grid, voxelize

LITE_GRID = Grid((0.0, -18.0, -3.0, 46.08, 18.0, 1.0), (0.36, 0.36, 1.0), cell=0.36, slabs=4)
FULL_GRID = Grid((0.0, -40.0, -3.0, 70.4, 40.0, 1.0), (0.05, 0.05, 0.1), cell=0.2, slabs=8)
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

# parameters of the original by part, from its config: R50 without classifier; FPN 256 wide; VFE 64, 64 (9,088) with
# fusion of 5 levels to 128 (1,566,080); sparse encoder 16-32-64-64 to 128; SECOND 128 (5), 256 (5); SECFPN 256, 256;
# anchors 2 per class.
MVXNET_PARAMETERS = {
    "img_backbone": 23_508_032,
    "img_neck": 3_344_384,
    "pts_voxel_encoder": 1_575_168,
    "pts_middle_encoder": 765_440,
    "pts_backbone": 4_280_832,
    "pts_neck": 295_936,
    "pts_bbox_head": 36_936,
}


class Fusion3D(nn.Module):
    """The detector.

    Args:
        img_backbone: image (B, 3, H, W) → dict of feature maps; img_neck: dict → dict of maps of equal width.
        grid: its range and cells.
        image: (channels of those maps, their number, channels after the lateral convolutions).
        points: widths of the voxel feature encoder's layers. fused: channels of points after fusion.
        slab: channels of each slab of height. middle: channels of the map before the backbone.
        widths, layers: of the backbone's stages. neck: channels of each of the neck's two parts. head: of the head.
    """

    def __init__(
        self,
        img_backbone: nn.Module,
        img_neck: nn.Module,
        grid: Grid,
        image: tuple[int, int, int],
        points: tuple[int, ...],
        fused: int,
        slab: int,
        middle: int,
        widths: tuple[int, int],
        layers: tuple[int, int],
        neck: int,
        head: int,
    ):
        super().__init__()
        self.grid, self.bev_channels = grid, 2 * neck
        self.img_backbone, self.img_neck = img_backbone, img_neck
        channels, levels, mid = image
        self.pts_voxel_encoder = DynamicVFE(points, PointFusion(channels, levels, points[-1], mid, fused))
        self.pts_middle_encoder = SlabEncoder(fused, slab, middle, grid)
        self.pts_backbone = SECOND(middle, widths, layers)
        self.pts_neck = SECONDFPN(widths, neck)
        self.pts_bbox_head = CentreHead(2 * neck, head)
        for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, points: list[Tensor], images: Tensor, projections: Tensor) -> dict[str, Tensor]:
        """Predict the maps of the head.

        Args:
            points: per frame (N_i, 4) float32 x, y, z, intensity in the velodyne frame; may be empty.
            images: (B, 3, H, W) in 0..1. Images of different sizes are padded at the right and bottom.
            projections: (B, 3, 4), homogeneous velodyne points → homogeneous pixels of these images.

        Returns:
            "bev" (B, C, H', W'), the neck's map, rows along y and columns along x; "heatmap" (B, 3, H', W') logits;
            "boxes" (B, 9, H', W'), see ``centre_head``.
        """
        voxels = voxelize(points, self.grid)
        pixels = ((images - self.pixel_mean) / self.pixel_std).contiguous(memory_format=torch.channels_last)
        maps = list(self.img_neck(self.img_backbone(pixels)).values())
        if len(voxels.counts) < 2:  # BatchNorm has no variance of fewer than two voxels
            rows, columns = self.grid.output
            middle = maps[0].new_zeros(len(points), self.pts_middle_encoder.mix[0].out_channels, rows, columns)
        else:
            size = tuple(images.shape[2:])
            features = self.pts_voxel_encoder(voxels, maps, size, projections.float())
            middle = self.pts_middle_encoder(features, voxels, len(points))
        bev = self.pts_neck(self.pts_backbone(middle))
        return {"bev": bev, **self.pts_bbox_head(bev)}


def lite_fusion3d(grid: Grid = LITE_GRID, widths: tuple[int, int] = (32, 48), neck: int = 32) -> Fusion3D:
    """About 130 thousand parameters, trained from scratch on a CPU."""
    img_backbone = nn.Sequential(
        OrderedDict(
            quarter=nn.Sequential(*convolution(3, 8, 2), *convolution(8, 16, 2)),
            eighth=nn.Sequential(*convolution(16, 24, 2)),
        )
    )
    model = Fusion3D(
        Levels(img_backbone),
        FeaturePyramidNetwork([16, 24], 16),
        grid,
        (16, 2, 8),
        points=(16,),
        fused=32,
        slab=12,
        middle=widths[0],
        widths=widths,
        layers=(2, 2),
        neck=neck,
        head=32,
    )
    return model.to(memory_format=torch.channels_last)


class Levels(nn.Module):
    """Returns the outputs of all stages: {name: map}."""

    def __init__(self, stages: nn.Sequential):
        super().__init__()
        self.stages = stages

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name, stage in self.stages.named_children():
            x = maps[name] = stage(x)
        return maps


def full_fusion3d(pretrained: bool = True, grid: Grid = FULL_GRID) -> Fusion3D:
    """The original's range, voxels, widths and image network: ResNet-50 with a feature pyramid of five levels.

    Args:
        pretrained: ImageNet weights, with frozen normalisation and first stage; False for random weights.
    """
    norm = {} if pretrained else {"norm_layer": nn.BatchNorm2d}
    layers = 4 if pretrained else 5
    with torchvision_hub("resnet50", pretrained) as weights:
        image = resnet_fpn_backbone(backbone_name="resnet50", weights=weights, trainable_layers=layers, **norm)
    return Fusion3D(
        image.body,
        image.fpn,
        grid,
        (256, 5, 128),
        points=(64, 64),
        fused=128,
        slab=16,
        middle=256,
        widths=(128, 256),
        layers=(5, 5),
        neck=256,
        head=64,
    )


def parameter_table(model: nn.Module) -> pd.DataFrame:
    """Parameters by part (rows) of a model and of MVX-Net (columns), with sums; frozen statistics do not count."""
    own = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    table = pd.DataFrame({"this model": own, "MVX-Net": MVXNET_PARAMETERS}).loc[list(MVXNET_PARAMETERS)]
    table.loc["sum"] = table.sum()
    return table.astype(int)


def fusion_step(model: Fusion3D, batch: dict) -> dict:
    """One training step for a ``Distiller``.

    Args:
        batch: "points", "images", "projections" as the model takes them; "boxes" and "labels" per frame; optional
            "labelled", a list of bool: unlabelled frames only pass through, for the teacher's terms; optional "ids" for
            messages.

    Returns:
        "loss" and its "parts" (0 if no frame is labelled), and the model's output.

    Raises:
        InputError: a batch of labelled frames without a single box.
    """
    labelled = batch.get("labelled") or [True] * len(batch["points"])
    require_boxes(batch["boxes"], labelled, batch.get("ids"))
    output = model(batch["points"], batch["images"], batch["projections"])
    known = [i for i, is_labelled in enumerate(labelled) if is_labelled]
    if not known:
        return {"loss": sum(0 * output[key].sum() for key in ("heatmap", "boxes")), **output}
    targets = make_targets([batch["boxes"][i] for i in known], [batch["labels"][i] for i in known], model.grid)
    parts = detection_loss({key: output[key][known] for key in ("heatmap", "boxes")}, targets)
    return {"loss": total_loss(parts), "parts": parts, **output}


@torch.no_grad()
def detect(model: Fusion3D, batches: Iterable[dict], threshold: float) -> list[dict[str, Tensor]]:
    """Detections in each frame, see ``centre_head.decode``; in eval mode, afterwards the model's mode is as before.

    Args:
        batches: "points", "images", "projections" as the model takes them, on its device.
        threshold: minimum score, 0..1.
    """
    training = model.training
    model.eval()
    outputs = (model(batch["points"], batch["images"], batch["projections"]) for batch in batches)
    detections = [one for output in outputs for one in decode(output, model.grid, threshold)]
    model.train(training)
    return detections
