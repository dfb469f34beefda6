"""06's outcome beside its scores: what a distilling step costs, and the files that the competition wants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdnb.datasets.car_submissions import check_comparison, check_submission, write_comparison, write_submission
from kdnb.datasets.car_views import META, collate
from kdnb.engine import TrainConfig, barrier, move
from kdnb.models.classifier import mean_probabilities
from kdnb.projects.car_kfold import ARMS, Arm, build, build_distiller
from kdnb.projects.step_cost import ratio_table, time_steps, training_step

if TYPE_CHECKING:
    from kdnb.projects.car_experiment import Experiment

TIMED = {"plain step": "baseline", "KD step, cached": "distilled_cached", "KD step, live": "distilled"}

# --- cost -------------------------------------------------------------------------------------------------------


def step_times(experiment: Experiment) -> dict[str, float]:
    """Median milliseconds of a step of each arm of TIMED and of the live teacher's pass, taken in turn.

    Totals of two trainings also hold what else the machine did; so steps are timed once per run, and every process
    reads the answer from ``step_times.json`` in the run's folder.
    """
    run, acc = experiment.run, experiment.acc
    file = run.folder / "step_times.json"
    if acc.is_main_process and not file.exists():
        arms, how = {name: ARMS[arm] for name, arm in TIMED.items()}, experiment.how(1000, 1.0, experiment.settings.lr)
        functions = {name: timed(experiment, arm, how) for name, arm in arms.items()}
        live = experiment.teacher_of(arms["KD step, live"]).observe
        functions["teacher forward"] = lambda batch: live(batch, None, [])
        plan, views = experiment.plan(arms["KD step, cached"]), experiment.learned()
        batches = [move(collate([views[key] for key in plan.batch(step)]), acc.device) for step in range(22)]
        run.save_json(file.stem, time_steps(functions, batches))
    barrier(acc)
    return json.loads(file.read_text())


def timed(experiment: Experiment, arm: Arm, how: TrainConfig):
    """A function that carries out one step of an arm on a batch."""
    settings = experiment.settings
    student = build(settings.student, len(experiment.classes), settings.experiment, experiment.run.seed)
    distiller = build_distiller(student, experiment.teacher_of(arm), settings, 1.0)
    return training_step(distiller.to(experiment.acc.device).train(), how)


def cost_table(experiment: Experiment) -> str:
    """Lines of text: a distilling step with a live and with a cached teacher beside a plain one, and live to cached."""
    times = step_times(experiment)
    table = ratio_table(f"06: batch {experiment.settings.batch}, median of steps taken in turn", times)
    return f"{table}\n\nlive / cached: {times['KD step, live'] / times['KD step, cached']:.1f}"


# --- submissions ------------------------------------------------------------------------------------------------


def test_probabilities(experiment: Experiment, letter: str) -> np.ndarray:
    """(N, C) what the folds of an experiment say together about the test pictures."""
    each = [experiment.answered(fold) for fold in experiment.folds(letter)]
    return mean_probabilities(torch.stack([one.get("test", one["scored"]) for one in each])).softmax(1).numpy()


def write_submissions(experiment: Experiment) -> list[Path]:
    """``submission_fold5_ensemble_<experiment>.csv`` of every experiment whose folds are there (the number says how
    many these are), and one file with all of them. Raises InputError when one does not fit sample_submission.csv."""
    folder, cars, said = experiment.run.folder, experiment.data.cars, {}
    for letter in META:
        if all(fold in experiment.results for fold in experiment.folds(letter)):
            said[letter] = (cars.test_ids, cars.classes, test_probabilities(experiment, letter))
    if not said:
        return []
    files = [folder / f"submission_fold{len(experiment.folds(letter))}_ensemble_{letter}.csv" for letter in said]
    together_in_one = folder / "all_experiments_submission_compare.csv"
    for file, letter in zip(files, said, strict=True):
        write_submission(file, *said[letter])
    write_comparison(together_in_one, said)
    sample = cars.root / "sample_submission.csv"
    if sample.exists():
        for file in files:
            check_submission(file, sample)
        check_comparison(together_in_one, sample)
    return [*files, together_in_one]
