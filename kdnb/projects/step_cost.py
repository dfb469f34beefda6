"""What a distilling step costs beside a plain one, from steps that take their turn in one process."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

from kdnb.distill.distiller import Distiller
from kdnb.engine import TrainConfig, accelerator, barrier, make_optimizer, move
from kdnb.run import Run


def training_step(distiller: Distiller, how: TrainConfig) -> Callable:
    """A function that carries out one whole step on a batch as ``fit`` does: forward, backward, clip, update, in the
    run's precision and with its optimizer."""
    acc = accelerator(how.precision, cpu=not torch.cuda.is_available())
    parameters = [p for p in distiller.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, how)

    def step(batch):
        optimizer.zero_grad(set_to_none=True)
        with acc.autocast():
            loss = distiller(batch)["loss"]
        loss.backward()
        if how.clip:
            torch.nn.utils.clip_grad_norm_(parameters, how.clip)
        optimizer.step()

    return step


def time_steps(functions: dict, batches: list) -> dict[str, float]:
    """Median wall milliseconds per function; all take their turn on each batch, the first two batches warm up."""
    times = {name: [] for name in functions}
    for batch in batches:
        for name, function in functions.items():
            clock = time.perf_counter()
            function(batch)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - clock))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def cost_of_distilling(
    run: Run,
    acc,
    plain: Callable[[], Distiller],
    distilling: Callable[[], Distiller],
    batches: Callable[[], list],
    how: TrainConfig,
    filling: Callable[[], float],
) -> float:
    """How many times longer than the baseline a distilled student trains for, the teacher's own passes included.

    Totals of two trainings also hold what else the machine did; so single steps are timed in turn, once per run, and
    every process reads the answer from ``cost_of_distilling.json`` in the run's folder.

    Args:
        plain, distilling: make the two distillers, on the CPU.
        batches: makes a dozen batches for them.
        how: the training; over its steps the cache's filling is spread.
        filling: seconds that the teacher's passes over the data took beforehand; 0 with a live teacher.
    """
    file = run.folder / "cost_of_distilling.json"
    if acc.is_main_process and not file.exists():
        functions = {
            "plain": training_step(plain().to(acc.device).train(), how),
            "distilling": training_step(distilling().to(acc.device).train(), how),
        }
        ms = time_steps(functions, [move(batch, acc.device) for batch in batches()])
        seconds = {name: value / 1000 for name, value in ms.items()}
        factor = seconds["distilling"] / seconds["plain"] + filling() / (seconds["plain"] * how.steps)
        run.save_json(file.stem, {**seconds, "factor": factor})
    barrier(acc)
    return json.loads(file.read_text())["factor"]


def ratio_table(title: str, milliseconds: dict[str, float]) -> str:
    """Lines of text: each kind of step, and its ratio to "plain step" and to that plus "teacher forward"."""
    plain, forward = milliseconds["plain step"], milliseconds["teacher forward"]
    lines = [title, "", f"{'':22s}{'ms':>8s}{'to plain':>12s}{'to plain + teacher forward':>30s}"]
    for name, value in milliseconds.items():
        lines.append(f"{name:22s}{value:8.1f}{value / plain:12.2f}{value / (plain + forward):30.2f}")
    return "\n".join(lines)
