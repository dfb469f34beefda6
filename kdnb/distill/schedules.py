"""Weights that change during training: functions of progress, which runs from 0 (start) to 1 (end)."""

from __future__ import annotations

from collections.abc import Callable


def weight_at(weight: float | Callable[[float], float], progress: float) -> float:
    """The value of a constant or scheduled weight at ``progress`` in [0, 1]."""
    return float(weight(progress)) if callable(weight) else float(weight)


def two_phase(first: float, second: float, switch: float = 0.5) -> Callable[[float], float]:
    """``first`` before progress ``switch``, ``second`` from there on."""
    return lambda progress: first if progress < switch else second
