"""01's experiment: its arms, and how teacher and students are trained on regions and their texts, and scored."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdnb.datasets.region_splits import RegionSplits, regions_of
from kdnb.datasets.region_views import VIEWS, RegionViews
from kdnb.distill.distiller import Distiller, Teacher, require_stronger_teacher
from kdnb.engine import Plan, TrainConfig, TrainHistory
from kdnb.errors import InputError
from kdnb.evidence import mean_metric
from kdnb.experiment import ArmResult, Experiment
from kdnb.metrics.alignment import alignment_scores, text_to_image_hits
from kdnb.models.alignment import alignment_step
from kdnb.models.clip import contrastive_step, teacher_step, use_normalisation
from kdnb.projects.coco_alignment.arms import ABLATIONS, ARMS, COMPARISONS, CocoArm
from kdnb.projects.coco_alignment.data import (
    CocoAlignmentSettings,
    LabelledRegions,
    collate_aligned,
    names_colours,
    open_data,
    prompt_bank,
    text_of,
)
from kdnb.projects.coco_alignment.exports import EXPORTED, export_network, folder_of
from kdnb.projects.coco_alignment.sentences import CaptionedRegions, collate_captioned
from kdnb.projects.coco_alignment.terms import (
    build_student,
    build_teacher,
    build_terms,
    embed,
    encode_crops,
    text_encoder,
    tokenizer_of,
    width_of,
)
from kdnb.run import Run

# Plain crops, which the retrieval is about, as often as the windows that teach left and right.
TEACHER_VIEWS = ("plain", "plain_flip", *VIEWS)


class Embeddings(NamedTuple):
    """(N, D) unit vectors of crops, and the text tower that they are compared with."""

    images: Tensor
    encode: Callable[[list[str]], Tensor]


class CocoAlignment(Experiment):
    """One run of 01: a small ConvNeXt learns the image space of an OpenCLIP teacher from regions and their texts."""

    project, primary = "01_coco_alignment", "text_to_image_R@1"
    settings_class = CocoAlignmentSettings
    open_data = staticmethod(open_data)
    teacher_step = staticmethod(teacher_step)
    kept_outputs, kept_dtype, kept_batch = ("embedding",), torch.float32, 256
    bench_settings = {"train_images": 24, "test_images": 8}
    cover = "01 a text finds its pictures", (0.0, 0.38, 0.545, 1.0)
    arms, ablations, comparisons = ARMS, ABLATIONS, COMPARISONS

    def __init__(self, run: Run, settings: CocoAlignmentSettings, data: RegionSplits, root: str | Path = "data"):
        self.left_out = [] if names_colours(data) else [name for name, arm in self.arms.items() if arm.texts == "full"]
        self.arms = {name: arm for name, arm in self.arms.items() if name not in self.left_out}
        super().__init__(run, settings, data, root)
        if self.left_out and self.acc.is_main_process:
            run.log_once(
                f"left out: {', '.join(self.left_out)}: the data names no colours, their texts are the baseline's"
            )

    def is_small(self) -> bool:
        return self.settings.crop <= 64

    # --- arms -------------------------------------------------------------------------------------------------------

    def also_needs(self, name: str) -> tuple[str, ...]:
        """All students are labelled by the teacher's text tower."""
        return ("teacher",) if self.known[name].network == "student" else ()

    def declared(self, name: str) -> CocoArm:
        if name in self.left_out:
            raise InputError(
                f"arm {name}: the data names no colours, its texts are those of the baseline; expected regions with a "
                "'colour' among their attributes"
            )
        return super().declared(name)

    def train_together(self, *names: str) -> list[ArmResult]:
        return super().train_together(*(name for name in names if name not in self.left_out))

    def check_teacher(self) -> None:
        """As in all projects, but one that is taken as it is (``teacher_steps`` 0) is never refused.

        It never saw these texts, while the student learned from them: such a comparison says little about what else
        the teacher knows, so its outcome is only logged.
        """
        teacher, baseline = (self.train(name).validation for name in self.checked)
        if self.settings.teacher_steps > 0:
            metric, allow = f"validation {self.primary}", self.settings.allow_weaker_teacher
            require_stronger_teacher(teacher, baseline, metric, allow)
        elif not teacher > baseline and self.acc.is_main_process:
            self.run.log_once(
                f"the teacher, taken as it is, has validation {self.primary} {teacher:.2f}, the student that learned "
                f"from these texts {baseline:.2f}: teacher_steps above 0 adapts it first"
            )

    # --- networks ---------------------------------------------------------------------------------------------------

    @property
    def teacher(self) -> nn.Module:
        return self.train("teacher").model

    @cached_property
    def encode(self) -> Callable[[list[str]], Tensor]:
        """The frozen teacher's text tower: texts -> (M, D) unit vectors."""
        return text_encoder(self.teacher, tokenizer_of(self.settings))

    def bank(self) -> Tensor:
        """(M, D), the prompts that the similarity term ranks."""
        categories = sorted({region.category for region in regions_of(self.data.train)})
        return self.encode(prompt_bank(categories, self.settings.bank_colours))

    def build(self, arm: CocoArm, seed: int, settings: CocoAlignmentSettings) -> nn.Module:
        if arm.network == "teacher":
            network = self.settings.teacher
            return use_normalisation(build_teacher(settings, seed), network.name, network.pretrained)
        return build_student(settings, width_of(self.teacher), seed)

    def deployed(self, model: nn.Module) -> nn.Module:
        """Of the teacher, its image tower: the text tower is the same for all arms."""
        return model.visual if hasattr(model, "visual") else model

    def build_distiller(self, model: nn.Module, arm: CocoArm, teacher: Teacher | None = None) -> Distiller:
        if arm.network == "teacher":
            return Distiller(model, student_step=contrastive_step)
        if not arm.terms:
            return Distiller(model, student_step=alignment_step)
        changed = self.settings.model_copy(update=dict(arm.weights))
        terms = build_terms(arm.terms, changed, self.bank(), self.teacher.logit_scale.exp().item())
        return Distiller(model, teacher or self.teacher_of(arm), terms, alignment_step)

    def train_config(self, arm: CocoArm) -> TrainConfig:
        lr = self.settings.teacher_lr if arm.network == "teacher" else self.settings.lr
        return self.settings.train_config(self.steps(arm), lr)

    def train_arm(self, name: str) -> ArmResult:
        arm = self.known[name]
        if arm.network != "teacher" or self.settings.teacher_steps > 0:
            return super().train_arm(name)
        model = self.build(arm, self.seed_of(arm), self.settings).to(self.acc.device)  # taken as it is
        return self.result(name, model, TrainHistory(scores=[(0, self.validation_score(model, arm))]))

    def keep(self, name: str, result: ArmResult) -> ArmResult:
        kept = super().keep(name, result)
        if self.acc.is_main_process and name in EXPORTED:
            teacher = result.model if name == "teacher" else self.teacher
            folder = folder_of(self.settings, self.run.seed, self.run.data, self.root)
            export_network(name, result.model, teacher, folder)
        self.acc.wait_for_everyone()
        return kept

    # --- batches ----------------------------------------------------------------------------------------------------

    def batches(self, arm: CocoArm) -> tuple[CaptionedRegions | LabelledRegions, Plan, Callable]:
        train = self.data.train
        if arm.network == "teacher":
            captioned = CaptionedRegions(train)
            pools = [(train.indices, self.settings.teacher_batch)]
            collate = collate_captioned(tokenizer_of(self.settings), self.settings.teacher_sentences)
            return captioned, Plan(pools, captioned.views(TEACHER_VIEWS), self.run.seed), collate
        texts, rows = self.texts(arm.texts)
        if arm.labels:
            rows = {index: rows[index] for index in self.labelled(arm.labels)}
        return LabelledRegions(train, rows), Plan(self.pools(arm), VIEWS, self.run.seed), collate_aligned(texts)

    def can_be_labelled(self) -> list[int]:
        return self.data.train.indices

    def labelled(self, labels: int) -> list[int]:
        """In random order, unlike other projects'."""
        return self.label_order[: labels * self.settings.few_labels] if labels else self.data.train.indices

    def unlabelled(self, labels: int) -> list[int]:
        return self.label_order[labels * self.settings.few_labels :]

    def train_items(self) -> dict[int, int | str]:
        return {index: self.data.train.data.regions[index].id for index in self.data.train.indices}

    def texts(self, kind: str) -> tuple[Tensor, dict[int, int]]:
        """The teacher's embeddings (M, D) of all distinct texts of one kind, and region index -> row; "none": none."""
        train = self.data.train
        if kind == "none":
            return self.encode([text_of(train.data.regions[train.indices[0]], "category")]).cpu(), {}
        texts = {index: text_of(train.data.regions[index], kind) for index in train.indices}
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts.values()))}
        return self.encode(list(distinct)).cpu(), {index: distinct[text] for index, text in texts.items()}

    # --- predictions and scores -------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, split: str, arm: CocoArm) -> Embeddings:
        images = encode_crops(model, getattr(self.data, split), workers=self.settings.workers)
        is_teacher = arm.network == "teacher"
        return Embeddings(images, text_encoder(model, tokenizer_of(self.settings)) if is_teacher else self.encode)

    def score(self, predictions: Embeddings, split: str) -> dict[str, float]:
        return alignment_scores(predictions.images, regions_of(getattr(self.data, split)), predictions.encode)

    def as_record(self, predictions: Embeddings) -> dict:
        """Is the first region right, for each distinct text of the test set?"""
        regions = regions_of(self.data.test)
        return {"hits": text_to_image_hits(predictions.images, regions, predictions.encode).tolist()}

    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        hits = np.array(self.results[name].predictions["hits"])
        return mean_metric(100 * hits), len(hits)

    def embeddings(self, name: str, crops: RegionViews | None = None) -> Tensor:
        """(N, D) unit vectors of an arm for all test crops, or for others."""
        return encode_crops(self.train(name).model, crops or self.data.test, workers=self.settings.workers)

    def one_call(self, model: nn.Module, name: str) -> Callable:
        image = self.data.test[self.data.test.indices[0], "plain"]["image"][None]
        return lambda: embed(model, image)
