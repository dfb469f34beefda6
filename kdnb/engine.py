"""One training loop for every project and every arm, on Hugging Face Accelerate.

The batch of step k is a pure function of (seed, k), for one process or many. So a run that was killed resumes from its
checkpoint and ends, on a CPU, at the same weights to the bit as a run that was not.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from kdnb.checkpoints import (
    TrainHistory,
    is_out_of_patience,
    keep_best,
    load_checkpoint,
    record_validation,
    save_checkpoint,
)
from kdnb.errors import InputError
from kdnb.optimizers import TrainConfig, make_optimizer, make_schedule


class NonFiniteLoss(RuntimeError):
    """A part of the loss became NaN or infinite; the message names the step and the part."""


# --- batches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Which items, in which view, make up the batch of each step.

    Args:
        pools: (item indices, how many of them in each batch). Each pass through a pool has a new random order, so
            ``[(labelled, 4), (unlabelled, 4)]`` gives batches of eight, half of them labelled.
        views: names of the views; one is sampled for each item of each batch.
        seed: of orders and views.

    Raises:
        InputError: a pool without items to draw from, a number of items that is no whole number from 0 on, batches of
            no item, no view, a negative seed.
    """

    pools: Sequence[tuple[Sequence[int], int]]
    views: Sequence[str] = ("plain",)
    seed: int = 0

    def __post_init__(self) -> None:
        for number, (indices, count) in enumerate(self.pools, start=1):
            if not isinstance(count, Integral) or count < 0:
                raise InputError(f"pool {number} gives {count} items to each batch, expected a whole number from 0 on")
            if count and not len(indices):
                raise InputError(f"pool {number} has no item, expected some to draw {count} for each batch from")
        if not any(count for _, count in self.pools):
            raise InputError(f"batches of {len(self.pools)} pools have no item, expected at least one")
        if not len(self.views):
            raise InputError("batches have no view, expected at least one, such as 'plain'")
        if self.seed < 0:
            raise InputError(f"the seed of batches is {self.seed}, expected a number from 0 on")

    def batch(self, step: int) -> list[tuple[int, str]]:
        """(item index, view) of each member of the global batch of a step (0, 1, ...)."""
        items = []
        for number, (indices, count) in enumerate(self.pools):
            for position in range(step * count, (step + 1) * count):
                epoch, place = divmod(position, len(indices))
                items.append(indices[_permutation(self.seed, number, epoch, len(indices))[place]])
        views = np.random.default_rng((self.seed, step, 1)).integers(len(self.views), size=len(items))
        return [(item, self.views[int(view)]) for item, view in zip(items, views, strict=True)]


@cache
def _permutation(seed: int, pool: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, pool, 0)).permutation(size)


def make_loader(
    data: Dataset, plan: Plan, config: TrainConfig, acc: Accelerator, collate: Callable, start: int
) -> Iterator[Any]:
    """This process's share of each global batch, from step ``start`` on, on the device.

    Raises InputError where a pool's part of the batch is not divisible by the world size.
    """
    for _, count in plan.pools:
        if count % acc.num_processes:
            raise InputError(f"batch size {count} is not divisible by world size {acc.num_processes}")
    share = slice(acc.process_index, None, acc.num_processes)
    batches = [plan.batch(step)[share] for step in range(start, config.steps)]
    options = dataloader_kwargs(config.workers)
    # without a generator of its own a loader consumes the global one, and a resumed run would differ
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, generator=torch.Generator(), **options)
    return (move(batch, acc.device) for batch in loader)


def dataloader_kwargs(workers: int) -> dict[str, Any]:
    """Arguments of a ``DataLoader`` that reads in ``workers`` processes.

    The processes are forked, because data sets hold functions, which cannot be pickled for a fresh process. Where
    forking is not safe, on Windows and macOS, the training process reads the data itself.
    """
    forked = {"num_workers": workers, "multiprocessing_context": "fork"} if workers and sys.platform == "linux" else {}
    return {"pin_memory": torch.cuda.is_available(), **forked}


def move(batch: Any, device: torch.device | str) -> Any:
    """A batch with all tensors in its nested dicts and lists on the device; tuples become lists."""
    if torch.is_tensor(batch):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [move(value, device) for value in batch]
    return batch


# --- processes and devices --------------------------------------------------------------------------------------


@cache
def accelerator(precision: str = "no", cpu: bool = False) -> Accelerator:
    """The process's accelerator. ``precision`` "auto" means bf16 on a GPU that has it, else float32."""
    if precision == "auto":
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "no"
    return Accelerator(mixed_precision=precision, cpu=cpu)


def barrier(acc: Accelerator) -> None:
    """Wait here for all processes; outside of torchrun, do nothing."""
    if torch.distributed.is_initialized():
        acc.wait_for_everyone()


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work, so that a clock measures it; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def share_buffers(acc: Accelerator, module: nn.Module) -> None:
    """Give all processes the buffers of the first: BatchNorm's statistics differ, as each saw its own share."""
    if acc.num_processes > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)


def from_first(acc: Accelerator, value: Any) -> Any:
    """The value of the first process, for all: their own may differ in the last digits, and with them what they do."""
    return broadcast_object_list([value])[0] if acc.num_processes > 1 else value


