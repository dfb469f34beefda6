"""04 KITTI pseudo-LiDAR: a LiDAR detector teaches one of the same make that sees a camera's pseudo-LiDAR.

What the notebook and ``python -m kdnb.projects.kitti_pseudo_lidar`` share: settings, data, networks, terms and arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from kdnb.datasets.kitti import Frame, KittiObject
from kdnb.datasets.kitti_boxes import labels_from_boxes
from kdnb.datasets.kitti_labels import CLASSES, DIFFICULTIES, KittiLabel, counts_as
from kdnb.datasets.kitti_views import objects_to_detect
from kdnb.distill.bev import bev_terms, teacher_step
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.errors import InputError
from kdnb.metrics.kitti import kitti_curves
from kdnb.models.depth_net import TinyDepth
from kdnb.models.fusion3d import FULL_GRID, LITE_GRID, Fusion3D, full_fusion3d, fusion_step, lite_fusion3d
from kdnb.models.voxels import Grid
from kdnb.run import Settings
from kdnb.world.export_kitti import rendered_kitti

PROJECT = "04_kitti_pseudo_lidar"
PRIMARY = "AP3D_R40_50"  # cars, moderate, in 3D at an overlap of 0.5 (the loose one), mean over 40 recalls
# of the scores that ``kitti_scores`` gives, those that tables show; with all cars' by difficulty and distance
HEADLINES = (
    PRIMARY,
    "APBEV_R40_50",
    "AP3D_R40_70",
    "AP3D_R11_50",
    "AOS_R40",
    "Pedestrian_AP3D_R40_25",
    "Cyclist_AP3D_R40_25",
)
DRIVES = 1  # the drawn drives; settings were chosen on those of 0, so that no test frame had a say


class KittiPseudoLidarSettings(Settings):
    """Settings of this project; ``settings/kitti_pseudo_lidar.yaml`` has a block of them for each profile."""

    # data
    train_frames: int = 150  # drawn, when no DATA is given
    val_frames: int = 40
    test_frames: int = 100
    size: tuple[int, int] = (828, 250)  # width, height
    beams: int = 32
    sector: int = 45  # degrees to either side that the LiDAR sees
    validation: float = 0.1  # held out of train, where DATA shows no labels of its test frames and val is what we test
    few_labels: int = 20
    least_points: int = 3  # objects that the LiDAR hit less often are not learnt
    image_width: int = 0  # pixels that a detector sees images wide; 0: as they are
    turns: list[float] = [-5.0, 0.0, 5.0]  # degrees and factors of the views in training, beside the mirrored ones
    scales: list[float] = [0.95, 1.0, 1.05]
    # depth and clouds
    depth: str = "tiny"  # trained here; or "hf:<model id>", "folder:<path>"
    depth_size: tuple[int, int] = (128, 416)  # height, width
    depth_widths: list[int] = [12, 20, 32, 48, 64]
    depth_steps: int = 0
    depth_batch: int = 8
    depth_lr: float = 3.0e-3
    sampling: Literal["random", "beams", "all"] = "random"
    share: float = 0.1  # of the pixels, for "random"
    intensity: Literal["constant", "grey"] = "constant"
    # networks: teacher and students are alike
    network: Literal["lite", "full"] = "lite"
    pretrained: bool = True  # ImageNet weights of the full one's image network
    # training
    batch: int = 4
    teacher_steps: int
    student_steps: int
    optimizer: str = "adamw_fused"
    lr: float
    weight_decay: float = 0.01
    schedule: str = "onecycle"
    milestones: list[float] = [0.75, 0.92]  # of schedule "step", as fractions of training
    clip: float = 10.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    curve_points: int = 1  # how often each arm is scored on validation while training; the best weights are kept
    processes: int = 1  # arms that train side by side, one core each
    # distillation: factors on the original's weights in two phases, see ``bev_terms``
    bev_scale: float = 10.0
    logit_scale: float = 20.0
    box_scale: float = 1.0
    switch: float = 1.0  # when the second phase begins, as a share of training; 0.5 in the original
    allow_weaker_teacher: bool = False
    # answers
    score_threshold: float = 0.05
    distances: list[tuple[int, int]] = [(0, 10), (10, 20), (20, 30)]  # metres ahead, for the AP by distance

    @property
    def grid(self) -> Grid:
        """Where the detectors look."""
        return LITE_GRID if self.network == "lite" else FULL_GRID


@dataclass(frozen=True)
class Arm:
    """One network of the ladder. Everything not named here is the same in all arms.

    Attributes:
        terms: which distillation terms, by name.
        points: the cloud that it is fed.
        image: False shows it black images.
        of: an arm whose finished network it is, fed something else; nothing is trained.
        longer: factor on the number of steps.
        few_labels: only ``settings.few_labels`` frames have boxes; all have their clouds.
        scratch: start from random weights; otherwise from the teacher's, which the student's shape allows.
    """

    terms: tuple[str, ...] = ()
    points: str = "pseudo"
    image: bool = True
    of: str = ""
    longer: float = 1.0
    few_labels: bool = False
    scratch: bool = False


KD = ("kd_bev", "kd_logit", "kd_box")
ARMS = {
    "teacher": Arm(points="velodyne", scratch=True),
    "teacher_swapped": Arm(of="teacher"),
    "baseline": Arm(),
    "distilled": Arm(KD),
    "few_labels_baseline": Arm(few_labels=True),
    "few_labels_distilled": Arm(KD, few_labels=True),
    "image_blanked": Arm(image=False, of="baseline"),
    "teacher_image_blanked": Arm(points="velodyne", image=False, of="teacher"),
}
ABLATION_ARMS = {
    "baseline_from_scratch": Arm(scratch=True),
    "distilled_from_scratch": Arm(KD, scratch=True),
    "bev_only": Arm(("kd_bev",)),
    "logit_only": Arm(("kd_logit",)),
    "box_only": Arm(("kd_box",)),
    "without_image": Arm(image=False),
    "long_baseline": Arm(longer=2),
    "long_distilled": Arm(KD, longer=2),
}
COMPARISONS = [
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("distilled_from_scratch", "baseline_from_scratch"),
    ("baseline", "baseline_from_scratch"),
    ("teacher", "distilled"),
    ("distilled", "teacher_swapped"),
    ("image_blanked", "baseline"),
    ("teacher_image_blanked", "teacher"),
    ("without_image", "baseline"),
    ("bev_only", "baseline"),
    ("logit_only", "baseline"),
    ("box_only", "baseline"),
    ("long_distilled", "long_baseline"),
]


# --- data -------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Frames of a KITTI root by what they are for; none is in two of the lists.

    Attributes:
        root: of the set.
        sources: the official splits that the frames come from.
        drawn: small enough to be kept in memory.
    """

    root: Path
    sources: list[KittiObject]
    train: list[Frame]
    validation: list[Frame]
    test: list[Frame]
    drawn: bool


