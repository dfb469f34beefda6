"""Downloads that resume and are verified, and an unpacker that never writes outside its folder."""

import errno
import hashlib
import http.client
import os
import shutil
import ssl
import stat
import struct
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from kdnb.datasets.archive_names import guessed, is_left_behind, tar_name, zip_names
from kdnb.datasets.notes import skipped
from kdnb.errors import InputError

BLOCK = 1 << 20
TIMEOUT_S = 60
NO_ANSWER = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
NO_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, struct.error)
NO_ARCHIVE += (RuntimeError, LookupError, ValueError, ArithmeticError, MemoryError)  # of damaged headers


class DiskError(InputError):
    """The disk failed, not the download."""


@contextmanager
def or_by_hand(way: str) -> Iterator[None]:
    """Add ``way``, what to do by hand, to the InputError of a download inside the block: still one line.

    A full disk, which stops that way too, is passed on as it is.
    """
    try:
        yield
    except DiskError:
        raise
    except InputError as error:
        raise InputError(f"{error}. By hand: {way}") from None


def download(url: str, target: str | Path, checksum: str | None) -> Path:
    """Download ``url`` to ``target``, unless a file with this checksum exists, and return its path.

    ``checksum`` is an MD5 (32 hexadecimal digits) or SHA-256 (64). Bytes go to ``<target>.part``, which a later call
    continues with a Range request; it is renamed once its checksum is right. Raises InputError: no network, a broken
    connection and a full disk (these keep the ``.part``), an HTTP error, a wrong checksum (removes it).

    None says that nobody publishes a checksum, so the file is not verified: callers print ``unverified(path)``. An
    existing ``target`` is then taken as it is, and a ``.part`` starts over, as nothing would tell a wrong continuation.
    """
    target = Path(target)
    if target.is_file() and (checksum is None or _digest(target, checksum).hexdigest() == checksum.lower()):
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if checksum is None:
            part.unlink(missing_ok=True)
        digest = _fetch(url, part, checksum)
    except NO_ANSWER as error:
        advice = "Run again" if checksum is None else f"Run again to resume {part.name}"
        raise network_error(url, error, advice) from None
    except OSError as error:
        raise disk_error(error, part) from None
    if checksum is not None and digest != checksum.lower():
        part.unlink()
        raise InputError(f"{target}: checksum is {digest}, expected {checksum} from {url}; removed, run again")
    os.replace(part, target)
    return target


def unverified(path: str | Path) -> str:
    """The line to print about a file without a published checksum: its SHA-256, for users to compare."""
    return f"{path}: not verified, no checksum of it is published; its SHA-256 is {_digest(path, None).hexdigest()}"


def network_error(url: str, error: Exception, advice: str) -> InputError:
    """The one line for a request that failed; ``advice`` ends it where there was no answer at all."""
    if isinstance(error, urllib.error.HTTPError):
        return InputError(f"{url}: the server answers {error.code} {error.reason}, expected the file")
    reason = getattr(error, "reason", None) or error or type(error).__name__
    return InputError(f"{url}: no answer ({reason}), is there a network? {advice}")


def _hasher(checksum):
    if checksum is None:
        return hashlib.sha256(usedforsecurity=False)
    names = {32: "md5", 64: "sha256"}
    if len(checksum) not in names:
        raise InputError(f"checksum {checksum!r} has {len(checksum)} digits, expected 32 (MD5) or 64 (SHA-256)")
    return hashlib.new(names[len(checksum)], usedforsecurity=False)


def _digest(path, checksum):
    """The hash, of the kind of ``checksum``, of the bytes in ``path`` so far."""
    digest = _hasher(checksum)
    if Path(path).exists():
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest


