"""An eighth project is one folder, here in a temporary place, and one notebook: no module of kdnb mentions it."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from commands import python

TOY = Path(__file__).parents[1] / "toy_crops"
CELLS = (
    'PROFILE = "smoke"\nSEED = 0\nRESULTS = "results"',
    "from kdnb.projects.toy_crops.experiment import ToyCrops\n"
    'experiment = ToyCrops.start(PROFILE, SEED, None, RESULTS, root="data")\n'
    "experiment.train_together(*experiment.arms)\n"
    "experiment.save()",
)
# all in one process: starting one takes longer than the rest
TOOLS = """
from kdnb.cli import main
from kdnb.projects import scoreboard as s
from kdnb.tables import course_table
from kdnb.viz.scoreboard import gains

main(["report", "results", "--out", "merged"], standalone_mode=False)
main(["bench", "08"], standalone_mode=False)
runs, faults = s.find_runs("results", "smoke")
assert not faults and [key[0] for key in runs] == ["08_toy_crops"], (runs, faults)
assert "08_toy_crops" not in s.missing(runs) and len(s.missing(runs)) == 6
header, rows = course_table(runs)
gains(runs)
print(header, rows)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the project, its notebook and the results of ``kdnb run``."""
    folder = tmp_path_factory.mktemp("eighth")
    shutil.copytree(TOY, folder / "mine" / "toy_crops", ignore=shutil.ignore_patterns("__pycache__"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (folder / "pyproject.toml").write_text('[project]\nname = "kdnb"\n')  # a course's folder
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "08_toy_crops.ipynb")
    in_place(folder, "-m", "kdnb.cli", "run", "08", "--profile", "smoke", "--out", "results")
    return folder


def in_place(folder, *options):
    """What a process prints that knows the project."""
    return python(*options, cwd=folder, KDNB_PROJECTS=str(folder / "mine"), MPLBACKEND="agg")[0]


def test_it_is_small():
    assert sum(len(file.read_text().splitlines()) for file in TOY.iterdir() if file.is_file()) <= 90


def test_its_notebook_runs(place):
    (run,) = (place / "results").glob("result_*_08_toy_crops_smoke_s0")
    assert (run / "metrics.json").exists() and (run / "notebook.ipynb").exists()


def test_without_its_notebook(place):
    options = ("--profile", "smoke", "--stage", "teacher", "--stage", "test", "--out", "other")
    assert "results: " in in_place(place, "-m", "kdnb.projects.toy_crops", *options)


def test_report_bench_and_scoreboard_know_it(place):
    printed = in_place(place, "-c", TOOLS)
    assert "08_toy_crops" in (place / "merged.md").read_text()
    assert re.search(r"KD step, live +[\d.]+ +[\d.]+ +[\d.]+", printed) and "kept outputs" in printed
    assert "08 toy crops" in printed
