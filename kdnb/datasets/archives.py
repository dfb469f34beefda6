"""Archives that are unpacked once, into a folder beside them that is known by what the archive held."""

import hashlib
import json
import zipfile
from pathlib import Path

from kdnb.datasets.archive_names import is_left_behind, zip_names
from kdnb.datasets.download import BLOCK, NO_ARCHIVE, unpack
from kdnb.errors import InputError
from kdnb.files import atomic_folder, atomic_write

STAMP = ".unpacked.json"  # in the folder: size, time and hash of the archive it stands for, and the notes of unpacking


def unpacked(archive: Path) -> tuple[Path, list[str]]:
    """The folder with the files of an archive, and the notes of ``unpack``, which are printed when it unpacks.

    The folder of ``open.zip`` is ``open/``. Where ``open/`` holds something else, as it does when the archive was
    replaced since, it stays as it is and the folder is ``open_`` with eight digits of the archive's SHA-256.

    Raises InputError: no archive, one that is truncated or would write outside its folder, a place that cannot be
    written.
    """
    folder = archive.with_suffix("")
    key = {"size": archive.stat().st_size, "mtime_ns": archive.stat().st_mtime_ns}
    stamp = _stamp(folder)
    if stamp and key.items() <= stamp.items():
        return folder, stamp["notes"]
    key["sha256"] = _sha256(archive)
    if not folder.is_dir() or not any(folder.iterdir()):
        return _filled(folder, archive, key)
    if stamp["sha256"] == key["sha256"] if stamp else _holds(folder, archive):
        notes = stamp["notes"] if stamp else []
        _write_stamp(folder, {**key, "notes": notes})
        return folder, notes
    other = folder.with_name(f"{folder.name}_{key['sha256'][:8]}")
    stamp = _stamp(other)
    if stamp and stamp["sha256"] == key["sha256"]:
        return other, stamp["notes"]
    print(f"{archive}: {folder.name}/ holds something else, unpacked as {other.name}/", flush=True)
    return _filled(other, archive, key)


def _filled(folder: Path, archive: Path, key: dict) -> tuple[Path, list[str]]:
    try:
        with atomic_folder(folder) as build:
            notes = unpack(archive, build)
            (build / STAMP).write_text(json.dumps({**key, "notes": notes}), encoding="utf-8")
    except InputError:
        stamp = _stamp(folder)
        if stamp and stamp["sha256"] == key["sha256"]:  # another process was quicker
            return folder, stamp["notes"]
        raise
    except OSError as error:  # no permission, a read-only mount, a full disk
        raise InputError(f"{folder}: cannot be written ({error.strerror}), expected it beside {archive.name}") from None
    for note in notes:
        print(note, flush=True)
    return folder, notes


def _stamp(folder: Path) -> dict | None:
    """What STAMP says; None without one, or for one that is damaged."""
    try:
        stamp = json.loads((folder / STAMP).read_bytes())
        return {"sha256": str(stamp["sha256"]), **stamp, "notes": list(map(str, stamp["notes"]))}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _write_stamp(folder: Path, stamp: dict) -> None:
    try:
        atomic_write(folder / STAMP, json.dumps(stamp))
    except OSError:  # a folder that may only be read is hashed each time
        return


def _sha256(path: Path) -> str:
    digest = hashlib.sha256(usedforsecurity=False)
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected an archive") from None
    return digest.hexdigest()


def _holds(folder: Path, archive: Path) -> bool:
    """Whether a folder that was unpacked by hand, or by an older kdnb, has the files of a zip in their sizes."""
    try:
        with zipfile.ZipFile(archive) as box:
            names, _ = zip_names(box.infolist())
            sizes = {name: one.file_size for name, one in zip(names, box.infolist(), strict=True) if not one.is_dir()}
    except (*NO_ARCHIVE, OSError):
        return False
    sizes = {name: size for name, size in sizes.items() if not is_left_behind(name)}
    # by hand, an archive whose files all lie in open/ may have become that folder
    places = [folder, *([folder.parent] if all(name.startswith(folder.name + "/") for name in sizes) else [])]
    return bool(sizes) and any(all(_size(place / name) == size for name, size in sizes.items()) for place in places)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None
