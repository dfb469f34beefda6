"""03 VOC DeFeat: a Faster R-CNN teacher distilled into a smaller one through decoupled features of the neck.

What the notebook and ``python -m kdnb.projects.voc_defeat`` share: settings, data, networks, terms and arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.models.detection import FasterRCNN

from kdnb.datasets.voc import VOC, VOC_CLASSES
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.losses import kd_kl, pkd, region_mse
from kdnb.distill.terms import Term
from kdnb.errors import InputError
from kdnb.models.detector import (
    detection_step,
    foreground_masks,
    full_detector,
    lite_detector,
    picture_masks,
    roi_logits,
)
from kdnb.run import Settings
from kdnb.world.export_voc import rendered_voc

PROJECT = "03_voc_defeat"
PRIMARY = "mAP50"


class Network(Settings):
    """One detector. ``backbone`` "small" takes widths and blocks; any other name is one of torchvision's."""

    backbone: str = "small"
    widths: list[int] = []
    blocks: list[int] = []
    head: int = 128
    pretrained: bool = False


class VocDefeatSettings(Settings):
    """Settings of this project; ``settings/voc_defeat.yaml`` has a block of them for each profile."""

    # data
    train_images: int = 800  # drawn, when no DATA is given
    test_images: int = 150
    size: tuple[int, int] = (160, 96)  # width, height
    train_sets: list[tuple[str, str]] = [("2007", "trainval")]  # year, image set, when DATA is given
    test_set: tuple[str, str] = ("2007", "test")
    validation: float = 0.125  # the last part of the training images, held out
    few_labels: int = 40
    # networks
    teacher: Network
    student: Network
    # training
    batch: int = 8
    teacher_steps: int
    student_steps: int
    optimizer: str = "adamw"
    lr: float
    weight_decay: float
    schedule: str = "onecycle"
    milestones: list[float] = [0.75, 0.92]  # of schedule "step", as fractions of training
    clip: float
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    curve_points: int = 3  # how often each arm is scored on validation while training
    processes: int = 1  # arms that train side by side, one core each
    # distillation
    foreground_weight: float = 3.0  # DeFeat's released VOC recipe: 3 and 12
    background_weight: float = 12.0
    level_base: float = 56.0  # in pixels; the released 56 is for 600 x 1000
    pkd_weight: float
    head_weight: float = 1.0
    pseudo_box_score: float = 0.5  # a teacher's detection from here on counts as foreground in unlabelled pictures
    cache_teacher: bool = False
    allow_weaker_teacher: bool = False

    @property
    def first_level(self) -> int:
        """Of the pyramid: the small detectors begin at P3 (stride 8), torchvision's at P2 (stride 4)."""
        return 3 if self.teacher.backbone == "small" else 2


@dataclass(frozen=True)
class Arm:
    """One way to train the student. Everything not named here is the same in all arms.

    Attributes:
        terms: which distillation terms, by name; none is the baseline.
        longer: factor on the number of steps.
        few_labels: only ``settings.few_labels`` pictures have labels.
        inherit: start from the teacher's RPN and box head.
    """

    terms: tuple[str, ...] = ()
    longer: float = 1.0
    few_labels: bool = False
    inherit: bool = False


DEFEAT = ("neck_fg", "neck_bg")
ARMS = {
    "baseline": Arm(),
    "distilled": Arm(DEFEAT),
    "few_labels_baseline": Arm(few_labels=True),
    "few_labels_distilled": Arm(DEFEAT, few_labels=True),
    "pkd": Arm(("pkd",)),
}
ABLATION_ARMS = {
    "fg_only": Arm(("neck_fg",)),
    "bg_only": Arm(("neck_bg",)),
    "head_term": Arm((*DEFEAT, "head_fg", "head_bg")),
    "long_baseline": Arm(longer=2),
    "long_distilled": Arm(DEFEAT, longer=2),
    "inherited_baseline": Arm(inherit=True),
    "inherited_distilled": Arm(DEFEAT, inherit=True),
}
COMPARISONS = [
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("pkd", "baseline"),
    ("distilled", "pkd"),
    ("fg_only", "baseline"),
    ("bg_only", "baseline"),
    ("distilled", "fg_only"),
    ("distilled", "bg_only"),
    ("head_term", "distilled"),
    ("long_distilled", "long_baseline"),
    ("inherited_distilled", "inherited_baseline"),
]


