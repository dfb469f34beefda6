"""Scoring a submission's file against a solution's."""

import json

from kdnb.datasets.car_submissions import read_submission
from kdnb.datasets.cars_files import merged, normal, read_solution, read_table, require_once, some
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.metrics.classification import scores


def evaluate_files(solution, submission) -> dict:
    """The scores of ``kdnb.metrics.classification.scores``, and "images", their number; rows may be in any order.

    Args:
        solution: CSV with ID and label; a label must be a column of the submission.
        submission: CSV with ID and a column per class; the competition's five pairs of names count as one.

    Raises:
        InputError: missing, doubled or unknown IDs and columns (listed), NaN, negative values, rows of zeros.
    """
    ids, classes, values = read_submission(submission)
    labels = {normal(label) for label in read_table(solution).column("label")}
    lacking = sorted(labels - set(classes))
    if lacking:
        raise InputError(f"{submission}: columns {some(lacking)} missing, expected one for each label of {solution}")
    truth = read_solution(solution, classes)
    require_once(submission, "IDs", ids, list(truth))
    return {**scores(values, [truth[name] for name in ids], merged(classes)), "images": len(ids)}


def cars_main(solution, submission, json_out=None) -> dict:
    """Score a submission: print a table, write the JSON, return the scores."""
    found = evaluate_files(solution, submission)
    for name, value in found.items():
        print(f"{name:<20}{value:>8}" if isinstance(value, int) else f"{name:<20}{value:8.3f}")
    if json_out:
        atomic_write(json_out, json.dumps(found, indent=1) + "\n")
    return found
