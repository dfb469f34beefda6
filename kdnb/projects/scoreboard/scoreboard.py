"""07 scoreboard: the finished runs of all projects, side by side; what is missing runs in ``smoke``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError

from kdnb.errors import InputError
from kdnb.experiment import Experiment
from kdnb.options import validate_settings
from kdnb.projects import find_projects
from kdnb.report import Metrics, first_problem, group_runs
from kdnb.run import Run

PROJECT = "07_scoreboard"
COVER = "07 all students", (0.503, 0.075, 0.995, 0.67)  # as ``Experiment.cover``


def projects() -> dict[str, type[Experiment]]:
    """The projects that the scoreboard shows: all but the primer, in order."""
    return {name: kind for name, kind in find_projects().items() if kind.on_scoreboard}


# --- runs -----------------------------------------------------------------------------------------------------------


def find_runs(results: str | Path, profile: str) -> tuple[dict[tuple, list[Metrics]], list[str]]:
    """The finished runs of each project below a folder, and the faults of runs that cannot be read.

    Of a project's profiles and data sets the one that is asked for counts, else that of the newest run; of several
    runs of a seed the newest. Seeds are merged.

    Returns:
        {(project, profile, data): [one per seed]} in the order of the projects, as ``kdnb.report.group_runs``; and
        [fault, ...].
    """
    folders, faults = [], []
    for path in sorted(Path(results).glob("result_*/metrics.json")):
        try:
            group_runs([path.parent])
        except InputError as fault:
            faults.append(str(fault))
        else:
            folders.append(path.parent)
    candidates: dict[str, list] = {}
    for key, runs in group_runs(folders).items():
        rank = (key[1] == profile, max(run.folder.name for run in runs))
        candidates.setdefault(key[0], []).append((rank, key, runs))
    best = [max(candidates[project], key=lambda one: one[0]) for project in projects() if project in candidates]
    return {key: runs for _, key, runs in best}, faults


def missing(runs: dict[tuple, list[Metrics]]) -> list[str]:
    """Projects without a finished run."""
    finished = {project for project, _, _ in runs}
    return [project for project in projects() if project not in finished]


def run_in_smoke(project: str, results: str | Path, root: str | Path, seed: int = 0) -> None:
    """One run of a project in ``smoke``, in a process of its own: it shows that everything works, and learns nothing.
    Raises InputError with the last line that it printed, if it failed."""
    package = projects()[project].__module__.rpartition(".")[0]
    command = [sys.executable, "-m", package, "--profile", "smoke", "--seed", str(seed), "--root", str(root)]
    done = subprocess.run([*command, "--out", str(results)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise InputError(f"{project} in smoke ended with status {done.returncode}: {last}")


# --- networks -------------------------------------------------------------------------------------------------------


def reopen(metrics: Metrics, root: str | Path) -> Experiment:
    """The ``Experiment`` of a finished run, its networks read from the run's folder; nothing is trained.

    Raises:
        InputError: a run on another data set than a rendered one, settings or weights of another version of the
            project, arms that are not there, networks of another project that it stands on are gone.
    """
    folder, data = metrics.folder, metrics.provenance.get("data", "drawn")
    if data != "drawn":
        raise InputError(f"{folder.name}: learned from {data}, expected a run on rendered data to look at a frame")
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder / 'config.yaml'}: no such file, expected the settings of the run")
    try:
        return _read_back(projects()[metrics.project], folder, root)
    except InputError as fault:
        if "config.yaml" not in str(fault):
            raise
        problem = str(fault)
    except (ValueError, RuntimeError, OSError, KeyError, SafetensorError) as fault:
        problem = first_problem(fault)
    raise InputError(f"{folder.name}: cannot be read back ({problem}), expected a run of this version of the project")


def _read_back(kind: type[Experiment], folder: Path, root: str | Path) -> Experiment:
    run = Run.resume(folder, kind.project)
    kind.check_inputs(run, validate_settings(kind.settings_class, run.settings, folder / "config.yaml"), root)
    experiment = kind.resume(folder, None, root)
    for arm in experiment.arms_for_frames():
        if arm not in experiment.store:
            raise InputError(f"{folder}: no arm {arm!r} in arms/, expected the folder of a whole run")
        experiment.train(arm)
    return experiment


def reopen_all(runs: dict[tuple, list[Metrics]], root: str | Path) -> tuple[dict[str, Experiment], dict[str, str]]:
    """Project -> Experiment of its newest run, of those that can look at a frame; project -> why it is left out."""
    torch.set_num_threads(1)  # one frame at a time through small networks
    opened, left_out = {}, {}
    for (project, _, _), seeds in runs.items():
        if projects()[project].frame_task:
            try:
                opened[project] = reopen(max(seeds, key=lambda run: run.folder.name), root)
            except InputError as reason:
                left_out[project] = str(reason)
    return opened, left_out
