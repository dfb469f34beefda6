"""01 COCO alignment, carried out: train an arm, score it, compare arms, and keep every finished arm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdnb.datasets.region_views import VIEWS, RegionViews
from kdnb.datasets.region_views import collate as collate_crops
from kdnb.distill.distiller import Distiller, LiveTeacher, require_stronger_teacher
from kdnb.distill.table import TeacherTable
from kdnb.engine import Plan, TrainHistory, accelerator, dataloader_kwargs, fit
from kdnb.errors import InputError
from kdnb.evidence import Comparison, mean_metric
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.models.clip import contrastive_step, encode_images, teacher_step
from kdnb.projects.aligned import OFFERED, offer
from kdnb.projects.arms import Arms, Result, add_costs, compare_arms, train_config, training_seconds
from kdnb.projects.coco_alignment import (
    ABLATION_ARMS,
    ARMS,
    COMPARISONS,
    KD,
    PRIMARY,
    PROJECT,
    Arm,
    CocoAlignmentSettings,
    Data,
    LabelledRegions,
    alignment_scores,
    build_distiller,
    build_student,
    build_teacher,
    collate_aligned,
    encoder,
    open_data,
    prompt_bank,
    regions_of,
    text_of,
    text_to_image_hits,
    tokenizer_of,
    width_of,
)
from kdnb.projects.coco_sentences import CaptionedRegions, collate_captioned
from kdnb.projects.headless import headless, stage_command
from kdnb.projects.step_cost import cost_of_distilling
from kdnb.run import Run

# Plain crops, which the retrieval is about, as often as the windows that teach left and right.
TEACHER_VIEWS = ("plain", "plain_flip", *VIEWS)


class Experiment:
    """All arms of one run of 01; what an arm leaves behind is a ``Result``, kept by ``Arms`` in the run's folder."""

    def __init__(self, run: Run, settings: CocoAlignmentSettings, data: Data, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if settings.crop <= 64 and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small crops gain nothing from a second thread
        self.arms = Arms(run, self._fit, self._build, self.needs, self._command, PRIMARY)
        self.results = self.arms.results
        size = len(data.train)
        if settings.few_labels >= size:
            raise InputError(f"few_labels is {settings.few_labels}, expected fewer than the {size} training regions")
        order = np.random.default_rng((run.seed, 0)).permutation(data.train.indices).tolist()
        self.labelled, self.unlabelled = order[: settings.few_labels], order[settings.few_labels :]
        self._encode = self._table = None
        self._told = False

    # --- arms ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> Result:
        """Train "teacher", "baseline_matched", or any arm of ARMS and ABLATION_ARMS; or read it back."""
        return self.arms.train(name)

    def train_together(self, *names: str) -> list[Result]:
        """Like ``train`` for several arms; with ``settings.processes`` > 1 side by side, each on one core."""
        processes = self.settings.processes if self.acc.num_processes == 1 else 1
        return self.arms.train_together(self._with_texts(names), processes, self._prepare)

    def _with_texts(self, names: Sequence[str]) -> list[str]:
        """Without the arms whose full captions are those of the baseline, where the data names no colours."""
        left_out = [name for name in names if not self.names_colours and self._reads_captions(name)]
        if left_out and not self._told and self.acc.is_main_process:
            self.run.log(f"left out: {', '.join(left_out)}: the data names no colours, their texts are the baseline's")
            self._told = True
        return [name for name in names if name not in left_out]

    @cached_property
    def names_colours(self) -> bool:
        """Whether the full text of any training region says more than its category."""
        return any(text_of(region, "full") != text_of(region, "category") for region in regions_of(self.data.train))

    @staticmethod
    def _reads_captions(name: str) -> bool:
        return (ARMS | ABLATION_ARMS).get(name, Arm()).texts == "full"

    def train_all(self, ablations: bool = False) -> None:
        """The teacher, the student without it, the check that it is worth learning from, then the other arms."""
        self.train("teacher")
        self.train_together("baseline", "few_labels_baseline")
        self.check_teacher()
        self.train_together("distilled", "baseline_matched", *ARMS, *(ABLATION_ARMS if ablations else []))

    def _prepare(self, new: list[str]) -> None:
        self.teacher_table()
        if "baseline_matched" in new:
            self.cost_of_distilling()

    def learns_from_teacher(self, name: str) -> bool:
        return bool((ARMS | ABLATION_ARMS).get(name, Arm()).terms)

    def needs(self, name: str) -> list[str]:
        """The arms that must be finished before this one: every student is labelled by the teacher's text tower."""
        if name == "teacher":
            return []
        return ["teacher", "baseline"] if self.learns_from_teacher(name) else ["teacher"]

    def _command(self, names: list[str], claims: str) -> list[str]:
        return stage_command("kdnb.projects.coco_alignment", self.run, self.root, names, claims)

    def check_teacher(self) -> None:
        """Refuse a teacher that is no better on validation than the student without it.

        One that is taken as it is (``teacher_steps`` 0) never saw these texts, while the student learned from them:
        such a comparison says little about what else the teacher knows, so its outcome is logged and nothing refused.
        """
        teacher, baseline = self.train("teacher").validation, self.train("baseline").validation
        if self.settings.teacher_steps == 0:
            if not teacher > baseline and self.acc.is_main_process:
                self.run.log(
                    f"the teacher, taken as it is, has validation {PRIMARY} {teacher:.2f}, the student that "
                    f"learned from these texts {baseline:.2f}: teacher_steps above 0 adapts it first"
                )
            return
        require_stronger_teacher(teacher, baseline, f"validation {PRIMARY}", self.settings.allow_weaker_teacher)

    def arm(self, name: str) -> Arm:
        if name == "baseline_matched":
            return Arm(longer=max(1.0, self.cost_of_distilling()))
        return (ARMS | ABLATION_ARMS)[name]

    def _fit(self, name: str) -> Result:
        if not self.names_colours and self._reads_captions(name):
            raise InputError(
                f"arm {name}: the data names no colours, its texts are those of the baseline; expected "
                "regions with a 'colour' among their attributes"
            )
        return self._fit_teacher() if name == "teacher" else self._fit_student(name, self.arm(name))

    def _fit_teacher(self) -> Result:
        """Both towers together, from random weights or, to adapt a pretrained teacher to the street, from its own."""
        settings = self.settings
        model = build_teacher(settings, 1000 + self.run.seed).to(self.acc.device)
        tokenizer = tokenizer_of(settings, model)
        captioned = CaptionedRegions(self.data.train)
        plan = Plan([(self.data.train.indices, settings.teacher_batch)], captioned.views(TEACHER_VIEWS), self.run.seed)

        def validate(_):
            return self._validation_score(self._encode_crops(model, self.data.validation), encoder(model, tokenizer))

        if settings.teacher_steps == 0:
            return self._finish("teacher", model, TrainHistory(scores=[(0, validate(model))]), 0.0)
        torch.manual_seed(self.run.seed)
        fitted = fit(
            Distiller(model, student_step=contrastive_step),
            captioned,
            plan,
            train_config(settings, settings.teacher_steps, settings.teacher_lr),
            collate=collate_captioned(tokenizer, settings.teacher_sentences),
            name="teacher",
            checkpoint=self._checkpoint("teacher"),
            validate=validate,
        )
        return self._finish("teacher", model, fitted, 0.0)

    def _fit_student(self, name: str, arm: Arm) -> Result:
        settings = self.settings
        # every student starts from the same weights: what differs between arms is only what the arm says
        student = build_student(settings, width_of(self.teacher), self.run.seed)
        table = self.teacher_table() if arm.terms and settings.cache_teacher else None
        distiller = build_distiller(student, arm, settings, self.teacher, self.bank(), table)
        data, plan, collate = self.batches(arm)
        torch.manual_seed(self.run.seed)
        fitted = fit(
            distiller,
            data,
            plan,
            train_config(settings, round(settings.student_steps * arm.longer), settings.lr),
            collate=collate,
            name=name,
            checkpoint=self._checkpoint(name),
            validate=lambda _: self._validation_score(self._encode_crops(student, self.data.validation), self.encode),
        )
        return self._finish(name, student, fitted, self.filling_seconds() if table else 0.0)

    def _checkpoint(self, name: str) -> Path | None:
        return self.run.folder / "checkpoints" / f"{name}.pt" if self.settings.checkpoint_every else None

    def batches(self, arm: Arm) -> tuple[LabelledRegions, Plan, object]:
        """The arm's data, batches and collate: with few labels, half of a distilled student's batch has none."""
        texts, rows = self.texts(arm.texts)
        train, size = self.data.train, self.settings.batch
        pools = [(train.indices, size)]
        if arm.few_labels:
            rows = {index: rows[index] for index in self.labelled}
            pools = [(self.labelled, size)]
            if arm.terms:
                pools = [(self.labelled, size // 2), (self.unlabelled, size - size // 2)]
        return LabelledRegions(train, rows), Plan(pools, VIEWS, self.run.seed), collate_aligned(texts)

    def texts(self, kind: str) -> tuple[Tensor, dict[int, int]]:
        """The teacher's embeddings (M, D) of all distinct texts of one kind, and region index → row; "none": none."""
        train = self.data.train
        if kind == "none":
            return self.encode([text_of(train.data.regions[train.indices[0]], "category")]).cpu(), {}
        texts = {index: text_of(train.data.regions[index], kind) for index in train.indices}
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts.values()))}
        return self.encode(list(distinct)).cpu(), {index: distinct[text] for index, text in texts.items()}

    def _validation_score(self, images: Tensor, encode) -> float:
        return alignment_scores(images, regions_of(self.data.validation), encode)[PRIMARY]

    def _finish(self, name: str, model: nn.Module, fitted: TrainHistory, extra_seconds: float) -> Result:
        regions, images = regions_of(self.data.test), self._encode_crops(model, self.data.test)
        encode = encoder(model, tokenizer_of(self.settings, model)) if name == "teacher" else self.encode
        tower = model.visual if name == "teacher" else model
        numbers = {
            **alignment_scores(images, regions, encode),
            "params": count_parameters(tower),
            "size_mb": state_dict_mb(tower),
            "train_s": training_seconds(fitted, self.acc) + extra_seconds,
            "steps": fitted.steps,
        }
        validation = max((score for _, score in fitted.scores), default=float("nan"))
        answers = {"hits": text_to_image_hits(images, regions, encode).tolist()}
        result = Result(model, answers, numbers, validation, fitted)
        if self.acc.is_main_process:
            self.arms.keep(name, result)
            if name in OFFERED:
                offer(
                    name,
                    model,
                    model if name == "teacher" else self.teacher,
                    self.settings,
                    self.run.seed,
                    self.run.data,
                    self.root,
                )
        self.acc.wait_for_everyone()
        return result

    def _build(self, name: str) -> nn.Module:
        if name == "teacher":
            return build_teacher(self.settings, 0).to(self.acc.device)
        return build_student(self.settings, width_of(self.teacher), 0).to(self.acc.device)

    # --- the teacher's answers ----------------------------------------------------------------------------------

    @property
    def teacher(self) -> nn.Module:
        return self.train("teacher").model

    @property
    def encode(self):
        """The frozen teacher's text tower: sentences → (M, D) unit vectors."""
        if self._encode is None:
            self._encode = encoder(self.teacher, tokenizer_of(self.settings, self.teacher))
        return self._encode

    def bank(self) -> Tensor:
        """(M, D), the prompts that the similarity term ranks."""
        categories = sorted({region.category for region in regions_of(self.data.train)})
        return self.encode(prompt_bank(categories, self.settings.bank_colours))

    def teacher_table(self) -> TeacherTable:
        """The teacher's embedding of every training region in every view, computed once for all arms."""
        if self._table is None:
            train = self.data.train
            ids = [region.id for region in regions_of(train)]
            self._table = TeacherTable(
                LiveTeacher(self.teacher, teacher_step),
                self.run.folder / "cache",
                self.data.key,
                ids,
                VIEWS,
                "embedding",
            )
            if self.acc.is_main_process and self._table.values is None:
                keys = [(i, view) for view in VIEWS for i in train.indices]
                batches = [keys[i : i + 256] for i in range(0, len(keys), 256)]
                loader = DataLoader(
                    train,
                    batch_sampler=batches,
                    collate_fn=collate_crops,
                    generator=torch.Generator(),
                    **dataloader_kwargs(self.settings.workers),
                )
                self._table.fill({**batch, "images": batch["images"].to(self.acc.device)} for batch in loader)
            self.acc.wait_for_everyone()
            self._table.load()
        return self._table

    def filling_seconds(self) -> float:
        """What filling the table took: it counts in full towards every arm that reads it."""
        return self.teacher_table().seconds

    def cost_of_distilling(self) -> float:
        """How many times longer than the baseline ``distilled`` trains for; see ``step_cost``."""
        table = self.teacher_table() if self.settings.cache_teacher else None
        data, plan, collate = self.batches(Arm())

        def distiller(arm):
            student = build_student(self.settings, width_of(self.teacher), 0)
            return build_distiller(student, arm, self.settings, self.teacher, self.bank(), table)

        return cost_of_distilling(
            self.run,
            self.acc,
            lambda: distiller(Arm()),
            lambda: distiller(Arm(KD)),
            lambda: [collate([data[key] for key in plan.batch(step)]) for step in range(30)],
            train_config(self.settings, self.settings.student_steps, self.settings.lr),
            lambda: self.filling_seconds() if table else 0.0,
        )

    # --- evidence -----------------------------------------------------------------------------------------------

    def embeddings(self, name: str, crops: RegionViews | None = None) -> Tensor:
        """(N, D) unit vectors of an arm for all test crops, or for others."""
        return self._encode_crops(self.train(name).model, crops or self.data.test)

    def _encode_crops(self, model: nn.Module, crops: RegionViews) -> Tensor:
        return encode_crops(model, crops, workers=self.settings.workers)

    def compare(self) -> dict[str, Comparison]:
        """Every pair of COMPARISONS whose two arms are there, by paired bootstrap over the queries of the test set."""

        def metric(name):
            return mean_metric(100 * np.array(self.results[name].answers["hits"]))

        return compare_arms(self.results, COMPARISONS, metric, len(self.train("teacher").answers["hits"]))

    def add_costs(self) -> None:
        """FLOPs and CPU latency of one crop, teacher's image tower and student in turn in one run."""
        image = self.data.test[self.data.test.indices[0], "plain"]["image"][None]
        models = {
            "teacher": deepcopy(self.teacher).cpu().eval(),
            "student": deepcopy(self.train("baseline").model).cpu().eval(),
        }
        add_costs(
            self.results,
            {who: lambda model=model: embed(model, image) for who, model in models.items()},
            lambda name: "teacher" if name == "teacher" else "student",
        )

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons and metrics.json; returns the comparisons."""
        self.add_costs()
        comparisons = self.compare()
        arms = {name: result.numbers for name, result in self.results.items()}
        self.run.save_metrics(PRIMARY, True, arms, comparisons, self.acc.device)
        return comparisons


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Unit embeddings (N, D) of uint8 crops, by a teacher's image tower or by a student, on the model's device."""
    images = images.to(next(model.parameters()).device)
    return encode_images(model, images) if hasattr(model, "visual") else F.normalize(model(images).float(), dim=-1)


@torch.inference_mode()
def encode_crops(model: nn.Module, crops: RegionViews, size: int = 256, workers: int = 0) -> Tensor:
    """Unit embeddings (N, D), on the CPU, of all offered regions in the plain view; ``workers`` processes cut them."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    keys = [(index, "plain") for index in crops.indices]
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    loader = DataLoader(
        crops,
        batch_sampler=batches,
        collate_fn=collate_crops,
        generator=torch.Generator(),
        **dataloader_kwargs(workers),
    )
    parts = [embed(model, batch["images"].to(device)).cpu() for batch in loader]
    model.train(training)
    return torch.cat(parts)


main = headless(
    PROJECT, CocoAlignmentSettings, open_data, Experiment, ("teacher", *ARMS, "baseline_matched", *ABLATION_ARMS)
)
