"""Names of KITTI's frames: which files of a folder are a frame's, and lists such as ``ImageSets/train.txt``."""

import re
from pathlib import Path

from kdnb.datasets.folders import names_in
from kdnb.datasets.text import read_text
from kdnb.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg")
OFFICIAL = re.compile(r"[0-9]{6}")
OTHER = re.compile(r"[\w-]{1,100}")  # in sets of one's own
LISTED = re.compile(r"[\w.-]{1,100}")


def frame_files(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
    """``({frame name: path}, names of the files that are no frame's)``, sorted; both empty without the folder.

    A frame's file has one of ``suffixes`` and is called by six digits. In a folder without such names, letters, digits,
    ``_`` and ``-`` make a name too. So backups (``000000.txt~``, ``000000 (1).txt``), what systems leave behind
    (``Thumbs.db``, ``._000000.txt``) and notes of tools (``stats_car_detection.txt``) are no frames.
    """
    names = names_in(folder)
    stems = {name: name.rpartition(".") for name in names}
    fitting = [name for name, (_, dot, suffix) in stems.items() if (dot + suffix.lower()) in suffixes]
    for pattern in (OFFICIAL, OTHER):
        files = {stems[name][0]: folder / name for name in sorted(fitting) if pattern.fullmatch(stems[name][0])}
        if files:
            break
    used = {path.name for path in files.values()}
    return files, sorted(names - used)


def parse_list(path: Path) -> tuple[list[str], list[str], list[str]]:
    """``(names, "list:line: " of each, faults)`` of a list with a frame's name a line; a repeated name is left out.

    Raises InputError for a file that cannot be read and a list without a line.
    """
    names, lines, faults, first = [], [], [], {}
    for number, line in enumerate(read_text(path, "a list of frames, a name a line").split("\n"), 1):
        name = line.strip()
        if not name:
            continue
        if not LISTED.fullmatch(name):
            faults.append(f"{path}:{number}: found {name[:60]!r}, expected the name of a frame, such as 000003")
        elif name in first:
            faults.append(f"{path}:{number}: frame {name} is listed again (first in line {first[name]})")
        else:
            first[name] = number
            names.append(name)
            lines.append(f"{path}:{number}: ")
    if not names and not faults:
        raise InputError(f"{path}: no frames, expected one name a line")
    return names, lines, faults


def shared_frames(path: Path, others: list[Path]) -> list[str]:
    """A fault for each frame of a list that is in one of the ``others`` too; lists that cannot be read are left out."""
    faults, known = [], {}
    for other in others:
        for name, line in _readable(other):
            known.setdefault(name, line)
    for name, line in _readable(path):
        if name in known:
            where = known[name].removesuffix(": ")
            faults.append(f"{line}frame {name} is in {where} too, expected lists that share no frame")
    return faults


def _readable(path):
    try:
        names, lines, _ = parse_list(path)
    except InputError:
        return []
    return list(zip(names, lines, strict=True))
