"""01 COCO alignment: a small ConvNeXt learns the image space of an OpenCLIP teacher from regions and their texts.

What the notebook and ``python -m kdnb.projects.coco_alignment`` share: settings, data, networks, terms and arms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdnb.datasets.coco import COCORegionText, Region, category_text, full_text
from kdnb.datasets.region_views import RegionViews
from kdnb.datasets.region_views import collate as collate_crops
from kdnb.distill.alignment import embedding_l2, similarity_kd
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.losses import cosine_loss
from kdnb.distill.terms import Term
from kdnb.errors import InputError
from kdnb.metrics.retrieval import hits_at, retrieval_scores, zero_shot
from kdnb.models.alignment import Student, alignment_step
from kdnb.models.clip import build_tokenizer, encode_texts, full_teacher, lite_teacher, teacher_step
from kdnb.run import Run, Settings
from kdnb.world.export_coco import rendered_coco
from kdnb.world.phrases import coloured, with_article

PROJECT = "01_coco_alignment"
PRIMARY = "text_to_image_R@1"


class TeacherNetwork(Settings):
    """``name`` "small" is a CLIP from scratch, with a common space of ``width`` and an image tower of ``dims``
    channels; any other name is one of open_clip's models."""

    name: str = "small"
    width: int = 128
    dims: tuple[int, int, int, int] = (40, 80, 128, 192)
    text_layers: int = 1
    pretrained: str | None = None


class StudentNetwork(Settings):
    backbone: str = "test_convnext2"
    pretrained: bool = False
    output_stride: int = 16
    multi_scale: bool = False


class CocoAlignmentSettings(Settings):
    """Settings of this project; ``settings/coco_alignment.yaml`` has a block of them for each profile."""

    # data
    train_images: int = 600  # drawn, when no DATA is given
    test_images: int = 200
    most_regions: int = 8000  # of photographs, to learn from, and a quarter as many to test on; 0 takes all
    size: tuple[int, int] = (192, 144)  # width, height of a drawn picture
    crop: int = 32
    min_side: float = 20.0  # of a box, in pixels of a picture whose longer side is 640
    context: float = 1.2
    validation: float = 0.125  # the last part of the training pictures, held out
    few_labels: int = 100  # regions
    # networks
    teacher: TeacherNetwork = TeacherNetwork()
    student: StudentNetwork = StudentNetwork()
    # training
    batch: int = 64
    teacher_batch: int = 128
    teacher_sentences: int = 32  # read for each batch of crops
    teacher_steps: int = 0  # from scratch, or of adapting a pretrained teacher to the street first; 0 takes it as it is
    student_steps: int
    teacher_lr: float = 1.0e-3
    lr: float
    optimizer: str = "adamw_fused"
    weight_decay: float = 0.05
    schedule: str = "onecycle"
    milestones: list[float] = [0.75, 0.92]  # of schedule "step", as fractions of training
    clip: float = 5.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    curve_points: int = 3
    processes: int = 1
    # distillation
    similarity_weight: float = 10.0
    temperature: float = 4.0
    cosine_weight: float = 30.0
    l2_weight: float = 15.0  # on unit vectors the same as a cosine_weight of 30
    bank_colours: list[str] = []  # the similarity term ranks "a photo of a <colour> <category>" for all of these
    cache_teacher: bool = True
    allow_weaker_teacher: bool = False


@dataclass(frozen=True)
class Arm:
    """One way to train the student. Everything not named here is the same in all arms.

    Attributes:
        terms: which distillation terms, by name; none is the baseline.
        texts: "category" or "full", which text of a region is its label; "none" trains by the terms alone.
        longer: factor on the number of steps.
        few_labels: only ``settings.few_labels`` regions have a text.
        weights: settings that this arm changes, such as {"cosine_weight": 1.0}.
    """

    terms: tuple[str, ...] = ()
    texts: str = "category"
    longer: float = 1.0
    few_labels: bool = False
    weights: tuple[tuple[str, float], ...] = ()


