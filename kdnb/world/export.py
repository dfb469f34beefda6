"""What every exporter needs: a pool of processes, and data sets cached under the hash of their settings."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from kdnb.errors import InputError

WORLD_VERSION = 4  # raise it whenever pictures or annotations change: cached sets are then built anew


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def render_all(draw: Callable, jobs: list, workers: int | None) -> list:
    """``draw(job)`` of every job, in no particular order, by ``workers`` processes (one per usable core when None)."""
    workers = min(workers or usable_cores(), len(jobs))
    bar = {"total": len(jobs), "desc": "drawing the street", "unit": "image", "mininterval": 0.5}
    if workers == 1:
        return list(tqdm(map(draw, jobs), **bar))
    # joblib's processes neither fork a parent that has used torch's threads nor import its main script again
    pool = Parallel(n_jobs=workers, batch_size=8, return_as="generator_unordered")
    return list(tqdm(pool(delayed(draw)(job) for job in jobs), **bar))


def rendered(root, prefix: str, export: Callable, known: dict, settings: dict, inside: str = "") -> Path:
    """The folder ``root/<prefix>_<hash of the settings>/<inside>``, made by ``export(place, **settings)`` if missing.

    Of two processes that draw the same set at once, the slower one uses what the other has moved into place.

    Args:
        known: every setting that changes the content, with its default; "workers" may be given too and does not.
        inside: what ``export`` makes within its place, if that is not the place itself.

    Raises:
        InputError: a setting that is not known, and as ``export`` does.
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
