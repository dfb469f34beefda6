"""All KITTI scores of a project in one call, from detections in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdnb.datasets.kitti import Frame
from kdnb.datasets.kitti_boxes import labels_from_boxes
from kdnb.datasets.kitti_labels import CLASSES, KittiLabel
from kdnb.metrics.kitti import kitti_curves

LOOSE, STRICT = (50, 25, 25), (70, 50, 50)  # IoU in percent, by class

FrameLabels = dict[str, list[KittiLabel]]  # frame -> its labels or detections


def detection_labels(detections: Mapping[str, Mapping[str, Any]], frames: Iterable[Frame]) -> FrameLabels:
    """frame -> detections as KITTI's files have them.

    Args:
        detections: frame -> "boxes" (K, 7) in the velodyne frame, "scores" (K,), "labels" (K,), positions in CLASSES.
    """
    labels = {}
    for frame in frames:
        one = detections[frame.name]
        names = [CLASSES[int(label)] for label in one["labels"]]
        labels[frame.name] = labels_from_boxes(one["boxes"], names, one["scores"], frame.calibration, frame.image_size)
    return labels


def car_ap(truth: FrameLabels, detections: FrameLabels) -> float:
    """AP of cars in 3D in percent: R40, difficulty moderate, IoU above 0.5."""
    return kitti_curves(truth, detections, "loose")["Car"]["3d"]["moderate"].ap["R40"]


def kitti_scores(
    truth: FrameLabels, detections: FrameLabels, distances: Sequence[tuple[int, int]] = ()
) -> dict[str, float]:
    """AP in percent by name.

    "AP3D_R40_50" and "APBEV_R11_70" are cars' at difficulty moderate, at an IoU of 0.5 and 0.7;
    "Pedestrian_AP3D_R40_25" another class's; "..._easy" and "..._hard" of other difficulties, "..._15_30m" of objects
    at that distance; "AP2D" and "AOS" of the boxes in the image. Numbers with R11 and R40 do not compare.

    Args:
        distances: (near, far) in metres ahead, for the AP by distance.
    """
    scores, curves = {}, {}
    for overlap, percents in (("loose", LOOSE), ("strict", STRICT)):
        curves = kitti_curves(truth, detections, overlap)
        for name, percent in zip(CLASSES, percents, strict=True):
            for kind, short in (("3d", "AP3D"), ("bev", "APBEV")):
                for points in ("R40", "R11"):
                    key = f"{prefix(name)}{short}_{points}_{percent}"
                    scores[key] = curves[name][kind]["moderate"].ap[points]
                    if points == "R40" and name == "Car":
                        scores |= {f"{key}_{d}": curves[name][kind][d].ap[points] for d in ("easy", "hard")}
    for name in CLASSES:
        scores[f"{prefix(name)}AP2D_R40"] = curves[name]["bbox"]["moderate"].ap["R40"]
        scores[f"{prefix(name)}AOS_R40"] = curves[name]["aos"]["moderate"].ap["R40"]
    for near, far in distances:
        curves = kitti_curves(truth, detections, "loose", (near, far))
        for name, percent in zip(CLASSES, LOOSE, strict=True):
            scores[f"{prefix(name)}AP3D_R40_{percent}_{near}_{far}m"] = curves[name]["3d"]["moderate"].ap["R40"]
    return scores


def prefix(name: str) -> str:
    """Of a class's scores; cars have none."""
    return "" if name == "Car" else f"{name}_"
