"""Teacher outputs that are single vectors: all of them in one file and in memory, for many items in a few views."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.teacher_outputs import compute_seconds, weights_hash
from kdnb.errors import InputError
from kdnb.files import atomic_path


class TeacherTable:
    """What a teacher says about each item in each view, as one tensor: a ``TeacherCache`` for small outputs.

    Like the cache it answers ``observe`` in the teacher's place and refuses an item or a view it was not filled with.
    ``seconds`` is what filling took (CPU seconds on a CPU); it lies in the same file as the answers, so that a killed
    process leaves both or neither.

    Args:
        teacher: the ``LiveTeacher`` whose answers are kept.
        root: the table's file lies in this folder, named after the key: teacher weights, data, items, views, output.
        data: a string that names the data set and everything that was done to it.
        items: the ids that may be asked for; those of the data ``fill`` gets, in any order.
        views: the views that may be asked for.
        output: the key of the teacher's step to keep, a tensor (N, D).
    """

    def __init__(
        self, teacher: LiveTeacher, root: str | Path, data: str, items: Iterable[str], views: Iterable[str], output: str
    ):
        self.teacher, self.output = teacher, output
        self.items = {item: row for row, item in enumerate(items)}
        self.views = {view: column for column, view in enumerate(views)}
        key = {
            "teacher": weights_hash(teacher.model),
            "data": data,
            "items": list(self.items),
            "views": list(self.views),
            "output": output,
            "format": 2,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.file = Path(root) / f"teacher_{digest}.safetensors"
        self.values, self.seconds = None, float("nan")
        self.load()

    def load(self) -> None:
        """Read the table if it is there and not yet read: another process may have filled it."""
        if self.values is None and self.file.exists():
            saved = load_file(self.file)
            self.values, self.seconds = saved["values"], saved["seconds"].item()

    def fill(self, batches: Iterable[dict]) -> None:
        """Run the teacher on all batches, which must hold every item in every view, and write the table.

        Raises:
            InputError: naming an item and view that no batch held.
        """
        values, device = None, next(self.teacher.model.parameters()).device
        start = compute_seconds(device)
        for batch in batches:
            answers = self.teacher.observe(batch, None, [])[self.output].float().cpu()
            if values is None:
                values = torch.full((len(self.items), len(self.views), answers.shape[1]), torch.nan)
            for answer, item, view in zip(answers, batch["ids"], batch["views"], strict=True):
                values[self._row(item), self._column(view)] = answer
        if values is None:
            raise InputError("the teacher's table was given no batches to fill it with")
        missing = values.isnan().any(-1).nonzero()
        if len(missing):
            row, column = missing[0].tolist()
            item, view = list(self.items)[row], list(self.views)[column]
            raise InputError(
                f"{item} in view {view!r} was not in the batches that filled the teacher's table, or the "
                "teacher answered NaN"
            )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        seconds = compute_seconds(device) - start
        with atomic_path(self.file) as part:
            save_file({"values": values, "seconds": torch.tensor(seconds, dtype=torch.float64)}, part)
        self.values, self.seconds = values, seconds

    def observe(self, batch: dict, student_outputs: dict, taps: list[str]) -> dict[str, Tensor]:
        """The kept answers (N, D) for the batch's ids and views, on the student's device."""
        if self.values is None:
            raise InputError(f"{self.file.name}: the teacher's table is empty; call fill() on the data first")
        unknown = [tap for tap in taps if tap != self.output]
        if unknown:
            raise InputError(f"taps {unknown} are not in the teacher's table, which keeps {self.output!r}")
        rows = [self._row(item) for item in batch["ids"]]
        columns = [self._column(view) for view in batch["views"]]
        return {self.output: self.values[rows, columns].to(student_outputs["loss"].device)}

    def _row(self, item: str) -> int:
        if item not in self.items:
            raise InputError(f"{item} is not in the teacher's table of {len(self.items)} items")
        return self.items[item]

    def _column(self, view: str) -> int:
        if view not in self.views:
            raise InputError(f"view {view!r} was not computed by the teacher; its table has {list(self.views)}")
        return self.views[view]
