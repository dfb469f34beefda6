"""JSON files of Talk2Car, and their values in messages."""

import json
from pathlib import Path
from typing import Any

from kdnb.datasets.text import read_text
from kdnb.errors import InputError


def load_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises InputError, with file and line, for invalid JSON, a repeated key, an integer of
    thousands of digits and lists in thousands of lists."""
    path = Path(path)

    def unique(pairs):
        keys = dict(pairs)
        if len(keys) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise InputError(f"{path}: key {shown(twice)} appears twice, expected it once")
        return keys

    try:
        return json.loads(read_text(path, "a JSON file"), object_pairs_hook=unique)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg}), expected a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON that can be read ({error}), expected a JSON file") from None


def shown(value: Any) -> str:
    """A value of a file for a message: 80 characters at most, all of them printable."""
    text = repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
