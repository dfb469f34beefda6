"""What a training step with terms costs beside one without: steps that take turns in one process."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.engine import TrainConfig, accelerator, make_optimizer
from kdnb.experiment.arms import ArmResult, in_order
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


def kinds_of_steps(experiment, name: str) -> dict[str, float]:
    """Median milliseconds of an arm's steps: without its terms, with a live teacher, and with kept outputs if it has
    any; and of the teacher's forward pass alone."""
    arm = experiment.known[name]
    config = experiment.train_config(arm)
    live = LiveTeacher(experiment.train(arm.teacher).model, type(experiment).teacher_step)
    steps = {
        "plain step": experiment.timed_step(dataclasses.replace(arm, terms=(), teacher=""), config),
        "teacher forward": lambda batch: live.observe(batch, None, []),
        "KD step, live": experiment.timed_step(arm, config, live),
    }
    if experiment.kept_outputs:
        steps["KD step, kept outputs"] = experiment.timed_step(arm, config, experiment.teacher_outputs(arm.teacher))
    return step_times(steps, experiment.some_batches(arm))


def bench_table(kind: type, profile: str = "lite", root="data", name: str = "distilled", **changes) -> str:
    """What the steps of a project cost, as a table, with untrained networks on a little rendered data.

    Args:
        kind: the project's ``Experiment``; changes: settings, beside the project's ``bench_settings``.
    """
    threads = set_threads()
    with tempfile.TemporaryDirectory() as folder:
        experiment = kind.start(profile, 0, None, folder, root, **{**kind.bench_settings, **changes})
        for needed in in_order(experiment.needs(name), experiment.needs):
            arm = experiment.known[needed]
            model = experiment.build(arm, 0, experiment.settings.offline())
            experiment.results[needed] = ArmResult(model, None, {"of": arm.members[0] if arm.members else ""}, 0.0)
        milliseconds = kinds_of_steps(experiment, name)
    title = f"{kind.project}, {profile}: batch {experiment.settings.batch}, {threads} threads, median of steps in turn"
    return ratio_table(title, milliseconds)
