"""Atomic writes: a file is either the old one or the complete new one, a folder is complete or not there. And what
tells a data set's folder from another of the same name."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdnb.errors import InputError

SAMPLED = 256  # files of a data set whose sizes tell it from another


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


def replace_folder(root: Path, files: dict[str, bytes]) -> None:
    """Fill a new folder with files, name -> content, and swap it with an older one; on an error the older one stays."""
    new, old = (root.with_name(f".{root.name}.{uuid.uuid4().hex[:12]}.part") for _ in range(2))
    try:
        new.mkdir(parents=True)
        for name, content in files.items():
            atomic_write(new / name, content)
        if root.exists():
            root.rename(old)
        new.rename(root)
    except BaseException:
        if old.exists() and not root.exists():
            old.rename(root)
        raise
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def _is_free(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


# --- data sets --------------------------------------------------------------------------------------------------


def data_id(data: str | Path | None) -> str | None:
    """What tells a data set from another whose folder has the same name: 12 digits of a hash of the names of its files
    and of the sizes of at most SAMPLED of them, evenly chosen. It says nothing of this machine. None for rendered data.

    Hidden files and notes (``.md``) do not count.
    """
    if data is None:
        return None
    root = Path(data).resolve()
    names = sorted(_files_below(root)) if root.is_dir() else [""]
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"), usedforsecurity=False)
    for name in names[:: -(-len(names) // SAMPLED) or 1]:
        with suppress(OSError):
            digest.update(str((root / name).stat().st_size).encode())
    return digest.hexdigest()[:12]


def _files_below(root: Path) -> Iterator[str]:
    """Names of files, with ``/``, relative to ``root``; links to folders are followed, but not in circles."""
    seen = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        inside[:] = [] if place in seen else sorted(name for name in inside if name[0] != ".")
        if place not in seen:
            below = Path(folder).relative_to(root)
            yield from ((below / name).as_posix() for name in files if name[0] != "." and not name.endswith(".md"))
        seen.add(place)