KD = ("similarity", "cosine")
ARMS = {
    "baseline": Arm(),
    "distilled": Arm(KD),
    "no_labels": Arm(KD, texts="none"),
    "full_captions": Arm(texts="full"),
    "full_captions_distilled": Arm(KD, texts="full"),
    "few_labels_baseline": Arm(few_labels=True),
    "few_labels_distilled": Arm(KD, few_labels=True),
}
SWEEP = {
    f"sweep_{s:g}_{c:g}": Arm(KD, weights=(("similarity_weight", s), ("cosine_weight", c)))
    for s, c in ((1, 3), (1, 10), (1, 30), (10, 3), (10, 10), (10, 100))
}
ABLATION_ARMS = {
    "similarity_only": Arm(("similarity",)),
    "cosine_only": Arm(("cosine",)),
    "l2_only": Arm(("l2",)),
    "long_baseline": Arm(longer=2),
    "long_distilled": Arm(KD, longer=2),
    **SWEEP,
}
COMPARISONS = [
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("no_labels", "baseline"),
    ("few_labels_distilled", "few_labels_baseline"),
    ("full_captions", "distilled"),
    ("full_captions_distilled", "full_captions"),
    ("similarity_only", "baseline"),
    ("cosine_only", "baseline"),
    ("l2_only", "cosine_only"),
    ("long_distilled", "long_baseline"),
]


