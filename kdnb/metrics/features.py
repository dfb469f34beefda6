"""How much of a teacher's features a student has, up to a linear map."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_map(student: Tensor, teacher: Tensor, ridge: float = 1e-3) -> Tensor:
    """The least-squares map from student to teacher channels, with an offset.

    Args:
        student: (K, C_s), one row per cell.
        teacher: (K, C_t).
        ridge: added to the diagonal, relative to its mean.

    Returns:
        (C_s + 1, C_t); apply with ``predicted``.
    """
    x = with_offset(student).double()
    gram = x.T @ x
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, x.T @ teacher.double()).to(teacher.dtype)


def with_offset(cells: Tensor) -> Tensor:
    """(K, C) → (K, C + 1): a column of ones for the offset."""
    return torch.cat([cells, cells.new_ones(len(cells), 1)], 1)


def unexplained(student: Tensor, teacher: Tensor, mapping: Tensor) -> Tensor:
    """Per cell (K,): the fraction of the teacher's variance that the mapped student misses; 0 is perfect, 1 the mean.

    Args:
        student, teacher: (K, C_s) and (K, C_t) held-out cells.
        mapping: from ``linear_map``.
    """
    error = (with_offset(student) @ mapping - teacher).pow(2).sum(1)
    return error / teacher.var(0, unbiased=False).sum().clamp(min=1e-12)
