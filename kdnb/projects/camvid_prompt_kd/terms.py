"""05's segmenters and distillation terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdnb.datasets.camvid import CLASSES, VOID
from kdnb.distill import segmentation
from kdnb.distill.distiller import Distiller, LiveTeacher, Teacher
from kdnb.distill.segmentation import feature_terms, response_terms, taught_pixels
from kdnb.distill.terms import Term, choose_terms
from kdnb.models.segmenter import TimmSegmenter, UNet, segmentation_step
from kdnb.projects.camvid_prompt_kd.data import CamVidPromptKdSettings, Network

KD_STRIDE = 2  # terms compare one pixel of so many down and across: networks predict at half size, then enlarge


def build(network: Network, seed: int) -> nn.Module:
    """A fresh segmenter of the 11 classes."""
    torch.manual_seed(seed)
    if network.backbone == "unet":
        return UNet(network.width)
    return TimmSegmenter(network.backbone, network.pretrained, width=network.width, **network.parts)


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on the student's images: "logits" (N, 11, H, W) of one pixel of ``KD_STRIDE``, and "features"."""
    outputs = segmentation.teacher_step(teacher, batch, student_outputs)
    return {**outputs, "logits": outputs["logits"][..., ::KD_STRIDE, ::KD_STRIDE]}


def build_terms(
    names: Sequence[str],
    settings: CamVidPromptKdSettings,
    channels: tuple[int, int],
    weights: Tensor | None = None,
    teacher_weights: Tensor | None = None,
) -> list[Term]:
    """The terms with these names; InputError for another name.

    A network trained with class weights w predicts r ∝ w·q where q is the truth. If student and teacher have different
    weights, the teacher's prediction is first turned into one with the student's: see ``pixel_weights`` of
    ``kdnb.distill.segmentation``.

    Args:
        names: "kd_kl", "kd_mse", "kd_channel" (on logits), "kd_features".
        channels: of the student's and of the teacher's "features".
        weights: (11,) of the classes in the student's task loss; None weights them alike.
        teacher_weights: likewise, when the teacher was trained.
    """
    equal = torch.ones(len(CLASSES))
    ratio = (equal if weights is None else weights) / (equal if teacher_weights is None else teacher_weights)

    def student_logits(outputs: dict) -> Tensor:
        return outputs["logits"][..., ::KD_STRIDE, ::KD_STRIDE]

    def teacher_logits(outputs: dict, student_outputs: dict) -> Tensor:
        return outputs["logits"] + ratio.log().to(outputs["logits"])[:, None, None]

    def mask(outputs: dict) -> Tensor:
        return taught_pixels(outputs, VOID)[..., ::KD_STRIDE, ::KD_STRIDE]

    terms = feature_terms(channels, weight=settings.kd_weight)
    for kind in ("kl", "mse", "channel"):
        made = response_terms(kind, settings.temperature, settings.kd_weight, weights, ignore_index=VOID)
        terms += [dataclasses.replace(t, student=student_logits, teacher=teacher_logits, mask=mask) for t in made]
    return choose_terms(terms, names)


def build_distiller(
    student: nn.Module,
    teacher: nn.Module | None,
    names: Sequence[str],
    settings: CamVidPromptKdSettings,
    weights: Tensor | None = None,
    teacher_weights: Tensor | None = None,
    outputs: Teacher | None = None,
    task: Callable = segmentation_step,
) -> Distiller:
    """The student with its terms; without names it learns from labels alone, as the teachers do.

    Args:
        weights, teacher_weights: see ``build_terms``.
        outputs: replaces the live teacher, such as its kept outputs.
        task: the step whose loss is that of the labels.
    """

    def step(model: nn.Module, batch: dict) -> dict:
        return task(model, batch, weights)

    if not names or teacher is None:
        return Distiller(student, student_step=step)
    terms = build_terms(names, settings, (student.channels, teacher.channels), weights, teacher_weights)
    return Distiller(student, outputs or LiveTeacher(teacher, teacher_step), terms, step)
