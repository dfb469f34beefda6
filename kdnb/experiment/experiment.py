"""The experiment of a project: its arms trained in order, kept, compared and saved. A project's class adds the rest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdnb.distill.distiller import LiveTeacher, require_stronger_teacher
from kdnb.distill.teacher_outputs import TeacherOutputs
from kdnb.engine import TrainConfig, TrainHistory, accelerator, fit
from kdnb.errors import InputError
from kdnb.evidence import Comparison
from kdnb.experiment.arms import Arm, ArmResult, ArmStore
from kdnb.experiment.outcome import compare, save
from kdnb.experiment.project import Project
from kdnb.experiment.step_cost import add_costs, step_cost
from kdnb.experiment.teachers import keep_teacher_outputs
from kdnb.experiment.workers import train_waves
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.options import load_settings, validate_settings
from kdnb.run import Run
from kdnb.viz.style import declare_roles


class Experiment(Project):
    """One run of a project. ``train("distilled")`` trains whatever is missing and returns the ``ArmResult``.

    A project's class sets the attributes and writes the methods of ``Project``; it may override others.
    """

    def __init__(self, run: Run, settings: Any, data: Any, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if self.is_small() and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small feature maps gain nothing from a second thread, and often lose
        self.store, self.results = ArmStore(run, self.primary), {}
        self.kept: dict[str, TeacherOutputs] = {}
        self.known = {**self.arms, **self.ablations}
        if settings.teachers_from:
            self.store.take(settings.teachers_from, [n for n, arm in self.known.items() if arm.network != "student"])
        self.check_labels()
        declare_roles(self.roles())

    @classmethod
    def start(
        cls,
        profile: str,
        seed: int = 0,
        data: str | Path | None = None,
        results: str | Path = "results",
        root: str | Path = "data",
        **changes: Any,
    ) -> Experiment:
        """A new run in its own folder below ``results``; ``changes`` are settings that differ from the profile."""
        settings = load_settings(cls.settings_class, profile, **changes)
        run = Run.start(cls.project, profile, seed, results, settings, data)
        return cls(run, settings, cls.open_data(settings, data, root), root)

    @classmethod
    def resume(cls, folder: str | Path, data: str | Path | None = None, root: str | Path = "data") -> Experiment:
        """The run in ``folder``, with its own settings; InputError for one of another project or on other data."""
        run = Run.resume(folder, cls.project, data)
        settings = validate_settings(cls.settings_class, run.settings, run.folder / "config.yaml")
        with accelerator(settings.precision, cpu=not torch.cuda.is_available()).main_process_first():
            opened = cls.open_data(settings, data, root)  # one process renders the data, the others read it
        return cls(run, settings, opened, root)

    @classmethod
    def check_inputs(cls, run: Any, settings: Any, root: str | Path) -> None:
        """Raise InputError if something that a finished run depends on is missing, before anything is rendered."""

    # --- what follows from the arms ---------------------------------------------------------------------------------

    def declared(self, name: str) -> Arm:
        """The arm of this name, as the project declares it; InputError if there is none."""
        if name not in self.known:
            raise InputError(f"unknown arm {name!r}, expected one of {', '.join(self.known)}")
        return self.known[name]

    def arm(self, name: str) -> Arm:
        """The arm of this name, with ``longer`` measured if it matches another arm."""
        arm = self.declared(name)
        return dataclasses.replace(arm, longer=max(1.0, self.cost_factor(arm.matches))) if arm.matches else arm

    def needs(self, name: str) -> list[str]:
        """The arms that must be finished before this one."""
        arm = self.declared(name)
        if arm.matches:
            return [arm.matches] if self.known[arm.matches].members else self.needs(arm.matches)
        checked = [*self.checked, arm.teacher] if arm.terms else []
        needed = [*self.also_needs(name), *arm.members, arm.start_from, *checked]
        return [one for one in dict.fromkeys(needed) if one]

    def also_needs(self, name: str) -> Sequence[str]:
        """Arms that must be finished first although the ``Arm`` does not name them."""
        return ()

    def teacher_name(self) -> str:
        """Who teaches the arm "distilled"."""
        return self.known["distilled"].teacher or "teacher"

    def arms_for_frames(self) -> list[str]:
        """The arms that 07 needs."""
        return [*self.also_needs("distilled"), self.teacher_name(), "distilled"]

    def roles(self) -> dict[str, str]:
        """Arm -> what figures show it as."""
        return {name: arm.shown_as() for name, arm in self.known.items()}

    def network_key(self, name: str) -> str:
        """Arms with the same key have networks of the same shape, and cost the same."""
        return self.known[name].network

    def seed_of(self, arm: Arm) -> int:
        """Seed of the initial weights. All students share it, so that arms differ only in what they declare."""
        return self.run.seed + (1000 if arm.network != "student" else 0)

    def batch_seed(self, arm: Arm) -> int:
        """Seed of the order of batches, and of the random numbers drawn during training."""
        return self.run.seed

    def steps(self, arm: Arm) -> int:
        """Number of training steps. Raises InputError if there are none."""
        name = "student_steps" if arm.network == "student" else "teacher_steps"
        if not (steps := round(arm.longer * getattr(self.settings, name))):
            raise InputError(f"setting {name!r} is {getattr(self.settings, name)}, expected 1 or more steps")
        return steps

    def train_config(self, arm: Arm) -> TrainConfig:
        return self.settings.train_config(self.steps(arm), self.settings.lr)

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> ArmResult:
        """The finished arm, read back from the run's folder or trained after all that it needs."""
        if name not in self.results:
            if name in self.store:
                self.results[name] = self.store.read(name, self.build_again(name).to(self.acc.device))
            else:
                for needed in self.needs(name):
                    self.train(needed)
                self.before_training(name)
                self.results[name] = self.keep(name, self.train_arm(name))
        return self.results[name]

    def build_again(self, name: str) -> nn.Module:
        """A network of the arm's shape, to read its weights into."""
        return self.build(self.known[name], 0, self.settings.offline())

    def train_together(self, *names: str) -> list[ArmResult]:
        """Like ``train`` for several arms: those that do not wait for each other train side by side."""
        train_waves([self], names)
        declare_roles(self.roles())  # again: 02 may have trained 01 meanwhile
        return [self.train(name) for name in names]

    def is_finished(self, name: str) -> bool:
        return name in self.results or name in self.store

    def before_training(self, name: str) -> None:
        """Work shared by several arms, done once: check the teacher, keep its outputs, time the steps."""
        arm = self.known[name]
        if arm.matches:
            self.cost_factor(arm.matches)
        elif arm.terms:
            self.check_teacher()
            self.teacher_of(arm)

    def check_teacher(self, name: str = "") -> None:
        """Raise InputError if a teacher, by default the project's, is no better on validation than the student without
        it, unless ``settings.allow_weaker_teacher``."""
        checked = (name or self.checked[0], self.checked[1])
        teacher, student = (self.train(one).validation for one in checked)
        metric = f"validation {'' if self.higher_is_better else '-'}{self.primary}"
        require_stronger_teacher(teacher, student, metric, self.settings.allow_weaker_teacher)

    def train_arm(self, name: str) -> ArmResult:
        """Train an arm whose needs are finished, and score it on test."""
        arm = self.arm(name)
        if arm.members:
            return self.combine(name, [self.train(member) for member in arm.members])
        model = self.build(arm, self.seed_of(arm), self.settings)
        if arm.start_from:
            self.start_weights(model, self.train(arm.start_from).model)
        distiller = self.build_distiller(model, arm)
        data, plan, collate = self.batches(arm)
        torch.manual_seed(self.batch_seed(arm))
        file = self.store.checkpoint(name) if self.settings.checkpoint_every else None
        watch = {"name": name, "checkpoint": file, "validate": lambda _: self.validation_score(model, arm)}
        training = fit(distiller, data, plan, self.train_config(arm), collate=collate, **watch)
        return self.result(name, model, training)

    def start_weights(self, model: nn.Module, other: nn.Module) -> None:
        """Let a network start with the weights of another one."""
        model.load_state_dict(other.state_dict())

    def validation_score(self, model: nn.Module, arm: Arm) -> float | dict:
        return self.score(self.predict(model, "validation", arm), "validation")[self.primary]

    def result(self, name: str, model: nn.Module, training: TrainHistory) -> ArmResult:
        """Score a trained network on test."""
        predictions = self.predict(model, "test", self.known[name])
        numbers = {
            **self.score(predictions, "test"),
            "params": count_parameters(self.deployed(model)),
            "size_mb": state_dict_mb(self.deployed(model)),
            "train_s": self.seconds(training) + self.extra_seconds(self.known[name]),
            "steps": training.steps,
        }
        validation = max((score for _, score in training.scores), default=float("nan"))
        return ArmResult(model, self.as_record(predictions), numbers, validation, training)

    def deployed(self, model: nn.Module) -> nn.Module:
        """The part of the network that is deployed; its parameters are counted."""
        return model

    def seconds(self, training: TrainHistory) -> float:
        """What training cost: CPU seconds on a CPU; on a GPU the clock, because the CPU only waits."""
        return training.cpu_seconds if self.acc.device.type == "cpu" else training.seconds

    def extra_seconds(self, arm: Arm) -> float:
        """What an arm cost beside its own training: kept teacher outputs count in full towards every arm."""
        return self.teacher_outputs(arm.teacher).seconds if self.keeps_outputs(arm) else 0.0

    def combine(self, name: str, members: list[ArmResult]) -> ArmResult:
        """An arm that is not trained: the best of its members on validation, under a name of its own."""
        best = max(range(len(members)), key=lambda i: members[i].validation)
        numbers = {**members[best].numbers, "of": self.known[name].members[best]}
        return dataclasses.replace(members[best], numbers=numbers)

    def keep(self, name: str, result: ArmResult) -> ArmResult:
        self.acc.wait_for_everyone()  # all processes have looked for the record before one of them writes it
        if self.acc.is_main_process:
            self.store.write(name, result)
        self.acc.wait_for_everyone()
        return result

    # --- the teacher ------------------------------------------------------------------------------------------------

    def keeps_outputs(self, arm: Arm) -> bool:
        """Whether the arm reads its teacher's outputs from a store instead of running the teacher at each step."""
        return bool(arm.terms and self.kept_outputs and (arm.kept or self.settings.cache_teacher))

    def teacher_of(self, arm: Arm) -> LiveTeacher | TeacherOutputs | None:
        """What the arm's terms compare with; None without terms."""
        if not arm.terms:
            return None
        if self.keeps_outputs(arm):
            return self.teacher_outputs(arm.teacher)
        return LiveTeacher(self.train(arm.teacher).model, type(self).teacher_step)

    def teacher_outputs(self, teacher: str) -> TeacherOutputs:
        """The outputs of a teacher for all training items in all views, computed once for all arms."""
        if teacher not in self.kept:
            self.kept[teacher] = keep_teacher_outputs(self, teacher)
        return self.kept[teacher]

    # --- labels -----------------------------------------------------------------------------------------------------

    def can_be_labelled(self) -> Sequence[int]:
        """Indices of the training items that may be labelled in the few-labels arms."""
        return range(len(self.data.train))

    def check_labels(self) -> None:
        """Refuse a setting ``few_labels`` that leaves no item unlabelled."""
        count, few = len(self.can_be_labelled()), self.settings.few_labels
        if few >= count:
            raise InputError(f"few_labels is {few}, expected fewer than the {count} training items to label")

    @cached_property
    def label_order(self) -> list[int]:
        return np.random.default_rng((self.run.seed, 0)).permutation(self.can_be_labelled()).tolist()

    def labelled(self, labels: int) -> list[int]:
        """The training items whose labels an arm may use, see ``Arm.labels``. More labels always include the fewer."""
        return sorted(self.label_order[: labels * self.settings.few_labels] if labels else self.label_order)

    def unlabelled(self, labels: int) -> list[int]:
        """All other training items."""
        return sorted(set(range(len(self.data.train))) - set(self.labelled(labels)))

    def share(self, arm: Arm) -> tuple[list[int], list[int]]:
        """The training items whose labels an arm may use, and the other ones that it may see."""
        if not arm.part:
            return self.labelled(arm.labels), self.unlabelled(arm.labels)
        part = set(self.parts()[arm.part])
        items = [item for item in self.label_order if item in part]
        count = arm.labels * self.settings.few_labels or len(items)
        return sorted(items[:count]), sorted(items[count:])

    def pools(self, arm: Arm) -> list[tuple[Sequence[int], int]]:
        """What the arm's batches are made of: with few labels, half of a distilled student's batch has none."""
        size, (labelled, others) = self.settings.batch, self.share(arm)
        others = others if arm.labels and arm.terms else []
        return [(labelled, size // 2), (others, size - size // 2)] if others else [(labelled, size)]

    # --- cost and evidence ------------------------------------------------------------------------------------------

    def cost_factor(self, name: str) -> float:
        """Ratio of the arm's step time to that of a step without terms, the teacher's passes included."""
        return step_cost(self, name)["factor"]

    def add_costs(self) -> None:
        """Put FLOPs and latency of one prediction into the numbers of all arms."""
        add_costs(self)

    def compare(self) -> dict[str, Comparison]:
        """ "b_vs_a" -> paired bootstrap over test items, of the pairs in ``comparisons`` whose arms are finished."""
        return compare(self)

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons and metrics.json; returns the comparisons."""
        return save(self)
