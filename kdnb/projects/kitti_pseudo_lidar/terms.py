"""04's networks and distillation terms: bird's-eye view features, heatmaps and boxes of a detector on LiDAR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kdnb.distill.bev import bev_terms, teacher_step
from kdnb.distill.distiller import Distiller, LiveTeacher, Teacher
from kdnb.models.depth_net import TinyDepth
from kdnb.models.fusion3d import Fusion3D, full_fusion3d, fusion_step, lite_fusion3d
from kdnb.projects.kitti_pseudo_lidar.data import KittiPseudoLidarSettings


def build(settings: KittiPseudoLidarSettings, seed: int) -> Fusion3D:
    """A fresh detector; teacher and students differ only in their points."""
    torch.manual_seed(seed)
    return lite_fusion3d() if settings.network == "lite" else full_fusion3d(settings.pretrained)


def build_depth(settings: KittiPseudoLidarSettings, seed: int) -> nn.Module:
    """A fresh depth network; one without parameters if depth comes from elsewhere."""
    if settings.depth != "tiny":
        return nn.Module()
    torch.manual_seed(seed)
    return TinyDepth(tuple(settings.depth_size), tuple(settings.depth_widths)).to(memory_format=torch.channels_last)


def build_distiller(
    student: Fusion3D,
    teacher: Fusion3D | None,
    names: Sequence[str],
    settings: KittiPseudoLidarSettings,
    outputs: Teacher | None = None,
) -> Distiller:
    """The student with its terms; without names, or with all their scales 0, it is the baseline.

    A term of scale 0 is left out whole: the gradient of its idle adapter, all zeros, would still change in which order
    the clipping sums up, and with it the last bit of every weight.

    Args:
        outputs: replaces the live teacher, such as its kept outputs.
    """
    scale = {"kd_bev": settings.bev_scale, "kd_logit": settings.logit_scale, "kd_box": settings.box_scale}
    names = [name for name in names if scale.get(name, 1.0)]
    if not names or teacher is None:
        return Distiller(student, student_step=fusion_step)
    terms = bev_terms((student.bev_channels, teacher.bev_channels), names, scale, settings.switch)
    return Distiller(student, outputs or LiveTeacher(teacher, teacher_step), terms, fusion_step)
