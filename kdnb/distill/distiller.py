"""The training objective: the student's own task loss plus a list of terms, each a named part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdnb.distill.checks import describe
from kdnb.distill.schedules import weight_at
from kdnb.distill.taps import Taps
from kdnb.distill.terms import Term
from kdnb.errors import InputError


class Teacher(Protocol):
    """What a ``Distiller`` needs of its teacher: a ``LiveTeacher``, or ``TeacherOutputs`` in its place."""

    def observe(self, batch: dict, student_outputs: dict | None, taps: list[str]) -> dict: ...


def call(model: nn.Module, batch: Any) -> dict:
    """The default step: the model takes the batch and returns a dict with its task loss under "loss"."""
    return model(batch)


class LiveTeacher:
    """A frozen teacher that runs on every batch. ``TeacherOutputs`` has the same ``observe`` and can replace it.

    It is deliberately not an ``nn.Module``, so a Distiller keeps it out of the optimizer, DDP and the saved state.

    Args:
        model: the teacher; it runs in eval mode, even if someone has changed that since in a part of it, and without
            gradients. This holds for what a student borrows of it too, as SimKD borrows the classifier.
        step: ``step(model, batch, student_outputs) -> dict`` with everything that the terms may read.
    """

    def __init__(self, model: nn.Module, step: Callable[[nn.Module, Any, dict | None], dict]):
        self.model = model.eval().requires_grad_(False)
        self.step = step

    @torch.no_grad()
    def observe(self, batch: Any, student_outputs: dict | None, taps: list[str]) -> dict:
        """The step's outputs, and those of the modules among the taps.

        Args:
            batch: the student's batch.
            student_outputs: what the student's step gave, or None without a student. The teacher moves to the device
                of its "loss".
            taps: module paths, or keys of the step's output.

        Raises:
            InputError: a tap that is both.
        """
        if any(module.training for module in self.model.modules()):  # someone called train() on a part since
            self.model.eval()
        if student_outputs is not None:
            self.model.to(student_outputs["loss"].device)
        with Taps(self.model, module_paths(self.model, taps)) as tapped:
            outputs = self.step(self.model, batch, student_outputs)
        return merged(outputs, tapped, self.model)


def module_paths(model: nn.Module, taps: list[str]) -> list[str]:
    """Those of the taps that are modules; the others must be keys of the step's output."""
    modules = dict(model.named_modules())
    return [tap for tap in taps if tap in modules]


def merged(outputs: dict, tapped: Mapping[str, Any], model: nn.Module) -> dict:
    """A step's outputs and those of the tapped modules.

    Raises:
        InputError: a name that is ambiguous, the output of a module and a key of the step.
    """
    for name, value in tapped.items():
        if name in outputs and outputs[name] is not value:
            raise InputError(
                f"{name!r} is a module of {type(model).__name__}, which gives {describe(value)}, and a key of its "
                f"step's output, {describe(outputs[name])}: expected one of the two, rename the key"
            )
    return {**outputs, **tapped}


