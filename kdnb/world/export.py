"""What all exporters need: a pool of processes, and data sets cached under the hash of their settings."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from kdnb.errors import InputError

WORLD_VERSION = 4  # raise it whenever images or annotations change: cached sets are then rendered again


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def render_all(render: Callable, jobs: list, workers: int | None) -> list:
    """``render(job)`` of all jobs, in no particular order, in ``workers`` processes (None: one per usable core)."""
    workers = min(workers or usable_cores(), len(jobs))
    bar = {"total": len(jobs), "desc": "rendering the street", "unit": "image", "mininterval": 0.5}
    if workers == 1:
        return list(tqdm(map(render, jobs), **bar))
    # joblib's processes neither fork a parent that used torch threads nor import its main script again
    pool = Parallel(n_jobs=workers, batch_size=8, return_as="generator_unordered")
    return list(tqdm(pool(delayed(render)(job) for job in jobs), **bar))


def rendered(root: str | Path, prefix: str, export: Callable, known: dict, settings: dict, inside: str = "") -> Path:
    """The folder ``root/<prefix>_<hash of the settings>/<inside>``, made by ``export(place, **settings)`` if missing.

    Of two processes that render the same set at once, the slower one uses the other's folder.

    Args:
        known: all settings that change the content, with their defaults; "workers" is accepted too.
        inside: the folder that ``export`` makes within its place, if not the place itself.

    Raises:
        InputError: an unknown setting, and as ``export`` does.
    """
    name = export.__name__.replace("export", "rendered")
    unknown = sorted(set(settings) - set(known) - {"workers"})
    if unknown:
        raise InputError(f"{name}: unknown setting {unknown[0]}, expected one of {', '.join(known)}, workers")
    recipe = {**known, **{k: v for k, v in settings.items() if k != "workers"}, "world": WORLD_VERSION}
    recipe["size"] = list(recipe["size"])
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    place = Path(root) / f"{prefix}_{digest}"
    if not (place / inside).is_dir():
        try:
            export(place, **{**known, **settings})
        except InputError:
            if not (place / inside).is_dir():
                raise
    return place / inside