# --- data -------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """The three splits of a VOC devkit. ``key`` names them and everything done to them."""

    key: str
    train: Subset
    validation: Subset
    test: VOC
    one_size: bool  # all pictures have the same size


def open_data(settings: VocDefeatSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The devkit at ``data``, or one drawn for these settings below ``root`` (found again next time).

    Validation is the last part of the training list; nothing is ever selected on test.
    """
    devkit, train_sets = data, settings.train_sets
    if data is None:
        devkit = rendered_voc(root, train=settings.train_images, test=settings.test_images, size=settings.size)
        train_sets = [("2007", "trainval")]
    every = VOC(devkit, tuple(train_sets), keep_in_memory=data is None)
    test = VOC(devkit, (settings.test_set,), keep_in_memory=data is None)
    held_out = round(len(every) * settings.validation)
    if not 0 < held_out < len(every):
        raise InputError(f"{devkit}: {len(every)} training images leave {held_out} for validation; give at least 8")
    first = len(every) - held_out
    key = f"{Path(devkit).resolve().parent.name}-{len(every)}-{settings.size}"
    return Data(key, Subset(every, range(first)), Subset(every, range(first, len(every))), test, data is None)


def ground_truth(data) -> dict[str, dict[str, Tensor]]:
    """image id → "boxes" (N, 4), "labels" (N,), "difficult" (N,), as the metrics want it."""
    items = (data[i] for i in range(len(data)))
    return {item["id"]: {key: item[key] for key in ("boxes", "labels", "difficult")} for item in items}


def count_objects(data: Data) -> pd.DataFrame:
    """Pictures and objects per class (columns) in each split (rows), difficult ones left out."""
    rows = {}
    for name in ("train", "validation", "test"):
        truth = ground_truth(getattr(data, name)).values()
        labels = [label for one in truth for label in one["labels"][~one["difficult"]].tolist()]
        rows[name] = {"pictures": len(truth), **{VOC_CLASSES[k - 1]: labels.count(k) for k in sorted(set(labels))}}
    return pd.DataFrame(rows).T.fillna(0).astype(int)


# --- networks ---------------------------------------------------------------------------------------------------


def build(network: Network, settings: VocDefeatSettings, seed: int) -> FasterRCNN:
    """A fresh detector for the 20 VOC classes and background."""
    torch.manual_seed(seed)
    classes = len(VOC_CLASSES) + 1
    if network.backbone == "small":
        return lite_detector(network.widths, network.blocks, classes, settings.size, head=network.head)
    return full_detector(network.backbone, classes, settings.size, network.pretrained)


def inherit_heads(student: FasterRCNN, teacher: FasterRCNN) -> None:
    """Start the student's RPN and box head from the teacher's: possible because both necks are equally wide.

    Raises:
        InputError: when the two differ in shape.
    """
    try:
        student.rpn.load_state_dict(teacher.rpn.state_dict())
        student.roi_heads.load_state_dict(teacher.roi_heads.state_dict())
    except RuntimeError as error:
        raise InputError(f"heads cannot be inherited, teacher and student differ in shape: {error}") from None


# --- distillation -----------------------------------------------------------------------------------------------


def teacher_step(teacher: FasterRCNN, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher's neck on exactly the pixels that the student saw, after its resize, padding and normalisation."""
    if student_outputs:
        pixels = student_outputs["pixels"]
    else:
        device = next(teacher.parameters()).device
        pixels = teacher.transform([image.to(device) for image in batch["images"]])[0].tensors
    return {"features": {level: feature_map.float() for level, feature_map in teacher.backbone(pixels).items()}}


class PerLevel(nn.ModuleList):
    """DeFeat's adapters: a 3x3 convolution for each pyramid level, no ReLU, weights of about 1e-4."""

    def __init__(self, channels: int, levels: int):
        super().__init__(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))
        for convolution in self:
            nn.init.trunc_normal_(convolution.weight, std=1e-4, a=-2e-4, b=2e-4)

    def forward(self, feature_maps: list[Tensor]) -> list[Tensor]:
        return [convolution(m) for convolution, m in zip(self, feature_maps, strict=True)]


