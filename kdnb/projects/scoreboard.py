"""07 scoreboard: the finished runs of all projects, side by side; what is missing runs in ``smoke``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError

from kdnb.errors import InputError
from kdnb.projects import aligned, camvid_prompt_kd, car_kfold, kitti_pseudo_lidar, talk2car_grounding, voc_defeat
from kdnb.projects.camvid_experiment import CamVidPromptKdSettings
from kdnb.projects.camvid_experiment import Experiment as Camvid
from kdnb.projects.car_experiment import CarKfoldSettings
from kdnb.projects.car_experiment import Experiment as Cars
from kdnb.projects.coco_alignment import CocoAlignmentSettings
from kdnb.projects.kitti_experiment import Experiment as Kitti
from kdnb.projects.kitti_experiment import KittiPseudoLidarSettings
from kdnb.projects.talk2car_experiment import Experiment as Talk2Car
from kdnb.projects.talk2car_experiment import Talk2CarGroundingSettings
from kdnb.projects.voc_experiment import Experiment as Voc
from kdnb.projects.voc_experiment import VocDefeatSettings
from kdnb.report import Metrics, first_problem, group_runs
from kdnb.run import Run, load_settings
from kdnb.tables import TEACHES

PROJECT = "07_scoreboard"
MODULES = {
    "01_coco_alignment": "coco_alignment",
    "02_talk2car_grounding": "talk2car_grounding",
    "03_voc_defeat": "voc_defeat",
    "04_kitti_pseudo_lidar": "kitti_pseudo_lidar",
    "05_camvid_prompt_kd": "camvid_prompt_kd",
    "06_car_5fold_kd": "car_kfold",
}
# project → (settings, open_data, Experiment) of those that can look at a frame; 01's networks are in 02's
REOPENED = {
    "02_talk2car_grounding": (Talk2CarGroundingSettings, talk2car_grounding.open_data, Talk2Car),
    "03_voc_defeat": (VocDefeatSettings, voc_defeat.open_data, Voc),
    "04_kitti_pseudo_lidar": (KittiPseudoLidarSettings, kitti_pseudo_lidar.open_data, Kitti),
    "05_camvid_prompt_kd": (CamVidPromptKdSettings, camvid_prompt_kd.open_data, Camvid),
    "06_car_5fold_kd": (CarKfoldSettings, car_kfold.open_data, Cars),
}


# --- runs -------------------------------------------------------------------------------------------------------


def find_runs(results: str | Path, profile: str) -> tuple[dict[tuple, list[Metrics]], list[str]]:
    """The finished runs of each project below a folder, and the faults of runs that cannot be read.

    Of a project's profiles and data sets the one that is asked for counts, else that of the newest run; of several
    runs of a seed the newest. Seeds are merged.

    Returns:
        {(project, profile, data): [one per seed]} in the order of MODULES, as ``kdnb.report.group_runs``; [fault, ...].
    """
    folders, faults = [], []
    for path in sorted(Path(results).glob("result_*/metrics.json")):
        try:
            group_runs([path.parent])
        except InputError as fault:
            faults.append(str(fault))
        else:
            folders.append(path.parent)
    found = {}
    for key, runs in group_runs(folders).items():
        rank = (key[1] == profile, max(run.folder.name for run in runs))
        found.setdefault(key[0], []).append((rank, key, runs))
    best = {project: max(found[project], key=lambda one: one[0]) for project in MODULES if project in found}
    return {key: runs for _, key, runs in best.values()}, faults


def missing(found: dict[tuple, list[Metrics]]) -> list[str]:
    """Projects without a finished run."""
    there = {project for project, _, _ in found}
    return [project for project in MODULES if project not in there]


def run_in_smoke(project: str, results: str | Path, root: str | Path, seed: int = 0) -> None:
    """One run of a project in ``smoke``, in a process of its own: it shows that everything works, and learns nothing.

    Raises:
        InputError: it failed; with the last line that it said.
    """
    command = [
        sys.executable,
        "-m",
        f"kdnb.projects.{MODULES[project]}",
        "--profile",
        "smoke",
        "--seed",
        str(seed),
        "--root",
        str(root),
        "--out",
        str(results),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise InputError(f"{project} in smoke ended with status {done.returncode}: {said}")


# --- networks ---------------------------------------------------------------------------------------------------


def reopen(run: Metrics, root: str | Path):
    """The ``Experiment`` of a finished run, its networks read from the run's folder; nothing is trained.

    Raises:
        InputError: a run of another data set than the drawn one, settings or weights of another version of the
            project, arms that are not there, the networks of 01 that a run of 02 stands on are gone.
    """
    data = run.provenance.get("data", "drawn")
    if data != "drawn":
        raise InputError(f"{run.folder.name}: learned from {data}, expected a run on drawn data to look at a frame")
    config = run.folder / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config}: no such file, expected the settings of the run")
    try:
        return _read_back(run, yaml.safe_load(config.read_text(encoding="utf-8"))["settings"], root)
    except InputError:
        raise
    except (ValueError, RuntimeError, OSError, KeyError, SafetensorError) as fault:
        raise InputError(
            f"{run.folder.name}: cannot be read back ({first_problem(fault)}), expected a run of this "
            "version of the project"
        ) from None


def _read_back(run: Metrics, saved: dict, root: str | Path):
    model, open_data, experiment = REOPENED[run.project]
    settings = model.model_validate(saved)
    if run.project == "02_talk2car_grounding":
        _look_for_encoders(run, settings, root)
    opened = experiment(
        Run(run.folder, run.project, run.profile, run.seed, saved), settings, open_data(settings, None, root), root
    )
    needed = ["depth"] if run.project == "04_kitti_pseudo_lidar" else []
    for arm in (*needed, TEACHES.get(run.project, "teacher"), "distilled"):
        if not opened.arms.is_finished(arm):
            raise InputError(f"{run.folder}: no arm {arm!r} in arms/, expected the folder of a whole run")
        opened.train(arm)
    return opened


def _look_for_encoders(run: Metrics, settings: Talk2CarGroundingSettings, root: str | Path) -> None:
    """02 would train 01's networks anew, for minutes; here that is refused."""
    of_01 = load_settings(CocoAlignmentSettings, "coco_alignment", settings.encoders)
    folder = aligned.folder_of(of_01, run.seed, settings.encoder_data, root)
    if aligned.kept(folder, aligned.OFFERED) is None:
        raise InputError(
            f"{run.folder.name}: the networks of 01 that it stands on are not below {root}; expected them "
            f"there, run 01 in profile {settings.encoders} with seed {run.seed} first"
        )


def reopen_all(found: dict[tuple, list[Metrics]], root: str | Path) -> tuple[dict, dict[str, str]]:
    """project → Experiment of the newest run of each; project → why it is left out."""
    torch.set_num_threads(1)  # one frame at a time through small networks
    opened, left_out = {}, {}
    for (project, _, _), runs in found.items():
        if project in REOPENED:
            try:
                opened[project] = reopen(max(runs, key=lambda run: run.folder.name), root)
            except InputError as reason:
                left_out[project] = str(reason)
    return opened, left_out
