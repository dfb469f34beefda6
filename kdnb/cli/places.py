"""Where a command is to write: what cannot be written is said before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kdnb.errors import InputError


def new_file(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """An option's file. Raises InputError if it is a folder, or its folder is missing or cannot be written."""
    if text is not None:
        require_file(option.opts[0], text)
    return text


def require_file(option: str, text: str) -> None:
    """Raise InputError if a file cannot be written there."""
    path = Path(text)
    if path.is_dir():
        raise InputError(f"{option} {text}: is a folder, expected a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {text}: {path.absolute().parent} is no folder, expected an existing one")
    _require_permission(option, text, path.absolute().parent)


def require_folder(option: str, text: str) -> None:
    """Raise InputError if a folder can neither be written there nor be made."""
    place = Path(text).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{option} {text}: {place} is a file, expected a folder")
    _require_permission(option, text, place)


def _require_permission(option: str, text: str, folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise InputError(f"{option} {text}: {folder} cannot be written, expected a folder that can")
