"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """``with atomic_path(path) as part``: what the block writes to ``part`` becomes ``path`` when the block ends well.

    On any error, a full disk (``OSError``) for one, an older ``path`` stays and nothing of ``part``. A killed process
    leaves ``part``, which has the process's number in its name: nobody takes it for the file.
    """
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
