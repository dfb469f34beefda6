"""One run of one project: its results folder and the provenance of its numbers.

Notebooks and the command line write everything through ``Run``, so all results folders look alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
import yaml

from kdnb import __version__
from kdnb.errors import InputError
from kdnb.files import atomic_write, data_id
from kdnb.options import NOT_YAML, PROFILES, Settings, check_parameters, load_settings

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

__all__ = [
    "NOTED",
    "PROFILES",
    "Run",
    "Settings",
    "atomic_write",
    "check_parameters",
    "load_settings",
    "provenance",
    "set_threads",
    "to_json",
]


NOTED = "KDNB_RUN_FOLDERS"  # environment variable: a file in which each run notes its folder, for who started it


def to_json(value: Any) -> Any:
    """Numpy and torch values, paths and tuples as JSON types; NaN and infinity become None.

    Raises TypeError for other types, unless they have a method ``as_json``.
    """
    if hasattr(value, "as_json"):
        value = value.as_json()
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write a {type(value).__name__} to JSON")


def set_threads() -> int:
    """Apply the environment variable KDNB_THREADS; returns the number of threads torch uses.

    Several OpenMP-heavy processes on as many cores stall each other, unless each has one thread.
    """
    import torch

    wanted = os.environ.get("KDNB_THREADS")
    if wanted is not None:
        if not wanted.isdigit() or int(wanted) < 1:
            raise InputError(f"environment variable KDNB_THREADS is {wanted!r}, expected a whole number >= 1")
        torch.set_num_threads(int(wanted))
    return torch.get_num_threads()


# --- the results folder -----------------------------------------------------------------------------------------


class Run:
    """The results folder of one run: ``config.yaml run.log metrics.json replicates.npz figures/ weights/``."""

    def __init__(
        self,
        folder: str | Path,
        project: str,
        profile: str,
        seed: int,
        settings: dict[str, Any],
        data: str | Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.project, self.profile, self.seed, self.settings, self.data = project, profile, seed, settings, data
        self._logger = logging.Logger(f"kdnb.{self.folder.name}")  # not shared, so that two runs never write one file
        handler = logging.FileHandler(self.folder / "run.log", encoding="utf-8")  # flushes after each line
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self._logger.addHandler(handler)

    @classmethod
    def start(
        cls,
        project: str,
        profile: str,
        seed: int,
        results: str | Path = "results",
        settings: pydantic.BaseModel | dict[str, Any] | None = None,
        data: str | Path | None = None,
    ) -> Run:
        """Create ``results/result_YYYYMMDD_HHMMSS_<project>_<profile>_s<seed>/`` and write its config.yaml.

        Args:
            project: with its number, "03_voc_defeat".
            data: root of a real data set, None for rendered data.
        """
        if isinstance(settings, pydantic.BaseModel):
            settings = settings.model_dump(mode="json")
        settings = dict(settings or {})
        run = cls(_new_folder(Path(results), f"{project}_{profile}_s{seed}"), project, profile, seed, settings, data)
        config = {"project": project, "profile": profile, "seed": seed, "data": _data_name(data)}
        config |= {**({} if data is None else {"data_id": data_id(data)}), "settings": settings}
        atomic_write(run.folder / "config.yaml", yaml.safe_dump(to_json(config), sort_keys=False))
        return run

    @classmethod
    def resume(cls, folder: str | Path, project: str, data: str | Path | None = None) -> Run:
        """The run in ``folder``, to resume.

        Raises:
            InputError: no run there, one of another project, or one on other data.
        """
        config = Path(folder) / "config.yaml"
        if not config.exists():
            raise InputError(f"--run {folder}: no config.yaml there, expected the folder of an earlier run")
        saved = _read_config(config)
        if saved["project"] != project:
            raise InputError(f"--run {folder}: is a run of {saved['project']}, expected one of {project}")
        if _data_name(data) != saved["data"] or saved.get("data_id") not in (None, data_id(data)):
            raise InputError(f"--run {folder}: its arms were trained on {saved['data']!r}, expected the same --data")
        return cls(folder, project, saved["profile"], saved["seed"], saved["settings"], data)

    def log(self, message: str) -> None:
        """Print a line and write it, with the time, to run.log at once."""
        self._logger.info(message)
        print(message, flush=True)

    def log_once(self, message: str) -> None:
        """Like ``log``, unless the run's log has this line already."""
        if message not in (self.folder / "run.log").read_text(encoding="utf-8"):
            self.log(message)

    def save_weights(self, name: str, state_dict: Mapping[str, torch.Tensor]) -> Path:
        """Write ``weights/<name>.safetensors``; tensors that share memory are written as separate copies."""
        from safetensors.torch import save

        tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state_dict.items()}
        return atomic_write(self._subfolder("weights") / f"{name}.safetensors", save(tensors))

    def save_figure(self, name: str, figure: Figure, dpi: int = 110) -> Path:
        """Write a matplotlib figure to ``figures/<name>.png``."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
        return atomic_write(self._subfolder("figures") / f"{name}.png", buffer.getvalue())

    def save_json(self, name: str, value: Any) -> Path:
        """Write a value to ``<name>.json``; NaN becomes null."""
        return atomic_write(self.folder / f"{name}.json", json.dumps(to_json(value), indent=1, allow_nan=False) + "\n")

    def save_metrics(
        self,
        primary: str,
        higher_is_better: bool,
        arms: Mapping[str, Mapping[str, Any]],
        comparisons: Mapping[str, Any],
        device: str | torch.device = "cpu",
        about: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write metrics.json, and the bootstrap replicates of the comparisons to replicates.npz.

        ``arms`` maps an arm's name to its numbers (rates in percent), each with at least ``primary``;
        ``comparisons`` maps 'b_vs_a' to a ``kdnb.evidence.Comparison``; ``about`` is what readers of the file need to
        know of the arms, such as their roles in figures.
        """
        lacking = [name for name, numbers in arms.items() if primary not in numbers]
        if lacking:
            raise InputError(f"arm {lacking[0]!r} has no {primary!r}; expected the primary metric in every arm")
        turned = [name for name, comparison in comparisons.items() if comparison.higher_is_better != higher_is_better]
        if turned:
            raise InputError(
                f"comparison {turned[0]!r} has higher_is_better={not higher_is_better}, "
                f"expected {higher_is_better} as for {primary!r}"
            )
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: comparison.replicates for name, comparison in comparisons.items()})
        atomic_write(self.folder / "replicates.npz", buffer.getvalue())
        return self.save_json(
            "metrics",
            {
                "project": self.project,
                "profile": self.profile,
                "seed": self.seed,
                "primary": primary,
                "higher_is_better": higher_is_better,
                **(about or {}),
                "arms": arms,
                "comparisons": comparisons,
                "provenance": provenance(self.settings, self.data, device),
            },
        )

    def _subfolder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder


def _read_config(path: Path) -> dict[str, Any]:
    """A run's config.yaml. Raises InputError for one that is damaged."""
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or type(error).__name__
        raise InputError(f"{path}:{mark.line + 1 if mark else 1}: not readable as YAML ({reason})") from None
    needed = ("project", "profile", "seed", "settings", "data")
    if not isinstance(saved, dict) or not all(key in saved for key in needed):
        raise InputError(f"{path}: is no run's config, expected the keys {', '.join(needed)}")
    return saved


def _new_folder(results: Path, ending: str) -> Path:
    """A new folder; of two runs that start in the same second, the later one waits for the next second."""
    if results.exists() and not results.is_dir():
        raise InputError(f"RESULTS {str(results)!r} is a file, expected a folder")
    results.mkdir(parents=True, exist_ok=True)
    while True:
        folder = results / f"result_{datetime.now():%Y%m%d_%H%M%S}_{ending}"
        try:
            folder.mkdir()
        except FileExistsError:
            time.sleep(0.05)
            continue
        (folder / "figures").mkdir()
        (folder / "weights").mkdir()
        if NOTED in os.environ:
            with contextlib.suppress(OSError), open(os.environ[NOTED], "a", encoding="utf-8") as file:
                file.write(f"{folder.absolute()}\n")
        return folder


def _data_name(data: str | Path | None) -> str:
    return "drawn" if data is None else Path(data).resolve().name


def provenance(
    settings: dict[str, Any], data: str | Path | None = None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Where numbers come from: versions, machine, date, commit and a hash of the settings."""
    import torch

    text = json.dumps(to_json(settings), sort_keys=True)
    return {
        "kdnb": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "settings_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "data": _data_name(data),
        "data_id": data_id(data),
    }


def _commit() -> str | None:
    """The commit of the checkout that holds this package ('-dirty' when files differ from it), or None."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
