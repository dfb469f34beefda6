"""Several arms at once, each in a process of its own with one thread.

Small networks gain next to nothing from a second thread, so on two cores two arms side by side take half the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def run_side_by_side(commands: dict[str, list[str]], processes: int, logs: Path,
                     ready: Callable[[str], bool], finished: Callable[[str], None]) -> None:  # fmt: skip
    """Carry out all commands, at most ``processes`` at a time, in their order as far as ``ready`` allows.

    Args:
        commands: name → command line. Its output goes to ``logs/<name>.log``.
        ready: ``ready(name)``: whether what the command needs is there.
        finished: called with the name after a command ended well.

    Raises:
        RuntimeError: when a command fails, with the end of its output; the others are stopped, whatever they had
            finished stays.
    """
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "KDNB_THREADS": "1"}
    waiting, running = dict(commands), {}
    try:
        while waiting or running:
            for name in [name for name in waiting if ready(name)][: processes - len(running)]:
                with open(logs / f"{name}.log", "wb") as log:
                    running[name] = subprocess.Popen(waiting.pop(name), env=environment, stdout=log, stderr=log)
            if not running:
                raise RuntimeError(f"{', '.join(waiting)} cannot start: what they need is missing")
            time.sleep(0.2)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode:
                    tail = (logs / f"{name}.log").read_text(errors="replace").strip().splitlines()[-8:]
                    raise RuntimeError(f"training {name} failed:\n" + "\n".join(tail))
                finished(name)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def python_module(module: str, *options: str) -> list[str]:
    return [sys.executable, "-m", module, *options]
