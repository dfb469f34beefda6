"""What teacher outputs look like on the disk, and how their rows and columns are named."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnb.distill.checks import describe
from kdnb.errors import InputError


def read_store(folder: Path, rows: int, dtype: type, in_memory: int) -> tuple[np.ndarray, dict[str, Tensor]]:
    """The seconds of each row, NaN where it is not filled, and {output: (rows, ...)}.

    Args:
        dtype: of the outputs. in_memory: bytes up to which they are read; larger ones are memory-mapped.

    Raises:
        InputError: naming a file that is missing, cut or of another kind.
    """
    seconds = np.array(_read_array(folder / "seconds.npy", rows, np.float64))
    if seconds.ndim != 1:
        raise _unreadable(folder / "seconds.npy", f"shape {seconds.shape}")
    names = _read_names(folder / "outputs.json")
    arrays = [_read_array(folder / f"output_{number}.npy", rows, dtype) for number in range(len(names))]
    if sum(array.nbytes for array in arrays) < in_memory:
        arrays = [np.array(array) for array in arrays]
    return seconds, {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def _read_array(path: Path, rows: int, dtype: type) -> np.ndarray:
    try:
        # copy on write: torch wants memory that it could write to, the files stay as they are
        array = np.load(path, mmap_mode="c")
    except Exception as error:  # a header is Python code: whatever a parser can raise
        raise _unreadable(path, error) from error
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape[:1] != (rows,):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise _unreadable(path, f"{found} in place of {np.dtype(dtype)} with {rows} rows")
    return array


def _read_names(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise _unreadable(path, "no list of different names")
    return names


def _unreadable(path: Path, reason: object) -> InputError:
    words = " ".join(str(reason).split()) or type(reason).__name__
    return InputError(
        f"{path}: cannot be read ({words[:160]}), expected a file of kept teacher outputs; delete its folder"
    )


def write_rows(path: Path, first: int, values: np.ndarray) -> None:
    """Overwrite the rows of an .npy file from ``first`` on. Not through a memory map: a full disk would kill there."""
    array = np.load(path, mmap_mode="r")
    with open(path, "r+b") as file:
        file.seek(array.offset + first * array.strides[0])
        file.write(values.astype(array.dtype, copy=False).tobytes())


# --- names ------------------------------------------------------------------------------------------------------


def plain_ids(ids: Any) -> list:
    """Ids as Python's own integers and strings, also those of tensors and of numpy."""
    if torch.is_tensor(ids):
        return ids.tolist()
    return [item.item() if hasattr(item, "item") else item for item in ids]


def positions(kind: str, names: list) -> dict[Any, int]:
    """{name: position}. Raises InputError for an empty list, a name that comes twice or is no string or integer."""
    if not names:
        raise InputError(f"teacher outputs for no {kind}, expected at least one")
    found: dict[Any, int] = {}
    for position, name in enumerate(names):
        if not isinstance(name, int | str):
            raise InputError(f"{kind} {name!r} is of type {type(name).__name__}, expected a string or an integer")
        if name in found:
            raise InputError(f"{kind} {name!r} comes twice, at {found[name]} and {position}; expected each once")
        found[name] = position
    return found


def flatten(values: dict, outputs: Iterable[str]) -> dict[str, Tensor]:
    """{"backbone": {"0": tensor}} → {"backbone/0": tensor}, for the chosen outputs.

    Raises:
        InputError: an output that is missing, that is neither a tensor nor a dict of them, or two keys of one name.
    """
    flat: dict[str, Tensor] = {}
    for name in outputs:
        if name not in values:
            raise InputError(f"the teacher gives no output {name!r}, only {list(values)}")
        value = values[name]
        parts = [(f"{name}/{key}", part) for key, part in value.items()] if isinstance(value, dict) else [(name, value)]
        for key, part in parts:
            if not torch.is_tensor(part) or key in flat:
                raise InputError(f"teacher output {key!r} is {describe(part)}, expected one tensor of this name")
            flat[key] = part
    return flat


def unflatten(flat: dict[str, Tensor]) -> dict:
    """The inverse of ``flatten``."""
    values: dict = {}
    for name, tensor in flat.items():
        output, _, key = name.partition("/")
        if key:
            values.setdefault(output, {})[key] = tensor
        else:
            values[output] = tensor
    return values
