"""How to train, and the optimizer and learning-rate schedule that follow from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from kdnb.errors import InputError


@dataclass
class TrainConfig:
    """How to train.

    Attributes:
        steps: optimizer steps in all.
        lr: the highest learning rate of the schedule.
        optimizer: "adamw", "adamw_fused" (the same in one kernel, faster for small batches on a CPU) or "sgd".
        schedule: "onecycle", "cosine" or "step", see ``make_schedule``.
        milestones: of "step", as fractions of training.
        clip: largest norm of the gradient, 0 for no limit.
        precision: "no" (float32), "bf16", "fp16" or "auto", see ``kdnb.engine.accelerator``.
        workers: processes that read data, 0 to read in the training process.
        checkpoint_every, validate_every: steps, 0 for never (validation: only at the end).
        patience: validations without a new best score after which training stops, 0 for never.
    """

    steps: int
    lr: float
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    schedule: str = "onecycle"
    milestones: Sequence[float] = (0.75, 0.92)
    clip: float = 0.0
    precision: str = "no"
    workers: int = 0
    checkpoint_every: int = 0
    validate_every: int = 0
    patience: int = 0


def make_optimizer(parameters: Iterable[torch.Tensor], config: TrainConfig) -> Optimizer:
    """The optimizer that ``config`` names; raises InputError for an unknown name."""
    if config.optimizer in ("adamw", "adamw_fused"):
        fused = True if config.optimizer == "adamw_fused" else None
        return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    raise InputError(f"unknown optimizer {config.optimizer!r}; expected adamw, adamw_fused or sgd")


def make_schedule(optimizer: Optimizer, config: TrainConfig) -> LRScheduler:
    """OneCycle, cosine, or x0.1 at each milestone after a linear warm-up of 2 % of training.

    Raises InputError for an unknown name.
    """
    if config.schedule == "onecycle":
        total = config.steps + 2
        warmup = min(0.9, max(0.2, 1.5 / total))  # torch divides by zero when the rise is shorter than one step
        return OneCycleLR(optimizer, max_lr=config.lr, total_steps=total, pct_start=warmup)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, config.steps)
    if config.schedule == "step":
        warmup_steps = max(1, round(0.02 * config.steps))

        def factor(step: int) -> float:
            passed = sum(step >= milestone * config.steps for milestone in config.milestones)
            return min(1.0, (step + 1) / warmup_steps) * 0.1**passed

        return LambdaLR(optimizer, factor)
    raise InputError(f"unknown schedule {config.schedule!r}; expected onecycle, cosine or step")