# --- data -------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Three splits of the regions of a COCO root. ``key`` names them and everything done to them.

    Attributes:
        train, validation: crops of two parts of train2017, split by picture.
        test: crops of val2017.
    """

    key: str
    train: RegionViews
    validation: RegionViews
    test: RegionViews


def open_data(settings: CocoAlignmentSettings, data: str | Path | None = None, root: str | Path = "data") -> Data:
    """The COCO root at ``data``, or one drawn for these settings below ``root`` (found again next time).

    Validation is the last pictures of train2017; val2017 is the test set, and nothing is ever selected on it. Of
    photographs at most ``settings.most_regions`` are taken, before any crop is cut.
    """
    drawn = data is None
    folder = (
        rendered_coco(root, train=settings.train_images, val=settings.test_images, size=settings.size)
        if drawn
        else Path(data)
    )
    every, test = (
        COCORegionText(folder, split, min_side=settings.min_side, context=settings.context)
        for split in ("train", "val")
    )
    if not drawn and settings.most_regions:
        every.regions = some_pictures(every.regions, settings.most_regions)
        test.regions = some_pictures(test.regions, max(1, settings.most_regions // 4))
    pictures = sorted({region.image_id for region in every.regions})
    held_out = set(pictures[len(pictures) - round(len(pictures) * settings.validation) :])
    parts = [
        [i for i, region in enumerate(every.regions) if (region.image_id in held_out) is out] for out in (False, True)
    ]
    if not all(parts) or not len(test):
        raise InputError(
            f"{folder}: {len(parts[0])}, {len(parts[1])} and {len(test)} regions to train, validate and "
            "test on; expected some of each"
        )
    key = f"{Path(folder).resolve().parent.name}-{len(every)}-{settings.crop}-{settings.context}-{settings.min_side}"
    train, validation = (RegionViews(every, settings.crop, part) for part in parts)
    views = Data(key, train, validation, RegionViews(test, settings.crop))
    if drawn or settings.crop <= 64:  # larger crops of photographs are cut when they are needed
        for part, crops in ((train, ("plain", "left", "right")), (validation, ("plain",)), (views.test, ("plain",))):
            part.precompute(crops)
    return views


def some_pictures(regions: list[Region], most: int) -> list[Region]:
    """At most ``most`` regions in their order: those of whole pictures in a fixed random order, of one at least."""
    of_picture: dict[int, list[Region]] = {}
    for region in regions:
        of_picture.setdefault(region.image_id, []).append(region)
    pictures, kept, count = list(of_picture), set(), 0
    for k in np.random.default_rng(0).permutation(len(pictures)):
        count += len(of_picture[pictures[k]])
        if kept and count > most:
            break
        kept.add(pictures[k])
    return [region for region in regions if region.image_id in kept]


def regions_of(crops: RegionViews) -> list[Region]:
    return [crops.data.regions[i] for i in crops.indices]


class LabelledRegions(Dataset):
    """``labelled[(index, view)]`` → a crop and the row of its text in a table, −1 where it has none."""

    def __init__(self, crops: RegionViews, rows: dict[int, int]):
        self.crops, self.rows = crops, rows

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, str]) -> dict:
        sample = self.crops[key]
        return {**sample, "text": self.rows.get(sample["region"], -1)}


def collate_aligned(texts: Tensor) -> Callable[[list[dict]], dict]:
    """Batches for ``alignment_step``: the distinct texts of a batch, and which is true of which crop.

    Args:
        texts: (M, D) the teacher's embeddings of all distinct texts; the samples' "text" counts its rows.
    """

    def collate(samples: list[dict]) -> dict:
        rows = torch.tensor([sample["text"] for sample in samples])
        distinct = rows[rows >= 0].unique()
        return {**collate_crops(samples), "texts": texts[distinct], "positive": rows[:, None] == distinct[None]}

    return collate


def text_of(region: Region, kind: str) -> str:
    """The label of a region: "category" ("a photo of a small car") or "full" ("a photo of a small red car")."""
    return category_text(region) if kind == "category" else full_text(region)


def query_text(region: Region) -> str:
    """What retrieval asks for: "a photo of a red car"; where the data knows no colour, "a photo of a car"."""
    return f"a photo of {with_article(coloured(region.category, region.attributes.get('colour')))}"


def prompt_bank(categories: Sequence[str], colours: Sequence[str]) -> list[str]:
    """Sentences that need no labels: each category, plain and in each colour. What the similarity term ranks."""
    return [
        f"a photo of {with_article(coloured(category, colour))}"
        for category in categories
        for colour in (None, *colours)
    ]


# --- networks ---------------------------------------------------------------------------------------------------


def build_teacher(settings: CocoAlignmentSettings, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = settings.teacher
    if network.name == "small":
        return lite_teacher(network.width, network.dims, text_layers=network.text_layers, image_size=settings.crop)
    return full_teacher(network.name, network.pretrained)


def tokenizer_of(settings: CocoAlignmentSettings, teacher: nn.Module) -> Callable:
    return build_tokenizer(teacher, None if settings.teacher.name == "small" else settings.teacher.name)


def width_of(teacher: nn.Module) -> int:
    """D, the width of the space that images and texts share."""
    projection = teacher.text_projection if hasattr(teacher, "text_projection") else teacher.text.text_projection
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


def build_student(settings: CocoAlignmentSettings, width: int, seed: int) -> Student:
    torch.manual_seed(seed)
    s = settings.student
    return Student(s.backbone, width, s.pretrained, s.output_stride, s.multi_scale)


# --- distillation -----------------------------------------------------------------------------------------------


def build_terms(names: Sequence[str], settings: CocoAlignmentSettings, bank: Tensor, scale: float) -> list[Term]:
    """The terms with these names.

    Args:
        bank: (M, D) unit embeddings of the prompts that the similarity term ranks.
        scale: the teacher's scale of logits.
    """

    def ranking(student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_kd(student, teacher, bank.to(student.device), scale, settings.temperature)

    terms = [
        Term("similarity", ranking, "embedding", "embedding", weight=settings.similarity_weight),
        Term("cosine", cosine_loss, "embedding", "embedding", weight=settings.cosine_weight),
        Term("l2", embedding_l2, "embedding", "embedding", weight=settings.l2_weight),
    ]
    return [term for term in terms if term.name in names]


def build_distiller(
    student: Student, arm: Arm, settings: CocoAlignmentSettings, teacher: nn.Module, bank: Tensor, table=None
) -> Distiller:
    """The student with the terms of an arm; ``table`` answers in the teacher's place."""
    changed = settings.model_copy(update=dict(arm.weights))
    terms = build_terms(arm.terms, changed, bank, teacher.logit_scale.exp().item())
    if not terms:
        return Distiller(student, student_step=alignment_step)
    return Distiller(student, table or LiveTeacher(teacher, teacher_step), terms, alignment_step)


