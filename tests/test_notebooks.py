"""Every committed notebook is a lesson in shape, and runs in `smoke` through the command line."""

import json
import math
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdnb.notebooks import read_notebook
from kdnb.publish import check_shape

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SMOKE_SECONDS = 60  # of one core: other tests run beside these

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_it_has_the_shape_of_a_lesson(path):
    assert check_shape(read_notebook(path), path.stem[:2]) == []


@pytest.mark.parametrize(
    ("number", "where"), [("01", "coco"), ("03", "voc/VOCdevkit"), ("04", "kitti"), ("06", "cars")]
)
def test_it_runs_on_photographs(number, where, real_data, tmp_path):
    root = real_data / where
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "kdnb.cli",
            "run",
            number,
            "--profile",
            "smoke",
            "--out",
            str(tmp_path),
            "-p",
            "DATA",
            str(root),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = tmp_path.glob(f"result_*_{number}_*_smoke_s0")
    assert json.loads((folder / "metrics.json").read_text())["provenance"]["data"] == root.name
    if number == "06":  # the files to hand in were checked against sample_submission.csv; its test has 401 pictures
        assert len((folder / "submission_fold5_ensemble_D.csv").read_text().splitlines()) == 402


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One folder for all runs of this file: the scoreboard reads what the projects leave behind."""
    return tmp_path_factory.mktemp("results")


def run_in_smoke(path, results):
    """Execute a notebook from the command line with seed 1; returns its run folder and the CPU seconds."""
    before = cpu_seconds_of_children()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "kdnb.cli",
            "run",
            path.stem[:2],
            "--profile",
            "smoke",
            "--seeds",
            "1",
            "--out",
            str(results),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = results.glob(f"result_*_{path.stem}_smoke_s1")
    return folder, cpu_seconds_of_children() - before


def cpu_seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("path", NOTEBOOKS[:-1], ids=lambda path: path.stem)
def test_it_runs_in_smoke(path, results):
    folder, seconds = run_in_smoke(path, results)
    assert seconds < SMOKE_SECONDS
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["project"], metrics["profile"], metrics["seed"]) == (path.stem, "smoke", 1)
    assert {"teacher", "baseline", "distilled", "baseline_matched"} <= set(metrics["arms"])
    for numbers in metrics["arms"].values():
        assert math.isfinite(numbers[metrics["primary"]])
    assert all(metrics["arms"][name]["steps"] > 0 for name in ("teacher", "baseline", "distilled"))
    low, high = metrics["comparisons"]["distilled_vs_baseline"]["ci95"]
    assert low <= high
    for name in ("config.yaml", "run.log", "replicates.npz", "notebook.ipynb"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "weights").glob("*.safetensors")) and list((folder / "figures").glob("*.png"))


def test_the_scoreboard_reads_all_runs_and_makes_the_one_that_is_missing(results):
    for folder in results.glob("result_*_03_voc_defeat_*"):
        shutil.rmtree(folder)
    folder, _ = run_in_smoke(NOTEBOOKS[-1], results)
    assert "03_voc_defeat has no finished run: running it in smoke" in (folder / "run.log").read_text()
    table = (folder / "scoreboard.md").read_text()
    assert all(f"| {path.stem[:2]} " in table for path in NOTEBOOKS[1:-1])
    assert {path.name for path in (folder / "figures").glob("*.png")} >= {"gains.png", "latency.png", "cover.png"}
    for name in ("config.yaml", "scoreboard.html", "drive.mp4", "notebook.ipynb"):
        assert (folder / name).stat().st_size > 0
