"""Submissions of the car competition: a row per ID, a probability per class; and comparisons, several in one file."""

import csv
import io
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from kdnb.datasets.cars_files import Table, normal, read_table, require_once
from kdnb.datasets.notes import some
from kdnb.errors import InputError
from kdnb.files import atomic_write

ABOVE_ONE = 1e-6  # what a sum in float32 may leave above 1
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
    return [[name, *(f"{min(value, 1.0):.9g}" for value in row)] for name, row in zip(ids, values, strict=True)]


def check_rows(
    path: str | Path,
    ids: Sequence[str],
    values: np.ndarray,
    lines: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Raise InputError for the first of ``values`` (N, C) that is NaN, infinite, below 0 or above 1, by row and column,
    and for the first row of zeros.

    ``lines``: line numbers of the rows, ``columns``: names of the columns, for the message.
    """
    faults = (
        ("NaN or an infinite value", ~np.isfinite(values)),
        ("a negative value", values < 0),
        ("a value above 1", values > 1 + ABOVE_ONE),
        ("only zeros", ~(values != 0).any(1, keepdims=True)),
    )
    for what, bad in faults:
        rows = np.flatnonzero(bad.any(1))
        if len(rows):
            row, column = rows[0], int(bad[rows[0]].argmax())
            where = f":{lines[row]}" if lines else ""
            at = f" in column {columns[column] if columns else column + 1}: {values[row, column]:g}"
            more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
            found = what + ("" if what == "only zeros" else at)
            raise InputError(
                f"{path}{where}: row {ids[row][:80]} has {found}{more}, expected probabilities from 0 to 1"
            )


def read_submission(path: str | Path) -> tuple[list[str], list[str], np.ndarray]:
    """IDs, class names (NFC) and float64 (N, C) of a submission, in the file's order; see ``submission_of_table``.

    Raises InputError: no column ID, doubled IDs or columns, a value that is no number, and as ``check_rows`` does.
    """
    return submission_of_table(read_table(path))


def submission_of_table(
    table: Table, known: Collection[str] | None = None, where: str | Path = "the solution"
) -> tuple[list[str], list[str], np.ndarray]:
    """As ``read_submission``, of a table that was read already.

    A column without a name that numbers the rows, as pandas writes it, is no class: it is named on stderr and left out.
    ``known`` are the classes there are, by the file ``where``; None takes every other column for one. Raises InputError
    for a column that is none of them, too.
    """
    path, ids, index = table.path, table.column("ID"), table.index_columns()
    require_once(path, "IDs", ids)
    if index:
        columns = some([f"{k + 1} ({table.header[k] or 'without a name'})" for k in index])
        print(f"kdnb: warning: {path}: column {columns} numbers the rows and is no class, ignored", file=sys.stderr)
    foreign = [name for k, name in enumerate(table.header) if k not in index and name != "ID"]
    foreign = [name for name in foreign if known is not None and name not in known]
    if foreign:
        raise InputError(f"{path}:1: columns {some(foreign)} are no class of {where}, expected ID and one per class")
    return ids, *_values(table, ids, ("ID",), index)


def _values(table: Table, ids, others, index=()):
    """Class names and numbers (N, C) of the columns but ``others``, by name, and ``index``, by place."""
    columns = [k for k, name in enumerate(table.header) if name not in others and k not in index]
    require_once(table.path, "columns", [name for k, name in enumerate(table.header) if k not in index])
    if not columns:
        raise InputError(f"{table.path}:1: no column beside {some(others)}, expected one per class")
    try:
        values = np.array([[float(row[k]) for k in columns] for row in table.rows], np.float64)
    except ValueError:
        raise _no_number(table, ids, columns) from None
    values, names = values.reshape(len(table.rows), len(columns)), [table.header[k] for k in columns]
    check_rows(table.path, ids, values, table.lines, names)
    return names, values


def _no_number(table, ids, columns):
    for name, line, row in zip(ids, table.lines, table.rows, strict=True):
        for k in columns:
            try:
                float(row[k])
            except ValueError:
                column, found = table.header[k][:80], row[k][:40]
                return InputError(f"{table.path}:{line}: row {name}, column {column} is {found!r}, expected a number")


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
