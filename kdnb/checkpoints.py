"""What a training run leaves behind: its history, the best weights and the checkpoints it resumes from."""

import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdnb.errors import InputError
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
    """The score of a validation; a dict is kept in ``state.validated``, and so in checkpoints.

    Numpy's numbers and arrays become Python's own numbers and lists. Raises InputError for a dict without a "score",
    and for a value that a checkpoint cannot hold.
    """
    if not isinstance(result, dict):
        return result
    if "score" not in result:
        raise InputError(f"validation gives {list(result)}, expected its score as 'score'")
    state.validated.append({"step": state.steps, **plain(result, "validation")})
    return result["score"]


def plain(value: Any, where: str) -> Any:
    """The value with Python's own numbers, strings, lists and dicts, and tensors, which are all that is read back.

    Raises InputError, naming the place, for anything else.
    """
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biufUS":
        return value.tolist()
    if isinstance(value, dict):
        return {plain(key, where): plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, f"{where}[{number}]") for number, each in enumerate(value)]
    if value is None or torch.is_tensor(value) or type(value) in (bool, int, float, str):
        return value
    kinds = "numbers, strings, lists, dicts or tensors"
    raise InputError(f"{where} is of type {type(value).__name__}, which no checkpoint keeps; expected {kinds}")


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
    """Write all that a later process needs to resume; a kill while writing leaves the previous checkpoint.

    Raises:
        OSError: naming the file: a full disk, a folder that cannot be written; an earlier checkpoint stays.
    """
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
    try:
        with atomic_path(path) as part:
            torch.save(saved, part)
    except RuntimeError as error:  # torch's writer does not say OSError
        raise OSError(f"{path}: cannot be written, is the disk full? ({_first_line(error)})") from error


def load_checkpoint(
    path: Path, module: nn.Module, optimizer: Optimizer, schedule: LRScheduler
) -> tuple[TrainHistory, StateDict | None]:
    """Restore the module, optimizer, schedule and random numbers in place; returns the history and the best state.

    Raises:
        InputError: naming the file: it is cut or damaged, is no checkpoint, or is one of another network or optimizer.
    """
    saved = read_checkpoint(path)
    try:
        state, best = TrainHistory(**saved["fitted"]), saved["best"]
        _require_consistent(state, best, saved["module"])
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["rng"])
        if len(saved["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        return state, best
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # load_state_dict of a foreign file raises whatever its values lead to
        what = "of another network or optimizer, or no checkpoint of a training"
        raise InputError(f"{path}: {what} ({_first_line(error)}); delete it to train anew") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote. Raises InputError, naming the file, for anything else.

    torch does not look at the checksums of the zip that it writes: one wrong bit would be another weight.
    """
    damaged = None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        saved = None if damaged else torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read ({_first_line(error)}), expected a checkpoint") from error
    except Exception as error:  # zipfile and the unpickler raise a dozen types for bytes of chance
        damaged, saved = _first_line(error), None
    if damaged:
        raise InputError(f"{path}: cut or damaged ({damaged}), expected a checkpoint; delete it to train anew")
    if not isinstance(saved, dict):
        raise InputError(f"{path}: holds a {type(saved).__name__}, expected a checkpoint of a training")
    return saved


def _require_consistent(state: TrainHistory, best: StateDict | None, module: StateDict) -> None:
    lists = (state.history, state.scores, state.validated)
    if type(state.steps) is not int or state.steps != len(state.history) or not all(type(x) is list for x in lists):
        raise ValueError(f"a history of {len(state.history)} steps says that it has {state.steps}")
    state.scores = [(int(step), float(score)) for step, score in state.scores]
    if best is not None and list(best) != list(module):
        raise ValueError("the best weights have other names than the last")


def _first_line(error: BaseException) -> str:
    """The error's first words; of torch's list of all differences, the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([type(error).__name__, *lines[:2]])[:200]
