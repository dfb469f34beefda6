"""06's files beside metrics.json: the distilled student as the original saves it, and the competition's."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdnb.datasets.car_submissions import check_comparison, check_submission, write_comparison, write_submission
from kdnb.datasets.car_views import META
from kdnb.experiment import Experiment
from kdnb.files import atomic_write
from kdnb.models.classifier import mean_probabilities


def save_student(experiment: Experiment, student: nn.Module) -> Path:
    """The original's file: a plain state dict, for ``torch.load(..., weights_only=True)``."""
    buffer = io.BytesIO()
    torch.save({key: value.cpu() for key, value in student.state_dict().items()}, buffer)
    return atomic_write(experiment.run.folder / "Student_stage2_fold1_best.pth", buffer.getvalue())


def test_probabilities(experiment: Experiment, letter: str) -> np.ndarray:
    """(N, C) of all test images: the mean of the folds of an experiment."""
    logits = [experiment.logits(fold, "submission") for fold in experiment.folds(letter)]
    return mean_probabilities(torch.stack(logits)).softmax(1).numpy()


def write_submissions(experiment: Experiment) -> list[Path]:
    """``submission_fold5_ensemble_<experiment>.csv`` of every experiment whose folds are finished (the number says how
    many these are), and one file with all of them.

    Raises:
        InputError: a file does not fit sample_submission.csv.
    """
    folder, cars = experiment.run.folder, experiment.data.cars
    finished = [letter for letter in META if all(fold in experiment.results for fold in experiment.folds(letter))]
    if not finished:
        return []
    tables = {letter: (cars.test_ids, cars.classes, test_probabilities(experiment, letter)) for letter in finished}
    counts = {letter: len(experiment.folds(letter)) for letter in finished}
    files = [folder / f"submission_fold{count}_ensemble_{letter}.csv" for letter, count in counts.items()]
    for file, table in zip(files, tables.values(), strict=True):
        write_submission(file, *table)
    together = write_comparison(folder / "all_experiments_submission_compare.csv", tables)
    sample = cars.root / "sample_submission.csv"
    if sample.exists():
        for file in files:
            check_submission(file, sample)
        check_comparison(together, sample)
    return [*files, together]
