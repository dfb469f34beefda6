"""What a folder holds, also where it is missing, closed or large."""

import os
from pathlib import Path


def names_in(folder: Path) -> set[str]:
    """Names of the files in a folder; empty if there is none or it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()
