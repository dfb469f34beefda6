"""``kdnb doctor``: does this machine have what the course needs, and if not, which command fixes it?

Each check is a function without side effects that returns a ``Check``. What it reads from the machine is an argument
with a default, so that a test can pass a broken one.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

GIGA = 1024**3
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Check:
    """``ok``: True, False (something does not work) or None (works, with a note). ``fix``: what to do about it."""

    ok: bool | None
    what: str
    fix: str = ""


def check_python(version: Sequence[Any] = sys.version_info) -> Check:
    """Python 3.10 or newer."""
    what = f"Python {version[0]}.{version[1]}.{version[2]}"
    if tuple(version[:2]) < (3, 10):
        return Check(False, what, "kdnb needs Python 3.10 or newer: make install PYTHON=python3.12")
    return Check(True, what)


def check_packages(
    requirements: Iterable[str] | None = None, installed: Callable[[str], str] = importlib.metadata.version
) -> Check:
    """The dependencies that kdnb declares, against their lower bounds."""
    try:
        requirements = importlib.metadata.requires("kdnb") or () if requirements is None else requirements
    except importlib.metadata.PackageNotFoundError:
        return Check(False, "kdnb itself is not installed", "make install")
    faults, count = [], 0
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = installed(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append((requirement, "is missing"))
            continue
        if not requirement.specifier.contains(Version(version), prereleases=True):
            faults.append((requirement, f"is {version}"))
    if faults:
        what = ", ".join(f"{r.name} {state}, expected {r.specifier or 'any version'}" for r, state in faults)
        return Check(False, what, "pip install " + " ".join(f"'{r.name}{r.specifier}'" for r, _ in faults))
    return Check(True, f"{count} dependencies at or above their lower bounds")


def check_torchvision(
    load: Callable[[], None] | None = None, versions: tuple[str | None, str | None] | None = None
) -> Check:
    """Run torchvision's compiled nms: it fails if torch and torchvision are different builds.

    The usual case is a CPU-only torch (version ...+cpu) with PyPI's torchvision, which is built for CUDA.
    """
    torch_version, vision_version = versions or (_version("torch"), _version("torchvision"))
    what = f"torch {torch_version} with torchvision {vision_version}"
    try:
        (load or _run_nms)()
    except Exception as error:  # a broken binary raises any of ImportError, RuntimeError, OSError
        return Check(False, f"{what}: {_first_line(error)}", _torchvision_fix(torch_version, vision_version))
    return Check(True, what)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _run_nms() -> None:
    import torch
    from torchvision.ops import nms

    kept = nms(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9.5]]), torch.tensor([0.9, 0.8]), 0.5)
    if kept.tolist() != [0]:
        raise RuntimeError(f"nms kept {kept.tolist()}, expected [0]")


def _torchvision_fix(torch_version: str | None, vision_version: str | None) -> str:
    """torchvision 0.x belongs to torch 2.(x - 15); both must come from the same source."""
    both = "pip install --force-reinstall --no-cache-dir torch torchvision"
    if torch_version is None or vision_version is None:
        return "pip install torch torchvision"
    torch_build, vision_build = (v.partition("+")[2] for v in (torch_version, vision_version))
    if torch_build != vision_build:
        return (
            f"the two are different builds ({torch_build or 'PyPI'} and {vision_build or 'PyPI'}); take both from "
            f"PyPI, whose wheels run on CPU and GPU: {both}"
        )
    minor, expected = Version(vision_version).minor, Version(torch_version).minor + 15
    if Version(torch_version).major == 2 and minor != expected:
        return (
            f"torch {Version(torch_version).release[0]}.{Version(torch_version).minor} belongs to torchvision "
            f"0.{expected}: pip install 'torchvision==0.{expected}.*'"
        )
    return both


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_device(torch: Any = None) -> Check:
    """The device that training will use; a GPU is optional."""
    if torch is None:
        try:
            import torch
        except Exception as error:
            fix = "pip install --force-reinstall torch torchvision"
            return Check(False, f"torch does not import: {_first_line(error)}", fix)
    if torch.cuda.is_available():
        return Check(True, f"GPU: {torch.cuda.get_device_name(0)}, {torch.cuda.device_count()} in all")
    if torch.backends.mps.is_available():
        return Check(True, "GPU: Apple MPS, which training does not use: smoke and lite run on the CPU")
    return Check(True, "no GPU; smoke and lite are made for the CPU, full is not")


def check_threads(cpus: int | None = None, wanted: str | None = None) -> Check:
    """KDNB_THREADS against the number of cores."""
    cpus = cpus or os.cpu_count() or 1
    wanted = os.environ.get("KDNB_THREADS") if wanted is None else wanted
    if wanted and (not wanted.isdigit() or int(wanted) < 1):
        return Check(False, f"KDNB_THREADS is {wanted!r}, expected a whole number >= 1", "unset KDNB_THREADS")
    if wanted and int(wanted) > cpus:
        return Check(None, f"KDNB_THREADS is {wanted}, but there are {cpus} cores", f"export KDNB_THREADS={cpus}")
    return Check(True, f"{cpus} cores, " + (f"{wanted} threads (KDNB_THREADS)" if wanted else "torch default threads"))


def check_disk(folder: str | Path = ".", free: float | None = None) -> Check:
    """Free bytes on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free if free is None else free
    what = f"{free / GIGA:.1f} GB free on the disk of {Path(folder).resolve()}"
    if free < 1 * GIGA:
        return Check(False, what, "make room: the notebooks in lite write about 1 GB")
    if free < 20 * GIGA:
        return Check(None, what, "enough for lite, too little for a real data set")
    return Check(True, what)


