"""Weights that change while training: functions of progress, which runs from 0 (start) to 1 (end)."""

from __future__ import annotations

import math
from collections.abc import Callable


def weight_at(weight: float | Callable[[float], float], progress: float) -> float:
    """The value of a constant or scheduled weight at ``progress`` in [0, 1]."""
    return float(weight(progress)) if callable(weight) else float(weight)


def warmup(weight: float, until: float = 0.1) -> Callable[[float], float]:
    """Rises linearly from 0 to ``weight`` at progress ``until``, then stays."""
    return lambda progress: weight * min(1.0, progress / until)


def two_phase(first: float, second: float, switch: float = 0.5) -> Callable[[float], float]:
    """``first`` before progress ``switch``, ``second`` from there on."""
    return lambda progress: first if progress < switch else second


def cosine_decay(weight: float, floor: float = 0.0) -> Callable[[float], float]:
    """Falls from ``weight`` to ``floor`` along half a cosine."""
    return lambda progress: floor + (weight - floor) * 0.5 * (1 + math.cos(math.pi * progress))
