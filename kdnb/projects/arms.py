"""The arms of a run: each trained once, kept in the run's folder, one after the other or side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm

from kdnb.engine import TrainConfig, TrainHistory
from kdnb.evidence import Comparison, paired_bootstrap
from kdnb.metrics.cost import count_flops, latency_ms
from kdnb.projects.side_by_side import run_side_by_side
from kdnb.run import Run


@dataclass
class Result:
    """A finished arm.

    Attributes:
        model: the trained network, plain.
        answers: what it says about the test set, in numbers and strings that JSON knows.
        numbers: its entry in metrics.json.
        validation: its best score on validation.
        fitted: how it got there.
    """

    model: nn.Module
    answers: dict
    numbers: dict
    validation: float
    fitted: TrainHistory = field(default_factory=TrainHistory)


class Arms:
    """``arms.train(name)`` trains an arm, or reads it back if the run's folder already holds it.

    So a killed run goes on where it stopped: at the last finished arm, and within an arm at its last checkpoint.

    Args:
        run: whose folder keeps the arms: ``arms/<name>.json`` and ``weights/<name>.safetensors``.
        fit: ``fit(name)`` → ``Result``, the training itself.
        build: ``build(name)`` → a fresh network of the arm's shape, to read weights into.
        needs: ``needs(name)`` → the arms that must be finished before it, none of them together with it.
        command: ``command(names, claims)`` → the command line of a process that trains those of the arms which no
            other process has claimed in the folder ``claims``.
        primary: the score that a finished arm's line shows.
    """

    def __init__(
        self,
        run: Run,
        fit: Callable[[str], Result],
        build: Callable[[str], nn.Module],
        needs: Callable[[str], list[str]],
        command: Callable[[list[str], str], list[str]],
        primary: str,
    ):
        self.run, self.fit, self.build, self.needs = run, fit, build, needs
        self.command, self.primary = command, primary
        self.results: dict[str, Result] = {}

    def train(self, name: str) -> Result:
        if name not in self.results:
            self.results[name] = self._read(name) if self.is_finished(name) else self.fit(name)
        return self.results[name]

    def train_together(self, names: list[str], processes: int, prepare: Callable[[list[str]], None]) -> list[Result]:
        """Like ``train`` for several arms; with ``processes`` > 1 shared out among as many, each on one core.

        ``prepare(new)`` computes beforehand what several of the new arms would otherwise each compute.
        """
        new = [name for name in names if not self.is_finished(name)]
        if processes > 1 and len(new) > 1:
            for needed in {need for name in new for need in self.needs(name)}:
                self.train(needed)
            prepare(new)
            self._share_out([name for name in new if not self.is_finished(name)], processes)
        return [self.train(name) for name in names]

    def _share_out(self, names: list[str], processes: int) -> None:
        """Each process takes the next arm of the list that none has taken yet.

        Neighbours in the list train at the same time: what is to be compared in seconds belongs side by side.
        """
        waiting = list(names)
        with tqdm(total=len(names), desc="arms", unit="arm", leave=False) as bar, TemporaryDirectory() as claims:

            def look():
                for name in [name for name in waiting if self.is_finished(name)]:
                    waiting.remove(name)
                    bar.update()
                    print(self.line(name), flush=True)

            commands = {f"process_{i}": self.command(names, claims) for i in range(processes)}
            run_side_by_side(commands, self.run.folder / "logs", look)

    def read_finished(self) -> None:
        """All arms that this run's folder holds."""
        for saved in sorted((self.run.folder / "arms").glob("*.json")):
            self.train(saved.stem)

    def is_finished(self, name: str) -> bool:
        return name in self.results or self._record(name).exists()

    def keep(self, name: str, result: Result) -> None:
        """Write a finished arm: the weights first, so that a record never lacks them."""
        self.run.save_weights(name, result.model.state_dict())
        self._record(name).parent.mkdir(exist_ok=True)
        record = {
            "numbers": result.numbers,
            "validation": result.validation,
            "fitted": asdict(result.fitted),
            "answers": result.answers,
        }
        self.run.save_json(f"arms/{name}", record)
        self.run.log(self.line(name))
        (self.run.folder / "checkpoints" / f"{name}.pt").unlink(missing_ok=True)

    def line(self, name: str) -> str:
        saved = json.loads(self._record(name).read_text())["numbers"]
        key = self.primary if self.primary in saved else next(iter(saved))  # a network kept beside the arms has another
        score = float("nan") if saved[key] is None else saved[key]
        return f"{name:28s} {key} {score:6.2f}   {saved['steps']} steps   {saved['train_s']:.0f} s"

    def _record(self, name: str) -> Path:
        return self.run.folder / "arms" / f"{name}.json"

    def _read(self, name: str) -> Result:
        saved = json.loads(self._record(name).read_text())
        model = self.build(name)
        model.load_state_dict(load_file(self.run.folder / "weights" / f"{name}.safetensors"))
        validation = float("nan") if saved["validation"] is None else saved["validation"]
        return Result(model, saved["answers"], saved["numbers"], validation, TrainHistory(**saved["fitted"]))


def train_config(settings, steps: int, lr: float) -> TrainConfig:
    """The settings that every project has, as the engine wants them."""
    return TrainConfig(
        steps=steps,
        lr=lr,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
        schedule=settings.schedule,
        milestones=tuple(settings.milestones),
        clip=settings.clip,
        precision=settings.precision,
        workers=settings.workers,
        checkpoint_every=settings.checkpoint_every,
        validate_every=-(-steps // settings.curve_points),
    )


def training_seconds(fitted: TrainHistory, acc) -> float:
    """What training cost: CPU seconds on a CPU; on a GPU the clock, because the CPU only waits."""
    return fitted.cpu_seconds if acc.device.type == "cpu" else fitted.seconds


def compare_arms(
    results: dict,
    pairs: Iterable[tuple[str, str]],
    metric: Callable[[str], Callable],
    items: int,
    higher_is_better: bool = True,
) -> dict[str, Comparison]:
    """ "b_vs_a" → paired bootstrap over test items, for every pair (b, a) whose two arms are there.

    ``metric(name)`` is an arm's score as a function of how often each item was drawn; see ``paired_bootstrap``.
    """
    return {
        f"{b}_vs_{a}": paired_bootstrap(metric(a), metric(b), items, higher_is_better=higher_is_better)
        for b, a in pairs
        if a in results and b in results
    }


def add_costs(results: dict[str, Result], calls: dict[str, Callable], who: Callable[[str], str]) -> None:
    """Put FLOPs and latency of one answer into the numbers of all arms.

    Args:
        calls: network → a function that answers once; all take their turn in one run.
        who: arm → which of these networks it is.
    """
    with torch.inference_mode():
        flops = {name: count_flops(call) for name, call in calls.items()}
        milliseconds = latency_ms(calls)
    for name, result in results.items():
        result.numbers.update(flops=flops[who(name)], latency_ms=milliseconds[who(name)])
