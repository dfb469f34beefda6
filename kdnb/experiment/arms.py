"""An arm: one way to train. The order of arms follows from what they say; a run's folder keeps the finished ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from kdnb.engine import TrainHistory
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.run import Run


@dataclass(frozen=True)
class Arm:
    """One way to train a network. Everything not named here is the same in all arms.

    Attributes:
        terms: names of the distillation terms; () trains on labels alone.
        network: which of the project's networks it is.
        teacher: the arm it learns from.
        start_from: the arm whose weights it starts with.
        labels: 0 means all labels, n means n times ``settings.few_labels``.
        part: "" may train on all training items, "own" and "elsewhere" on one of two parts, see ``Project.parts``.
        kept: its teacher's outputs are kept, whatever ``settings.cache_teacher`` says.
        longer: factor on the number of steps.
        matches: the arm whose compute budget it is given; ``longer`` is then measured.
        members: arms it is made of; it is not trained, see ``Experiment.combine``.
        role: role in figures, when it cannot be derived from the fields above: "control", "ensemble", "member".
    """

    terms: tuple[str, ...] = ()
    network: str = "student"
    teacher: str = ""
    start_from: str = ""
    labels: int = 0
    part: str = ""
    kept: bool = False
    longer: float = 1.0
    matches: str = ""
    members: tuple[str, ...] = ()
    role: str = ""

    def shown_as(self) -> str:
        """Its role in figures; see ``kdnb.viz.style``."""
        if self.role:
            return self.role
        if self.network != "student":
            return "teacher"
        if self.matches:
            return "matched"
        return "distilled" if self.terms else "alone"


@dataclass
class ArmResult:
    """A finished arm.

    Attributes:
        model: the trained network, without adapters.
        predictions: for the test set, as far as comparisons need them; numbers, strings, lists and dicts.
        numbers: its entry in metrics.json.
        validation: its best score on validation; higher is better.
        training: the training history.
    """

    model: nn.Module
    predictions: Any
    numbers: dict
    validation: float
    training: TrainHistory = field(default_factory=TrainHistory)


def in_order(names: Iterable[str], needs: Callable[[str], Sequence[str]]) -> list[str]:
    """The names and all that they need, each after what it needs; InputError for arms that need each other."""
    order: list[str] = []

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise InputError(f"arms need each other: {' -> '.join([*path, name])}")
        if name not in order:
            for needed in needs(name):
                add(needed, (*path, name))
            order.append(name)

    for name in names:
        add(name, ())
    return order


class ArmStore:
    """Finished arms in a run's folder: ``arms/<name>.json`` and ``weights/<name>.safetensors``.

    A killed run therefore resumes after its last finished arm (and, with checkpoints, within an arm).
    """

    def __init__(self, run: Run, primary: str):
        self.run, self.primary = run, primary

    def __contains__(self, name: str) -> bool:
        return self._record(name).exists()

    def names(self) -> list[str]:
        return sorted(record.stem for record in (self.run.folder / "arms").glob("*.json"))

    def take(self, folder: str, names: Iterable[str]) -> None:
        """Copy those of the arms that another run has finished. Raises InputError if it has none of them."""
        finished = [name for name in names if (Path(folder) / "arms" / f"{name}.json").exists()]
        if not finished:
            raise InputError(f"setting 'teachers_from': the run {folder} has no finished teacher")
        for name in finished:
            for file in (f"weights/{name}.safetensors", f"arms/{name}.json"):  # a record never lacks its weights
                (self.run.folder / file).parent.mkdir(exist_ok=True)
                atomic_write(self.run.folder / file, (Path(folder) / file).read_bytes())

    def write(self, name: str, result: ArmResult) -> None:
        """Keep a finished arm: the weights first, so that a record never lacks them."""
        self.run.save_weights(name, result.model.state_dict())
        self._record(name).parent.mkdir(exist_ok=True)
        record = {
            "numbers": result.numbers,
            "validation": result.validation,
            "training": asdict(result.training),
            "predictions": result.predictions,
        }
        self.run.save_json(f"arms/{name}", record)
        self.run.log(self.line(name))
        self.checkpoint(name).unlink(missing_ok=True)

    def read(self, name: str, model: nn.Module) -> ArmResult:
        """A finished arm; its weights are read into ``model``."""
        saved = json.loads(self._record(name).read_text())
        model.load_state_dict(load_file(self.run.folder / "weights" / f"{name}.safetensors"))
        validation = float("nan") if saved["validation"] is None else saved["validation"]
        return ArmResult(model, saved["predictions"], saved["numbers"], validation, TrainHistory(**saved["training"]))

    def line(self, name: str) -> str:
        """The log line for a finished arm."""
        numbers = json.loads(self._record(name).read_text())["numbers"]
        key = self.primary if self.primary in numbers else next(iter(numbers))
        score = float("nan") if numbers[key] is None else numbers[key]
        return f"{name:28s} {key} {score:6.2f}   {numbers['steps']} steps   {numbers['train_s']:.0f} s"

    def checkpoint(self, name: str) -> Path:
        return self.run.folder / "checkpoints" / f"{name}.pt"

    def _record(self, name: str) -> Path:
        return self.run.folder / "arms" / f"{name}.json"
