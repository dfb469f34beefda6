"""A distillation method is a list of terms: where to tap, what to compare, where to mask, how much and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdnb.errors import InputError

Tap = str | Callable[..., Any]


@dataclass
class Term:
    """One comparison of the student with its teacher.

    Attributes:
        name: the name of the part in logs.
        loss: ``loss(student_value, teacher_value)``, or ``loss(student_value, teacher_value, mask)`` with a mask.
        student: what to read from the student: a path of a module ("backbone.fpn"), a key of the step's output
            ("class_logits"), or a function ``f(student_outputs)`` of all taps and outputs, with "progress" among them.
        teacher: likewise, from the teacher. A function is ``f(teacher_outputs, student_outputs)``, because a teacher
            often uses something from the student, such as its proposals.
        adapter: module applied to the student's value. It trains with the student and is not saved.
        mask: function ``f(student_outputs)`` that returns the mask.
        weight: a number, or a function of progress in [0, 1].
    """

    name: str
    loss: Callable[..., Tensor]
    student: Tap
    teacher: Tap
    adapter: nn.Module | None = None
    mask: Callable[[dict], Any] | None = None
    weight: float | Callable[[float], float] = 1.0

    def read_student(self, student_outputs: dict) -> Any:
        """The student's value, adapted."""
        value = self.student(student_outputs) if callable(self.student) else student_outputs[self.student]
        return value if self.adapter is None else self.adapter(value)

    def read_teacher(self, teacher_outputs: dict, student_outputs: dict) -> Any:
        """The teacher's value."""
        if callable(self.teacher):
            return self.teacher(teacher_outputs, student_outputs)
        return teacher_outputs[self.teacher]

    def compare(self, student_value: Any, teacher_value: Any, student_outputs: dict) -> Tensor:
        """The unweighted loss."""
        if self.mask is None:
            return self.loss(student_value, teacher_value)
        return self.loss(student_value, teacher_value, self.mask(student_outputs))


def choose_terms(terms: Sequence[Term], names: Iterable[str]) -> list[Term]:
    """The terms with these names, in the order of ``terms``.

    Raises:
        InputError: a name that no term has.
    """
    chosen = list(names)
    known = [term.name for term in terms]
    for name in chosen:
        if name not in known:
            raise InputError(f"unknown term {name!r}, expected some of {', '.join(known)}")
    return [term for term in terms if term.name in chosen]
