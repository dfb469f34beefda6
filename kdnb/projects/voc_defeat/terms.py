"""03's networks and distillation terms: DeFeat's decoupled neck and head, and PKD."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.models.detection import FasterRCNN

from kdnb.datasets.voc import VOC, VOC_CLASSES
from kdnb.distill.distiller import Distiller, LiveTeacher, Teacher
from kdnb.distill.losses import kd_kl, pkd, region_mse
from kdnb.distill.terms import Term, choose_terms
from kdnb.errors import InputError
from kdnb.models.detector import (
    detection_step,
    foreground_masks,
    full_detector,
    image_masks,
    lite_detector,
    photo_detector,
    roi_logits,
)
from kdnb.models.pretrained import image_pyramid
from kdnb.projects.voc_defeat.data import Network, VocDefeatSettings

DEFEAT = ("neck_fg", "neck_bg")


def build(network: Network, settings: VocDefeatSettings, seed: int) -> FasterRCNN:
    """A fresh detector for the 20 VOC classes and background."""
    torch.manual_seed(seed)
    return detector(network, settings.size)


def detector(network: Network, size: tuple[int, int]) -> FasterRCNN:
    """A detector for images of a size (width, height); random numbers are the global ones."""
    classes = len(VOC_CLASSES) + 1
    if network.backbone == "small":
        return lite_detector(network.widths, network.blocks, classes, size, head=network.head)
    if network.is_timm:
        trunk, channels = image_pyramid(network.backbone, network.pretrained, **network.parts)
        width = (network.neck, network.head, network.proposals)
        return photo_detector(trunk, channels[-3:], classes, size, *width)
    return full_detector(network.backbone, classes, size, network.pretrained)


def inherit_heads(student: FasterRCNN, teacher: FasterRCNN) -> None:
    """Start the student's RPN and box head from the teacher's; InputError if the two differ in shape."""
    try:
        student.rpn.load_state_dict(teacher.rpn.state_dict())
        student.roi_heads.load_state_dict(teacher.roi_heads.state_dict())
    except RuntimeError as error:
        raise InputError(f"heads cannot be inherited, teacher and student differ in shape: {error}") from None


def teacher_step(teacher: FasterRCNN, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher's neck on exactly the student's input pixels, after its resize, padding and normalisation."""
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


def neck(outputs: dict, *_: dict) -> list[Tensor]:
    """The pyramid's feature maps, finest first."""
    return list(outputs["features"].values())


def build_terms(names: Sequence[str], settings: VocDefeatSettings, teacher: FasterRCNN) -> list[Term]:
    """The terms with these names; InputError for another name.

    Their adapters' random weights do not advance the global random number generator.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = PerLevel(teacher.backbone.out_channels, len(teacher.rpn.anchor_generator.sizes))

    def foreground(outputs: dict) -> list[Tensor]:
        return foreground_masks(outputs["boxes"], outputs["features"], outputs["pixels"].shape[-1], settings.level_base)

    def background(outputs: dict) -> list[Tensor]:
        return [1 - mask for mask in foreground(outputs)]

    terms = [
        Term("neck_fg", region_mse, neck, neck, adapter, foreground, settings.foreground_weight),
        Term("neck_bg", region_mse, neck, neck, adapter, background, settings.background_weight),
        Term("pkd", pkd, neck, neck, weight=settings.pkd_weight),
        head_term("head_fg", teacher, settings.head_weight, lambda labels: labels > 0),
        head_term("head_bg", teacher, settings.head_weight, lambda labels: labels == 0),
    ]
    return choose_terms(terms, names)


def head_term(name: str, teacher: FasterRCNN, weight: float, chosen: Callable[[Tensor], Tensor]) -> Term:
    """KL on the student's own sampled proposals, split by the labels of those same proposals.

    Args:
        chosen: labels (N,) -> bool (N,), the proposals of this term.
    """

    def student_logits(outputs: dict) -> Tensor:
        return outputs["class_logits"][chosen(outputs["labels"])]

    def teacher_logits(outputs: dict, student_outputs: dict) -> Tensor:
        labelled = {level: m[student_outputs["labelled"]] for level, m in outputs["features"].items()}
        logits, _ = roi_logits(teacher, labelled, student_outputs["proposals"], student_outputs["image_sizes"])
        return logits[chosen(student_outputs["labels"])]

    return Term(name, kd_kl, student_logits, teacher_logits, weight=weight)


def build_distiller(
    student: FasterRCNN,
    teacher: FasterRCNN | None,
    names: Sequence[str],
    settings: VocDefeatSettings,
    outputs: Teacher | None = None,
) -> Distiller:
    """The student with its terms; without names it is the baseline.

    Args:
        outputs: replaces the live teacher, such as its kept outputs.

    Raises:
        InputError: the necks of teacher and student differ in shape.
    """
    if not names or teacher is None:
        return Distiller(student, student_step=detection_step)
    levels = [len(model.rpn.anchor_generator.sizes) for model in (teacher, student)]
    channels = [model.backbone.out_channels for model in (teacher, student)]
    if levels[0] != levels[1] or channels[0] != channels[1]:
        raise InputError(
            f"teacher and student have {levels[0]} and {levels[1]} pyramid levels of {channels[0]} and {channels[1]} "
            "channels; their necks must be alike to be compared"
        )
    terms = build_terms(names, settings, teacher)
    return Distiller(student, outputs or LiveTeacher(teacher, teacher_step), terms, detection_step)


def background_share(model: FasterRCNN, data: VOC | Subset, settings: VocDefeatSettings) -> float:
    """Percent of the cells inside objects, over all levels, that DeFeat's level rule leaves to the background term.

    Args:
        data: images with labels.
    """
    own = inside = 0.0
    for i in range(len(data)):
        own += sum(mask.sum().item() for mask in image_masks(model, data[i], settings.level_base))
        inside += sum(mask.sum().item() for mask in image_masks(model, data[i], settings.level_base, True))
    return 100 * (1 - own / max(inside, 1))
