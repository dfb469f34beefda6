"""What compares a reader's function with the library's, and a guess with what a run has measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnb.distill.checks import describe

# the right function; the inputs it is called with; what to say about a typical mistake, and the function that makes it
Exercise = tuple[Callable, list[tuple], dict[str, Callable]]
NUMBERS = (Tensor, np.ndarray, np.number, int, float)
RELATIVE, ABSOLUTE = 1e-3, 1e-6  # tolerances: another order of the sums is no mistake


def check(answer: Callable, reference: Callable, inputs: Sequence[tuple], mistakes: Mapping[str, Callable]) -> str:
    """What to tell the reader: "right", "not answered yet", or what is wrong.

    Args:
        answer, reference: functions that return a tensor, an array or a number.
        inputs: the arguments of each call. The first call whose value is wrong is the one that is explained.
        mistakes: message → function that makes this mistake. The first one that returns what the answer returned gives
            the message; without any, it says what was found and what was expected.
    """
    for arguments in inputs:
        found = answer(*deepcopy(arguments))  # a copy: an answer may work in place
        if found is None:
            return "not answered yet (it returns None)"
        expected = reference(*deepcopy(arguments))
        if not isinstance(found, NUMBERS):
            return f"not yet: it returns {describe(found)}, expected a tensor, an array or a number"
        if not same(found, expected):
            with np.errstate(all="ignore"):
                made = (text for text, wrong in mistakes.items() if same(found, wrong(*deepcopy(arguments))))
                return f"not yet: {next(made, None) or difference(found, expected)}"
    return "right"


def check_guess(number: int, guess: float | None, measured: float | Tensor, within: float) -> None:
    """Print how far a guess is from what this run has measured; nothing is given away before there is a guess."""
    if guess is None:
        print(f"{number}. not answered yet")
        return
    measured = float(measured)
    verdict = "close" if abs(guess - measured) <= within else "too low" if guess < measured else "too high"
    print(f"{number}. your guess is {guess:g}, this run has {measured:.3g}: {verdict}")


def numbers(value: Any) -> Tensor:
    """A tensor, an array or a number as float64, without gradient."""
    return torch.as_tensor(value).detach().double()


def same(found: Any, expected: Any) -> bool:
    """Whether both have one shape and, up to rounding, the same values; NaN equals NaN."""
    a, b = numbers(found), numbers(expected)
    return a.shape == b.shape and torch.allclose(a, b, RELATIVE, ABSOLUTE, equal_nan=True)


def difference(found: Any, expected: Any) -> str:
    """What was found and expected: the shapes, or the first value that differs."""
    a, b = numbers(found), numbers(expected)
    if a.shape != b.shape:
        return f"found shape {tuple(a.shape)}, expected {tuple(b.shape)}"
    place = tuple((~torch.isclose(a, b, RELATIVE, ABSOLUTE, equal_nan=True)).nonzero()[0].tolist())
    return f"found {a[place]:.4g}, expected {b[place]:.4g}" + (f" at {list(place)}" if place else "")


def repeated_mistakes(student: Tensor, teacher: Tensor, truth: Tensor | np.ndarray) -> float:
    """Of what the teacher gets wrong, the percentage to which the student gives the same wrong answer.

    Args:
        student, teacher: logits (N, C); truth: (N,) classes.
    """
    wrong = teacher.argmax(1) != torch.as_tensor(truth)
    return 100 * float((student.argmax(1) == teacher.argmax(1))[wrong].float().mean())


def normal(seed: int, *shape: int) -> Tensor:
    """Random numbers (shape), the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
