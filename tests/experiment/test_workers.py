"""Arms side by side: the weights are those of one process, and whatever happens to a worker is one line."""

import importlib
import os
import re
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import torch
from commands import carry_out, end_workers, python, stages, start, wait_for
from safetensors.torch import load_file

import kdnb.projects
from kdnb.experiment.command import command
from kdnb.parallel import take_gpu

TOY = Path(__file__).parents[1] / "toy_crops"
MODULE = ("-m", "kdnb.projects.toy_crops")
TWO = ("--set", "processes=2")
LONG = ("--set", "student_steps=300", "--set", "checkpoint_every=1")  # two seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the toy project, which this process and those that it starts find among the projects."""
    folder = tmp_path_factory.mktemp("workers")
    shutil.copytree(TOY, folder / "mine" / "toy_crops", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNB_PROJECTS", str(folder / "mine"))
        patch.setattr(kdnb.projects, "__path__", [*kdnb.projects.__path__, str(folder / "mine")])
        end_workers()
        yield folder
    end_workers()


@pytest.fixture(scope="module")
def main(place):
    """The toy project's command line, for this process."""
    return command(importlib.import_module("kdnb.projects.toy_crops.experiment").ToyCrops)


def options(place, out, *more):
    return ("--profile", "smoke", "--root", place / "data", "--out", place / out, *more)


def weights(folder):
    return {file.stem: load_file(file) for file in (folder / "weights").glob("*.safetensors")}


def assert_equal(one, two, names):
    for name in names:
        assert all(torch.equal(value, two[name][key]) for key, value in one[name].items())


@pytest.fixture(scope="module")
def alone(place, main):
    """The weights of all arms, trained one after the other in this process."""
    main([str(option) for option in options(place, "alone")], standalone_mode=False)
    (folder,) = (place / "alone").iterdir()
    return weights(folder)


def test_two_workers_train_what_one_process_does(place, main, alone, capsys):
    folder = carry_out(main, capsys, *options(place, "two", *TWO))
    assert_equal(alone, weights(folder), alone.keys() - {"baseline_matched"})
    assert "baseline " in (folder / "logs" / "baseline.log").read_text()


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_a_killed_worker_is_one_line_and_the_run_resumes_to_equal_weights(place, main, capsys):
    arms = stages("baseline", "few_labels_baseline")
    whole = carry_out(main, capsys, *options(place, "whole", *LONG[:2], *arms))
    process = start(*MODULE, *options(place, "killed", *TWO, *LONG, *arms), cwd=place)
    (file,) = wait_for(lambda: list((place / "killed").glob("*/checkpoints/baseline.pt")))
    folder = file.parents[1]
    log = str(folder / "logs" / "baseline.log")
    workers = [child for child in children(process) if log in {file.path for file in child.open_files()}]
    workers[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "kdnb: a worker died while it trained" in errors
    assert not (folder / "arms" / "baseline.json").exists()
    carry_out(main, capsys, "--run", folder, "--root", place / "data", *arms)
    assert_equal(weights(whole), weights(folder), ["baseline", "few_labels_baseline"])


def test_two_seeds_on_a_cluster(place, main, alone, monkeypatch):
    """A scheduler and two worker processes, as on two machines that share a disk."""
    distributed = pytest.importorskip("dask.distributed")
    monkeypatch.setenv("KDNB_BACKEND", "dask")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        seeds = ("--seed", "0", "--seed", "1")
        main([str(option) for option in options(place, "cluster", *seeds)], standalone_mode=False)
    folders = sorted((place / "cluster").iterdir())
    assert [folder.name[-2:] for folder in folders] == ["s0", "s1"]
    assert all((folder / "metrics.json").exists() for folder in folders)
    assert all((folder / "logs" / "distilled.log").exists() for folder in folders)
    assert_equal(alone, weights(folders[0]), alone.keys() - {"baseline_matched"})


def refused(main, options):
    """What the command line ends with, before its exit status is 1."""
    with pytest.raises(SystemExit) as left:
        main([str(option) for option in options])
    assert "\n" not in left.value.code
    return left.value.code


def test_an_unknown_backend_is_one_line(place, main, monkeypatch):
    monkeypatch.setenv("KDNB_BACKEND", "slurm")
    assert refused(main, options(place, "backend", *TWO)).endswith("'slurm', expected one of loky, dask, ray")


def test_wrong_input_that_a_worker_meets_is_told_as_such(place, main):
    told = refused(main, options(place, "input", *TWO, "--set", "optimizer=adom"))
    assert told.startswith("kdnb: unknown optimizer 'adom'")


def test_a_failing_worker_is_told_with_the_end_of_its_log(place):
    failing = options(place, "failing", *TWO, "--set", "lr=1.0e+30")
    _, errors = python(*MODULE, *failing, cwd=place, status=1)
    before, message = errors.split("kdnb: ")
    assert re.match(r"training (teacher|baseline|few_labels_baseline) failed:\n", message)
    assert "of the loss is" in message and "Traceback" not in before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_run(place, number):
    out = f"stopped_{number}"
    process = start(*MODULE, *options(place, out, *TWO, "--set", "teacher_steps=9999"), cwd=place)
    wait_for(lambda: len(list((place / out).glob("*/logs/*.log"))) > 1)  # the teacher's goes on: both have begun
    workers = children(process)
    assert workers
    process.send_signal(number)
    process.wait(timeout=180)
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
