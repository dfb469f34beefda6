"""Training: one loop for every project and every arm, on Hugging Face Accelerate.

The batch of step k is a pure function of (seed, k), for one process or many, so a run that was killed goes on from
its checkpoint to the same weights, bit for bit on a CPU, as a run that was not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from kdnb.errors import InputError
from kdnb.files import atomic_path


class NonFiniteLoss(RuntimeError):
    """A part of the loss became NaN or infinite; the message names the step and the part."""


@cache
def accelerator(precision: str = "no", cpu: bool = False) -> Accelerator:
    """The process's accelerator. ``precision`` "auto" means bf16 on a GPU that has it, else float32."""
    if precision == "auto":
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "no"
    return Accelerator(mixed_precision=precision, cpu=cpu)


@dataclass(frozen=True)
class Plan:
    """Which items, in which view, make up the batch of each step.

    Args:
        pools: (item indices, how many of them in each batch). Each pool is walked through in a new random order per
            pass, so ``[(labelled, 4), (unlabelled, 4)]`` gives batches of eight, half labelled.
        views: names of the views; one is drawn for each item of each batch.
        seed: of orders and views.
    """

    pools: Sequence[tuple[Sequence[int], int]]
    views: Sequence[str] = ("plain",)
    seed: int = 0

    def batch(self, step: int) -> list[tuple[int, str]]:
        """(item index, view) of each member of the global batch of a step (0, 1, ...)."""
        items = []
        for number, (indices, count) in enumerate(self.pools):
            for position in range(step * count, (step + 1) * count):
                turn, place = divmod(position, len(indices))
                items.append(indices[self._order(number, turn, len(indices))[place]])
        views = np.random.default_rng((self.seed, step, 1)).integers(len(self.views), size=len(items))
        return [(item, self.views[view]) for item, view in zip(items, views, strict=True)]

    def _order(self, pool: int, turn: int, size: int) -> np.ndarray:
        return _permutation(self.seed, pool, turn, size)


@cache
def _permutation(seed: int, pool: int, turn: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, turn, pool, 0)).permutation(size)


@dataclass
class TrainConfig:
    """How to train. ``fit`` says what each setting means in use."""

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


@dataclass
class TrainHistory:
    """What a training run leaves behind.

    Attributes:
        history: one dict per step: "step", "lr" and every part of the loss by name.
        scores: (step, validation score) pairs.
        validated: where validation gives more than a score, all of it, with its "step".
        seconds, cpu_seconds: of training alone, validation left out; CPU seconds count all threads.
    """

    steps: int = 0
    history: list[dict] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    validated: list[dict] = field(default_factory=list)
    best_step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def make_optimizer(parameters, fit: TrainConfig) -> torch.optim.Optimizer:
    if fit.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=fit.lr, weight_decay=fit.weight_decay)
    if fit.optimizer == "adamw_fused":  # one kernel: on a CPU a fifth of the time, which tells where batches are small
        return torch.optim.AdamW(parameters, lr=fit.lr, weight_decay=fit.weight_decay, fused=True)
    if fit.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=fit.lr, momentum=0.9, weight_decay=fit.weight_decay)
    raise InputError(f"unknown optimizer {fit.optimizer!r}; expected adamw, adamw_fused or sgd")


def make_schedule(optimizer, fit: TrainConfig):
    """OneCycle, cosine, or steps at the milestones (fractions of training, x0.1 each, after 2 % linear warm-up)."""
    if fit.schedule == "onecycle":
        total = fit.steps + 2
        warm = min(0.9, max(0.2, 1.5 / total))  # a rise of less than a step is a division by zero in torch
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=fit.lr, total_steps=total, pct_start=warm)
    if fit.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, fit.steps)
    if fit.schedule == "step":
        warm = max(1, round(0.02 * fit.steps))

        def factor(step):
            return min(1.0, (step + 1) / warm) * 0.1 ** sum(step >= m * fit.steps for m in fit.milestones)

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    raise InputError(f"unknown schedule {fit.schedule!r}; expected onecycle, cosine or step")