class Distiller(nn.Module):
    """A student with its distillation terms: ``distiller(batch, progress)`` returns all parts of the loss by name.

    Without terms, or with all weights 0, it *is* the baseline, bit for bit: the terms use no random numbers and add
    nothing to the student's gradients. A term whose weight is the number 0 is dropped together with its adapter, whose
    zero gradients would change the order of summation in gradient clipping.

    Args:
        student: the model to train. Its ``state_dict()`` is what you keep.
        teacher: a ``LiveTeacher`` or ``TeacherOutputs``, or None when there are no terms.
        terms: list of ``Term``; their adapters become parameters of the distiller, not of the student.
        student_step: ``student_step(student, batch) -> dict`` with the task loss under "loss", further scalar parts
            of it under "parts" (optional), and whatever the terms read.

    Raises:
        InputError: a term whose tap is neither a module nor a key of the step's output, or is both; two terms with
            one name, or a term and a part of the task loss; an error of a term's loss, with the term's name.
    """

    too_large = 10.0

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None = None,
        terms: Sequence[Term] = (),
        student_step: Callable[[nn.Module, Any], dict] = call,
    ):
        super().__init__()
        names = [term.name for term in terms]
        if len(set(names)) < len(names) or {"loss", "task"} & set(names):
            raise InputError(f"names of terms must be unique, none of them 'loss' or 'task'; got {names}")
        if terms and teacher is None:
            raise InputError(f"the terms {names} need a teacher")
        if dotted := [name for name in names if not name or "." in name]:
            raise InputError(f"names of terms are {dotted}, expected some without a point")
        terms = [term for term in terms if callable(term.weight) or term.weight != 0]
        self.student = student
        self.adapters = nn.ModuleDict({term.name: term.adapter for term in terms if term.adapter is not None})
        self.terms, self.teacher, self.student_step = terms, teacher, student_step
        self.warned: set[str] = set()

    def train(self, mode: bool = True) -> Distiller:
        """As ``nn.Module.train``, except that what the student borrows of its teacher stays in eval mode."""
        super().train(mode)
        if isinstance(self.teacher, LiveTeacher):
            self.teacher.model.eval()
        return self

    def forward(self, batch: Any, progress: float = 0.0) -> dict[str, Tensor]:
        """Returns {"loss": total, "task": ..., "<term>": weighted value, ...}, scalars in the order of the terms."""
        weights = {term.name: weight_at(term.weight, progress) for term in self.terms}
        active = [term for term in self.terms if weights[term.name] != 0]
        taps = [term.student for term in active if isinstance(term.student, str)]
        with Taps(self.student, module_paths(self.student, taps)) as tapped:
            outputs = self.student_step(self.student, batch)
        self._require_names(outputs)
        student_outputs = {"progress": progress, **merged(outputs, tapped, self.student)}
        parts = {"task": outputs["loss"], **outputs.get("parts", {})}
        total, teacher_outputs = outputs["loss"], {}
        if active and self.teacher is not None:
            teacher_taps = [term.teacher for term in active if isinstance(term.teacher, str)]
            teacher_outputs = self.teacher.observe(batch, student_outputs, teacher_taps)
        adapted: dict = {}  # terms that share a tap and an adapter share its output
        for term in active:
            parts[term.name] = weights[term.name] * self._value(term, student_outputs, teacher_outputs, adapted)
            self._warn_if_too_large(term.name, parts[term.name], outputs["loss"])
            total = total + parts[term.name]
        return {"loss": total + self._keep_in_graph(active), **parts}

    def _require_names(self, outputs: dict) -> None:
        """The task loss is there, and no part of it has the name of another number."""
        if "loss" not in outputs:
            raise InputError(f"the student's step gives {list(outputs)}, expected its task loss as 'loss'")
        taken = {"loss", "task", *(term.name for term in self.terms)} & set(outputs.get("parts", {}))
        if taken:
            raise InputError(f"parts of the task loss are named {sorted(taken)}, as the total or a term is")

    @staticmethod
    def _value(term: Term, student_outputs: dict, teacher_outputs: dict, adapted: dict) -> Tensor:
        sides = (("student", term.student, student_outputs), ("teacher", term.teacher, teacher_outputs))
        for side, tap, outputs in sides:
            if isinstance(tap, str) and tap not in outputs:
                known = list(outputs)
                raise InputError(
                    f"term {term.name!r}: {side} tap {tap!r} is not a module path that ran and not among {known}"
                )
        key = (term.student, id(term.adapter))
        try:
            if key not in adapted:
                adapted[key] = term.read_student(student_outputs)
            return term.compare(adapted[key], term.read_teacher(teacher_outputs, student_outputs), student_outputs)
        except InputError as error:
            raise InputError(f"term {term.name!r}: {error}") from error

    def _keep_in_graph(self, active: list[Term]) -> Tensor | float:
        """0 times the adapters that this step does not use: DDP waits for a gradient of each parameter."""
        idle = [name for name in self.adapters if name not in {term.name for term in active}]
        return sum((0.0 * p.sum() for name in idle for p in self.adapters[name].parameters()), 0.0)

    def _warn_if_too_large(self, name: str, part: Tensor, task: Tensor) -> None:
        if name not in self.warned and part.detach() > self.too_large * task.detach() > 0:  # 0: no labels
            self.warned.add(name)
            warnings.warn(
                f"term {name!r} is {part.item():.3g}, more than {self.too_large:g} times the task loss "
                f"{task.item():.3g}: it will dominate the task loss",
                stacklevel=3,
            )


def require_stronger_teacher(
    teacher_score: float, baseline_score: float, metric: str, allow_weaker: bool = False
) -> None:
    """Refuse to distil from a teacher that is no better than the baseline student (higher scores are better).

    Raises:
        InputError: with both numbers, unless ``allow_weaker``.
    """
    if not teacher_score > baseline_score and not allow_weaker:
        raise InputError(
            f"the teacher's {metric} {teacher_score:.2f} is not above the student's own {baseline_score:.2f}: "
            "distilling would make the student worse; train the teacher longer, or allow a weaker one on purpose"
        )
