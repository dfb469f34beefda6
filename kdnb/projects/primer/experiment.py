"""00's experiment: how a classifier is trained on crops, predicts and is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.datasets.car_views import collate
from kdnb.datasets.street_crops import StreetCrops
from kdnb.distill.distiller import Distiller, Teacher
from kdnb.engine import Plan, TrainConfig
from kdnb.evidence import mean_metric
from kdnb.experiment import Experiment
from kdnb.models.classifier import CarClassifier, build_classifier, predict_logits
from kdnb.projects.primer.arms import ABLATIONS, PrimerArm, arms_of, comparisons_of
from kdnb.projects.primer.data import Data, PrimerSettings, open_data
from kdnb.projects.primer.terms import build_distiller, teacher_step
from kdnb.run import Run

VIEWS = ("plain", "plain_flip")  # of a training crop


class Primer(Experiment):
    """One run of 00: what is this? A large classifier of small crops, and students that learn from it."""

    project, primary = "00_distillation_primer", "accuracy"
    settings_class = PrimerSettings
    open_data = staticmethod(open_data)
    teacher_step = staticmethod(teacher_step)
    kept_outputs = ("logits", "features")
    bench_settings = {"train_images": 64, "test_images": 8, "fewest": 8, "few_labels": 1, "more_labels": []}
    cover = "00 few labels and a teacher", (0.0, 0.0, 1.0, 1.0)
    on_scoreboard = False
    ablations = ABLATIONS

    def __init__(self, run: Run, settings: PrimerSettings, data: Data, root: str | Path = "data"):
        self.arms, self.comparisons = arms_of(settings), comparisons_of(settings)
        super().__init__(run, settings, data, root)

    def is_small(self) -> bool:
        return self.settings.crop <= 96

    # --- networks and training --------------------------------------------------------------------------------------

    def build(self, arm: PrimerArm, seed: int, settings: PrimerSettings) -> CarClassifier:
        return build_classifier(getattr(settings, arm.network), len(self.data.classes), 0, seed)

    def build_distiller(self, model: CarClassifier, arm: PrimerArm, teacher: Teacher | None = None) -> Distiller:
        trained = self.train(arm.teacher).model if arm.terms else None
        return build_distiller(model, trained, arm.terms, self.settings, teacher or self.teacher_of(arm))

    def seed_of(self, arm: PrimerArm) -> int:
        return super().seed_of(arm) + arm.reseeded

    def batch_seed(self, arm: PrimerArm) -> int:
        return super().batch_seed(arm) + arm.reseeded

    def train_config(self, arm: PrimerArm) -> TrainConfig:
        settings = self.settings
        return settings.train_config(self.steps(arm), settings.teacher_lr if arm.network == "teacher" else settings.lr)

    def train_items(self) -> dict[int, str]:
        return dict(enumerate(self.data.train.ids))

    def labelled(self, labels: int) -> list[int]:
        """The training crops whose labels an arm may use: ``labels`` times ``few_labels`` of each class; 0: all."""
        order = pd.Series(self.label_order)
        most = labels * self.settings.few_labels or len(order)
        return sorted(order.groupby(self.data.train.labels[order]).head(most))

    def batches(self, arm: PrimerArm) -> tuple[StreetCrops, Plan, Callable]:
        crops = self.data.train.with_labels(self.labelled(arm.labels))
        return crops, Plan(self.pools(arm), VIEWS, self.batch_seed(arm)), collate

    # --- predictions and scores -------------------------------------------------------------------------------------

    def predict(self, model: CarClassifier, split: str, arm: PrimerArm) -> Tensor:
        """Logits (N, C) of all crops of a split, unflipped."""
        crops = getattr(self.data, split)
        return predict_logits(model, crops, [(row, "plain") for row in range(len(crops))], self.acc.device)

    def logits(self, name: str, split: str = "test") -> Tensor:
        """What ``predict`` gives for a finished arm."""
        return self.predict(self.train(name).model, split, self.known[name])

    def score(self, logits: Tensor, split: str) -> dict[str, float]:
        labels = torch.from_numpy(getattr(self.data, split).labels)
        correct = logits.argmax(1) == labels
        return {"accuracy": 100 * correct.float().mean().item(), "log_loss": F.cross_entropy(logits, labels).item()}

    def as_record(self, logits: Tensor) -> dict[str, list[int]]:
        """1 for each test crop whose class is right, else 0."""
        return {"correct": (logits.argmax(1).numpy() == self.data.test.labels).astype(int).tolist()}

    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        return mean_metric(100 * np.array(self.results[name].predictions["correct"])), len(self.data.test)

    def one_call(self, model: CarClassifier, name: str) -> Callable:
        crop = torch.zeros(1, 3, self.settings.crop, self.settings.crop, dtype=torch.uint8)
        return lambda: model(crop, torch.zeros(1, 0))

    def scores_by_labels(self, name: str) -> dict[int, list[float]]:
        """Number of labelled crops -> [accuracy], of the finished arms that are ``name`` but for their labels."""
        alike = [one for one in self.results if replace(self.known[one], labels=0) == self.known[name]]
        counts = {one: len(self.labelled(self.known[one].labels)) for one in alike}
        return {count: [self.results[one].numbers[self.primary]] for one, count in counts.items()}
