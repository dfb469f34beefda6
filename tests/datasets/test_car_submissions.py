"""Submissions: what was written is read back, and whatever a competition would refuse is refused by name."""

import unicodedata

import numpy as np
import pytest

from kdnb.datasets.car_submissions import (
    check_comparison,
    check_submission,
    read_submission,
    write_comparison,
    write_submission,
)
from kdnb.errors import InputError

IDS, CLASSES = ["TEST_00000", "TEST_00001", "TEST_00002"], ["a", "라브4, 5세대", "c"]


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample_submission.csv"
    write_lines(path, 'ID,a,"라브4, 5세대",c', *(f"{name},0,0,0" for name in IDS))
    return path


@pytest.fixture
def values():
    rows = np.random.default_rng(1).dirichlet(np.ones(3), 3).astype(np.float32)
    rows[0] = (1e-30, 0.25, 0.75)
    return rows


def write_lines(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_submission_comes_back_exactly(sample, values, tmp_path):
    path = write_submission(tmp_path / "one.csv", IDS, CLASSES, values)
    ids, classes, read = read_submission(path)
    assert ids == IDS and classes == CLASSES and (read.astype(np.float32) == values).all()
    assert check_submission(path, sample) is None
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["one.csv", "sample_submission.csv"]


def test_rows_and_columns_in_another_order_and_decomposed_letters_are_fine(sample, tmp_path):
    path = tmp_path / "mixed.csv"
    header = unicodedata.normalize("NFD", 'c,ID,"라브4, 5세대",a')
    write_lines(path, header, "1,TEST_00002,0,0", "0,TEST_00000,1,0", "0.5,TEST_00001,0,0.5")
    assert check_submission(path, sample) is None
    assert read_submission(path)[1] == ["c", "라브4, 5세대", "a"]


@pytest.mark.parametrize(
    "bad, what",
    [(np.nan, "NaN or an infinite value"), (np.inf, "NaN or an infinite value"), (-0.1, "a negative value")],
)
def test_values_that_are_no_probabilities_are_not_written(values, tmp_path, bad, what):
    values[1, 2] = bad
    with pytest.raises(InputError, match=f"row TEST_00001 has {what}"):
        write_submission(tmp_path / "x.csv", IDS, CLASSES, values)
    values[1] = 0
    with pytest.raises(InputError, match="row TEST_00001 has only zeros"):
        write_submission(tmp_path / "x.csv", IDS, CLASSES, values)
    with pytest.raises(InputError, match="expected .3, 2."):
        write_submission(tmp_path / "x.csv", IDS, CLASSES[:2], values)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "row, what",
    [
        ("TEST_00001,nan,0,1", ":3: row TEST_00001 has NaN"),
        ("TEST_00001,0,-1,2", ":3: row TEST_00001 has a negative"),
        ("TEST_00001,0,0,0", ":3: row TEST_00001 has only zeros"),
        ("TEST_00001,0,high,1", "5세대 is 'high', expected a number"),
        ("TEST_00001,0,1", ":3: 3 values, expected 4"),
        ("TEST_00000,0,1,0", "IDs TEST_00000 more than once"),
        ("TEST_00009,0,1,0", "IDs TEST_00001 missing, expected 3"),
        (None, "IDs TEST_00001 missing, expected 3"),
    ],
)
def test_faults_are_named_with_file_and_line(sample, tmp_path, row, what):
    path = tmp_path / "bad.csv"
    rows = ["TEST_00000,0,0,1", *([row] if row else []), "TEST_00002,1,0,0"]
    write_lines(path, 'ID,a,"라브4, 5세대",c', *rows)
    with pytest.raises(InputError) as error:
        check_submission(path, sample)
    assert what in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header, what",
    [
        ("ID,a,c", "columns 라브4, 5세대 missing"),
        ('ID,a,a,"라브4, 5세대"', "columns a more than once"),
        ('ID,a,"라브4, 5세대",c,d', "unknown columns d"),
        ('id,a,"라브4, 5세대",c', "columns ID missing"),
        ("", "is empty"),
    ],
)
def test_columns_are_those_of_the_sample(sample, tmp_path, header, what):
    path = tmp_path / "bad.csv"
    path.write_text(f"{header}\n" if header else "", encoding="utf-8")
    with pytest.raises(InputError, match=what):
        check_submission(path, sample)


def test_a_comparison_is_checked_per_experiment(sample, values, tmp_path):
    path = write_comparison(tmp_path / "all.csv", {"A": (IDS, CLASSES, values), "D": (IDS[::-1], CLASSES, values)})
    assert check_comparison(path, sample) is None
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == 'experiment,ID,a,"라브4, 5세대",c' and [line[:12] for line in lines[4:]] == [
        "D,TEST_00002",
        "D,TEST_00001",
        "D,TEST_00000",
    ]

    def error(*changed):
        write_lines(path, *changed)
        with pytest.raises(InputError) as caught:
            check_comparison(path, sample)
        return str(caught.value)

    assert "IDs of experiment D TEST_00000 missing" in error(*lines[:-1])
    assert "IDs of experiment A TEST_00001 more than once" in error(*lines, lines[2])
    assert ":2: row TEST_00000 has NaN" in error(lines[0], "A,TEST_00000,nan,0,0", *lines[2:])
    assert "no rows" in error(lines[0])
    with pytest.raises(InputError, match="columns experiment missing"):
        check_comparison(sample, sample)


def test_experiments_have_the_same_classes(values, tmp_path):
    with pytest.raises(InputError, match="experiment B has other classes than A"):
        write_comparison(tmp_path / "x.csv", {"A": (IDS, CLASSES, values), "B": (IDS, ["x", "y", "z"], values)})
    with pytest.raises(InputError, match="no experiments"):
        write_comparison(tmp_path / "x.csv", {})
