"""What a training run leaves behind: its history, the best weights and the checkpoints it resumes from."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdnb.files import atomic_path

StateDict = dict[str, torch.Tensor]


@dataclass
class TrainHistory:
    """What happened in a training run.

    Attributes:
        steps: optimizer steps taken.
        history: one dict per step: "step", "lr" and each part of the loss by name.
        scores: (step, validation score) pairs.
        validated: where validation returns a dict, that dict with its "step".
        best_step: step of the best validation score.
        seconds, cpu_seconds: of training without validation; CPU seconds count all threads.
    """

    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    validated: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


# --- the best weights -------------------------------------------------------------------------------------------


def best_index(state: TrainHistory) -> int:
    """Index of the best score; of the last one if all are NaN, because validation had nothing to score."""
    known = [i for i, (_, score) in enumerate(state.scores) if not math.isnan(score)]
    return max(known, key=lambda i: state.scores[i][1], default=len(state.scores) - 1)


def record_validation(state: TrainHistory, result: float | dict[str, Any]) -> float:
    """The score of a validation; a dict is kept in ``state.validated``, and so in checkpoints."""
    if not isinstance(result, dict):
        return result
    state.validated.append({"step": state.steps, **result})
    return result["score"]


def keep_best(state: TrainHistory, best: StateDict | None, score: float, module: nn.Module) -> StateDict | None:
    """Append the score; returns a copy of the module's state if the score is the best, else ``best``."""
    state.scores.append((state.steps, float(score)))
    if best_index(state) < len(state.scores) - 1:
        return best
    state.best_step = state.steps
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def is_out_of_patience(state: TrainHistory, patience: int) -> bool:
    """Whether ``patience`` > 0 validations have passed without a new best score."""
    return patience > 0 and len(state.scores) - 1 - best_index(state) >= patience


# --- checkpoints ------------------------------------------------------------------------------------------------


def save_checkpoint(
    path: Path,
    module: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    state: TrainHistory,
    best: StateDict | None,
) -> None:
    """Write all that a later process needs to resume; a kill while writing leaves the previous checkpoint."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "fitted": vars(state),
        "best": best,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all(),
    }
    with atomic_path(path) as part:
        torch.save(saved, part)


def load_checkpoint(
    path: Path, module: nn.Module, optimizer: Optimizer, schedule: LRScheduler
) -> tuple[TrainHistory, StateDict | None]:
    """Restore the module, optimizer, schedule and random numbers in place; returns the history and the best state."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    torch.set_rng_state(saved["rng"])
    if len(saved["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
    return TrainHistory(**saved["fitted"]), saved["best"]
