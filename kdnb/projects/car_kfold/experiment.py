"""06's experiment: how folds and students are trained, predict, are scored and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdnb.datasets.car_views import META, CarViews, views_of_image
from kdnb.distill.classification import teacher_step
from kdnb.distill.distiller import Distiller, LiveTeacher, Teacher
from kdnb.distill.teacher_outputs import TeacherOutputs
from kdnb.engine import Plan, TrainConfig, TrainHistory
from kdnb.errors import InputError
from kdnb.evidence import Comparison, mean_metric
from kdnb.experiment import ArmResult, Experiment
from kdnb.metrics.classification import log_losses, scores
from kdnb.models.classifier import Ensemble, build_classifier, predict_logits
from kdnb.projects.car_kfold import teachers
from kdnb.projects.car_kfold.arms import COMPARED, CarArm, ablations_of, arms_of, letters_of
from kdnb.projects.car_kfold.cost import cost_table, saved_step_times
from kdnb.projects.car_kfold.data import FOLDS, FRESH, CarKfoldSettings, Data, collate, open_data, split_folds
from kdnb.projects.car_kfold.frames import frame_predictor
from kdnb.projects.car_kfold.submissions import save_student, write_submissions
from kdnb.projects.car_kfold.terms import build_distiller
from kdnb.run import Run


class CarKfold(Experiment):
    """One run of 06: the folds and the ensembles made of them, then the students.

    Students learn from fold 1's training part and are selected on its validation part. Folds 2 to 5 have trained on
    those images, so their outputs make a student's validation scores a little too good, and hand on labels that the
    baseline has not ("distilled_fold_1" is the control for that). No arm has trained on an image that is scored, but
    "transductive_half" and what is trained under the setting ``transductive``.
    """

    project, primary, higher_is_better = "06_car_5fold_kd", "log_loss", False
    settings_class = CarKfoldSettings
    open_data = staticmethod(open_data)
    teacher_step = staticmethod(teacher_step)
    comparisons = tuple((b, a) for b, others in COMPARED.items() for a in others)
    checked = ("fold_1", "baseline")
    kept_outputs = ("logits",)
    bench_arm = "distilled_cached"
    cover, frame_task = ("06 which car is this", (0.0, 0.05, 0.465, 0.475)), "model"
    frame_predictor = frame_predictor
    bench_settings = {"train_per_class": 8, "test_images": 40, "few_labels": 2, "stored_views": 2}

    def __init__(self, run: Run, settings: CarKfoldSettings, data: Data, root: str | Path = "data"):
        self.arms, self.ablations = arms_of(settings), ablations_of(settings)
        self.classes, self.merged = data.cars.classes, data.cars.merged
        self.labels = np.array([label for _, label in data.train])
        self.truth = np.array([label for _, label in data.scored])
        self.fold_of = split_folds(self.labels.tolist(), FOLDS, run.seed)
        self.letters = letters_of(settings)
        super().__init__(run, settings, data, root)

    def is_small(self) -> bool:
        return self.settings.size[0] <= 96

    def folds(self, letter: str = "") -> list[str]:
        """Names of the folds of an experiment; without a letter, of the run's own."""
        letter = letter or self.settings.experiment
        return [name for name, arm in self.known.items() if arm.is_fold and arm.experiment == letter]

    # --- networks ---------------------------------------------------------------------------------------------------

    def build(self, arm: CarArm, seed: int, settings: CarKfoldSettings) -> nn.Module:
        if arm.network == "ensemble":
            return Ensemble([self.build(self.known[fold], seed, settings) for fold in arm.members])
        return build_classifier(getattr(settings, arm.network), len(self.classes), len(META[arm.experiment]), seed)

    def seed_of(self, arm: CarArm) -> int:
        return 1000 * (self.run.seed + 1) + arm.fold if arm.is_fold else super().seed_of(arm)

    def network_key(self, name: str) -> str:
        """Folds of all experiments cost the same to three digits."""
        arm = self.known[name]
        return f"{len(arm.members)} folds" if arm.network == "ensemble" else arm.network

    def build_distiller(self, model: nn.Module, arm: CarArm, teacher: Teacher | None = None) -> Distiller:
        return build_distiller(model, teacher or self.teacher_of(arm), self.settings, self.epochs(arm))

    # --- training ---------------------------------------------------------------------------------------------------

    def epochs(self, arm: CarArm) -> float:
        return self.settings.teacher_epochs if arm.is_fold else self.settings.student_epochs * arm.longer

    def steps(self, arm: CarArm) -> int:
        return max(1, round(self.epochs(arm) * len(self.training_part(arm.fold)) / self.settings.batch))

    def train_config(self, arm: CarArm) -> TrainConfig:
        settings = self.settings
        lr, patience = (settings.teacher_lr, settings.patience) if arm.is_fold else (settings.lr, 0)
        return dataclasses.replace(settings.train_config(self.steps(arm), lr), patience=patience)

    def result(self, name: str, model: nn.Module, training: TrainHistory) -> ArmResult:
        """Of a fold also the logits of the competition's test images, where arms are scored on others, and, if
        students learn from it, its stored outputs."""
        result, arm = super().result(name, model, training), self.known[name]
        if arm.is_fold and not self.data.on_test:
            result.predictions["submission"] = self.predict(model, "submission", arm)
        if arm.is_fold and arm.experiment == self.settings.experiment:
            teachers.fold_outputs(self, name, model)
        return result

    def combine(self, name: str, members: list[ArmResult]) -> ArmResult:
        """The mean fold in scores and the best on validation as a network, or the folds as one network."""
        arm = self.known[name]
        if arm.network == "ensemble":
            return teachers.as_one(self, arm.members, members)
        return teachers.mean_fold(super().combine(name, members), members)

    def keep(self, name: str, result: ArmResult) -> ArmResult:
        """Logits go to a file of their own, and "distilled" also to the original's: a plain state dict."""
        if self.acc.is_main_process:
            if result.predictions:
                teachers.save_tensors(self.logits_file(name), result.predictions)
            if name == "distilled":
                save_student(self, result.model)
        return super().keep(name, dataclasses.replace(result, predictions={}))

    # --- batches ----------------------------------------------------------------------------------------------------

    def training_part(self, fold: int) -> list[int]:
        return np.flatnonzero(self.fold_of != fold).tolist()

    def can_be_labelled(self) -> Sequence[int]:
        return self.training_part(1)

    def check_labels(self) -> None:
        fewest, few = np.bincount(self.labels[self.can_be_labelled()]).min(), self.settings.few_labels
        if few >= fewest:
            smallest = f"the {fewest} training images of the smallest class in fold 1"
            raise InputError(f"few_labels is {few}, expected fewer than {smallest}")

    def labelled(self, labels: int) -> list[int]:
        """The first of each class in a random order."""
        order, count = np.array(self.label_order), labels * self.settings.few_labels or None
        classes = range(len(self.classes))
        return sorted(i for label in classes for i in order[self.labels[order] == label][:count].tolist())

    def unlabelled(self, labels: int) -> list[int]:
        return sorted(set(self.label_order) - set(self.labelled(labels)))

    def pools(self, arm: CarArm) -> list[tuple[Sequence[int], int]]:
        """Where a student also learns from images without labels, they fill half of each batch."""
        size = self.settings.batch
        if arm.is_fold:
            return [(self.training_part(arm.fold), size)]
        labelled, others = self.labelled(arm.labels), self.unlabelled(arm.labels) if arm.terms else []
        first, pool = len(self.labels), len(self.data.pool)
        others += range(first, first + pool) if arm.terms else []
        others += range(first + pool, len(self.data.images["train"])) if arm.test_half else []
        return [(labelled, size // 2), (others, size - size // 2)] if others else [(labelled, size)]

    def batches(self, arm: CarArm) -> tuple[CarViews, Plan, Callable]:
        pools = self.pools(arm)
        views = teachers.stored_views(self)[1:] if arm.outputs != "live" else FRESH
        return self.data.views(arm.experiment, "train", pools[0][0]), Plan(pools, views, self.run.seed), collate

    # --- the teacher ------------------------------------------------------------------------------------------------

    def keeps_outputs(self, arm: CarArm) -> bool:
        return bool(arm.terms) and arm.outputs != "live"

    def teacher_of(self, arm: CarArm) -> LiveTeacher | TeacherOutputs | None:
        kept = self.keeps_outputs(arm)
        return teachers.stored_teacher(self, arm.teacher, arm.outputs) if kept else super().teacher_of(arm)

    def teacher_outputs(self, teacher: str) -> TeacherOutputs:
        return teachers.stored_teacher(self, teacher)

    def extra_seconds(self, arm: CarArm) -> float:
        return teachers.stored_seconds(self, arm) if self.keeps_outputs(arm) else 0.0

    # --- predictions and scores -------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, split: str, arm: CarArm) -> Tensor:
        """Logits (N, C), float32 on the CPU, of "validation", the arm's fold, or of a split of ``data.images``."""
        views = self.data.views(arm.experiment, "train" if split == "validation" else split)
        indices = np.flatnonzero(self.fold_of == arm.fold).tolist() if split == "validation" else range(len(views))
        return predict_logits(model, views, [(i, "plain") for i in indices], self.acc.device)

    def predict_image(self, model: nn.Module, image: Tensor, letter: str = "") -> Tensor:
        """Logits (C,) for an image uint8 (3, H, W) of any size, shown to the network as in training."""
        letter, size = letter or self.settings.experiment, self.settings.size[::-1]
        views = views_of_image(image, size, letter, self.data.constants)
        return predict_logits(model, views, [(0, "plain")], self.acc.device)[0]

    def scores(self, logits: Tensor, labels: np.ndarray) -> dict[str, float]:
        """log_loss and the scores in percent; see ``kdnb.metrics.classification``."""
        return scores(logits.softmax(1).numpy(), labels, merged=self.merged)

    def validation_score(self, model: nn.Module, arm: CarArm) -> dict:
        numbers = self.scores(self.predict(model, "validation", arm), self.labels[self.fold_of == arm.fold])
        return {"score": -numbers[self.primary], **numbers}

    def score(self, predictions: Tensor, split: str) -> dict:
        return self.scores(predictions, self.truth)

    def as_record(self, predictions: Tensor) -> dict[str, Tensor]:
        return {"test": predictions}  # see ``keep``

    def logits_file(self, name: str) -> Path:
        return self.run.folder / "predictions" / f"{name}.safetensors"

    def logits(self, name: str, split: str = "test") -> Tensor:
        """Logits (N, C) of a finished arm for the images that are scored; of a fold also for "submission"."""
        kept = load_file(self.logits_file(name))
        return kept.get(split, kept["test"])

    def losses(self, name: str) -> np.ndarray:
        """(N,) log loss of an arm for each image that is scored; of "teacher" the mean over the folds."""
        arm = self.known[name]
        if arm.members and arm.network != "ensemble":
            return np.mean([self.losses(fold) for fold in arm.members], axis=0)
        return log_losses(self.logits(name).softmax(1).numpy(), self.truth, self.merged)

    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        return mean_metric(self.losses(name)), len(self.truth)

    # --- cost and outcome -------------------------------------------------------------------------------------------

    def one_call(self, model: nn.Module, name: str) -> Callable:
        image = torch.zeros(1, 3, *self.settings.size[::-1], dtype=torch.uint8)
        meta = torch.zeros(1, len(META[self.known[name].experiment]))
        return lambda: model(image, meta)

    def cost_factor(self, name: str) -> float:
        times = saved_step_times(self)
        return times["KD step, live"] / times["plain step"]

    def save(self) -> dict[str, Comparison]:
        """Costs, submissions, comparisons and metrics.json; returns the comparisons."""
        if any(self.known[name].matches for name in self.results):
            self.run.log(cost_table(self))
        write_submissions(self)
        if not self.data.on_test:
            where = f"{len(self.truth)} training images held out of all folds: test has no solution"
            self.run.log(f"scores are on {where}")
            for result in self.results.values():
                result.numbers["scored_on"] = where
        return super().save()
