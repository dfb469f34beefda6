"""05 CamVid prompt KD: a segmenter that compares pixels with words teaches a small one that needs no text.

What the notebook and ``python -m kdnb.projects.camvid_prompt_kd`` share: settings, data, networks, terms and arms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from kdnb.datasets.camvid import CLASSES, VOID, CamVid
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.segmentation import feature_terms, response_terms, taught_pixels, teacher_step
from kdnb.distill.terms import Term
from kdnb.errors import InputError
from kdnb.models.prompts import KINDS
from kdnb.models.segmenter import TimmSegmenter, UNet, segmentation_step
from kdnb.run import Settings
from kdnb.world.export_camvid import rendered_camvid

PROJECT = "05_camvid_prompt_kd"
PRIMARY = "mIoU"


class Network(Settings):
    """One segmenter. ``backbone`` "unet" is the small one of ours, any other name one of timm's."""

    backbone: str = "unet"
    width: int = 8  # channels: of the U-Net's finest map, or of the decoder over timm's
    pretrained: bool = False


class CamVidPromptKdSettings(Settings):
    """Settings of this project; ``settings/camvid_prompt_kd.yaml`` has a block of them for each profile."""

    # data
    train_frames: int = 500  # drawn, when no DATA is given
    val_frames: int = 60
    test_frames: int = 100
    size: tuple[int, int] = (160, 120)  # width, height that every network gets frames in
    few_labels: int = 8
    views: list[str] = ["plain", "flip"]  # of training frames; see ``SegmentationViews``
    num_color_jitters: int = 0  # of each view, beside the view itself
    # text
    prompts: str | None = None  # a YAML file; None for models/prompts_camvid.yaml
    text: Literal["hashed", "aligned", "clip"] = "hashed"  # hashed words, 01's text tower, one of open_clip's
    text_width: int = 64  # of hashed words
    clip_model: str = "ViT-B-32"  # one of open_clip's, for text or teacher "clip"
    clip_weights: str | None = None  # such as "openai"; None draws random ones
    # networks
    teacher: Literal["body", "clip", "diffusion"] = "body"  # where the teachers' features come from
    teacher_body: Network = Network(width=16)  # with "diffusion", its width is that of the decoder
    diffusion_model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # id or folder; "tiny" has random weights
    diffusion_step: int = 100
    diffusion_side: int | None = None  # pixels that a picture's shorter side is scaled to; None: as it is
    keep_features: bool = False  # on disk, below the run's folder
    mask_steps: bool = False  # the original's: feeds the truth to the teacher while it trains
    student: Network = Network()
    # training
    batch: int = 8
    body_steps: int
    teacher_steps: int  # with a head of each kind, after the body's
    student_steps: int
    optimizer: str = "adamw_fused"
    lr: float
    teacher_lr: float
    weight_decay: float = 0.01
    schedule: str = "onecycle"
    milestones: list[float] = [0.75, 0.92]  # of schedule "step", as fractions of training
    clip: float = 1.0
    class_weights: bool = True  # rare classes weigh more in every loss, the teachers' included; see ``class_weights``
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    curve_points: int = 3  # how often each arm is scored on validation while training
    processes: int = 1  # arms that train side by side, one core each
    # distillation
    temperature: float = 1.0
    kd_stride: int = 2  # pixels down and across that one is compared of: the networks answer at half size, then enlarge
    kl_weight: float = 1.0
    mse_weight: float = 1.0
    channel_weight: float = 1.0
    features_weight: float = 1.0
    cache_teacher: bool = False  # its logits, on disk: where a pass of it costs more than reading them
    allow_weaker_teacher: bool = False

    def offline(self) -> CamVidPromptKdSettings:
        """The same networks with random weights, to read trained ones into."""
        networks = {
            name: getattr(self, name).model_copy(update={"pretrained": False}) for name in ("teacher_body", "student")
        }
        return self.model_copy(update={**networks, "clip_weights": None})


