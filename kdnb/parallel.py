"""Where functions run side by side: joblib's backends, and what a process that joblib started does to itself."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import torch

from kdnb.errors import InputError

BACKENDS = ("loky", "dask", "ray")


def backend_name() -> str:
    """The environment variable KDNB_BACKEND: where arms are trained.

    Raises:
        InputError: none of BACKENDS.
    """
    name = os.environ.get("KDNB_BACKEND", "loky")
    if name not in BACKENDS:
        raise InputError(f"environment variable KDNB_BACKEND is {name!r}, expected one of {', '.join(BACKENDS)}")
    return name


@contextlib.contextmanager
def backend(processes: int) -> Iterator[int]:
    """joblib's backend; gives the number of jobs."""
    name = backend_name()
    if name == "loky":
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            yield processes
        return
    try:
        if name == "ray":
            importlib.import_module("ray.util.joblib").register_ray()
            client = contextlib.nullcontext()
        else:
            client = dask_client(os.environ.get("DASK_SCHEDULER_ADDRESS"))
    except ModuleNotFoundError as missing:
        package = "ray" if name == "ray" else "dask[distributed]"
        raise InputError(f"KDNB_BACKEND={name} needs {missing.name}: pip install '{package}'") from None
    with client, joblib.parallel_config(name):
        yield -1


def dask_client(address: str | None) -> Any:
    """A connection to the scheduler at an address, or to workers started on this machine.

    Raises:
        InputError: workers with several threads. Arms trained in one process would share its random numbers.
    """
    distributed = importlib.import_module("dask.distributed")
    client = distributed.Client(address) if address else distributed.Client(threads_per_worker=1)
    threads = set(client.nthreads().values())
    if threads - {1}:
        client.close()
        raise InputError(f"dask workers have {max(threads)} threads, expected one: dask worker --nthreads 1")
    return client


# --- in a worker ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Standard output and error, those of C code too, go to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)


@lru_cache(maxsize=1)
def take_gpu() -> None:
    """Show this process one GPU that no other worker on this machine has, if there are several."""
    count = torch.cuda.device_count()
    if count < 2 or os.name != "posix":
        return
    import fcntl

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    for gpu in visible:
        lock = os.open(Path(tempfile.gettempdir()) / f"kdnb_gpu_{os.getuid()}_{gpu}.lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends
        except BlockingIOError:
            os.close(lock)
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[os.getpid() % len(visible)]


def keep_memory() -> None:
    """Let loky not take data that a worker keeps for its next arm for a memory leak, and start the worker anew."""
    executor: Any = importlib.import_module("joblib.externals.loky.process_executor")
    executor._MAX_MEMORY_LEAK_SIZE = float("inf")


@lru_cache(maxsize=1)
def end_with_parent() -> None:
    """Let this process end when the one that started it is gone: a killed run must not go on training."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_of_log(log: Path, count: int = 8) -> str:
    """The last lines of a log, without progress bars."""
    text = log.read_text(errors="replace").replace("\r", "\n")
    return "\n".join([line for line in text.splitlines() if line.strip() and "it/s" not in line][-count:])
