"""04 KITTI pseudo-LiDAR: a LiDAR detector teaches one of the same make that gets a camera's pseudo-LiDAR."""

from kdnb.datasets.kitti_labels import CLASSES
from kdnb.projects.kitti_pseudo_lidar.arms import KD, CloudArm
from kdnb.projects.kitti_pseudo_lidar.clouds import cloud_path
from kdnb.projects.kitti_pseudo_lidar.data import (
    KittiPseudoLidarSettings,
    count_by_distance,
    count_objects,
    ground_truth,
    open_data,
)
from kdnb.projects.kitti_pseudo_lidar.experiment import KittiPseudoLidar
from kdnb.projects.kitti_pseudo_lidar.terms import build, build_distiller

__all__ = [
    "CLASSES",
    "KD",
    "CloudArm",
    "KittiPseudoLidar",
    "KittiPseudoLidarSettings",
    "build",
    "build_distiller",
    "cloud_path",
    "count_by_distance",
    "count_objects",
    "ground_truth",
    "open_data",
]
