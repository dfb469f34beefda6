"""An eighth project is one folder, here in a temporary place, and one notebook: no module of kdnb mentions it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

TOY = Path(__file__).parents[1] / "toy_crops"
CELLS = (
    'PROFILE = "smoke"\nSEED = 0\nRESULTS = "results"',
    "from kdnb.projects.toy_crops.experiment import ToyCrops\n"
    'experiment = ToyCrops.start(PROFILE, SEED, None, RESULTS, root="data")\n'
    "experiment.train_together(*experiment.arms)\n"
    "experiment.save()",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the project, its notebook and the results of ``kdnb run``."""
    folder = tmp_path_factory.mktemp("eighth")
    shutil.copytree(TOY, folder / "mine" / "toy_crops", ignore=shutil.ignore_patterns("__pycache__"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "08_toy_crops.ipynb")
    kdnb(folder, "run", "08", "--profile", "smoke", "--out", "results")
    return folder


def kdnb(folder, *options, module="kdnb.cli"):
    env = {**os.environ, "KDNB_PROJECTS": str(folder / "mine"), "KDNB_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout


def test_it_is_small():
    assert sum(len(file.read_text().splitlines()) for file in TOY.iterdir() if file.is_file()) <= 90


def test_run_and_report(place):
    (run,) = (place / "results").glob("result_*_08_toy_crops_smoke_s0")
    assert (run / "metrics.json").exists() and (run / "notebook.ipynb").exists()
    kdnb(place, "report", "results", "--out", "merged")
    assert "08_toy_crops" in (place / "merged.md").read_text()


def test_without_its_notebook(place):
    assert "results: " in kdnb(place, "--profile", "smoke", "--out", "other", module="kdnb.projects.toy_crops")


def test_bench(place):
    table = kdnb(place, "bench", "08")
    assert re.search(r"KD step, live +[\d.]+ +[\d.]+ +[\d.]+", table) and "kept outputs" in table


def test_scoreboard(place):
    code = (
        "from kdnb.projects import scoreboard as s\n"
        "from kdnb.tables import course_table\n"
        "from kdnb.viz.scoreboard import gains\n"
        "runs, faults = s.find_runs('results', 'smoke')\n"
        "assert not faults and [key[0] for key in runs] == ['08_toy_crops'], (runs, faults)\n"
        "assert '08_toy_crops' not in s.missing(runs) and len(s.missing(runs)) == 6\n"
        "header, rows = course_table(runs)\n"
        "gains(runs)\n"
        "print(header, rows)\n"
    )
    env = {**os.environ, "KDNB_PROJECTS": str(place / "mine"), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "08 toy crops" in done.stdout