def check_memory(available: float | None = None) -> Check:
    """Available bytes of memory."""
    available = _available_memory() if available is None else available
    if available is None:
        return Check(None, "free memory unknown on this system", "lite needs 4 GB")
    what = f"{available / GIGA:.1f} GB of memory available"
    return Check(True, what) if available >= 4 * GIGA else Check(False, what, "lite needs 4 GB: close other programs")


def _available_memory(meminfo: str | Path = "/proc/meminfo") -> int | None:
    """Bytes, at most the container's limit; None if unknown."""
    try:
        entry = re.search(r"MemAvailable:\s+(\d+)", Path(meminfo).read_text())
    except OSError:
        return None
    if entry is None:
        return None
    kilobytes = int(entry[1])
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(kilobytes * 1024, int(limit.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return kilobytes * 1024


def check_kernel(find: Callable[[], Sequence[str]] | None = None) -> Check:
    """``kdnb run`` starts its own kernel; JupyterLab takes the kernelspec 'python3', which may be another Python's."""
    try:
        argv = (find or _kernel_command)()
    except Exception:
        return Check(False, "no Jupyter kernel 'python3'", f"{sys.executable} -m ipykernel install --sys-prefix")
    if argv[0] in ("python", "python3") or Path(argv[0]).absolute() == Path(sys.executable).absolute():
        return Check(True, "Jupyter kernel 'python3' is this Python")
    return Check(
        None,
        f"Jupyter kernel 'python3' is {argv[0]}, not this Python",
        f"for JupyterLab: {sys.executable} -m ipykernel install --sys-prefix",
    )


def _kernel_command() -> list[str]:
    from jupyter_client.kernelspec import KernelSpecManager

    return KernelSpecManager().get_kernel_spec("python3").argv


def check_chromium(which: Callable[[str], str | None] = shutil.which) -> Check:
    """A browser for the widget tests."""
    path = next((path for name in CHROMIUM if (path := which(name))), None)
    if path:
        return Check(True, f"browser for the widget tests: {path}")
    return Check(None, "no chromium; only the browser tests need it and are skipped", "apt-get install chromium")


CHECKS = (
    check_python,
    check_packages,
    check_torchvision,
    check_device,
    check_threads,
    check_disk,
    check_memory,
    check_kernel,
    check_chromium,
)


def examine(checks: Iterable[Callable[[], Check]] = CHECKS) -> tuple[list[str], bool]:
    """Run the checks; returns (lines to print, whether all are fine)."""
    lines: list[str] = []
    healthy = True
    for check in checks:
        result = check()
        mark = {True: "ok    ", None: "note  ", False: "BROKEN"}[result.ok]
        lines.append(f"{mark}  {result.what}")
        if result.fix and result.ok is not True:
            lines.append(f"        -> {result.fix}")
        healthy = healthy and result.ok is not False
    return lines, healthy
