"""Several trainings at once, each in a process of its own with one thread.

Small networks gain next to nothing from a second thread, so on two cores two arms side by side take half the time.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from kdnb.errors import InputError


def run_side_by_side(commands: dict[str, list[str]], logs: Path, look: Callable[[], None]) -> None:
    """Carry out all commands at the same time.

    Args:
        commands: name → command line. Its output goes to ``logs/<name>.log``.
        look: called every now and then, and once after the last command ended.

    Raises:
        InputError, RuntimeError: when a command fails; see ``failure``. The others are stopped, whatever they had
            finished stays.
    """
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "KDNB_THREADS": "1"}
    running = {}
    try:
        for name, command in commands.items():
            with open(logs / f"{name}.log", "wb") as log:
                running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while running:
            time.sleep(0.2)
            look()
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode:
                    raise failure(name, logs / f"{name}.log")
        look()
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def failure(name: str, log: Path) -> Exception:
    """What a command said last: wrong input, which ``headless`` tells in one line, or the end of a traceback."""
    lines = log.read_text(errors="replace").strip().splitlines()
    if lines and lines[-1].startswith("kdnb: "):
        return InputError(lines[-1].removeprefix("kdnb: "))
    return RuntimeError(f"training {name} failed:\n" + "\n".join(lines[-8:]))
