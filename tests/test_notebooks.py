"""Every committed notebook is a lesson in shape, and runs in `smoke` through the command line."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdnb.notebooks import read_notebook
from kdnb.publish import check_shape

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SMOKE_SECONDS = 60  # on two idle cores

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_it_has_the_shape_of_a_lesson(path):
    assert check_shape(read_notebook(path), path.stem[:2]) == []


@pytest.mark.parametrize(("number", "where"), [("01", "coco"), ("03", "voc/VOCdevkit"), ("04", "kitti")])
def test_it_runs_on_photographs(number, where, real_data, tmp_path):
    root = real_data / where
    done = subprocess.run([sys.executable, "-m", "kdnb.cli", "run", number, "--profile", "smoke",
                           "--out", str(tmp_path), "-p", "DATA", str(root)],
                          cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    folder, = tmp_path.glob(f"result_*_{number}_*_smoke_s0")
    assert json.loads((folder / "metrics.json").read_text())["provenance"]["data"] == root.name


@each_notebook
def test_it_runs_in_smoke(path, tmp_path):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "kdnb.cli", "run", path.stem[:2], "--profile", "smoke", "--seeds", "1",
                           "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr[-3000:]
    assert seconds < SMOKE_SECONDS
    folder, = tmp_path.glob(f"result_*_{path.stem}_smoke_s1")
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