# --- scores -----------------------------------------------------------------------------------------------------


def alignment_scores(images: Tensor, regions: Sequence[Region], encode: Callable[[list[str]], Tensor]) -> dict:
    """All numbers of 01, in percent, for image embeddings (N, D) of N regions.

    Retrieval asks for "a photo of a red car", both ways; per size it asks for "a photo of a small red car" among the
    regions of that size. ``encode`` is the teacher's text tower, the same for every arm.
    """
    main, relevant = similarity(images, [query_text(r) for r in regions], encode)
    sized, right = similarity(images, [full_text(r) for r in regions], encode)
    per_size = retrieval_scores(sized, right, [r.size for r in regions])
    return {
        **retrieval_scores(main, relevant),
        **{name: value for name, value in per_size.items() if name.endswith(("_small", "_large"))},
        "zero_shot_category": category_accuracy(images, regions, encode),
        "zero_shot_colour": colour_accuracy(images, regions, encode),
    }


def similarity(images: Tensor, texts: Sequence[str], encode) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (N, M) of images with the distinct texts, in order of appearance, and which text is whose."""
    distinct = list(dict.fromkeys(texts))
    relevant = np.array([distinct.index(text) for text in texts])[:, None] == np.arange(len(distinct))
    return (images.cpu() @ encode(distinct).cpu().T).numpy(), relevant


def text_to_image_hits(images: Tensor, regions: Sequence[Region], encode) -> np.ndarray:
    """bool: is the first region right, for each distinct sentence? The items of the paired bootstrap."""
    cosines, relevant = similarity(images, [query_text(r) for r in regions], encode)
    return hits_at(cosines.T, relevant.T, 1)


def category_accuracy(images: Tensor, regions: Sequence[Region], encode) -> float:
    categories = sorted({region.category for region in regions})
    prompts = encode([f"a photo of {with_article(category)}" for category in categories])
    return zero_shot(images.cpu(), prompts.cpu(), [categories.index(r.category) for r in regions])[0]


def colour_accuracy(images: Tensor, regions: Sequence[Region], encode) -> float:
    """Which colour, given the category: each region is compared with the colours its category comes in.

    NaN where the data names no colours.
    """
    right = []
    for category in sorted({region.category for region in regions}):
        mine = [i for i, r in enumerate(regions) if r.category == category and r.attributes.get("colour")]
        colours = sorted({regions[i].attributes["colour"] for i in mine})
        if len(colours) > 1:
            prompts = encode([f"a photo of {with_article(coloured(category, colour))}" for colour in colours])
            labels = [colours.index(regions[i].attributes["colour"]) for i in mine]
            right.append(zero_shot(images[mine].cpu(), prompts.cpu(), labels)[1])
    return 100 * float(np.concatenate(right).mean()) if right else float("nan")


def encoder(teacher: nn.Module, tokenizer: Callable) -> Callable[[list[str]], Tensor]:
    """Sentences → (M, D) unit embeddings of the teacher's text tower, on the CPU; each is encoded once."""
    known: dict[str, Tensor] = {}

    def encode(texts: list[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encode_texts(teacher, tokenizer, new).cpu(), strict=True))
        return torch.stack([known[text] for text in texts])

    return encode


def teacher(run: Run, root: str | Path = "data", data: str | Path | None = None) -> tuple[nn.Module, Callable]:
    """The teacher of a run's profile and seed with its tokenizer, for other notebooks: found, or trained now, alone.

    ``data`` is the COCO root it learns from; None draws a street.
    """
    from kdnb.projects.aligned import aligned

    found = aligned(run.profile, run.seed, root, data, students=())
    return found.teacher, found.tokenizer


if __name__ == "__main__":
    from kdnb.projects.coco_experiment import main

    main()