def neck(seen: dict, *_) -> list[Tensor]:
    """The pyramid's feature maps, finest first."""
    return list(seen["features"].values())


def build_terms(names: tuple[str, ...], settings: VocDefeatSettings, teacher: FasterRCNN) -> list[Term]:
    """The terms with these names. Adapters are drawn without touching the global random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = PerLevel(teacher.backbone.out_channels, len(teacher.rpn.anchor_generator.sizes))

    def foreground(seen):
        return foreground_masks(seen["boxes"], seen["features"], seen["pixels"].shape[-1], settings.level_base)

    def background(seen):
        return [1 - mask for mask in foreground(seen)]

    def teacher_logits(teacher_outputs, student_outputs, chosen):
        known = {level: m[student_outputs["labelled"]] for level, m in teacher_outputs["features"].items()}
        logits, _ = roi_logits(teacher, known, student_outputs["proposals"], student_outputs["image_sizes"])
        return logits[chosen(student_outputs["labels"])]

    def head(chosen):
        """KL on the student's own sampled proposals, split by the labels of those same proposals."""
        return {
            "loss": kd_kl,
            "student": lambda seen: seen["class_logits"][chosen(seen["labels"])],
            "teacher": lambda seen, student_outputs: teacher_logits(seen, student_outputs, chosen),
        }

    terms = [
        Term("neck_fg", region_mse, neck, neck, adapter, foreground, settings.foreground_weight),
        Term("neck_bg", region_mse, neck, neck, adapter, background, settings.background_weight),
        Term("pkd", pkd, neck, neck, weight=settings.pkd_weight),
        Term("head_fg", **head(lambda labels: labels > 0), weight=settings.head_weight),
        Term("head_bg", **head(lambda labels: labels == 0), weight=settings.head_weight),
    ]
    return [term for term in terms if term.name in names]


def build_distiller(
    student: FasterRCNN, teacher: FasterRCNN | None, names: tuple[str, ...], settings: VocDefeatSettings, cache=None
) -> Distiller:
    """The student with its terms; ``cache`` answers in the teacher's place. Without names it is the baseline."""
    if not names:
        return Distiller(student, student_step=detection_step)
    levels = [len(model.rpn.anchor_generator.sizes) for model in (teacher, student)]
    if levels[0] != levels[1] or teacher.backbone.out_channels != student.backbone.out_channels:
        raise InputError(
            f"teacher and student have {levels[0]} and {levels[1]} pyramid levels of "
            f"{teacher.backbone.out_channels} and {student.backbone.out_channels} channels; "
            "their necks must be alike to be compared"
        )
    terms = build_terms(names, settings, teacher)
    return Distiller(student, cache or LiveTeacher(teacher, teacher_step), terms, detection_step)


def share_called_background(model: FasterRCNN, data, settings: VocDefeatSettings) -> float:
    """Percent of the cells inside objects, over all levels, that DeFeat's level rule leaves to the background term.

    Args:
        data: pictures with labels.
    """
    own = every = 0.0
    for i in range(len(data)):
        own += sum(mask.sum().item() for mask in picture_masks(model, data[i], settings.level_base))
        every += sum(mask.sum().item() for mask in picture_masks(model, data[i], settings.level_base, True))
    return 100 * (1 - own / max(every, 1))


if __name__ == "__main__":
    from kdnb.projects.voc_experiment import main

    main()
