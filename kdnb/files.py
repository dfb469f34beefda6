"""Atomic writes: a file is either the old one or the complete new one."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """``with atomic_path(path) as part``: write to ``part``; it is renamed to ``path`` when the block ends well.

    On any error, a full disk (``OSError``) for one, ``part`` is removed and an older ``path`` stays. A killed process
    leaves ``part``, a hidden file with a name of its own.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def atomic_write(path: str | Path, content: bytes | str) -> Path:
    """Write ``content`` (text as UTF-8) to ``path`` as ``atomic_path`` does, flushed to the disk; returns ``path``."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as part, open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path
