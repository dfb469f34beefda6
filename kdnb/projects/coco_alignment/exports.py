"""Where 01's finished networks lie for other notebooks: below the data folder, by settings, seed and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save
from torch import nn

from kdnb.datasets.coco_files import SPLITS, find_coco, instances_path
from kdnb.distill.teacher_outputs import weights_hash
from kdnb.files import atomic_write
from kdnb.projects.coco_alignment.data import CocoAlignmentSettings
from kdnb.world.export import WORLD_VERSION

EXPORTED = ("teacher", "baseline", "distilled", "baseline_matched")  # arms
VERSION = 2  # raise it whenever 01 trains otherwise: exported networks are then trained anew
HOW_ONLY = {"processes", "workers", "checkpoint_every"}  # settings that do not change what is trained


def folder_of(settings: CocoAlignmentSettings, seed: int, data: str | Path | None, root: str | Path) -> Path:
    """Where the networks of these settings, this seed and this data lie, wherever the data itself lies."""
    recipe = {
        "settings": settings.model_dump(mode="json", exclude=HOW_ONLY),
        "seed": seed,
        "data": None if data is None else content_of(data),
        "version": VERSION,
        "world": WORLD_VERSION,
    }
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return Path(root) / f"aligned_{digest}"


def content_of(data: str | Path) -> str:
    """A hash of a COCO root's annotations: of their sizes and first 64 kB, as the files have half a gigabyte. Raises
    InputError if there is no COCO root at ``data``."""
    digest = hashlib.sha256()
    for path in (instances_path(find_coco(data), split) for split in SPLITS):
        if path.is_file():
            with open(path, "rb") as file:
                digest.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(2**16))
    return digest.hexdigest()


def export_network(name: str, model: nn.Module, teacher: nn.Module, folder: Path) -> None:
    """Keep a trained network for others, as a plain safetensors file below ``folder``, see ``folder_of``.

    It lies in the folder of its teacher, so that students of two trainings never mix; once a folder has all of
    EXPORTED, the file "current" names it.
    """
    mine = folder / f"teacher_{weights_hash(teacher)[:12]}"
    mine.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    atomic_write(mine / f"{name}.safetensors", save(tensors))
    if holds(mine, EXPORTED):
        atomic_write(folder / "current", mine.name)


def holds(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / f"{name}.safetensors").exists() for name in names)


def find_networks(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of one teacher with all these networks: the last one to be completed, else the newest, else None."""
    complete = [one for one in folder.glob("teacher_*") if holds(one, names)]
    current = folder / "current"
    if current.exists() and folder / current.read_text() in complete:
        return folder / current.read_text()
    return max(complete, key=lambda one: (one / "teacher.safetensors").stat().st_mtime, default=None)