def open_data(settings: KittiPseudoLidarSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The KITTI root at ``data``, or one drawn for these settings below ``root`` (found again next time).

    Nothing is ever selected on what is reported. Where the test frames' labels are known, as in a drawn set, the
    official splits are what their names say. The real set keeps them to itself: val is tested on, as in the
    literature, and the last part of train is validation. A root without lists is cut into three, half of it train.

    Raises:
        InputError: too few frames, a set without one box to learn from, and as ``KittiObject`` does.
    """
    place = (
        Path(data)
        if data is not None
        else rendered_kitti(
            root,
            train=settings.train_frames,
            val=settings.val_frames,
            test=settings.test_frames,
            size=settings.size,
            beams=settings.beams,
            sector=settings.sector,
            seed=DRIVES,
        )
    )
    sources, parts = split_frames(place, settings.validation)
    opened = Data(place, sources, *parts, drawn=data is None)
    for name, frames in zip(("training", "validation", "test"), parts, strict=True):
        if not frames:
            raise InputError(f"{place}: no {name} frames with labels, expected at least 3 annotated frames in all")
    if not frames_with_objects(opened.train):
        raise InputError(
            f"{place}: not one {', '.join(CLASSES)} in the labels of {len(opened.train)} training frames; "
            "the detection loss would teach nothing. Expected label files with objects"
        )
    return opened


def split_frames(root: Path, validation: float) -> tuple[list[KittiObject], tuple[list[Frame], ...]]:
    """The splits to read, annotated frames only, and those for training, validation and test."""
    if not (root / "ImageSets").is_dir():
        everything = KittiObject(root, "train").annotated()
        frames = everything.frames
        first, second = len(frames) // 2, len(frames) // 2 + max(1, round(validation * len(frames)))
        return [everything], (frames[:first], frames[first:second], frames[second:])
    train, val = KittiObject(root, "train").annotated(), KittiObject(root, "val").annotated()
    if (root / "ImageSets" / "test.txt").is_file() and (root / "testing_label_2").is_dir():
        test = KittiObject(root, "test").annotated()
        return [train, val, test], (train.frames, val.frames, test.frames)
    first = len(train) - max(1, round(validation * len(train)))
    return [train, val], (train.frames[:first], train.frames[first:], val.frames)


def frames_with_objects(frames: list[Frame]) -> list[int]:
    """Indices of frames with something to find: batches are made of these, as where nothing is there is seen in them
    too, and a batch without a box teaches nothing."""
    return [i for i, frame in enumerate(frames) if objects_to_detect(frame.labels)]


def ground_truth(frames: list[Frame]) -> dict[str, list[KittiLabel]]:
    """frame → its labels, as the evaluation wants them."""
    return {frame.name: frame.labels for frame in frames}


def count_objects(data: Data) -> pd.DataFrame:
    """Frames, and objects per class and difficulty that count in the evaluation, in each split (rows)."""
    rows = {}
    for name in ("train", "validation", "test"):
        labels = [label for frame in getattr(data, name) for label in frame.labels]
        rows[name] = {
            "frames": len(getattr(data, name)),
            **{
                f"{c} {d}": sum(label.type == c and counts_as(label, d) for label in labels)
                for c in CLASSES
                for d in DIFFICULTIES
            },
        }
    return pd.DataFrame(rows).T


def count_by_distance(frames: list[Frame], distances: list[tuple[int, int]], name: str = "Car") -> dict[str, int]:
    """How many objects of a class count at difficulty moderate, by metres ahead: {"0 to 10 m": 12, ...}."""
    ahead = [
        label.z for frame in frames for label in frame.labels if label.type == name and counts_as(label, "moderate")
    ]
    return {f"{near} to {far} m": sum(near <= z < far for z in ahead) for near, far in distances}


# --- networks ---------------------------------------------------------------------------------------------------


def build(settings: KittiPseudoLidarSettings, seed: int) -> Fusion3D:
    """A fresh detector; teacher and students differ in nothing but what they are fed."""
    torch.manual_seed(seed)
    return lite_fusion3d() if settings.network == "lite" else full_fusion3d(settings.pretrained)


def build_depth(settings: KittiPseudoLidarSettings, seed: int) -> torch.nn.Module:
    """A fresh depth network; one without parameters where depth comes from elsewhere."""
    if settings.depth != "tiny":
        return torch.nn.Module()
    torch.manual_seed(seed)
    return TinyDepth(tuple(settings.depth_size), tuple(settings.depth_widths)).to(memory_format=torch.channels_last)


# --- distillation -----------------------------------------------------------------------------------------------


def build_distiller(
    student: Fusion3D, teacher: Fusion3D | None, names: tuple[str, ...], settings: KittiPseudoLidarSettings
) -> Distiller:
    """The student with its terms; without names, or with all their scales 0, it is the baseline.

    A term of scale 0 is left out whole: the gradient of its idle adapter, all zeros, would still change in which order
    the clipping sums up, and with it the last bit of every weight.
    """
    scale = {"kd_bev": settings.bev_scale, "kd_logit": settings.logit_scale, "kd_box": settings.box_scale}
    names = tuple(name for name in names if scale[name])
    if not names:
        return Distiller(student, student_step=fusion_step)
    terms = bev_terms((student.bev_channels, teacher.bev_channels), names, scale, settings.switch)
    return Distiller(student, LiveTeacher(teacher, teacher_step), terms, fusion_step)


# --- scores -----------------------------------------------------------------------------------------------------


def found_labels(found: dict[str, dict], frames: list[Frame]) -> dict[str, list[KittiLabel]]:
    """frame → detections as KITTI's files have them, from "boxes" (K, 7), "scores" (K,) and "labels" (K,)."""
    answers = {}
    for frame in frames:
        one = found[frame.name]
        names = [CLASSES[int(label)] for label in one["labels"]]
        answers[frame.name] = labels_from_boxes(one["boxes"], names, one["scores"], frame.calibration, frame.image_size)
    return answers


def kitti_scores(truth: dict, found: dict, distances: list[tuple[int, int]] = ()) -> dict[str, float]:
    """AP in percent by name: "AP3D_R40_50" and "APBEV_R11_70" are cars' at difficulty moderate, at an overlap of 0.5
    and 0.7; "Pedestrian_AP3D_R40_25" another class's; "..._easy" and "..._hard" other difficulties', "..._15_30m" that
    of objects so far ahead; "AP2D" and "AOS" of the boxes in the image. Numbers with R11 and R40 do not compare.

    Args:
        truth, found: frame → labels, detections.
    """
    scores = {}
    for overlap, percents in (("loose", (50, 25, 25)), ("strict", (70, 50, 50))):
        curves = kitti_curves(truth, found, overlap)
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
        curves = kitti_curves(truth, found, "loose", (near, far))
        for name, percent in zip(CLASSES, (50, 25, 25), strict=True):
            scores[f"{prefix(name)}AP3D_R40_{percent}_{near}_{far}m"] = curves[name]["3d"]["moderate"].ap["R40"]
    return scores


def prefix(name: str) -> str:
    return "" if name == "Car" else f"{name}_"


if __name__ == "__main__":
    from kdnb.projects.kitti_experiment import main

    main()
