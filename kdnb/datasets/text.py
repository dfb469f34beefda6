"""Text as people save it: UTF-8 with or without its mark, UTF-16 by its mark. Every list, label file and CSV is read
by this one reader."""

import codecs
from pathlib import Path

from kdnb.errors import InputError

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | Path, what: str = "a text file") -> str:
    r"""The text of a file, without its byte order mark and with ``\n`` between lines.

    Args:
        what: what messages say was expected, such as "a list of one image id per line".

    Raises:
        InputError: no such file, a folder, one that may not be read; bytes that are no UTF-8, or a NUL byte, by line.
    """
    return decode_text(read_bytes(path, what), path, what)


def read_bytes(path: str | Path, what: str = "a file", kind: str = "file") -> bytes:
    """The bytes of a file. Raises InputError if no such ``kind`` exists, it is a folder, or it may not be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such {kind}, expected {what}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected {what}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected {what}") from None
    except ValueError as error:  # a NUL in the name, a name that cannot be encoded
        raise InputError(f"{str(path)!r}: is no file name ({error}), expected {what}") from None


def decode_text(content: bytes, place: str | Path, what: str = "a text file") -> str:
    """As ``read_text``, of bytes that were read already: of a member of an archive, say. ``place`` names it."""
    wide = content.startswith(UTF16)
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise InputError(f"{place}: begins as UTF-16 but is not ({error.reason}), expected {what}") from None
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise InputError(f"{place}:{line}: {found}, expected {what}, saved as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{place}:{line}: found a NUL byte, expected {what}, saved as UTF-8")
    return text
