"""Arms side by side: the weights are those of one process, and whatever happens to a worker is one line."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from kdnb.experiment.workers import take_gpu

TOY = Path(__file__).parents[1] / "toy_crops"
LONG = ("--set", "student_steps=700", "--set", "checkpoint_every=20")  # seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    shutil.copytree(TOY, folder / "mine" / "toy_crops", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(place, *options, **environment):
    env = {**os.environ, "KDNB_PROJECTS": str(place / "mine"), "KDNB_THREADS": "1", **environment}
    command = [sys.executable, "-m", "kdnb.projects.toy_crops", "--root", str(place / "data"), *options]
    return subprocess.Popen(command, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(place, out, *options, **environment):
    """(exit status, standard error, run folders)."""
    process = start(place, "--profile", "smoke", "--out", str(place / out), *options, **environment)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors, sorted((place / out).glob("result_*"))


def weights(folder):
    return {file.stem: load_file(file) for file in (folder / "weights").glob("*.safetensors")}


def assert_equal(one, two, names):
    for name in names:
        assert all(torch.equal(value, two[name][key]) for key, value in one[name].items())


def wait_for(what, seconds=120):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(place):
    """The weights of all arms, trained one after the other."""
    status, errors, (folder,) = run(place, "alone")
    assert status == 0, errors[-2000:]
    return weights(folder)


def test_two_workers_train_what_one_process_does(place, alone):
    status, errors, (folder,) = run(place, "two", "--set", "processes=2")
    assert status == 0, errors[-2000:]
    assert_equal(alone, weights(folder), alone.keys() - {"baseline_matched"})
    assert "baseline " in (folder / "logs" / "baseline.log").read_text()


def test_two_seeds_on_a_cluster(place, alone, monkeypatch):
    """A scheduler and two worker processes, as on two machines that share a disk."""
    distributed = pytest.importorskip("dask.distributed")
    monkeypatch.setenv("KDNB_PROJECTS", str(place / "mine"))
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = {"KDNB_BACKEND": "dask", "DASK_SCHEDULER_ADDRESS": cluster.scheduler_address}
        status, errors, folders = run(place, "cluster", "--seed", "0", "--seed", "1", **address)
    assert status == 0, errors[-2000:]
    assert [folder.name[-2:] for folder in folders] == ["s0", "s1"]
    assert all((folder / "metrics.json").exists() for folder in folders)
    assert all((folder / "logs" / "distilled.log").exists() for folder in folders)
    assert_equal(alone, weights(folders[0]), alone.keys() - {"baseline_matched"})


def test_an_unknown_backend_is_one_line(place):
    status, errors, _ = run(place, "backend", "--set", "processes=2", KDNB_BACKEND="slurm")
    assert status == 1 and errors.splitlines()[-1].endswith("'slurm', expected one of loky, dask, ray")


def test_wrong_input_that_a_worker_meets_is_told_as_such(place):
    status, errors, _ = run(place, "input", "--set", "processes=2", "--set", "optimizer=adom")
    assert status == 1 and re.match(r"kdnb: unknown optimizer 'adom'", errors.splitlines()[-1])


def test_a_failing_worker_is_told_with_the_end_of_its_log(place):
    status, errors, (folder,) = run(place, "failing", "--set", "processes=2", "--set", "lr=1.0e+30")
    before, message = errors.split("kdnb: ")
    assert status == 1 and re.match(r"training (teacher|baseline|few_labels_baseline) failed:\n", message)
    assert "of the loss is" in message and "Traceback" not in before


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_a_killed_worker_is_one_line_and_the_run_resumes_to_equal_weights(place):
    status, errors, (whole,) = run(place, "whole", *LONG, "--stage", "baseline", "--stage", "few_labels_baseline")
    assert status == 0, errors[-2000:]
    stages = ("--stage", "baseline", "--stage", "few_labels_baseline")
    options = ("--profile", "smoke", "--out", str(place / "killed"), "--set", "processes=2", *LONG, *stages)
    process = start(place, *options)
    wait_for(lambda: list((place / "killed").glob("*/checkpoints/baseline.pt")))
    (folder,) = (place / "killed").iterdir()
    log = str(folder / "logs" / "baseline.log")
    workers = [child for child in children(process) if log in {file.path for file in child.open_files()}]
    workers[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "kdnb: a worker died while it trained" in errors
    assert not (folder / "arms" / "baseline.json").exists()
    resumed = start(place, "--run", str(folder), *stages)
    assert resumed.wait(timeout=200) == 0, resumed.stderr.read()[-2000:]
    assert_equal(weights(whole), weights(folder), ["baseline", "few_labels_baseline"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_run(place, number):
    out = place / f"stopped_{number}"
    process = start(
        place, "--profile", "smoke", "--out", str(out), "--set", "processes=2", "--set", "teacher_steps=9999"
    )
    wait_for(lambda: list(out.glob("*/logs/teacher.log")))
    workers = children(process)
    assert workers
    process.send_signal(number)
    process.wait(timeout=60)
    wait_for(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 30)


def test_each_worker_takes_a_gpu_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    visible = []
    for _ in range(3):  # each call holds its lock, as a process of its own would
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        take_gpu.__wrapped__()
        visible.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert visible[:2] == ["4", "7"] and visible[2] in ("4", "7")