def _fetch(url, part, checksum):
    """Complete ``part`` and return its hex digest."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "kdnb"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # The server has no more bytes: the part is complete, or it belongs to another file and starts over.
        digest = _digest(part, checksum).hexdigest()
        if digest == checksum.lower():
            return digest
        part.unlink()
        return _fetch(url, part, checksum)
    with answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed else 0  # a server without ranges starts over
        digest = _digest(part, checksum) if resumed else _hasher(checksum)
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else None
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while block := answer.read(BLOCK):
                file.write(block)
                digest.update(block)
                bar.update(len(block))
            if total is not None and file.tell() < total:
                raise ConnectionError(f"connection closed after {file.tell()} of {total} bytes")
    return digest.hexdigest()


def disk_error(error: OSError, path: Path) -> InputError:
    """The one line for a file or folder that could not be written."""
    if error.errno == errno.ENOSPC:
        return DiskError(f"{path}: the disk is full; make room and run again, downloaded bytes are kept")
    return DiskError(f"{path}: cannot be fetched or written ({error.strerror or error})")


def unpack(archive: str | Path, folder: str | Path, only: str | None = None) -> list[str]:
    """Unpack a zip or tar (plain, gz, bz2, xz) into ``folder``; existing files of the same name are replaced.

    ``only`` names a folder at the archive's top, or one level below: it alone is written, as ``folder/only``.
    What macOS and Windows leave in archives is not written, and a zip's names are read as ``zip_names`` says. Returns
    a line to print about each of the two, where it happened.
    All members are first written to a temporary folder inside ``folder``, so on the same disk, and moved once the whole
    archive is read.
    Raises InputError, and leaves ``folder`` untouched, for a truncated archive or none, for absolute
    names or ``..``, for links that leave the folder, for devices, and without the folder ``only``.
    """
    archive, folder = Path(archive), Path(folder)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unpacking.", dir=folder))
    except OSError as error:
        raise disk_error(error, folder) from None
    try:
        try:
            notes = _extract(archive, scratch, only)
        except InputError:
            raise
        except NO_ARCHIVE as error:
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            raise InputError(f"{archive}: cannot be unpacked ({reason}), expected a whole zip or tar archive") from None
        except FileNotFoundError as error:
            if error.filename != str(archive):
                raise
            raise InputError(f"{archive}: no such archive") from None
        except OSError as error:
            raise disk_error(error, scratch if error.errno == errno.ENOSPC else archive) from None
        _move(scratch, folder)
        return notes
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _extract(archive, scratch, only):
    """Write the members of the archive; links come last, so that no file is written through one. Returns notes."""
    with open(archive, "rb") as file:
        is_zip = file.read(2) == b"PK"
    links, notes, left_behind = [], [], []
    for name, kind, link, opened in _zip_members(archive, notes) if is_zip else _tar_members(archive, notes):
        place = _safe_name(archive, name)
        if is_left_behind(place):
            left_behind += [] if kind == "folder" else [name]
            continue
        if only is not None:
            if only not in place.parts[:2]:
                continue
            place = Path(*place.parts[place.parts.index(only) :])
        path = scratch / place
        if kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
        elif kind == "link":
            links.append((name, path, link))
        elif kind == "file":
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened() as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink, BLOCK)
        else:
            raise InputError(f"{archive}: member {name!r} is a device or pipe, expected files, folders and links")
    if only is not None and not (scratch / only).is_dir():
        raise InputError(f"{archive}: holds no folder {only}/")
    for name, path, link in links:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink() or not path.parent.resolve().is_relative_to(scratch.resolve()):
            raise InputError(f"{archive}: link {name!r} collides with another member")
        path.symlink_to(link)
    for name, path, link in links:  # now, since one link may lead through another
        if os.path.isabs(link) or not Path(os.path.realpath(path)).is_relative_to(scratch.resolve()):
            raise InputError(f"{archive}: link {name!r} -> {link!r} leaves the folder, refused")
    if left_behind:
        notes.append(skipped(archive, left_behind, "left by macOS or Windows"))
    return notes


def _safe_name(archive, name):
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not name or name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")):
        raise InputError(f"{archive}: member {name!r} would be written outside the folder, refused")
    return Path(*parts)


def _zip_members(archive, notes):
    with zipfile.ZipFile(archive) as box:
        names, encoding = zip_names(box.infolist())
        if encoding:
            notes.append(guessed(archive, names, encoding))
        for info, name in zip(box.infolist(), names, strict=True):
            mode = stat.S_IFMT(info.external_attr >> 16)
            if stat.S_ISLNK(mode):
                yield name, "link", os.fsdecode(box.read(info)), None
            elif mode in (0, stat.S_IFREG, stat.S_IFDIR):
                yield name, "folder" if info.is_dir() else "file", None, lambda info=info: box.open(info)
            else:
                yield name, "device", None, None


def _tar_members(archive, notes):
    with tarfile.open(archive) as box:
        for member in box:
            (name, encoding), (link, _) = tar_name(member.name), tar_name(member.linkname)
            if encoding and not notes:
                notes.append(guessed(archive, [name], encoding))
            if member.islnk():  # a hard link becomes a copy of its target, which must be a member too
                _safe_name(archive, link)
            kind = "folder" if member.isdir() else "link" if member.issym() else "device"
            kind = "file" if member.isreg() or member.islnk() else kind
            yield name, kind, link, lambda member=member: box.extractfile(member)
        # tarfile accepts a file that ends between two members; a complete one ends with empty blocks.
        box.fileobj.seek(box.offset)
        if box.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("unexpected end of data")
        while box.fileobj.read(BLOCK):  # to the checksum at the end of a compressed stream
            pass


def _move(scratch, folder):
    """Move the content of ``scratch`` into ``folder``, merging folders that exist."""
    folder.mkdir(exist_ok=True)
    for path in scratch.iterdir():
        target = folder / path.name
        if path.is_dir() and not path.is_symlink() and target.is_dir():
            _move(path, target)
        elif target.is_dir():
            raise InputError(f"{target}: is a folder, but the archive holds a file of that name")
        else:
            os.replace(path, target)
