"""01's data: crops of regions, the texts that label them, and the settings that say which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdnb.datasets.coco import Region, category_text, full_text
from kdnb.datasets.region_splits import RegionSplits, read_regions, rendered_regions
from kdnb.datasets.region_views import RegionViews
from kdnb.datasets.region_views import collate as collate_crops
from kdnb.experiment import TrainSettings
from kdnb.options import Settings
from kdnb.world.phrases import coloured, with_article


class TeacherNetwork(Settings):
    """``name`` "small" is a CLIP from scratch, with a common space of ``width`` and an image tower of ``dims``
    channels; "pretrained" is ``kdnb.models.pretrained_clip``; any other name is one of open_clip's models."""

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


class CocoAlignmentSettings(TrainSettings):
    """Settings of this project; ``settings.yaml`` has a block of them for each profile."""

    # data
    train_images: int = 600  # rendered, when no DATA is given
    test_images: int = 200
    most_regions: int = 8000  # of photographs, to train on, and a quarter as many to test on; 0 takes all
    size: tuple[int, int] = (192, 144)  # width, height of a rendered image
    crop: int = 32
    # networks
    teacher: TeacherNetwork = TeacherNetwork()
    student: StudentNetwork = StudentNetwork()
    # training of the teacher, from scratch or to adapt a pretrained one; teacher_steps 0 takes it as it is
    teacher_batch: int = 128
    teacher_sentences: int = 32  # read for each batch of crops
    teacher_lr: float = 1.0e-3
    # distillation
    similarity_weight: float = 10.0
    temperature: float = 4.0
    cosine_weight: float = 30.0
    l2_weight: float = 15.0  # on unit vectors the same as a cosine_weight of 30
    bank_colours: list[str] = []  # the similarity term ranks "a photo of a <colour> <category>" for all of these


def open_data(
    settings: CocoAlignmentSettings, data: str | Path | None = None, root: str | Path = "data"
) -> RegionSplits:
    """The ``RegionSplits`` of the COCO root at ``data``, or of one rendered for these settings below ``root``."""
    if data is None:
        return rendered_regions(root, settings.train_images, settings.test_images, settings.size, settings.crop)
    return read_regions(data, settings.crop, settings.most_regions)


def names_colours(data: RegionSplits) -> bool:
    """Whether the full text of any training region says more than its category."""
    regions = (data.train.data.regions[i] for i in data.train.indices)
    return any(full_text(region) != category_text(region) for region in regions)


class LabelledRegions(Dataset):
    """``labelled[(index, view)]`` -> a crop and the row of its text in a table, -1 where it has none."""

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


def prompt_bank(categories: Sequence[str], colours: Sequence[str]) -> list[str]:
    """Sentences that need no labels: each category, plain and in each colour. What the similarity term ranks."""
    plain_and_coloured = [(category, colour) for category in categories for colour in (None, *colours)]
    return [f"a photo of {with_article(coloured(category, colour))}" for category, colour in plain_and_coloured]
