"""Commands, carried out as a user would: in processes of their own or, where no process is tested, in this one."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def start(*options, cwd=None, **environment):
    """This Python with these options, in a process that goes on; threads and GPUs are those of tests/conftest.py."""
    command = [sys.executable, *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **environment}, **pipes)


def python(*options, status=0, timeout=300, **place):
    """The same, to its end, which must have that exit status; returns (what it printed, what it told of errors)."""
    process = start(*options, **place)
    try:
        printed, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == status, errors[-3000:] + printed[-1000:]
    return printed, errors


def wait_for(what, seconds=120):
    """What ``what()`` gives, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return found


def stages(*names):
    return [option for name in names for option in ("--stage", name)]


def run_folder(printed):
    """The folder of a run, which its command names at the end."""
    return Path(re.search(r"results: (.+)", printed)[1])


def carry_out(main, capsys, *options):
    """The command line of a project, in this process; returns the folder of the run."""
    main([str(option) for option in options], standalone_mode=False)
    return run_folder(capsys.readouterr().out)


def end_workers():
    """End the processes that joblib keeps for the next arms: they know the environment in which they were started."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


class Interrupted(Exception):
    """Nothing in kdnb catches it."""


@contextmanager
def interrupted_after(count):
    """Whatever trains within is interrupted as soon as it has written so many checkpoints."""
    from kdnb import engine

    written, save = [], engine.save_checkpoint

    def save_and_stop(path, *state):
        save(path, *state)
        written.append(path)
        if len(written) == count:
            raise Interrupted

    with patch.object(engine, "save_checkpoint", save_and_stop), pytest.raises(Interrupted):
        yield
