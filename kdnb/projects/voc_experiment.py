"""03 VOC DeFeat, carried out: train an arm, score it, compare arms, and keep every finished arm in the run's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.models.detection import FasterRCNN

from kdnb.datasets.detection import VIEWS, DetectionViews, collate
from kdnb.datasets.voc import VOC_CLASSES, write_detections
from kdnb.distill.cache import TeacherCache, compute_seconds
from kdnb.distill.distiller import LiveTeacher, require_stronger_teacher
from kdnb.engine import Plan, TrainHistory, accelerator, fit
from kdnb.errors import InputError
from kdnb.evidence import Comparison
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.metrics.detection import detection_scores
from kdnb.metrics.voc import bootstrap_map, evaluate_voc, match_table
from kdnb.models.detector import predict
from kdnb.projects.arms import Arms, Result, add_costs, compare_arms, train_config, training_seconds
from kdnb.projects.headless import headless, stage_command
from kdnb.projects.step_cost import cost_of_distilling
from kdnb.projects.voc_defeat import (
    ABLATION_ARMS,
    ARMS,
    COMPARISONS,
    DEFEAT,
    PRIMARY,
    PROJECT,
    Arm,
    Data,
    VocDefeatSettings,
    build,
    build_distiller,
    ground_truth,
    inherit_heads,
    open_data,
    teacher_step,
)
from kdnb.run import Run, atomic_write


class Experiment:
    """All arms of one run of 03; what an arm leaves behind is a ``Result``, kept by ``Arms`` in the run's folder."""

    def __init__(self, run: Run, settings: VocDefeatSettings, data: Data, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if settings.student.backbone == "small" and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small maps gain nothing from a second thread, and often lose
        self.truth = ground_truth(data.test)
        self.validation_truth = ground_truth(data.validation)
        self.arms = Arms(run, self._fit, self._build, self.needs, self._command, PRIMARY)
        self.results = self.arms.results
        self.cache: TeacherCache | None = None
        size = len(data.train)
        if settings.few_labels >= size:
            raise InputError(f"few_labels is {settings.few_labels}, expected fewer than the {size} training pictures")
        order = np.random.default_rng((run.seed, 0)).permutation(size)
        self.labelled = sorted(order[: settings.few_labels].tolist())
        self.unlabelled = sorted(order[settings.few_labels :].tolist())

    # --- arms ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> Result:
        """Train "teacher", "baseline_matched", or any arm of ARMS and ABLATION_ARMS; or read it back."""
        return self.arms.train(name)

    def train_together(self, *names: str) -> list[Result]:
        """Like ``train`` for several arms; with ``settings.processes`` > 1 side by side, each on one core."""
        processes = self.settings.processes if self.acc.num_processes == 1 else 1
        return self.arms.train_together(names, processes, self._prepare)

    def _prepare(self, new: list[str]) -> None:
        if "teacher" not in new and any(self.learns_from_teacher(name) for name in new):
            self.teacher_cache()
        if "baseline_matched" in new:
            self.cost_of_distilling()

    def train_all(self, ablations: bool = False) -> None:
        """Teacher and students without it, the check that it is worth learning from, then the other arms."""
        self.train_together("teacher", "baseline", "few_labels_baseline")
        self.check_teacher()
        self.train_together("distilled", "baseline_matched", *ARMS, *(ABLATION_ARMS if ablations else []))

    def learns_from_teacher(self, name: str) -> bool:
        arm = (ARMS | ABLATION_ARMS).get(name, Arm())
        return bool(arm.terms) or arm.inherit

    def needs(self, name: str) -> list[str]:
        """The arms that must be finished before this one."""
        if self.learns_from_teacher(name):
            return ["teacher", "baseline"]  # the baseline says whether this teacher is worth learning from
        return ["teacher"] if name == "baseline_matched" else []

    def _command(self, names: list[str], claims: str) -> list[str]:
        return stage_command("kdnb.projects.voc_defeat", self.run, self.root, names, claims)

    def check_teacher(self) -> None:
        """Refuse a teacher that is no better on validation than the student without it."""
        teacher, baseline = self.train("teacher").validation, self.train("baseline").validation
        require_stronger_teacher(teacher, baseline, f"validation {PRIMARY}", self.settings.allow_weaker_teacher)

    def arm(self, name: str) -> Arm:
        if name == "baseline_matched":
            return Arm(longer=max(1.0, self.cost_of_distilling()))
        return (ARMS | ABLATION_ARMS)[name]

    def cost_of_distilling(self) -> float:
        """How many times longer than the baseline ``distilled`` trains for; see ``step_cost``."""
        cache, teacher = self._cache_for(self.arm("distilled")), self.train("teacher").model
        views, plan = self._batches(Arm())
        return cost_of_distilling(
            self.run,
            self.acc,
            lambda: self._fresh_distiller((), teacher, cache),
            lambda: self._fresh_distiller(DEFEAT, teacher, cache),
            lambda: [collate([views[key] for key in plan.batch(step)]) for step in range(12)],
            train_config(self.settings, self.settings.student_steps, self.settings.lr),
            lambda: self.cache_cpu_seconds() if cache else 0.0,
        )

    def _fresh_distiller(self, terms: tuple[str, ...], teacher: FasterRCNN, cache: TeacherCache | None):
        student = build(self.settings.student, self.settings, self.run.seed)
        return build_distiller(student, teacher, terms, self.settings, cache)

    def _cache_for(self, arm: Arm) -> TeacherCache | None:
        return self.teacher_cache() if arm.terms and self.settings.cache_teacher and self.data.one_size else None

    def _fit(self, name: str) -> Result:
        settings, is_teacher = self.settings, name == "teacher"
        arm = Arm() if is_teacher else self.arm(name)
        # every student starts from the same weights: what differs between arms is only what the arm says
        network, seed = (settings.teacher, 1000 + self.run.seed) if is_teacher else (settings.student, self.run.seed)
        model = build(network, settings, seed)
        teacher = None if is_teacher or not (arm.terms or arm.inherit) else self.train("teacher").model
        if arm.inherit:
            inherit_heads(model, teacher)
        cache = self._cache_for(arm)
        steps = settings.teacher_steps if is_teacher else round(settings.student_steps * arm.longer)
        distiller = build_distiller(model, teacher, arm.terms, settings, cache)
        torch.manual_seed(self.run.seed)
        how = train_config(settings, steps, settings.lr)
        fitted = fit(
            distiller,
            *self._batches(arm),
            how,
            collate=collate,
            name=name,
            checkpoint=self.run.folder / "checkpoints" / f"{name}.pt" if settings.checkpoint_every else None,
            validate=lambda _: self._validation_score(model),
        )
        return self._finish(name, model, fitted, self.cache_cpu_seconds() if cache else 0.0)

    def _batches(self, arm: Arm) -> tuple[DetectionViews, Plan]:
        """The arm's data and batches: with few labels, a distilled student fills half of each batch without labels."""
        train, size = self.data.train, self.settings.batch
        if not arm.few_labels:
            return DetectionViews(train), Plan([(range(len(train)), size)], VIEWS, self.run.seed)
        if not arm.terms:
            return DetectionViews(train, self.labelled), Plan([(self.labelled, size)], VIEWS, self.run.seed)
        pools = [(self.labelled, size // 2), (self.unlabelled, size - size // 2)]
        views = DetectionViews(train, self.labelled, self.teacher_boxes())
        return views, Plan(pools, VIEWS, self.run.seed)

    def _validation_score(self, model: FasterRCNN) -> float:
        return evaluate_voc(self.validation_truth, self.detect(model, self.data.validation), "area")["mAP"]

    def _finish(self, name: str, model: FasterRCNN, fitted: TrainHistory, extra_cpu_seconds: float) -> Result:
        detections = self.detect(model, self.data.test)
        numbers = {
            **detection_scores(self.truth, detections),
            "params": count_parameters(model),
            "size_mb": state_dict_mb(model),
            "train_s": training_seconds(fitted, self.acc) + extra_cpu_seconds,
            "steps": fitted.steps,
        }
        validation = max((score for _, score in fitted.scores), default=float("nan"))
        answers = {name: {key: value.tolist() for key, value in one.items()} for name, one in detections.items()}
        result = Result(model, answers, numbers, validation, fitted)
        if self.acc.is_main_process:
            self.arms.keep(name, result)
        self.acc.wait_for_everyone()
        return result

    def _build(self, name: str) -> FasterRCNN:
        network = self.settings.teacher if name == "teacher" else self.settings.student
        return build(network, self.settings, 0).to(self.acc.device)

    def detections(self, name: str) -> dict[str, dict]:
        """What a finished arm finds on test: image id → "boxes" (N, 4), "labels" (N,), "scores" (N,)."""
        found = {
            image: {key: torch.tensor(value) for key, value in one.items()}
            for image, one in self.results[name].answers.items()
        }
        for one in found.values():
            one["boxes"] = one["boxes"].reshape(-1, 4)
        return found

    # --- the teacher's answers ----------------------------------------------------------------------------------

    def teacher_cache(self) -> TeacherCache:
        """The teacher's neck on every training picture in both views, computed once for all arms."""
        if self.cache is None:
            live = LiveTeacher(self.train("teacher").model, teacher_step)
            self.cache = TeacherCache(
                live, self.run.folder / "cache", self.data.key, VIEWS, ["features"], dtype=torch.float16
            )
            file = self.cache.folder / "cpu_seconds.json"
            if self.acc.is_main_process and not file.exists():
                clock = compute_seconds(self.acc.device)
                data = DetectionViews(self.data.train)
                keys = [(i, view) for view in VIEWS for i in range(len(data))]
                batches = [keys[i : i + 16] for i in range(0, len(keys), 16)]
                loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())
                self.cache.fill(loader)
                atomic_write(file, json.dumps(compute_seconds(self.acc.device) - clock))
            self.acc.wait_for_everyone()
        return self.cache

    def cache_cpu_seconds(self) -> float:
        """What filling the cache took: it counts in full towards every arm that reads it."""
        return json.loads((self.teacher_cache().folder / "cpu_seconds.json").read_text())

    def teacher_boxes(self) -> dict:
        """What the teacher is sure of in the pictures without labels: foreground for the masks, never a label."""
        pictures = Subset(self.data.train, self.unlabelled)
        found = predict(self.train("teacher").model, (pictures[i]["image"] for i in range(len(pictures))))
        sure = self.settings.pseudo_box_score
        return {i: one["boxes"][one["scores"] > sure] for i, one in zip(self.unlabelled, found, strict=True)}

    def detect(self, model: FasterRCNN, data) -> dict[str, dict]:
        """image id → detections."""
        ids: list[str] = []

        def images():
            for i in range(len(data)):
                ids.append(data[i]["id"])
                yield data[i]["image"]

        return dict(zip(ids, predict(model, images()), strict=True)) if len(data) else {}

    # --- evidence -----------------------------------------------------------------------------------------------

    def compare(self) -> dict[str, Comparison]:
        """Every pair of COMPARISONS whose two arms are there, by paired bootstrap over the test images."""
        tables = {name: match_table(self.truth, self.detections(name)) for name in self.results}

        def metric(name):
            return lambda weights: bootstrap_map(tables[name], weights, "area")

        return compare_arms(self.results, COMPARISONS, metric, len(self.truth))

    def add_costs(self) -> None:
        """FLOPs and CPU latency of one test picture, teacher and student in turn in one run."""
        image = self.data.test[0]["image"].float() / 255
        models = {"teacher": self.train("teacher").model, "student": self.train("baseline").model}
        calls = {}
        for who, model in models.items():
            copy = build(self.settings.teacher if who == "teacher" else self.settings.student, self.settings, 0).eval()
            copy.load_state_dict(model.state_dict())
            calls[who] = lambda copy=copy: copy([image])
        add_costs(self.results, calls, lambda name: "teacher" if name == "teacher" else "student")

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons and metrics.json; returns the comparisons."""
        self.add_costs()
        comparisons = self.compare()
        arms = {name: result.numbers for name, result in self.results.items()}
        self.run.save_metrics(PRIMARY, True, arms, comparisons, self.acc.device)
        return comparisons

    def save_detections(self, name: str) -> None:
        """The official ``comp4_det_test_<class>.txt`` files of an arm, below the run's folder."""
        write_detections(self.run.folder / "detections" / name, VOC_CLASSES, self.detections(name))


main = headless(
    PROJECT, VocDefeatSettings, open_data, Experiment, ("teacher", *ARMS, "baseline_matched", *ABLATION_ARMS)
)