def mean_over_processes(acc: Accelerator, values: torch.Tensor) -> list[float]:
    mean = acc.reduce(values, "mean")
    assert isinstance(mean, torch.Tensor)
    return mean.tolist()


# --- training ---------------------------------------------------------------------------------------------------


def fit(
    module: nn.Module,
    data: Dataset,
    plan: Plan,
    config: TrainConfig,
    *,
    collate: Callable,
    name: str = "fit",
    checkpoint: Path | None = None,
    validate: Callable[[nn.Module], float | dict[str, Any]] | None = None,
) -> TrainHistory:
    """Train ``module(batch, progress) -> {"loss": ..., parts}`` for ``config.steps`` steps; returns what happened.

    Args:
        module: usually a ``Distiller``. Trained in place; ends with the weights of the best validation score, if any.
        data: ``data[(index, view)]`` gives a sample; ``collate`` turns a list of samples into a batch.
        plan: the batches. Under torchrun each process takes its share of the same global batch.
        checkpoint: file to write every ``config.checkpoint_every`` steps, and to resume from if it exists.
        validate: ``validate(module)`` → score, higher is better, or a dict with "score"; called every
            ``config.validate_every`` steps and at the end. See ``config.patience``.

    Raises:
        NonFiniteLoss: naming the step and the part.
        InputError: a checkpoint that cannot be read, or of another network.
        OSError: a checkpoint cannot be written; the one before it stays.
    """
    acc = accelerator(config.precision, cpu=not torch.cuda.is_available())
    module.to(acc.device)
    optimizer = make_optimizer([p for p in module.parameters() if p.requires_grad], config)
    schedule = make_schedule(optimizer, config)
    state, best = TrainHistory(), None
    if checkpoint is not None and Path(checkpoint).exists():
        state, best = load_checkpoint(checkpoint, module, optimizer, schedule)
    model, optimizer = acc.prepare(module, optimizer)
    module.train()
    loader = make_loader(data, plan, config, acc, collate, start=state.steps)
    quiet = not acc.is_local_main_process
    bar = tqdm(loader, name, total=config.steps, initial=state.steps, disable=quiet, mininterval=1.0, leave=False)
    for batch in bar:
        timed_step(acc, model, optimizer, schedule, batch, state, config)
        bar.set_postfix_str(f"loss {state.history[-1]['loss']:.3f}", refresh=False)
        if validate is not None and is_due(state.steps, config.validate_every, config.steps):
            share_buffers(acc, module)
            best = keep_best(state, best, record_validation(state, from_first(acc, validate(module))), module)
            module.train()
            if is_out_of_patience(state, config.patience):
                break
        if checkpoint is not None and acc.is_main_process and is_due(state.steps, config.checkpoint_every):
            save_checkpoint(checkpoint, module, optimizer, schedule, state, best)
    if best is not None:
        module.load_state_dict(best)
    share_buffers(acc, module)
    seconds = torch.tensor([state.seconds, state.cpu_seconds], device=acc.device)
    state.seconds, state.cpu_seconds = mean_over_processes(acc, seconds)
    acc.free_memory()  # the accelerator keeps a reference to each model and optimizer it prepared
    return state


def is_due(step: int, interval: int, last: int | None = None) -> bool:
    """Whether ``step`` is a multiple of ``interval`` (0: never) or the last step."""
    return (interval > 0 and step % interval == 0) or step == last


def timed_step(
    acc: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    batch: Any,
    state: TrainHistory,
    config: TrainConfig,
) -> None:
    """One step of optimizer and schedule; writes the parts of the loss and the time into ``state``."""
    synchronize(acc.device)
    clock, cpu = time.perf_counter(), time.process_time()
    lr = schedule.get_last_lr()[0]
    parts = train_step(acc, model, optimizer, batch, state.steps, config)
    state.history.append({"step": state.steps + 1, "lr": lr, **parts})
    schedule.step()
    state.steps += 1
    synchronize(acc.device)
    state.seconds += time.perf_counter() - clock
    state.cpu_seconds += time.process_time() - cpu


def train_step(
    acc: Accelerator, model: nn.Module, optimizer: Optimizer, batch: Any, step: int, config: TrainConfig
) -> dict[str, float]:
    """Forward, check, backward, clip, update; returns the parts of the loss as numbers, averaged over processes."""
    optimizer.zero_grad(set_to_none=True)
    with acc.autocast():
        parts = model(batch, step / config.steps)
    names = list(parts)
    values = mean_over_processes(acc, torch.stack([parts[name].detach().float() for name in names]))
    require_finite(dict(zip(names, values, strict=True)), step)
    acc.backward(parts["loss"])
    if config.clip:
        acc.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return dict(zip(names, values, strict=True))


def require_finite(parts: dict[str, float], step: int) -> None:
    """Raises NonFiniteLoss for a loss that is NaN or infinite, naming the part that made it so if there is one."""
    for name in sorted(parts, key=lambda name: name == "loss"):  # the total last: its parts say more
        if not math.isfinite(parts[name]):
            which = "the loss" if name == "loss" else f"part {name!r} of the loss"
            advice = "lower the learning rate, clip gradients, or look at this batch"
            raise NonFiniteLoss(f"step {step + 1}: {which} is {parts[name]}; {advice}")