@dataclass(frozen=True)
class Arm:
    """One way to train the student. Everything not named here is the same in all arms.

    Attributes:
        terms: which distillation terms, by name; none is a student alone.
        teacher: the arm that it learns from.
        few: only so many times ``settings.few_labels`` frames have labels; 0: all have.
        longer: factor on the number of steps.
        weighted: whether rare classes weigh more in its loss; None: as the settings say.
    """

    terms: tuple[str, ...] = ()
    teacher: str = "teacher"
    few: int = 0
    longer: float = 1.0
    weighted: bool | None = None


KL = ("kd_kl",)
PROMPT_TEACHERS = {f"teacher_{kind}": kind for kind in KINDS}
TEACHERS = ("image_only", *PROMPT_TEACHERS)
ARMS = {
    "baseline": Arm(),
    "distilled_kl": Arm(KL),
    "distilled_mse": Arm(("kd_mse",)),
    "few_labels_baseline": Arm(few=1),
    "few_labels_distilled": Arm(KL, few=1),
}
# Arms that are the best of these on validation (the first of equals), under a name of their own: nothing is trained.
# All labels, for as many steps as the few-labels pair, is what the baseline has.
CHOSEN = {
    "teacher": tuple(PROMPT_TEACHERS),
    "distilled": ("distilled_kl", "distilled_mse"),
    "all_labels": ("baseline",),
}
MORE_LABELS = (2, 5, 16)  # times few_labels
ABLATION_ARMS = {
    "long_few_labels_baseline": Arm(few=1, longer=2),
    "long_few_labels_distilled": Arm(KL, few=1, longer=2),
    **{f"few_labels_from_{kind}": Arm(KL, f"teacher_{kind}", few=1) for kind in KINDS},
    "few_labels_from_image_only": Arm(KL, "image_only", few=1),
    **{
        f"few_labels_x{n}_{who}": Arm(terms, few=n)
        for n in MORE_LABELS
        for who, terms in (("baseline", ()), ("distilled", KL))
    },
    "few_labels_mse": Arm(("kd_mse",), few=1),
    "few_labels_channel": Arm(("kd_channel",), few=1),
    "few_labels_features": Arm(("kd_features",), few=1),
    "few_labels_unweighted_baseline": Arm(few=1, weighted=False),
    "few_labels_unweighted_distilled": Arm(KL, few=1, weighted=False),
}
COMPARISONS = [
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("few_labels_distilled", "all_labels"),
    ("teacher", "baseline"),
    ("distilled_kl", "baseline"),
    ("distilled_mse", "baseline"),
    *((name, "image_only") for name in PROMPT_TEACHERS),
    ("long_few_labels_distilled", "long_few_labels_baseline"),
    *((f"few_labels_from_{kind}", "few_labels_from_image_only") for kind in KINDS),
    *((f"few_labels_x{n}_distilled", f"few_labels_x{n}_baseline") for n in MORE_LABELS),
    *((f"few_labels_{kind}", "few_labels_distilled") for kind in ("mse", "channel", "features")),
    ("few_labels_unweighted_distilled", "few_labels_unweighted_baseline"),
    ("few_labels_unweighted_baseline", "few_labels_baseline"),
]


# --- data -------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """The three splits of a CamVid root."""

    train: CamVid
    validation: CamVid
    test: CamVid


