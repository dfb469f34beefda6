"""Scores of a submission file against a solution file."""

from __future__ import annotations

import json
from pathlib import Path

from kdnb.datasets.car_submissions import submission_of_table
from kdnb.datasets.cars_files import merged, read_solution, read_table, require_once, solution_labels
from kdnb.datasets.notes import some
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.metrics.classification import scores


def evaluate_files(solution: str | Path, submission: str | Path) -> dict:
    """The scores of ``kdnb.metrics.classification.scores``, and "images", their number; rows may be in any order.

    Args:
        solution: CSV with ID and one column of labels; a label must be a column of the submission.
        submission: CSV with ID and a column per class; the competition's five pairs of names count as one. A class is
            a label of the solution or a column of the sample_submission.csv beside it.

    Raises:
        InputError: missing, duplicate or unknown IDs and columns (listed), NaN, values below 0 or above 1, rows of
            zeros.
    """
    table, labels = read_table(submission), set(solution_labels(read_table(solution)))
    require_once(submission, "columns", [name for name in table.header if name])
    lacking = sorted(labels - set(table.header))
    if lacking:
        raise InputError(f"{submission}: columns {some(lacking)} missing, expected one for each label of {solution}")
    sample = Path(solution).with_name("sample_submission.csv")
    known = labels | ({*read_table(sample).header} - {"ID"} if sample.is_file() else set())
    ids, classes, values = submission_of_table(table, known, solution)
    truth = read_solution(solution, classes)
    require_once(submission, "IDs", ids, list(truth))
    return {**scores(values, [truth[name] for name in ids], merged(classes)), "images": len(ids)}


def cars_main(solution: str | Path, submission: str | Path, json_out: str | Path | None = None) -> dict:
    """Score a submission: print a table, write the JSON, return the scores."""
    result = evaluate_files(solution, submission)
    for name, value in result.items():
        print(f"{name:<20}{value:>8}" if isinstance(value, int) else f"{name:<20}{value:8.3f}")
    if json_out:
        atomic_write(json_out, json.dumps(result, indent=1) + "\n")
    return result
