"""The settings that every project has; a project's own class adds to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kdnb.engine import TrainConfig
from kdnb.options import Settings


class TrainSettings(Settings):
    """How the arms of a project are trained. Each project's ``settings.yaml`` has a block of values per profile."""

    batch: int
    teacher_steps: int = 0
    student_steps: int = 0
    few_labels: int = Field(ge=1)  # labelled items of the few-labels arms
    # optimisation
    optimizer: str = "adamw_fused"
    lr: float
    weight_decay: float = 0.01
    schedule: str = "onecycle"
    milestones: list[float] = [0.75, 0.92]  # of schedule "step", as fractions of training
    clip: float = 5.0
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    # the machine
    workers: int = 0  # processes that read data
    processes: int = 1  # arms that train side by side, one core or one GPU each
    checkpoint_every: int = 0  # steps; 0: never
    # validation, and the teacher
    curve_points: int = 3  # how often an arm is scored on validation
    allow_weaker_teacher: bool = False
    cache_teacher: bool = False  # compute the teacher's outputs once for all arms and keep them
    teachers_from: str = ""  # a run's folder, whose teachers this run takes instead of training its own
    # what is trained
    arms: list[str] = []  # by ``--stage all``; empty: all but the ablations

    def train_config(self, steps: int, lr: float) -> TrainConfig:
        """These settings as the engine takes them, for a training of so many steps."""
        return TrainConfig(
            steps=steps,
            lr=lr,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            milestones=tuple(self.milestones),
            clip=self.clip,
            precision=self.precision,
            workers=self.workers,
            checkpoint_every=self.checkpoint_every,
            validate_every=-(-steps // self.curve_points),
        )

    def offline(self) -> Any:
        """The same networks with random weights, to read trained ones into."""
        networks = {name: getattr(self, name) for name in type(self).model_fields}
        networks = {name: one for name, one in networks.items() if hasattr(one, "pretrained")}
        none = {name: None if isinstance(one.pretrained, str) else False for name, one in networks.items()}
        changed = {name: one.model_copy(update={"pretrained": none[name]}) for name, one in networks.items()}
        return self.model_copy(update=changed)