def open_data(settings: CamVidPromptKdSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The CamVid root at ``data``, or one drawn for these settings below ``root`` (found again next time).

    The official splits are what their names say: everything is selected on val and reported on test. Of the real set,
    know that val is a part of the drive 0016E5, of which train has another, while most of test is a drive that nobody
    trained on: scores on val are higher, and what is best there need not be best on test.
    """
    place = (
        Path(data)
        if data is not None
        else rendered_camvid(
            root, train=settings.train_frames, val=settings.val_frames, test=settings.test_frames, size=settings.size
        )
    )
    return Data(*(CamVid(place, split) for split in ("train", "val", "test")))


def count_pixels(dataset, keys=None) -> Tensor:
    """(F, 12) int64: how many pixels of each sample show each class, void last; of all samples, or of those given."""
    keys = range(len(dataset)) if keys is None else keys
    return torch.stack([torch.bincount(dataset[key]["label"].flatten(), minlength=VOID + 1) for key in keys])


def pixel_shares(data: Data) -> pd.DataFrame:
    """Percent of the labelled pixels that show each class (rows), in each split (columns)."""
    counts = {name: count_pixels(getattr(data, name))[:, :VOID].sum(0) for name in ("train", "validation", "test")}
    return pd.DataFrame({name: (100 * n / n.sum()).tolist() for name, n in counts.items()}, index=CLASSES)


def class_weights(counts: Tensor) -> Tensor:
    """(11,) weights 1 / ln(1.02 + share), as ENet was trained with on CamVid (Paszke et al. 2016, arXiv 1606.02147).

    Args:
        counts: (F, 12) pixels of the frames that the student has labels of.
    """
    total = counts[:, :VOID].sum(0).double()
    return (1 / torch.log(1.02 + total / total.sum())).float()


# --- networks ---------------------------------------------------------------------------------------------------


def build(network: Network, seed: int) -> nn.Module:
    """A fresh segmenter of the 11 classes."""
    torch.manual_seed(seed)
    if network.backbone == "unet":
        return UNet(network.width)
    return TimmSegmenter(network.backbone, network.pretrained, width=network.width)


# --- distillation -----------------------------------------------------------------------------------------------


def build_terms(
    names: tuple[str, ...],
    settings: CamVidPromptKdSettings,
    channels: tuple[int, int],
    weights: Tensor | None = None,
    teachers_weights: Tensor | None = None,
) -> list[Term]:
    """The terms with these names.

    Who learns with class weights w says r ∝ w·q where q is the truth. Where student and teacher have learned with
    other weights, the teacher's answer is turned into the student's first: see ``pixel_weights`` of
    ``kdnb.distill.segmentation``.

    Args:
        channels: of the student's and of the teacher's "features".
        weights: (11,) of the classes in the student's task loss; None: all alike.
        teachers_weights: likewise, when the teacher was trained.
    """
    every, none = settings.kd_stride, torch.ones(len(CLASSES))
    ratio = (none if weights is None else weights) / (none if teachers_weights is None else teachers_weights)

    def of_student(seen):
        return seen["logits"][..., ::every, ::every]

    def of_teacher(seen, student_outputs):
        logits = seen["logits"][..., ::every, ::every]
        return logits + ratio.log().to(logits)[:, None, None]

    def taught(seen):
        return taught_pixels(seen, VOID)[..., ::every, ::every]

    one_each = {"kl": settings.kl_weight, "mse": settings.mse_weight, "channel": settings.channel_weight}
    terms = [
        dataclasses.replace(term, student=of_student, teacher=of_teacher, mask=taught)
        for kind, weight in one_each.items()
        for term in response_terms(kind, settings.temperature, weight, weights, ignore_index=VOID)
    ]
    terms += feature_terms(channels, weight=settings.features_weight)
    unknown = sorted(set(names) - {term.name for term in terms})
    if unknown:
        raise InputError(f"unknown term {unknown[0]!r}, expected some of {', '.join(term.name for term in terms)}")
    return [term for term in terms if term.name in names]


def build_distiller(
    student: nn.Module,
    teacher: nn.Module | None,
    names: tuple[str, ...],
    settings: CamVidPromptKdSettings,
    weights: Tensor | None = None,
    teachers_weights: Tensor | None = None,
    cache=None,
    task: Callable = segmentation_step,
) -> Distiller:
    """The student with its terms; without names it learns from labels alone, as the teachers do.

    Args:
        weights, teachers_weights: see ``build_terms``.
        cache: answers in the teacher's place.
        task: the step whose loss is that of the labels.
    """

    def step(model, batch):
        return task(model, batch, weights)

    if not names:
        return Distiller(student, student_step=step)
    terms = build_terms(names, settings, (student.channels, teacher.channels), weights, teachers_weights)
    return Distiller(student, cache or LiveTeacher(teacher, teacher_step), terms, step)


if __name__ == "__main__":
    from kdnb.projects.camvid_experiment import main

    main()
