"""The car competition's files, without torch: class folders, CSV tables, and classes that count as one.

Layout (Dacon 236493, "HAI", used cars by model): ``train/<class>/*.jpg``, ``test/TEST_00000.jpg``, ``test.csv``
(ID, img_path), ``sample_submission.csv`` (ID and a column per class); rendered sets add ``solution.csv`` (ID, label).
"""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnb.datasets.archive_names import is_left_behind
from kdnb.datasets.archives import unpacked
from kdnb.datasets.notes import skipped, some
from kdnb.datasets.text import read_text
from kdnb.errors import InputError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
NO_NAME = re.compile(r"(Unnamed: \d+)?")  # of an index column
FEWEST = 5  # images a class: five folds need one each
# Pairs of names that count as one class in the competition's score, as its organisers announced on its talk board
# (https://dacon.io/competitions/official/236493/talkboard/413868; the page itself was not read here, but several
# published solutions quote the same five pairs).
DUPLICATES = (
    ("K5_3세대_하이브리드_2020_2022", "K5_하이브리드_3세대_2020_2023"),
    ("디_올뉴니로_2022_2025", "디_올_뉴_니로_2022_2025"),
    ("718_박스터_2017_2024", "박스터_718_2017_2024"),
    ("RAV4_2016_2018", "라브4_4세대_2013_2018"),
    ("RAV4_5세대_2019_2024", "라브4_5세대_2019_2024"),
)


def normal(name: str) -> str:
    """A name with composed letters (NFC), without spaces around it: macOS stores Korean folder names decomposed."""
    return unicodedata.normalize("NFC", name).strip()


def merged(classes: Iterable[str]) -> list[int]:
    """For each class the id of the class it counts as: of a pair of DUPLICATES the smaller id, else its own."""
    id_of = {normal(name): k for k, name in enumerate(classes)}
    ids = list(range(len(id_of)))
    for pair in DUPLICATES:
        both = sorted(id_of[normal(name)] for name in pair if normal(name) in id_of)
        if len(both) == 2:
            ids[both[1]] = both[0]
    return ids


# --- roots ------------------------------------------------------------------------------------------------------


def find_root(place: str | Path) -> Path:
    """The folder with train/, given itself, a folder that holds it as ``open/``, or the competition's ``open.zip``.

    An archive is unpacked once, into a folder of its name beside it; see ``kdnb.datasets.archives``.

    Raises InputError when there is none, and for an archive that is truncated or would write outside its folder.
    """
    return root_and_notes(place)[0]


def root_and_notes(place: str | Path) -> tuple[Path, list[str]]:
    """As ``find_root``, and what is to be said of the archive it came from: how names were read, what was left out."""
    place, notes = Path(place), []
    if place.is_file():
        if place.suffix == "":
            raise InputError(f"{place}: found a file, expected the competition's folder or its open.zip")
        place, notes = unpacked(place)
    inside = [path for path in place.iterdir() if _may_be_root(path)] if place.is_dir() else []
    # an archive may hold everything in one folder
    for root in (place, place / "open", *(inside if len(inside) == 1 else [])):
        if (root / "train").is_dir():
            return root, notes
    what = "a folder" if place.is_dir() else "nothing"
    raise InputError(f"{place}: found {what}, expected the competition's folder with train/ in it, or its open.zip")


