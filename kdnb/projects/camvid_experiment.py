"""05 CamVid prompt KD, carried out: a body and its heads, then the students, scored, compared and kept."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from kdnb.datasets.camvid import CamVid
from kdnb.datasets.color_jitter import ColorJitterViews, with_color_jitters
from kdnb.datasets.segmentation import SegmentationViews, collate
from kdnb.distill.cache import TeacherCache, compute_seconds
from kdnb.distill.distiller import LiveTeacher, require_stronger_teacher
from kdnb.distill.segmentation import teacher_step
from kdnb.engine import Plan, TrainHistory, accelerator, fit, move
from kdnb.errors import InputError
from kdnb.evidence import Comparison
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.metrics.segmentation import (
    bootstrap_miou,
    boundary_iou,
    calibration_error,
    confusion,
    scores_from,
)
from kdnb.models.diffusion import diffusion_step
from kdnb.models.prompts import read_prompts
from kdnb.models.segmenter import resized, segmentation_step
from kdnb.projects.arms import Arms, Result, add_costs, compare_arms, train_config, training_seconds
from kdnb.projects.camvid_prompt_kd import (
    ABLATION_ARMS,
    ARMS,
    CHOSEN,
    COMPARISONS,
    MORE_LABELS,
    PRIMARY,
    PROJECT,
    PROMPT_TEACHERS,
    TEACHERS,
    Arm,
    CamVidPromptKdSettings,
    Data,
    build,
    build_distiller,
    class_weights,
    count_pixels,
    open_data,
)
from kdnb.projects.camvid_teachers import build_teacher, text_encoder
from kdnb.projects.headless import headless, stage_command
from kdnb.projects.step_cost import cost_of_distilling
from kdnb.run import Run, atomic_write


class Experiment:
    """All arms of one run of 05; what an arm leaves behind is a ``Result``, kept by ``Arms`` in the run's folder.

    "body" is trained first, an ordinary segmenter. Each of TEACHERS starts from it with a fresh head and trains on, all
    for as many steps: what differs between them is the head. Arms of CHOSEN are another arm under a second name.
    """

    def __init__(self, run: Run, settings: CamVidPromptKdSettings, data: Data, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if settings.student.backbone == "unet" and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small maps gain nothing from a second thread, and often lose
        self.prompts = read_prompts(settings.prompts)
        self.arms = Arms(run, self._fit, self._build, self.needs, self._command, PRIMARY)
        self.results = self.arms.results
        if settings.few_labels >= len(data.train):
            raise InputError(
                f"few_labels is {settings.few_labels}, expected fewer than the {len(data.train)} training frames"
            )
        self.order = np.random.default_rng((run.seed, 0)).permutation(len(data.train)).tolist()

    @cached_property
    def encode(self):
        """Texts → unit vectors, as the settings say."""
        return text_encoder(self.settings, self.root)

    # --- arms ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> Result:
        """Train "body", "baseline_matched", or any arm of TEACHERS, CHOSEN, ARMS, ABLATION_ARMS; or read it back."""
        return self.arms.train(name)

    def train_together(self, *names: str) -> list[Result]:
        """Like ``train`` for several arms; with ``settings.processes`` > 1 side by side, each on one core."""
        processes = self.settings.processes if self.acc.num_processes == 1 else 1
        return self.arms.train_together(names, processes, self._prepare)

    def _prepare(self, new: list[str]) -> None:
        if "baseline_matched" in new:
            self.cost_of_distilling()

    def train_all(self, ablations: bool = False) -> None:
        """Body and students alone, the teachers, the check that the best is worth learning from, its students."""
        self.train_together("body", "baseline", "few_labels_baseline")
        self.train_together(*TEACHERS)
        self.train("teacher")
        self.check_teacher()
        self.train_together(*CHOSEN["distilled"])
        self.train("distilled")
        self.train_together("few_labels_distilled", "baseline_matched", *(ABLATION_ARMS if ablations else []))
        self.train("all_labels")

    def learns_from_teacher(self, name: str) -> bool:
        if name in ("distilled", "baseline_matched"):  # the latter asks what the former costs
            return True
        return bool((ARMS | ABLATION_ARMS).get(name, Arm()).terms)

    def needs(self, name: str) -> list[str]:
        """The arms that must be finished before this one."""
        if name in CHOSEN:
            return list(CHOSEN[name])
        if name in TEACHERS:
            return ["body"] if self.settings.teacher == "body" else []
        if name == "baseline_matched":
            return ["teacher", "distilled"]
        arm = (ARMS | ABLATION_ARMS).get(name, Arm())
        # the baseline says whether this teacher is worth learning from
        return list(dict.fromkeys(["teacher", "baseline", arm.teacher])) if arm.terms else []

    def _command(self, names: list[str], claims: str) -> list[str]:
        return stage_command("kdnb.projects.camvid_prompt_kd", self.run, self.root, names, claims)

    def check_teacher(self) -> None:
        """Refuse a teacher that is no better on validation than the student without it."""
        teacher, baseline = self.train("teacher").validation, self.train("baseline").validation
        require_stronger_teacher(teacher, baseline, f"validation {PRIMARY}", self.settings.allow_weaker_teacher)

    def arm(self, name: str) -> Arm:
        if name == "baseline_matched":
            return Arm(longer=max(1.0, self.cost_of_distilling()))
        return (ARMS | ABLATION_ARMS)[name]

    def is_also(self, name: str) -> str:
        """The arm that this one is under another name; "" for an arm of its own."""
        if name in CHOSEN:
            return max(CHOSEN[name], key=lambda one: self.train(one).validation)
        arm = ABLATION_ARMS.get(name, Arm())
        if arm.teacher in PROMPT_TEACHERS and arm.teacher == self.train("teacher").numbers["of"]:
            return "few_labels_distilled"
        return ""

    def _fit(self, name: str) -> Result:
        of = self.is_also(name)
        if of:
            other = self.train(of)
            return self._keep(name, dataclasses.replace(other, numbers={**other.numbers, "of": of}))
        settings, arm, seed = self.settings, Arm(), self.run.seed
        if name == "body":
            model, steps, lr = build(settings.teacher_body, 1000 + seed), settings.body_steps, settings.lr
        elif name in TEACHERS:
            model, steps, lr = self._fresh_teacher(name), settings.teacher_steps, settings.teacher_lr
        else:  # every student starts from the same weights: what differs between arms is only what the arm says
            arm = self.arm(name)
            model, steps, lr = build(settings.student, seed), round(settings.student_steps * arm.longer), settings.lr
        views, plan, weights = self._batches(arm)
        task = diffusion_step if name in TEACHERS and settings.teacher == "diffusion" else segmentation_step
        teacher, teachers_weights = self._teacher_of(arm)
        cache = self._cache_for(arm)
        distiller = build_distiller(model, teacher, arm.terms, settings, weights, teachers_weights, cache, task)
        torch.manual_seed(seed)
        fitted = fit(
            distiller,
            views,
            plan,
            train_config(settings, steps, lr),
            collate=collate,
            name=name,
            checkpoint=self.run.folder / "checkpoints" / f"{name}.pt" if settings.checkpoint_every else None,
            validate=lambda _: self._validation_score(model),
        )
        return self._finish(name, model, fitted, weights, cpu_seconds(cache) if cache else 0.0)

    def _teacher_of(self, arm: Arm) -> tuple[nn.Module | None, Tensor | None]:
        """The network that an arm learns from, and the class weights which that one was trained with."""
        if not arm.terms:
            return None, None
        teacher = self.train(arm.teacher)
        weights = teacher.answers["class_weights"]
        return teacher.model, None if weights is None else torch.tensor(weights)

    def _fresh_teacher(self, name: str) -> nn.Module:
        body = self.train("body").model.state_dict() if self.settings.teacher == "body" else None
        folder = self.run.folder / "cache" if self.settings.keep_features else None
        return build_teacher(name, self.settings, self.prompts, self.encode, 1000 + self.run.seed, body, folder)

    def labelled(self, few: int) -> list[int]:
        """The training frames whose labels an arm may use: so many times ``few_labels``; 0: all of them. More labels
        always hold the fewer."""
        return sorted(self.order[: few * self.settings.few_labels] if few else self.order)

    def _batches(self, arm: Arm) -> tuple[ColorJitterViews, Plan, Tensor | None]:
        """The arm's data, batches and class weights: with few labels, a distilled student fills half of each batch
        without labels."""
        settings, size = self.settings, self.settings.batch
        labelled = self.labelled(arm.few)
        others = sorted(set(self.order) - set(labelled))
        pools = [(labelled, size)]
        if arm.terms and others:
            pools = [(labelled, size // 2), (others, size - size // 2)]
        views = SegmentationViews(self.data.train, settings.size[::-1], labelled, keep=not settings.workers)
        weights = None
        if settings.class_weights if arm.weighted is None else arm.weighted:
            weights = class_weights(count_pixels(views, [(i, "plain") for i in labelled]))
        plan = Plan(pools, with_color_jitters(settings.views, settings.num_color_jitters), self.run.seed)
        return ColorJitterViews(views), plan, weights

    def cost_of_distilling(self) -> float:
        """How many times longer than the baseline ``distilled`` trains for; see ``step_cost``."""
        arm = self.arm(self.train("distilled").numbers["of"])
        (teacher, teachers_weights), cache = self._teacher_of(arm), self._cache_for(arm)
        views, plan, weights = self._batches(arm)

        def fresh(terms):
            student = build(self.settings.student, self.run.seed)
            return lambda: build_distiller(student, teacher, terms, self.settings, weights, teachers_weights, cache)

        return cost_of_distilling(
            self.run,
            self.acc,
            fresh(()),
            fresh(arm.terms),
            lambda: [collate([views[key] for key in plan.batch(step)]) for step in range(12)],
            train_config(self.settings, self.settings.student_steps, self.settings.lr),
            lambda: cpu_seconds(cache) if cache else 0.0,
        )

    def _finish(
        self, name: str, model: nn.Module, fitted: TrainHistory, weights: Tensor | None, extra_seconds: float
    ) -> Result:
        confusions, scores = self._test(model)
        body = self.train("body").numbers if name in TEACHERS and self.settings.teacher == "body" else {}
        numbers = {
            **scores,
            "params": count_parameters(model),
            "size_mb": state_dict_mb(model),
            "train_s": training_seconds(fitted, self.acc) + extra_seconds + body.get("train_s", 0.0),
            "steps": fitted.steps + body.get("steps", 0),
        }
        validation = max((score for _, score in fitted.scores), default=float("nan"))
        answers = {"confusions": confusions.tolist(), "class_weights": None if weights is None else weights.tolist()}
        return self._keep(name, Result(model, answers, numbers, validation, fitted))

    def _keep(self, name: str, result: Result) -> Result:
        if self.acc.is_main_process:
            self.arms.keep(name, result)
        self.acc.wait_for_everyone()
        return result

    def _build(self, name: str) -> nn.Module:
        settings = self.settings.offline()
        if name in TEACHERS or name == "teacher":
            name = self.is_also(name) or name
            model = build_teacher(name, settings, self.prompts, self.encode, 0)
        else:
            model = build(settings.teacher_body if name == "body" else settings.student, 0)
        return model.to(self.acc.device)

    def _cache_for(self, arm: Arm) -> TeacherCache | None:
        """The logits of the arm's teacher for every training frame in every view, computed once for all arms."""
        if not self.settings.cache_teacher or not arm.terms or "kd_features" in arm.terms:
            return None
        views, plan, _ = self._batches(Arm())
        live = LiveTeacher(self.train(arm.teacher).model, teacher_step)
        key = f"{self.data.train.root.resolve().name}-{len(views)}-{self.settings.size}"
        cache = TeacherCache(live, self.run.folder / "cache", key, plan.views, ["logits"], dtype=torch.float16)
        file = cache.folder / "cpu_seconds.json"
        if self.acc.is_main_process and not file.exists():
            clock = compute_seconds(self.acc.device)
            keys = [(i, view) for view in plan.views for i in range(len(views))]
            for start in range(0, len(keys), 16):
                cache.fill([move(collate([views[key] for key in keys[start : start + 16]]), self.acc.device)])
            atomic_write(file, json.dumps(compute_seconds(self.acc.device) - clock))
        self.acc.wait_for_everyone()
        return cache

    # --- answers ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def ask(self, model: nn.Module, image: Tensor) -> Tensor:
        """Probabilities (11, H, W) for a picture uint8 (3, H, W) of any size, in its own pixels.

        Every network sees it at ``settings.size``, as in training; its logits are then enlarged.
        """
        training = model.training
        model.eval()
        small = tv.resize(image, self.settings.size[::-1], antialias=True)
        logits = model(small[None].to(self.acc.device))["logits"]
        model.train(training)
        return resized(logits, image.shape[1:])[0].softmax(0).cpu()

    def _answers(self, model: nn.Module, dataset: CamVid) -> Iterator[tuple[Tensor, Tensor]]:
        """Probabilities and label of every frame, one after the other."""
        for i in range(len(dataset)):
            item = dataset[i]
            yield self.ask(model, item["image"]), item["label"]

    def _validation_score(self, model: nn.Module) -> float:
        answers = self._answers(model, self.data.validation)
        return scores_from(sum(confusion(one.argmax(0), label) for one, label in answers))["mIoU"]

    def _test(self, model: nn.Module) -> tuple[np.ndarray, dict]:
        """The confusion matrix of each test frame (F, 11, 11), and all scores in percent."""
        found, labels = [], []

        def watched():  # probabilities are large: each is gone once the next is asked for
            for one, label in self._answers(model, self.data.test):
                found.append(one.argmax(0).to(torch.uint8))
                labels.append(label.to(torch.uint8))
                yield one

        error = calibration_error(watched(), labels)  # the list grows by a label before each is read
        confusions = np.stack([confusion(*pair) for pair in zip(found, labels, strict=True)])
        scores = {**scores_from(confusions.sum(0)), "boundary_iou": boundary_iou(found, labels), "ece": error}
        return confusions, scores

    def predictions(self, name: str) -> dict[str, Tensor]:
        """What a finished arm says about test: frame → classes uint8 (H, W), in the label's pixels."""
        model, items = self.train(name).model, (self.data.test[i] for i in range(len(self.data.test)))
        return {item["name"]: self.ask(model, item["image"]).argmax(0).to(torch.uint8) for item in items}

    def save_predictions(self, name: str) -> Path:
        """Write ``predictions/<name>/`` in the run's folder, a PNG per test frame, as ``kdnb eval camvid`` reads it."""
        folder = self.run.folder / "predictions" / name
        folder.mkdir(parents=True, exist_ok=True)
        files = {frame.name: frame.label.name for frame in self.data.test.frames}
        for frame, classes in self.predictions(name).items():
            Image.fromarray(classes.numpy()).save(folder / files[frame])
        return folder

    def scores_by_labels(self, who: str) -> dict[int, list[float]]:
        """Number of labelled frames → [mIoU] of the arms that are finished, for the figure ``labels_curve``.

        Args:
            who: "baseline", which ends at all labels, or "distilled".
        """
        arms = {len(self.labelled(1)): f"few_labels_{who}"}
        arms |= {len(self.labelled(n)): f"few_labels_x{n}_{who}" for n in MORE_LABELS}
        if who == "baseline":
            arms[len(self.order)] = "all_labels"
        return {count: [self.results[name].numbers[PRIMARY]] for count, name in arms.items() if name in self.results}

    # --- evidence -----------------------------------------------------------------------------------------------

    def compare(self) -> dict[str, Comparison]:
        """Every pair of COMPARISONS whose two arms are there, by paired bootstrap over the test frames."""
        tables = {name: np.array(result.answers["confusions"]) for name, result in self.results.items()}

        def metric(name):
            return lambda weights: bootstrap_miou(tables[name], weights)

        return compare_arms(self.results, COMPARISONS, metric, len(self.data.test))

    def add_costs(self) -> None:
        """FLOPs and CPU latency of one frame, body, teachers and student in turn in one run."""
        width, height = self.settings.size
        image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        models = {}
        for name in self.results:
            if network_of(name) not in models:  # to build a diffusion model takes a while
                models[network_of(name)] = self._build(name).cpu().eval()
        calls = {who: lambda model=model: model(image) for who, model in models.items()}
        add_costs(self.results, calls, network_of)

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons and metrics.json; returns the comparisons."""
        self.add_costs()
        comparisons = self.compare()
        arms = {name: result.numbers for name, result in self.results.items()}
        self.run.save_metrics(PRIMARY, True, arms, comparisons, self.acc.device)
        return comparisons


def cpu_seconds(cache: TeacherCache) -> float:
    """What filling a cache took: it counts in full towards every arm that reads it."""
    return json.loads((cache.folder / "cpu_seconds.json").read_text())


def network_of(name: str) -> str:
    """Which of the networks an arm is: "body", "image_only", "teacher" or "student"."""
    if name in ("body", "image_only"):
        return name
    return "teacher" if name in PROMPT_TEACHERS or name == "teacher" else "student"


main = headless(
    PROJECT,
    CamVidPromptKdSettings,
    open_data,
    Experiment,
    ("body", *TEACHERS, *CHOSEN, *ARMS, "baseline_matched", *ABLATION_ARMS),
)
