"""Atomic writes: a file is either the old one or the complete new one, a folder is complete or not there."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdnb.errors import InputError


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


@contextmanager
def atomic_folder(root: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``root`` when the block ends well: a killed run leaves no ``root``.

    Raises InputError when ``root`` exists and is not empty, also when another process was quicker.
    """
    root = Path(os.path.abspath(root))  # "." has no name
    taken = InputError(f"{root}: already exists, expected a new folder")
    if not _is_free(root):
        raise taken
    root.parent.mkdir(parents=True, exist_ok=True)
    build = Path(tempfile.mkdtemp(prefix=f".{root.name}_", dir=root.parent))
    try:
        yield build
        build.chmod(0o755)
        if root.is_dir():
            root.rmdir()
        os.rename(build, root)
    except OSError as error:
        if not _is_free(root):
            raise taken from error
        raise
    finally:
        shutil.rmtree(build, ignore_errors=True)


def _is_free(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
