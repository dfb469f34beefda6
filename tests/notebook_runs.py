"""What the run of a notebook in ``smoke`` leaves behind, whether a browser or the command line has executed it."""

import json
import math
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SEED = 1
SECONDS = 60  # of one core: other tests run beside these
LEFT_OUT = "03_voc_defeat"
HAS_BROWSER = shutil.which("chromium") is not None


def folder_of_run(results, path):
    """The only run of a notebook below ``results``."""
    (folder,) = results.glob(f"result_*_{path.stem}_smoke_s{SEED}")
    return folder


def check_run(path, folder):
    """The run of a project is whole."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["project"], metrics["profile"], metrics["seed"]) == (path.stem, "smoke", SEED)
    assert {"teacher", "baseline", "distilled", "baseline_matched"} <= set(metrics["arms"])
    for numbers in metrics["arms"].values():
        assert math.isfinite(numbers[metrics["primary"]])
    assert all(metrics["arms"][name]["steps"] > 0 for name in ("teacher", "baseline", "distilled"))
    low, high = metrics["comparisons"]["distilled_vs_baseline"]["ci95"]
    assert low <= high
    for name in ("config.yaml", "run.log", "replicates.npz"):
        assert (folder / name).stat().st_size > 0
    assert list((folder / "weights").glob("*.safetensors")) and list((folder / "figures").glob("*.png"))


def without_one(results, folder):
    """The runs of ``results`` but that of one project, linked into ``folder``, for the scoreboard."""
    folder.mkdir()
    for run in results.glob("result_*"):
        if LEFT_OUT not in run.name:
            (folder / run.name).symlink_to(run)
    return folder


def check_scoreboard(folder):
    """It has made the run that was missing, and shows all."""
    assert f"{LEFT_OUT} has no finished run: running it in smoke" in (folder / "run.log").read_text()
    table = (folder / "scoreboard.md").read_text()
    assert all(f"| {path.stem[:2]} " in table for path in NOTEBOOKS[1:-1])
    assert {path.name for path in (folder / "figures").glob("*.png")} >= {"gains.png", "latency.png", "cover.png"}
    for name in ("config.yaml", "scoreboard.html", "drive.mp4"):
        assert (folder / name).stat().st_size > 0
