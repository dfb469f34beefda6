"""How every checker speaks of what it skipped and of a file that broke it, and how its report ends."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def skipped(place: str | Path, names: Sequence, why: str, what: str = "file", of: int = 0) -> str:
    """'DIR: skipped 2 of 9 files, in no list: a.txt~, Thumbs.db': a note on one folder, with the first five names.

    Args:
        place: the folder or archive, or the file that made the choice.
        names: what was skipped; ``what``: one of them; ``why``: the reason, without a verb.
        of: how many there are in all; 0 leaves that out.
    """
    number = f"{len(names)} of {of}" if of else f"{len(names)}"
    return f"{place}: skipped {number} {what}{'s' * ((of or len(names)) != 1)}, {why}: {some(names)}"


def some(names: Iterable, most: int = 5) -> str:
    """The first ``most`` names, long ones shortened, and how many more there are."""
    names = [f"{name}"[:80] or "(without a name)" for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def unforeseen(path: str | Path, error: Exception, expected: str) -> str:
    """The fault of a file whose check broke: one file must not end the check of all others. ``expected``: "a PNG"."""
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"{path}: cannot be checked ({type(error).__name__} {reason}), expected {expected}"


def closing(notes: Sequence[str], faults: Sequence[str]) -> list[str]:
    """The last lines of a report: every note, which is no fault, every fault, and how many faults."""
    end = f"{len(faults)} fault{'s' * (len(faults) != 1)}" if faults else "no faults"
    return [*(f"note: {note}" for note in notes), *faults, end]
