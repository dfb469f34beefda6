"""What a project writes: the interface that a project implements. Follow ``kdnb/projects/voc_defeat``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from kdnb.distill.distiller import Distiller, Teacher
from kdnb.engine import Plan
from kdnb.errors import InputError
from kdnb.experiment.arms import Arm
from kdnb.experiment.settings import TrainSettings


class Project(ABC):
    """Declarations and methods that differ between projects.

    Attributes:
        project: its number and name; primary: the metric that comparisons are about.
        arms, ablations: name -> ``Arm``; ablations are trained only on request.
        comparisons: pairs (b, a) of arms: is b better than a?
        checked: a teacher and a student without it; the teacher must be better on validation.
        teacher_step: ``f(teacher, batch, student_outputs)``, what terms may read of the teacher.
        kept_outputs: keys of ``teacher_step`` that ``settings.cache_teacher`` keeps, in ``kept_dtype``, computed in
            batches of ``kept_batch``.
        bench_arm, bench_settings: the arm that ``kdnb bench`` times, and settings that make a little data;
            ``kdnb bench`` skips projects with none.
        cover: label in the README's strip, and the piece of the notebook's cover shown there: left, top, right, bottom
            as shares of the cover.
        on_scoreboard: whether 07 shows it; frame_task: what its networks predict for a frame there, "" for nothing.
    """

    project: ClassVar[str]
    primary: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    settings_class: ClassVar[type[TrainSettings]]
    arms: dict[str, Arm]
    ablations: dict[str, Arm] = {}
    comparisons: Sequence[tuple[str, str]] = ()
    checked: ClassVar[tuple[str, str]] = ("teacher", "baseline")
    teacher_step: Callable
    kept_outputs: ClassVar[tuple[str, ...]] = ()
    kept_dtype: ClassVar[torch.dtype] = torch.float16
    kept_batch: ClassVar[int] = 16
    bench_arm: ClassVar[str] = "distilled"
    bench_settings: ClassVar[dict] = {}
    cover: ClassVar[tuple[str, tuple[float, float, float, float]]] = ("", (0, 0, 1, 1))
    on_scoreboard: ClassVar[bool] = True
    frame_task: ClassVar[str] = ""

    settings: Any  # of the run, an instance of settings_class
    data: Any  # what open_data gives

    @staticmethod
    @abstractmethod
    def open_data(settings: Any, data: str | Path | None, root: str | Path) -> Any:
        """The splits of the data set at ``data``, or of one rendered below ``root``."""

    @abstractmethod
    def build(self, arm: Arm, seed: int, settings: Any) -> nn.Module:
        """A fresh network of an arm."""

    @abstractmethod
    def build_distiller(self, model: nn.Module, arm: Arm, teacher: Teacher | None = None) -> Distiller:
        """The network with the arm's terms; they compare with ``teacher``, or else with ``teacher_of(arm)``."""

    @abstractmethod
    def batches(self, arm: Arm) -> tuple[Any, Plan, Callable]:
        """The arm's training data, which of it makes up each batch, and the function that collates a batch."""

    @abstractmethod
    def predict(self, model: nn.Module, split: str, arm: Arm) -> Any:
        """Predictions for all items of "validation" or "test"."""

    @abstractmethod
    def score(self, predictions: Any, split: str) -> dict[str, Any]:
        """All metrics of predictions by name; rates in percent."""

    @abstractmethod
    def as_record(self, predictions: Any) -> Any:
        """The part of the test predictions to save, as JSON types."""

    @abstractmethod
    def bootstrap_metric(self, name: str) -> tuple[Callable, int]:
        """An arm's score as a function of how often each test item was sampled, and the number of items."""

    @abstractmethod
    def one_call(self, model: nn.Module, name: str) -> Callable[[], Any]:
        """A function that predicts for one test item on the CPU; its FLOPs and latency are the arm's."""

    def teacher_batches(self) -> tuple[Any, Plan, Callable]:
        """Like ``batches``: all training data in all views, as ``teacher_step`` takes it to keep the outputs."""
        return self.batches(self.arms[self.checked[1]])

    def parts(self) -> dict[str, Sequence[int]]:
        """Two parts of the training items: "own" for students, "elsewhere" for a teacher that has seen none of them."""
        items = range(len(self.data.train))
        return {"own": items[::2], "elsewhere": items[1::2]}

    def is_small(self) -> bool:
        """Whether the networks are so small that one thread is best."""
        return True

    def train_items(self) -> dict[int, int | str]:
        """Index in the training data -> id, as batches carry it, of the items that arms may train on."""
        raise InputError(f"{self.project} has no train_items, expected them where its teacher's outputs are kept")

    def frame_predictor(self, name: str) -> Callable:
        """A finished arm's predictions for any image of a street, as a function of 07's ``StreetFrame``."""
        raise InputError(f"{self.project} cannot look at a frame, expected a project with a frame_task")
