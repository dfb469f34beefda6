"""Arms that do not wait for each other, trained side by side through joblib.

Small networks gain next to nothing from a second thread, so on two cores two arms side by side take half the time.
By default the workers are processes on this machine. ``KDNB_BACKEND=dask`` or ``ray`` spreads arms and seeds over a
cluster whose machines share the results folder and the data.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import torch
from tqdm.auto import tqdm

from kdnb.errors import InputError
from kdnb.experiment.arms import in_order
from kdnb.parallel import backend, backend_name, end_of_log, end_with_parent, keep_memory, output_to, take_gpu
from kdnb.run import set_threads

WORKER_DIED = ("TerminatedWorkerError", "KilledWorker", "WorkerCrashedError")  # of loky, dask and ray


class WorkerFailed(RuntimeError):
    """An arm could not be trained; the message has the last lines of its log."""


class Task(NamedTuple):
    """One arm of one run, as plain values that can be sent to another process or machine.

    Attributes:
        module, kind: where the project's ``Experiment`` is defined, and its name there.
        folder: the run's; data: the root the user gave, or None; root: of rendered data; place: the working folder,
            where relative paths in settings begin.
        name: the arm.
    """

    module: str
    kind: str
    folder: str
    data: str | None
    root: str
    place: str
    name: str


def task_of(experiment: Any, name: str) -> Task:
    """An arm of an ``Experiment``."""
    run, kind = experiment.run, type(experiment)
    data = None if run.data is None else str(Path(run.data).resolve())
    folder, root = (str(Path(place).resolve()) for place in (run.folder, experiment.root))
    return Task(kind.__module__, kind.__name__, folder, data, root, os.getcwd(), name)


def processes_of(experiment: Any) -> int:
    """How many arms train at a time: under torchrun one, on several GPUs at most one on each."""
    processes = experiment.settings.processes if experiment.acc.num_processes == 1 else 1
    return min(processes, torch.cuda.device_count()) if torch.cuda.device_count() > 1 else processes


def train_side_by_side(tasks: Sequence[Task], processes: int) -> Iterator[Task]:
    """Train all tasks, as many at a time as there are processes; yields each as it finishes.

    Raises:
        InputError: invalid input, found by a worker.
        WorkerFailed: a worker failed or died. Finished arms stay.
    """
    with backend(processes) as jobs:
        options: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1, "pre_dispatch": "all"}
        if backend_name() == "ray":
            options["return_as"] = "list"  # joblib's ray backend has no generators
        train, local = joblib.delayed(train_task), backend_name() == "loky"
        finished: Any = joblib.Parallel(n_jobs=jobs, **options)(train(task, local) for task in tasks)
        try:
            with tqdm(total=len(tasks), desc="arms", unit="arm", leave=False) as bar:
                for task in finished:
                    bar.update()
                    yield task
        except Exception as error:
            if type(error).__name__ not in WORKER_DIED:
                raise
            unfinished = [task for task in tasks if log_of(task).exists() and not record_of(task).exists()]
            lost = ", ".join(task.name for task in unfinished) or "an arm"
            raise WorkerFailed(f"a worker died while it trained {lost}:\n{last_lines(unfinished)}") from None


# --- in the worker --------------------------------------------------------------------------------------------------


def train_task(task: Task, local: bool = True) -> Task:
    """Train one arm in this process. Whatever it prints goes to ``logs/<arm>.log`` of the run's folder.

    Args:
        local: this process was started for the run, and ends with it.

    Raises:
        InputError: as the training does. WorkerFailed: on any other error.
    """
    os.environ["KDNB_THREADS"] = "1"
    set_threads()
    take_gpu()
    if local:
        end_with_parent()
        keep_memory()
    with output_to(log_of(task)):
        try:
            os.chdir(task.place)
            experiment = opened_run(*task[:-2])
            stale = [name for name in experiment.results if name not in experiment.store]  # somebody removed them
            for name in stale:
                del experiment.results[name]
            experiment.train(task.name)
        except InputError:
            raise
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
            raise WorkerFailed(f"training {task.name} failed:\n{last_lines([task])}") from None
    return task


@lru_cache(maxsize=1)
def opened_run(module: str, kind: str, folder: str, data: str | None, root: str) -> Any:
    """The ``Experiment`` of a run's folder; a worker opens it once for all arms that it trains."""
    return getattr(importlib.import_module(module), kind).resume(folder, data, root)


def log_of(task: Task) -> Path:
    return Path(task.folder) / "logs" / f"{task.name}.log"


def record_of(task: Task) -> Path:
    return Path(task.folder) / "arms" / f"{task.name}.json"


def wait_for_record(task: Task, seconds: float = 60) -> None:
    """Wait until a finished arm's record shows: a shared disk may tell this machine of new files with a delay."""
    deadline = time.monotonic() + seconds
    while record_of(task).name not in os.listdir(record_of(task).parent) and time.monotonic() < deadline:
        time.sleep(0.5)


def last_lines(tasks: Sequence[Task]) -> str:
    """The end of the tasks' logs."""
    return "\n".join(end_of_log(log_of(task)) for task in tasks)


# --- waves ----------------------------------------------------------------------------------------------------------


def train_waves(experiments: Sequence, names: Sequence[str]) -> None:
    """Train arms of several runs of a project, with all that they need, in waves of arms that can train side by side.

    Args:
        experiments: one ``Experiment`` per run; names: the arms to train in each.
    """
    while waiting := [(e, name) for e in experiments for name in in_order(names, e.needs) if not e.is_finished(name)]:
        ready = [(e, name) for e, name in waiting if all(e.is_finished(needed) for needed in e.needs(name))]
        combined = [(e, name) for e, name in ready if e.known[name].members]
        processes = 1 if combined else min(len(ready), processes_of(ready[0][0]))
        spread = backend_name() != "loky" and ready[0][0].acc.num_processes == 1 and not combined
        if processes > 1 or spread:
            for experiment, name in ready:
                experiment.before_training(name)
            runs = {task_of(experiment, name): experiment for experiment, name in ready}
            for task in train_side_by_side(list(runs), processes):
                wait_for_record(task)
                print(runs[task].store.line(task.name), flush=True)
        else:
            for experiment, name in combined or ready:
                experiment.train(name)
