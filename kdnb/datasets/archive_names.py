"""Names of files in archives as their makers wrote them, and names that are never data."""

from collections.abc import Sequence
from pathlib import PurePath
from zipfile import ZipInfo

LEFT_BEHIND = {"__macosx", ".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"}  # by macOS and Windows
UTF8_FLAG = 0x800  # of a zip's member: its name is in UTF-8


def is_left_behind(name: str | PurePath) -> bool:
    """Whether a path is, or lies in, what macOS or Windows leave beside files: ``__MACOSX``, ``._a.jpg``, ``Thumbs.db``
    and the like. They are never data."""
    parts = PurePath(str(name).replace("\\", "/")).parts
    return any(part.lower() in LEFT_BEHIND or part.startswith("._") for part in parts)


def zip_names(members: Sequence[ZipInfo]) -> tuple[list[str], str]:
    """Names of a zip's members, and the encoding of those that do not say theirs ("" if all do, or are ASCII).

    A name without the UTF-8 flag is cp437 by the standard, but in practice in whatever its maker's system used: UTF-8
    (macOS), or cp949 (Korean Windows), whose letters turn to box-drawing characters in cp437.
    """
    silent = [one.filename for one in members if not one.flag_bits & UTF8_FLAG and not one.filename.isascii()]
    encoding = _encoding(silent) if silent else ""
    if encoding in ("", "cp437"):
        return [one.filename for one in members], encoding
    names = [one.filename if one.flag_bits & UTF8_FLAG else _decoded(one.filename, encoding) for one in members]
    return names, encoding


def tar_name(name: str) -> tuple[str, str]:
    """The name of a tar's member, and its encoding, "" if it is UTF-8; tarfile keeps other bytes as lone surrogates,
    which cannot be printed. They are read as cp949, or where that fails as latin-1."""
    raw = name.encode("utf-8", "surrogateescape")
    for encoding, said in (("utf-8", ""), ("cp949", "cp949")):
        try:
            return raw.decode(encoding), said
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"


def guessed(archive: PurePath, names: Sequence[str], encoding: str) -> str:
    """A note on names whose encoding their archive does not tell, with one of them: only people see a wrong one."""
    example = next(part for name in names for part in reversed(PurePath(name).parts) if not part.isascii())
    return (
        f"{archive}: does not say how its names are encoded, read as {encoding}, such as {example}; if that is no "
        "word, unpack the archive by hand in the right encoding"
    )


def drawn_in_boxes(name: str) -> bool:
    """Whether a name has characters that draw boxes or shades: what cp437 makes of Korean in cp949."""
    return any("\u2500" <= letter <= "\u259f" for letter in name)


def _encoding(silent: list[str]) -> str:
    """The encoding of names that zipfile decoded as cp437."""
    for encoding in ("utf-8", *(["cp949"] if any(map(drawn_in_boxes, silent)) else [])):
        try:
            for name in silent:
                _decoded(name, encoding)
        except UnicodeError:
            continue
        return encoding
    return "cp437"


def _decoded(name: str, encoding: str) -> str:
    return name.encode("cp437").decode(encoding)