def fit(
    module: nn.Module,
    data: Dataset,
    plan: Plan,
    how: TrainConfig,
    *,
    collate: Callable,
    name: str = "fit",
    checkpoint: Path | None = None,
    validate: Callable[[nn.Module], float] | None = None,
) -> TrainHistory:
    """Train ``module(batch, progress) -> {"loss": ..., parts}`` for ``how.steps`` steps and return what happened.

    Args:
        module: usually a ``Distiller``. Trained in place and returned to on the best validation score, if any.
        data: ``data[(index, view)]`` gives a sample; ``collate`` turns a list of samples into a batch, whose tensors
            are moved to the device.
        plan: the batches. Under torchrun each process takes its share of the same global batch.
        checkpoint: file to write every ``how.checkpoint_every`` steps and to go on from if it exists.
        validate: ``validate(module)`` → score, higher is better, or a dict with it under "score", called every
            ``how.validate_every`` steps and at the end; with ``how.patience`` > 0, that many scores without a new best
            stop the training. The weights of the best score are restored at the end.

    Raises:
        NonFiniteLoss: naming the step and the part.
    """
    acc = accelerator(how.precision, cpu=not torch.cuda.is_available())
    module.to(acc.device)
    optimizer = make_optimizer([p for p in module.parameters() if p.requires_grad], how)
    schedule = make_schedule(optimizer, how)
    state = TrainHistory()
    best = None
    if checkpoint is not None and Path(checkpoint).exists():
        state, best = load_checkpoint(checkpoint, module, optimizer, schedule)
    model, optimizer = acc.prepare(module, optimizer)
    module.train()
    loader = make_loader(data, plan, how, acc, collate, start=state.steps)
    bar = tqdm(
        loader,
        name,
        total=how.steps,
        initial=state.steps,
        disable=not acc.is_local_main_process,
        mininterval=1.0,
        leave=False,
    )
    for batch in bar:
        synchronize(acc.device)
        clock, cpu = time.perf_counter(), time.process_time()
        state.history.append(
            {
                "step": state.steps + 1,
                "lr": schedule.get_last_lr()[0],
                **train_step(acc, model, optimizer, batch, state.steps, how),
            }
        )
        schedule.step()
        state.steps += 1
        synchronize(acc.device)
        state.seconds += time.perf_counter() - clock
        state.cpu_seconds += time.process_time() - cpu
        bar.set_postfix_str(f"loss {state.history[-1]['loss']:.3f}", refresh=False)
        if validate is not None and is_due(state.steps, how.validate_every, how.steps):
            share_buffers(acc, module)
            best = keep_best(state, best, record_validation(state, validate(module)), module)
            module.train()
            if how.patience and len(state.scores) - 1 - best_index(state) >= how.patience:
                break
        if checkpoint is not None and is_due(state.steps, how.checkpoint_every, None):
            save_checkpoint(acc, checkpoint, module, optimizer, schedule, state, best)
    if best is not None:
        module.load_state_dict(best)
    share_buffers(acc, module)
    state.seconds, state.cpu_seconds = acc.reduce(
        torch.tensor([state.seconds, state.cpu_seconds], device=acc.device), "mean"
    ).tolist()
    acc.free_memory()  # or the accelerator would keep every model and optimizer it ever saw
    return state


def barrier(acc: Accelerator) -> None:
    """All processes wait for each other here; one that goes on alone, after the others have left, does not."""
    if torch.distributed.is_initialized():
        acc.wait_for_everyone()


def share_buffers(acc, module: nn.Module) -> None:
    """Each process takes BatchNorm's statistics of its own share of a batch; all go on with those of the first."""
    if acc.num_processes > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)


