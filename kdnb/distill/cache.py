"""Teacher outputs, computed once and read at every step: valid for exactly one teacher, data set and set of views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.teacher_outputs import compute_seconds as compute_seconds
from kdnb.distill.teacher_outputs import flatten, unflatten, weights_hash
from kdnb.errors import InputError
from kdnb.files import atomic_path


class TeacherCache:
    """What a teacher says about each item in each view, one file per item and view.

    Cached answers are right only for the view they were computed on (the picture as it is, or flipped), so a batch
    names its views and one that was not filled is refused. A killed ``fill`` goes on where it stopped.

    Args:
        teacher: the ``LiveTeacher`` whose answers are kept.
        root: the cache lies in a folder below it named after the key: teacher weights, data, views, outputs.
        data: a string that names the data set and everything that was done to it, such as its settings' hash.
        views: names of the views that may be asked for, such as ("plain", "flip").
        outputs: which taps or keys of the teacher's step to keep; each a tensor (N, ...) or a dict of them.
        dtype: float16 halves the disk space at a relative error of 5e-4.
    """

    def __init__(
        self,
        teacher: LiveTeacher,
        root: str | Path,
        data: str,
        views: Iterable[str],
        outputs: Iterable[str],
        dtype: torch.dtype = torch.float32,
    ):
        self.teacher, self.views, self.outputs, self.dtype = teacher, tuple(views), tuple(outputs), dtype
        key = {
            "teacher": weights_hash(teacher.model),
            "data": data,
            "views": self.views,
            "outputs": self.outputs,
            "dtype": str(dtype),
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(root) / f"teacher_{name}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, item: str, view: str) -> Path:
        if view not in self.views:
            raise InputError(f"view {view!r} of {item} was not computed by the teacher; cached views: {self.views}")
        return self.folder / f"{item.replace('/', '_')}.{view}.safetensors"

    def fill(self, batches: Iterable[dict]) -> int:
        """Run the teacher on every batch that holds something new; returns how many items were computed."""
        computed = 0
        for batch in batches:
            paths = [self.path(item, view) for item, view in zip(batch["ids"], batch["views"], strict=True)]
            if all(path.exists() for path in paths):
                continue
            values = flatten(self.teacher.observe(batch, None, list(self.outputs)), self.outputs)
            for i, path in enumerate(paths):
                one = {name: value[i].to(self.dtype).contiguous() for name, value in values.items()}
                with atomic_path(path) as part:
                    save_file(one, part)
                computed += 1
        return computed

    def observe(self, batch: dict, student_outputs: dict, taps: list[str]) -> dict:
        """The cached answers for the batch's ids and views, on the student's device, as the live teacher gives them.

        Raises:
            InputError: a view or an item that was not filled, a tap that was not kept, items of different sizes
                (a padded batch is a view of its own: use the live teacher).
        """
        missing = [tap for tap in taps if tap not in self.outputs]
        if missing:
            raise InputError(f"taps {missing} are not in the teacher cache, which keeps {self.outputs}")
        items = [self.read(item, view) for item, view in zip(batch["ids"], batch["views"], strict=True)]
        device = student_outputs["loss"].device
        stacked = {}
        for name in items[0]:
            sizes = {tuple(item[name].shape) for item in items}
            if len(sizes) > 1:
                raise InputError(f"cached {name} differs in size within a batch: {sorted(sizes)}; use the live teacher")
            stacked[name] = torch.stack([item[name] for item in items]).to(device).float()
        return unflatten(stacked)

    def read(self, item: str, view: str) -> dict[str, Tensor]:
        path = self.path(item, view)
        if not path.exists():
            raise InputError(f"{path.name}: {item} is not in the teacher cache; call fill() on the data first")
        return load_file(path)
