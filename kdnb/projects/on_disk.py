"""Arrays too large for memory: computed once, by all processes together, and read from disk row by row."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def kept_array(
    file: Path,
    count: int,
    produce: Callable[[Sequence[range]], Iterator[Tensor]],
    acc,
    dtype=np.float32,
    batch: int = 16,
) -> Tensor:
    """A tensor (count, ...) whose rows stay in ``file`` (.npy) until they are asked for; made now if it is not there.

    Each process of ``acc`` makes its share of the batches; all of them have to call this. A killed run leaves no
    ``file``, at most a part of it beside its place.

    Args:
        produce: ``produce(batches)`` yields for each batch, a range of rows, the tensor of those rows.
        acc: the accelerator.
        dtype: of the file and of the result.
    """
    batches = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    acc.wait_for_everyone()  # all of them look before one of them writes
    if not file.exists():
        _make(file, count, batches[acc.process_index :: acc.num_processes], produce, acc, dtype)
    # copy on write: torch wants memory that it could write to, the file stays as it is
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def _make(file: Path, count: int, batches: Sequence[range], produce, acc, dtype) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # processes of one training share a file; those that know nothing of each other must not
    part = file.with_suffix(".shared.part" if acc.num_processes > 1 else f".{os.getpid()}.part")
    made, array = zip(batches, produce(batches), strict=False), None
    if acc.is_main_process:
        rows, values = next(made)
        array = np.lib.format.open_memmap(part, "w+", dtype, (count, *values.shape[1:]))
        array[rows.start : rows.stop] = values.float().cpu().numpy()
    acc.wait_for_everyone()
    for rows, values in made:
        array = np.lib.format.open_memmap(part, "r+") if array is None else array
        array[rows.start : rows.stop] = values.float().cpu().numpy()
    if array is not None:
        array.flush()
    acc.wait_for_everyone()
    if acc.is_main_process:
        os.replace(part, file)
    acc.wait_for_everyone()