def _may_be_root(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and not is_left_behind(path.name)


# --- CSV --------------------------------------------------------------------------------------------------------


@dataclass
class Table:
    """A CSV file: ``header`` (NFC), ``rows`` (lists of as many texts) and ``lines``, the rows' line numbers."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """The texts of a column, without spaces around them. Raises InputError when there is no such column."""
        if name not in self.header:
            raise InputError(f"{self.path}:1: columns {some(self.header)}, expected a column {name!r}")
        column = self.header.index(name)
        return [row[column].strip() for row in self.rows]

    def index_columns(self) -> list[int]:
        """Columns without a name (or pandas' "Unnamed: 0") that number the rows, or hold nothing: they say nothing.

        Raises InputError for a column without a name that holds anything else.
        """
        found = [k for k, name in enumerate(self.header) if NO_NAME.fullmatch(name)]
        for k in found:
            for line, row in zip(self.lines, self.rows, strict=True):
                if not re.fullmatch(r"[0-9]*", row[k].strip()):
                    column = f"column {k + 1} has no name and holds {row[k][:40]!r}"
                    raise InputError(f"{self.path}:{line}: {column}, expected a name, or numbers of rows")
        return found


def read_table(path: str | Path) -> Table:
    """A CSV file with a header. Raises InputError: no file, no text, no header, a line with other columns."""
    path = Path(path)
    reader = csv.reader(io.StringIO(read_text(path, "a CSV table"), newline=""), strict=True)
    rows, lines = [], []
    try:
        header = [normal(name) for name in next(reader, [])]
        for row in reader:
            if row and len(row) != len(header):
                raise InputError(
                    f"{path}:{reader.line_num}: {len(row)} values, expected {len(header)} as in the header"
                )
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: cannot be read as CSV ({error})") from None
    if not header:
        raise InputError(f"{path}: is empty, expected a CSV table with a header")
    return Table(path, header, rows, lines)


def require_once(path: str | Path, what: str, names: Sequence[str], expected: Sequence[str] | None = None) -> None:
    """Raise InputError that lists the names which occur twice, are missing or are not expected."""
    given, doubled = Counter(names), [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise InputError(f"{path}: {what} {some(doubled)} more than once, expected each once")
    if expected is None:
        return
    missing = [name for name in expected if name not in given]
    if missing:
        raise InputError(f"{path}: {what} {some(missing)} missing, expected {len(expected)}")
    allowed = set(expected)
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise InputError(f"{path}: unknown {what} {some(unknown)}, expected {len(expected)} others")


# --- the parts of a root ----------------------------------------------------------------------------------------


def class_folders(root: Path) -> dict[str, list[Path]]:
    """{class name: its images, sorted}; folders whose names differ in their Unicode form alone are one class.

    Raises InputError when train/ holds no class.
    """
    classes = {}
    for folder in sorted(path for path in (root / "train").iterdir() if path.is_dir()):
        if not _is_hidden(folder):
            images = [path for path in folder.iterdir() if is_image(path)]
            classes.setdefault(normal(folder.name), []).extend(images)
    if not classes:
        raise InputError(f"{root / 'train'}: no folders, expected one per class")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or is_left_behind(path.name)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its ending, and none that macOS left behind."""
    return path.suffix.lower() in IMAGES and not _is_hidden(path)


def skipped_files(root: Path, listed: Iterable[Path]) -> list[str]:
    """What of train/ and test/ is not read, and why, a line for each reason: what is no image by its ending, what macOS
    and Windows left behind, folders within classes, and images of test/ that are not ``listed`` in test.csv."""
    listed, why = set(listed), {}
    for path in sorted((root / "train").iterdir()):
        if not path.is_dir() or _is_hidden(path):
            why.setdefault(_why_skipped(path) or ("image", "outside the folder of a class"), []).append(path)
        else:
            for inside in sorted(path.iterdir()):
                if not is_image(inside):
                    why.setdefault(_why_skipped(inside), []).append(inside)
    for path in sorted((root / "test").iterdir()) if (root / "test").is_dir() else ():
        if path not in listed:
            why.setdefault(_why_skipped(path) or ("image", "not listed in test.csv"), []).append(path)
    return [
        skipped(root, [path.relative_to(root) for path in paths], reason, what) for (what, reason), paths in why.items()
    ]


def _why_skipped(path: Path) -> tuple[str, str] | None:
    """What it is and why it is skipped; None for an image."""
    if _is_hidden(path):
        return "file", "hidden or left by macOS or Windows"
    if path.suffix.lower() in IMAGES:
        return None
    return ("folder", "in one of a class") if path.is_dir() else ("file", f"not ending in {', '.join(IMAGES)}")


def class_names(root: Path, folders: dict[str, list[Path]]) -> list[str]:
    """Classes in the order of sample_submission.csv, or, without one, of their names.

    Raises InputError when its columns are doubled or differ from the folders of train/.
    """
    sample = root / "sample_submission.csv"
    if not sample.is_file():
        return list(folders)
    names = read_table(sample).header
    if names[0] != "ID":
        raise InputError(f"{sample}:1: first column {names[0]!r}, expected ID")
    require_once(sample, "columns", names)
    require_once(root / "train", "classes (folders)", list(folders), names[1:])
    return names[1:]


def too_small(root: Path, folders: dict[str, list[Path]]) -> list[str]:
    """A fault for each class with fewer than FEWEST images."""
    return [
        f"{root / 'train' / name}: {len(paths)} images, expected at least {FEWEST}"
        for name, paths in folders.items()
        if len(paths) < FEWEST
    ]


def listed_images(root: Path) -> dict[str, Path]:
    """{ID: path} as test.csv lists them; ``./test/x.jpg`` counts from the root.

    Raises InputError: no table, no rows, doubled IDs, IDs that are not those of sample_submission.csv, missing images.
    """
    table = read_table(root / "test.csv")
    ids, paths = table.column("ID"), table.column("img_path")
    if not ids:
        raise InputError(f"{table.path}: no rows, expected an ID and an img_path per test image")
    require_once(table.path, "IDs", ids)
    sample = root / "sample_submission.csv"
    if sample.is_file():
        require_once(sample, "IDs", read_table(sample).column("ID"), ids)
    images = {name: root / path for name, path in zip(ids, paths, strict=True)}
    existing = {path.name for path in (root / "test").iterdir()} if (root / "test").is_dir() else set()
    for line, path in zip(table.lines, images.values(), strict=True):
        if not (path.parent == root / "test" and path.name in existing) and not _is_file(path):
            raise InputError(f"{path}: no such image, expected one for line {line} of {table.path}")
    return images


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def read_solution(path: str | Path, classes: Sequence[str], ids: Sequence[str] | None = None) -> dict[str, int]:
    """{ID: class id} of a solution (ID, and the label by any name).

    Raises InputError: doubled IDs, IDs that are not ``ids`` (when given), unknown classes, no column of labels.
    """
    table = read_table(path)
    names, labels = table.column("ID"), solution_labels(table)
    require_once(table.path, "IDs", names, ids)
    id_of = {name: k for k, name in enumerate(classes)}
    for line, label in zip(table.lines, labels, strict=True):
        if label not in id_of:
            raise InputError(f"{table.path}:{line}: label {label[:80]!r}, expected one of the {len(id_of)} classes")
    return {name: id_of[label] for name, label in zip(names, labels, strict=True)}


def solution_labels(table: Table) -> list[str]:
    """The labels (NFC) of a solution: the column "label", or the only one beside ID, whatever its name.

    Raises InputError when there is no ID, or no such column.
    """
    table.column("ID")
    index = table.index_columns()
    others = [name for k, name in enumerate(table.header) if name != "ID" and k not in index]
    if "label" not in others and len(others) != 1:
        found = some(table.header)
        raise InputError(f"{table.path}:1: columns {found}, expected ID and one column of labels, such as 'label'")
    require_once(table.path, "columns", others)
    return [normal(label) for label in table.column("label" if "label" in others else others[0])]
