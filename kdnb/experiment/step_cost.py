"""Cost of a distillation step relative to a plain one, timed in turns in one process."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from kdnb.distill.distiller import Distiller, LiveTeacher, Teacher
from kdnb.engine import TrainConfig, accelerator, barrier, make_optimizer, move
from kdnb.experiment.arms import Arm, ArmResult, in_order
from kdnb.metrics.cost import count_flops, latency_ms
from kdnb.run import set_threads


def training_step(distiller: Distiller, config: TrainConfig) -> Callable:
    """A function that does one whole step on a batch as ``fit`` does: forward, backward, clip, update."""
    acc = accelerator(config.precision, cpu=not torch.cuda.is_available())
    parameters = [p for p in distiller.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, config)

    def step(batch):
        optimizer.zero_grad(set_to_none=True)
        with acc.autocast():
            loss = distiller(batch)["loss"]
        loss.backward()
        if config.clip:
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()

    return step


def step_times(steps: Mapping[str, Callable], batches: Sequence) -> dict[str, float]:
    """Median wall milliseconds of each function; all take turns on each batch, and the first two batches warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for batch in batches:
        for name, step in steps.items():
            clock = time.perf_counter()
            step(batch)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - clock))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def ratio_table(title: str, milliseconds: Mapping[str, float]) -> str:
    """Lines of text: each kind of step, its ratio to "plain step" and to that plus "teacher forward"."""
    plain, forward = milliseconds["plain step"], milliseconds["teacher forward"]
    lines = [title, "", f"{'':22s}{'ms':>8s}{'to plain':>12s}{'to plain + teacher forward':>30s}"]
    for name, value in milliseconds.items():
        lines.append(f"{name:22s}{value:8.1f}{value / plain:12.2f}{value / (plain + forward):30.2f}")
    return "\n".join(lines)


def step_function(experiment: Any, arm: Arm, teacher: Teacher | None = None) -> Callable:
    """A function that trains a fresh network of an arm on one batch."""
    model = experiment.build(arm, experiment.seed_of(arm), experiment.settings)
    distiller = experiment.build_distiller(model, arm, teacher)
    distiller.warned.update(arm.terms)  # the step is timed: that a term is large matters to a training
    return training_step(distiller.to(experiment.acc.device).train(), experiment.train_config(arm))


def some_batches(experiment: Any, arm: Arm, count: int = 14) -> list:
    """The first batches of an arm, on the device."""
    data, plan, collate = experiment.batches(arm)
    return [move(collate([data[key] for key in plan.batch(step)]), experiment.acc.device) for step in range(count)]


def without_terms(arm: Arm) -> Arm:
    return dataclasses.replace(arm, terms=(), teacher="")


def step_cost(experiment: Any, name: str) -> dict[str, float]:
    """Milliseconds of a "plain" and a "distilling" step of an arm, timed in turns once per run, and "factor".

    Totals of two trainings also hold what else the machine did, so single steps are timed. The seconds that keeping
    the teacher's outputs took are spread over the arm's steps. All processes read the result from the run's folder.
    """
    file = experiment.run.folder / f"step_cost_{name}.json"
    arm = experiment.known[name]
    if arm.members:
        arm = experiment.known[experiment.train(name).numbers["of"]]
    experiment.teacher_of(arm)  # all processes keep its outputs together; the first one alone would wait for them
    if experiment.acc.is_main_process and not file.exists():
        plain, distilling = (step_function(experiment, one) for one in (without_terms(arm), arm))
        times = step_times({"plain": plain, "distilling": distilling}, some_batches(experiment, arm))
        kept_ms = 1000 * experiment.extra_seconds(arm) / experiment.steps(arm)
        factor = (times["distilling"] + kept_ms) / times["plain"]
        experiment.run.save_json(file.stem, {**times, "factor": factor})
    barrier(experiment.acc)
    return json.loads(file.read_text())


def add_costs(experiment: Any) -> None:
    """Put FLOPs and latency of one prediction into the numbers of all arms; networks take turns in one run."""
    calls: dict[str, Callable] = {}
    for name, result in experiment.results.items():
        key = experiment.network_key(name)
        if key not in calls:
            calls[key] = experiment.one_call(deepcopy(result.model).cpu().eval(), name)
    with torch.inference_mode():
        flops = {key: count_flops(call) for key, call in calls.items()}
        milliseconds = latency_ms(calls)
    for name, result in experiment.results.items():
        key = experiment.network_key(name)
        result.numbers.update(flops=flops[key], latency_ms=milliseconds[key])


def kinds_of_steps(experiment: Any, name: str) -> dict[str, float]:
    """Median milliseconds of an arm's steps: without its terms, with a live teacher, and with kept outputs if it has
    any; and of the teacher's forward pass alone."""
    arm = experiment.known[name]
    live = LiveTeacher(experiment.train(arm.teacher).model, type(experiment).teacher_step)
    steps = {
        "plain step": step_function(experiment, without_terms(arm)),
        "teacher forward": lambda batch: live.observe(batch, None, []),
        "KD step, live": step_function(experiment, arm, live),
    }
    if experiment.kept_outputs:
        steps["KD step, kept outputs"] = step_function(experiment, arm, experiment.teacher_outputs(arm.teacher))
    return step_times(steps, some_batches(experiment, arm))


def bench_table(kind: type, profile: str = "lite", root: str | Path = "data", name: str = "", **changes: Any) -> str:
    """What the steps of a project cost, as a table, with untrained networks on a little rendered data.

    Args:
        kind: the project's ``Experiment``; name: of an arm, by default its ``bench_arm``.
        changes: settings, beside its ``bench_settings``.
    """
    threads, name = set_threads(), name or kind.bench_arm
    with tempfile.TemporaryDirectory() as folder:
        experiment = kind.start(profile, 0, None, folder, root, **{**kind.bench_settings, **changes})
        for needed in in_order(experiment.needs(name), experiment.needs):
            arm = experiment.known[needed]
            model = experiment.build(arm, 0, experiment.settings.offline()).to(experiment.acc.device)
            experiment.results[needed] = ArmResult(model, None, {"of": arm.members[0] if arm.members else ""}, 0.0)
        milliseconds = kinds_of_steps(experiment, name)
    title = f"{kind.project}, {profile}: batch {experiment.settings.batch}, {threads} threads, median of steps in turn"
    return ratio_table(title, milliseconds)
