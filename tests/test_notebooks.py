"""Every committed notebook is a lesson in shape, and runs in `smoke` through the command line."""

import json
import resource

import pytest
from commands import python
from notebook_runs import (
    HAS_BROWSER,
    NOTEBOOKS,
    ROOT,
    SECONDS,
    SEED,
    check_run,
    check_scoreboard,
    folder_of_run,
    without_one,
)
from photographs import all_of, few_of_voc

from kdnb.notebooks import read_notebook
from kdnb.publish import check_shape

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# Where there is a browser, tests/browser runs the notebooks and checks the same; one goes both ways.
unless_in_the_browser = pytest.mark.skipif(HAS_BROWSER, reason="tests/browser runs it")
PROJECTS = [
    pytest.param(path, marks=() if path.stem[:2] == "00" else unless_in_the_browser, id=path.stem)
    for path in NOTEBOOKS[:-1]
]


@each_notebook
def test_it_has_the_shape_of_a_lesson(path):
    assert check_shape(read_notebook(path), path.stem[:2]) == []


def kdnb_run(number, out, *options):
    python("-m", "kdnb.cli", "run", number, "--profile", "smoke", "--out", out, *options, cwd=ROOT, timeout=600)


@pytest.mark.parametrize(
    ("number", "where", "some"),
    [
        ("01", "coco", all_of),
        ("03", "voc/VOCdevkit", few_of_voc),
    ],
    ids=("01", "03"),
)
def test_it_runs_on_photographs(number, where, some, real_data, tmp_path):
    """04 to 06 read photographs in the tests of their projects."""
    real = real_data / where
    kdnb_run(number, tmp_path / "results", "-p", "DATA", some(real, tmp_path / real.name))
    (folder,) = (tmp_path / "results").glob(f"result_*_{number}_*_smoke_s0")
    assert json.loads((folder / "metrics.json").read_text())["provenance"]["data"] == real.name


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One folder for all runs of this file: the scoreboard reads what the projects leave behind."""
    return tmp_path_factory.mktemp("results")


def cpu_seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("path", PROJECTS)
def test_it_runs_in_smoke(path, results):
    before = cpu_seconds_of_children()
    kdnb_run(path.stem[:2], results, "--seeds", SEED)
    assert cpu_seconds_of_children() - before < SECONDS
    folder = folder_of_run(results, path)
    check_run(path, folder)
    assert (folder / "notebook.ipynb").stat().st_size > 0


@unless_in_the_browser
def test_the_scoreboard_reads_all_runs_and_makes_the_one_that_is_missing(results, tmp_path):
    others = without_one(results, tmp_path / "results")
    kdnb_run("07", others, "--seeds", SEED)
    folder = folder_of_run(others, NOTEBOOKS[-1])
    check_scoreboard(folder)
    assert (folder / "notebook.ipynb").stat().st_size > 0