def make_loader(data, plan: Plan, how: TrainConfig, acc: Accelerator, collate, start: int):
    """Batches of the steps from ``start`` on: this process's share of each global batch."""
    for _, count in plan.pools:
        if count % acc.num_processes:
            raise InputError(
                f"{count} pictures of a batch cannot be shared by {acc.num_processes} processes; expected a multiple"
            )
    share = slice(acc.process_index, None, acc.num_processes)
    batches = [plan.batch(step)[share] for step in range(start, how.steps)]
    # a generator of its own: a loader otherwise draws from the global one, and a resumed run would differ
    loader = DataLoader(
        data, batch_sampler=batches, collate_fn=collate, **dataloader_kwargs(how.workers), generator=torch.Generator()
    )
    return (move(batch, acc.device) for batch in loader)


def dataloader_kwargs(workers: int) -> dict:
    """What a ``DataLoader`` has to know of processes that read for it.

    They are forked: data sets hold functions, which cannot be sent to a process that starts afresh. Where nothing can
    be forked safely, on Windows and macOS, the training process reads for itself.
    """
    forked = {"num_workers": workers, "multiprocessing_context": "fork"} if workers and sys.platform == "linux" else {}
    return {"pin_memory": torch.cuda.is_available(), **forked}


def move(batch, device):
    """Every tensor in nested dicts and lists, on the device."""
    if torch.is_tensor(batch):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [move(value, device) for value in batch]
    return batch


def synchronize(device) -> None:
    """Wait for what a GPU was told to do, so that the clock tells it all; a CPU has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_step(acc, model, optimizer, batch, step: int, how: TrainConfig) -> dict[str, float]:
    """Forward, check, backward, clip, update; returns the parts of the loss as numbers, averaged over processes."""
    optimizer.zero_grad(set_to_none=True)
    with acc.autocast():
        parts = model(batch, step / how.steps)
    names = list(parts)
    values = acc.reduce(torch.stack([parts[name].detach().float() for name in names]), "mean").tolist()
    for name, value in zip(names, values, strict=True):
        if name != "loss" and not math.isfinite(value):
            raise NonFiniteLoss(
                f"step {step + 1}: part {name!r} of the loss is {value}; lower the learning rate, "
                "clip gradients, or look at this batch"
            )
    acc.backward(parts["loss"])
    if how.clip:
        acc.clip_grad_norm_(model.parameters(), how.clip)
    optimizer.step()
    return dict(zip(names, values, strict=True))


def is_due(step: int, every: int, last: int | None) -> bool:
    return (every > 0 and step % every == 0) or step == last


def best_index(state: TrainHistory) -> int:
    """Of the best score; where validation had nothing to score and all are NaN, of the last one."""
    known = [i for i, (_, score) in enumerate(state.scores) if not math.isnan(score)]
    return max(known, key=lambda i: state.scores[i][1], default=len(state.scores) - 1)


def record_validation(state: TrainHistory, found: float | dict) -> float:
    """The score of a validation; what else it found is kept, in checkpoints too."""
    if not isinstance(found, dict):
        return found
    state.validated.append({"step": state.steps, **found})
    return found["score"]


def keep_best(state: TrainHistory, best: dict | None, score: float, module: nn.Module) -> dict | None:
    """Append the score; returns the state to go back to at the end, a copy of the present one if it is the best."""
    state.scores.append((state.steps, float(score)))
    if best_index(state) < len(state.scores) - 1:
        return best
    state.best_step = state.steps
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def save_checkpoint(acc, path, module, optimizer, schedule, state: TrainHistory, best: dict | None) -> None:
    """All that a later process needs to go on; written aside and moved, so a kill leaves the previous one."""
    if not acc.is_main_process:
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        torch.save(
            {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "fitted": vars(state),
                "best": best,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all(),
            },
            part,
        )


def load_checkpoint(path, module, optimizer, schedule) -> tuple[TrainHistory, dict | None]:
    saved = torch.load(path, weights_only=True, map_location="cpu")
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    torch.set_rng_state(saved["rng"])
    if len(saved["cuda_rng"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
    return TrainHistory(**saved["fitted"]), saved["best"]
