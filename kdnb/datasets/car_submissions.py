"""Submissions of the car competition: a row per ID, a probability per class; and comparisons, several in one file."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from kdnb.datasets.cars_files import Table, normal, read_table, require_once
from kdnb.errors import InputError
from kdnb.files import atomic_write

EXPERIMENT = "experiment"  # first column of a comparison


def write_submission(path: str | Path, ids: Sequence[str], classes: Sequence[str], probabilities: ArrayLike) -> Path:
    """Write ``ID`` and a column per class, atomically; returns the path.

    ``probabilities`` (N, C) with N ids and C classes. Raises InputError as ``check_rows`` does and writes nothing then.
    """
    return _write(path, [["ID", *classes], *_rows(path, ids, classes, probabilities)])


def write_comparison(path: str | Path, experiments: dict[str, tuple]) -> Path:
    """Write several submissions into one file, with a column ``experiment`` before ``ID``.

    ``experiments``: {name: (ids, classes, probabilities)}, all with the same classes. Raises InputError as
    ``write_submission`` does, and when classes differ or there is no experiment.
    """
    if not experiments:
        raise InputError(f"{path}: no experiments, expected at least one")
    classes, rows = list(next(iter(experiments.values()))[1]), []
    for name, (ids, own, probabilities) in experiments.items():
        if list(own) != classes:
            raise InputError(f"{path}: experiment {name} has other classes than {next(iter(experiments))}")
        rows += [[name, *row] for row in _rows(path, ids, classes, probabilities)]
    return _write(path, [[EXPERIMENT, "ID", *classes], *rows])


def _write(path, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return atomic_write(path, text.getvalue())


def _rows(path, ids, classes, probabilities):
    values = np.asarray(probabilities, np.float64)
    if values.shape != (len(ids), len(classes)):
        raise InputError(f"{path}: probabilities have shape {values.shape}, expected {(len(ids), len(classes))}")
    check_rows(path, ids, values)
    # nine digits give a float32 back exactly
    return [[name, *(f"{value:.9g}" for value in row)] for name, row in zip(ids, values, strict=True)]


def check_rows(path: str | Path, ids: Sequence[str], values: np.ndarray, lines: list[int] | None = None) -> None:
    """Raise InputError for the first row of ``values`` (N, C) with NaN, an infinite or negative value, or only zeros.

    ``lines``: line numbers of the rows, for the message.
    """
    faults = (
        ("NaN or an infinite value", ~np.isfinite(values).all(1)),
        ("a negative value", (values < 0).any(1)),
        ("only zeros", ~(values != 0).any(1)),
    )
    for what, bad in faults:
        rows = np.flatnonzero(bad)
        if len(rows):
            where = f":{lines[rows[0]]}" if lines else ""
            more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
            raise InputError(f"{path}{where}: row {ids[rows[0]]} has {what}{more}, expected probabilities")


def read_submission(path: str | Path) -> tuple[list[str], list[str], np.ndarray]:
    """IDs, class names (NFC) and float64 (N, C) of a submission, in the file's order.

    Raises InputError: no column ID, doubled IDs or columns, a value that is no number, and as ``check_rows`` does.
    """
    table = read_table(path)
    ids = table.column("ID")
    require_once(table.path, "IDs", ids)
    return ids, *_values(table, ids, ("ID",))


def _values(table: Table, ids, others):
    """Class names and numbers (N, C) of the columns but ``others``."""
    require_once(table.path, "columns", table.header)
    columns = [k for k, name in enumerate(table.header) if name not in others]
    try:
        values = np.array([[float(row[k]) for k in columns] for row in table.rows], np.float64)
    except ValueError:
        raise _no_number(table, ids, columns) from None
    values = values.reshape(len(table.rows), len(columns))
    check_rows(table.path, ids, values, table.lines)
    return [table.header[k] for k in columns], values


def _no_number(table, ids, columns):
    for name, line, row in zip(ids, table.lines, table.rows, strict=True):
        for k in columns:
            try:
                float(row[k])
            except ValueError:
                return InputError(
                    f"{table.path}:{line}: row {name}, column {table.header[k]} is {row[k]!r}, expected a number"
                )


def check_submission(path: str | Path, sample: str | Path) -> None:
    """Check a submission against ``sample_submission.csv``; rows and columns may be in any order.

    Raises InputError that lists missing, doubled and unknown IDs or columns, and as ``read_submission`` does.
    """
    wanted = read_table(sample)
    require_once(path, "columns", read_table(path).header, wanted.header)
    ids, _, _ = read_submission(path)
    require_once(path, "IDs", ids, wanted.column("ID"))


def check_comparison(path: str | Path, sample: str | Path) -> None:
    """Check each experiment of a comparison against ``sample_submission.csv`` as ``check_submission`` does."""
    wanted, table = read_table(sample), read_table(path)
    require_once(path, "columns", table.header, [EXPERIMENT, *wanted.header])
    ids, experiments = table.column("ID"), [normal(name) for name in table.column(EXPERIMENT)]
    if not ids:
        raise InputError(f"{path}: no rows, expected the rows of {sample} per experiment")
    _values(table, ids, (EXPERIMENT, "ID"))
    for name in dict.fromkeys(experiments):
        own = [row for row, experiment in zip(ids, experiments, strict=True) if experiment == name]
        require_once(path, f"IDs of experiment {name}", own, wanted.column("ID"))
