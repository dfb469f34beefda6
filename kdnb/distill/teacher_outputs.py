"""Teacher outputs, computed once and read at every step: valid for exactly one teacher, data set and set of views."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.output_files import flatten, plain_ids, positions, read_store, unflatten, write_rows
from kdnb.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

FORMAT = 1
IN_MEMORY = 64 * 2**20  # bytes; larger stores stay on disk and are memory-mapped
DTYPES = {torch.float16: np.float16, torch.float32: np.float32}

Ids = Iterable[int | str] | Tensor
Key = tuple[int, str]  # position of an item, name of its view
Loader = Callable[[list[list[Key]]], Iterable[dict]]


def weights_hash(model: nn.Module) -> str:
    """A hash of all parameters and buffers: two models of one class with the same hash give the same outputs."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def compute_seconds(device: torch.device) -> float:
    """Seconds so far, to take the difference of: CPU seconds on a CPU; on a GPU the clock, because the CPU waits."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


class TeacherOutputs:
    """What a frozen teacher says about each item in each view: computed once, then read in the teacher's place.

    The outputs are right only for the view they were computed on (the image as it is, or flipped), so each batch names
    its "ids" and its "views". One ``.npy`` file per output holds a row per item and view, the first view's rows first.
    Stores of less than 64 MB are read into memory, larger ones are memory-mapped.

    Args:
        teacher: the ``LiveTeacher`` whose outputs are kept.
        root: the store is a folder below it, named after a hash of everything that the outputs depend on.
        data: a string that names the data set and all that was done to it, such as its settings' hash.
        items: the id of each item, strings or integers, each once. An item's row is its position here.
        views: names of the views, such as ("plain", "flip").
        outputs: which taps or keys of the teacher's step to keep; each a tensor (N, ...) or a dict of them.
        dtype: ``torch.float32``, or ``torch.float16``: half the disk space at a relative error of 5e-4.

    Attributes:
        values: {output, or "output/key" of a dict: (views * items, ...) tensor of ``dtype``}; empty before ``fill``.

    Raises:
        InputError: an id or a view that comes twice, an id of another type, no items, another dtype; a file of an
            earlier fill that cannot be read.
    """

    def __init__(
        self,
        teacher: LiveTeacher,
        root: str | Path,
        data: str,
        items: Ids,
        views: Iterable[str],
        outputs: Iterable[str],
        dtype: torch.dtype = torch.float32,
    ):
        if dtype not in DTYPES:
            raise InputError(f"dtype of teacher outputs is {dtype}, expected one of {', '.join(map(str, DTYPES))}")
        self.teacher, self.dtype = teacher, dtype
        self._set_rows(items, views, outputs)
        key = [FORMAT, weights_hash(teacher.model), data, list(self.items), list(self.views), self.outputs, str(dtype)]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        self.folder = Path(root) / f"teacher_{name}"
        self._load()

    @classmethod
    def from_tensors(cls, values: dict[str, Tensor], items: Ids, views: Iterable[str]) -> TeacherOutputs:
        """A store in memory of outputs that are known already, such as an ensemble's combined logits.

        Args:
            values: {output, or "output/key": (items, views, ...) tensor}.

        Raises:
            InputError: a tensor that does not begin with the numbers of items and views; ids or views as in the class.
        """
        store = cls.__new__(cls)
        store._set_rows(items, views, (name.partition("/")[0] for name in values))
        size = (len(store.items), len(store.views))
        for name, value in values.items():
            if value.shape[:2] != size:
                shape = tuple(value.shape)
                raise InputError(f"{name!r} has shape {shape}, expected {size[0]} items x {size[1]} views x ...")
        store.values = {name: value.detach().cpu().transpose(0, 1).flatten(0, 1) for name, value in values.items()}
        store.row_seconds = np.zeros(size[0] * size[1])
        return store

    @property
    def seconds(self) -> float:
        """What filling took, of all processes and after all interruptions; see ``compute_seconds``. NaN until done."""
        return float(self.row_seconds.sum())

    def fill(self, loader: Loader, acc: Accelerator, batch: int = 64, mix_views: bool = True) -> TeacherOutputs:
        """Run the teacher on whatever is missing. All processes of a training call it; each does its share.

        A batch is written when it is done, so a killed fill goes on from there; a finished one costs nothing.

        Args:
            loader: ``loader(batches)`` yields a batch with "ids" and "views" for each list of (position in ``items``,
                view), in this order and on the teacher's device.
            acc: the accelerator.
            batch: items a batch. Batches run through all items in the first view, then through the next.
            mix_views: whether a batch may hold the last items in one view and the first in the next.

        Raises:
            InputError: naming the item: an output that is missing, is NaN, is too large for ``dtype`` or differs in
                size; a batch of other items.
            OSError: the disk is full; what was written stays valid.
        """
        total = len(self.row_seconds)
        part = total if mix_views else len(self.items)
        ends = [(start, first + part) for first in range(0, total, part) for start in range(first, first + part, batch)]
        batches = [range(start, min(start + batch, end)) for start, end in ends]
        _barrier(acc)  # all processes look before one of them writes
        self._load()
        share = batches[acc.process_index :: acc.num_processes]
        todo = [rows for rows in share if np.isnan(self.row_seconds[rows]).any()]
        computed, clock = self._compute(todo, loader), compute_seconds(acc.device)
        first = [] if self.values or not acc.is_main_process else list(islice(computed, 1))
        if first:
            self._create(first[0][1])
        _barrier(acc)
        self._load()
        if not first:
            clock = compute_seconds(acc.device)  # waiting for the first process is no work
        for rows, values in chain(first, computed):
            stored = [self._checked(name, rows, values) for name in self.values]
            for number, array in enumerate(stored):
                write_rows(self.folder / f"output_{number}.npy", rows[0], array)
            now = compute_seconds(acc.device)
            write_rows(self.folder / "seconds.npy", rows[0], np.full(len(rows), (now - clock) / len(rows)))
            clock = now
        _barrier(acc)
        self._load()
        self._require_filled(range(total))
        return self

    def observe(self, batch: dict, student_outputs: dict, taps: list[str]) -> dict:
        """All kept outputs for the batch's "ids" and "views", in float32, on the device of ``student_outputs["loss"]``.

        Raises:
            InputError: an id or a view that is not in the store or was not filled, a tap that is not kept.
        """
        missing = [tap for tap in taps if tap not in self.outputs]
        if missing:
            raise InputError(f"taps {missing} are not among the kept teacher outputs {self.outputs}")
        rows = self.rows(batch["ids"], batch["views"])
        self._require_filled(rows)
        device, index = student_outputs["loss"].device, torch.tensor(rows)
        return unflatten({name: value[index].to(device).float() for name, value in self.values.items()})

    def rows(self, ids: Ids, views: Iterable[str]) -> list[int]:
        """The rows of ``values`` that hold these ids in these views. Raises InputError for an unknown id or view."""
        rows, ids, views = [], plain_ids(ids), list(views)
        if len(ids) != len(views):
            raise InputError(f"a batch has {len(ids)} ids and {len(views)} views, expected a view for each id")
        for item, view in zip(ids, views, strict=True):
            if item not in self.items:
                raise InputError(f"id {item!r} is not among the {len(self.items)} items of the kept teacher outputs")
            if view not in self.views:
                raise InputError(f"view {view!r} is not among the kept teacher outputs' views {list(self.views)}")
            rows.append(self.views[view] * len(self.items) + self.items[item])
        return rows

    # --- rows and files -----------------------------------------------------------------------------------------

    def _set_rows(self, items: Ids, views: Iterable[str], outputs: Iterable[str]) -> None:
        self.items: dict[int | str, int] = positions("id", plain_ids(items))
        self.views: dict[str, int] = positions("view", list(views))
        self.outputs: list[str] = list(positions("output", list(dict.fromkeys(outputs))))
        if slashed := [name for name in self.outputs if "/" in name]:
            raise InputError(f"outputs are named {slashed}, expected names without '/', which marks the key of a dict")
        self.values: dict[str, Tensor] = {}
        self.row_seconds = np.full(len(self.items) * len(self.views), np.nan)  # NaN: the row is not filled

    def _key(self, row: int) -> Key:
        view, position = divmod(row, len(self.items))
        return position, list(self.views)[view]

    def _name(self, row: int) -> str:
        position, view = self._key(row)
        return f"{list(self.items)[position]!r} in view {view!r}"

    def _require_filled(self, rows: Sequence[int]) -> None:
        empty = np.isnan(self.row_seconds[rows])
        if empty.any():
            where = self._name(rows[int(empty.argmax())])
            raise InputError(f"teacher outputs of {where} are missing: call fill() on the data first")

    def _compute(self, todo: list[range], loader) -> Iterator[tuple[range, dict[str, Tensor]]]:
        """The rows of each batch and what the teacher says about them."""
        keys = [[self._key(row) for row in rows] for rows in todo]
        for rows, batch in zip(todo, loader(keys) if keys else [], strict=False):
            if self.rows(batch["ids"], batch["views"]) != list(rows):
                first, count = self._name(rows[0]), len(rows)
                raise InputError(f"a batch to fill has ids {batch['ids']}, expected {count} items from {first} on")
            yield rows, flatten(self.teacher.observe(batch, None, list(self.outputs)), self.outputs)

    def _checked(self, name: str, rows: range, values: dict[str, Tensor]) -> np.ndarray:
        """An output of the batch as it is stored."""
        shape, expected = (
            tuple(values[name].shape) if name in values else None,
            (len(rows), *self.values[name].shape[1:]),
        )
        if shape != expected:
            raise InputError(
                f"teacher output {name!r} has shape {shape} in the batch of {self._name(rows[0])}, expected "
                f"{expected} as for the first items: outputs of different sizes need the live teacher"
            )
        nan = values[name].isnan().reshape(len(rows), -1).any(1)
        if nan.any():
            raise InputError(f"teacher output {name!r} of {self._name(rows[int(nan.int().argmax())])} is NaN")
        stored = values[name].to(self.dtype)
        large = (stored.isinf() & ~values[name].isinf()).reshape(len(rows), -1).any(1)
        if large.any():
            where = self._name(rows[int(large.int().argmax())])
            raise InputError(f"teacher output {name!r} of {where} is too large for {self.dtype}: keep torch.float32")
        return stored.cpu().contiguous().numpy()

    def _create(self, values: dict[str, Tensor]) -> None:
        """Empty files for outputs of these shapes: all of them or, on any error, none.

        Another training may create the same store meanwhile; the folder that comes first stays.
        """
        part = self.folder.with_name(f"{self.folder.name}.{uuid.uuid4().hex[:8]}.part")
        part.mkdir(parents=True)
        try:
            for number, value in enumerate(values.values()):
                shape = (len(self.row_seconds), *value.shape[1:])
                np.lib.format.open_memmap(part / f"output_{number}.npy", "w+", DTYPES[self.dtype], shape)
            np.save(part / "seconds.npy", np.full(len(self.row_seconds), np.nan))
            (part / "outputs.json").write_text(json.dumps(list(values)))
            part.rename(self.folder)
        except OSError:
            if not self.folder.exists():
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _load(self) -> None:
        if self.folder.exists():
            self.row_seconds, self.values = read_store(
                self.folder, len(self.row_seconds), DTYPES[self.dtype], IN_MEMORY
            )


def _barrier(acc: Accelerator) -> None:
    if torch.distributed.is_initialized():
        acc.wait_for_everyone()
