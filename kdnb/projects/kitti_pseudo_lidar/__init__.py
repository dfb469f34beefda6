"""04 KITTI pseudo-LiDAR: a LiDAR detector teaches one of the same make that gets a camera's pseudo-LiDAR."""

from kdnb.datasets.kitti_labels import CLASSES
from kdnb.projects.kitti_pseudo_lidar.clouds import cloud_path, write_clouds
from kdnb.projects.kitti_pseudo_lidar.data import (
    KittiPseudoLidarSettings,
    count_by_distance,
    count_objects,
    ground_truth,
    open_data,
)
from kdnb.projects.kitti_pseudo_lidar.experiment import CloudArm, KittiPseudoLidar
from kdnb.projects.kitti_pseudo_lidar.terms import KD, build, build_depth, build_distiller, teacher_step

__all__ = [
    "CLASSES",
    "KD",
    "CloudArm",
    "KittiPseudoLidar",
    "KittiPseudoLidarSettings",
    "build",
    "build_depth",
    "build_distiller",
    "cloud_path",
    "count_by_distance",
    "count_objects",
    "ground_truth",
    "open_data",
    "teacher_step",
    "write_clouds",
]
