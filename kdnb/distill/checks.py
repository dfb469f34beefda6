"""Checks of what losses get, with one-line errors: a broadcast or a softmax would hide the mistake in a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from kdnb.errors import InputError

MAP = "(N, C, H, W)"
LOGITS, VECTORS = {2: "(N, C)", 4: MAP}, {2: "(N, D)"}  # shapes that say themselves which dimension is compared


def describe(value: Any) -> str:
    """A value in a message: the shape of a tensor, the keys or the length of a collection, else its type."""
    if torch.is_tensor(value):
        return str(tuple(value.shape))
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value))}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (list, tuple)) else "")


def precise(value: Tensor) -> Tensor:
    """Integers and half precision as float32; float32 and float64 as they are. Halves lose digits in a sum or a KL."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def pair(student: Tensor, teacher: Tensor, name: str = "tensors", hint: str = "") -> tuple[Tensor, Tensor]:
    """Both ``precise``, the teacher's without gradient.

    Args:
        student, teacher: of one shape.
        name: of what they are, such as "logits"; ``hint``: what to do about two shapes.

    Raises:
        InputError: they are no tensors, or differ in shape: torch would broadcast (4, 10) against (1, 10).
    """
    if not (torch.is_tensor(student) and torch.is_tensor(teacher)) or student.shape != teacher.shape:
        found = f"{describe(student)} and {describe(teacher)}"
        raise InputError(f"{name} of student and teacher are {found}, expected one shape{hint}")
    return precise(student), precise(teacher.detach())


def require_shape(name: str, value: Tensor, expected: Sequence[int | None], letters: str) -> None:
    """Raises InputError unless ``value`` is a tensor of this shape; None stands for any length.

    Args:
        letters: the shape as the documentation says it, such as "(N, C, H, W)".
    """
    fits = torch.is_tensor(value) and value.ndim == len(expected)
    if not fits or any(e not in (None, size) for e, size in zip(expected, value.shape, strict=True)):
        known = "" if None in expected else f" = {tuple(expected)}"
        raise InputError(f"{name}: {describe(value)}, expected {letters}{known}")


def require_levels(student: Sequence[Tensor], *others: Sequence[Tensor]) -> None:
    """Raises InputError unless all are lists of one length, at least 1: a tensor (or a mask) a pyramid level."""
    lists = (student, *others)
    if not all(isinstance(each, (list, tuple)) for each in lists) or len({len(each) for each in lists}) > 1:
        raise InputError(f"pyramids are {', '.join(map(describe, lists))}, expected lists of as many levels")
    if not student:
        raise InputError("pyramids have no level, expected at least one")


def compared_dim(dim: int | None, value: Tensor, name: str, usual: Mapping[int, str]) -> int:
    """The dimension to compare along: ``dim``, or 1 if that is None and the shape leaves no doubt.

    Args:
        value: any shape; ``name``: of what it is, such as "logits".
        usual: {number of dimensions: letters} of the shapes that do not need ``dim``, such as {2: "(N, C)"}.

    Raises:
        InputError: no ``dim`` in another shape: (N, tokens, C) would be compared along its tokens; no such dimension.
    """
    if dim is None and value.ndim not in usual:
        raise InputError(
            f"{name} are {tuple(value.shape)}, expected {' or '.join(usual.values())}; for another shape say which "
            "dimension is compared, such as dim=-1 for the last"
        )
    dim = 1 if dim is None else dim
    if not -value.ndim <= dim < value.ndim:
        raise InputError(f"a tensor of shape {tuple(value.shape)} has no dimension {dim} to compare along")
    return dim


def positive_temperature(temperature: float) -> float:
    """The temperature. Raises InputError unless it is a finite number above 0."""
    if not isinstance(temperature, (Real, Tensor)) or not 0 < float(temperature) < math.inf:
        raise InputError(f"temperature is {temperature}, expected a number above 0")
    return temperature
