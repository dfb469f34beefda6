"""Archives as people make them: names in UTF-8 or cp949, what macOS and Windows leave behind, archives replaced."""

import io
import os
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnb.datasets.archive_names import is_left_behind, zip_names
from kdnb.datasets.archives import STAMP, unpacked
from kdnb.datasets.download import unpack
from kdnb.errors import InputError

few = settings(max_examples=25, deadline=None, derandomize=True)
KOREAN = "train/쏘나타_2019/쏘나타_2019_0001.jpg"


class Raw(zipfile.ZipInfo):
    """A member whose name is stored in an encoding that the zip does not tell."""

    def __init__(self, name, encoding):
        super().__init__(name)
        self.encoding = encoding

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.encoding), self.flag_bits


def zipped(path, members, encoding=None):
    with zipfile.ZipFile(path, "w") as box:
        for name, content in members.items():
            box.writestr(Raw(name, encoding) if encoding else name, content)
    return path


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {STAMP}


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "encoding", "read_as", "said"),
    [
        (KOREAN, None, KOREAN, None),  # Python, 7-Zip: with the flag
        (KOREAN, "cp949", KOREAN, "read as cp949"),  # Korean Windows
        (KOREAN, "utf-8", KOREAN, "read as utf-8"),  # macOS
        ("가나다.jpg", "cp949", "가나다.jpg", "read as cp949"),  # shades, not boxes, in cp437
        ("train/Müller.jpg", "cp437", "train/Müller.jpg", "read as cp437"),
        ("train/a.jpg", "ascii", "train/a.jpg", None),
    ],
)
def test_names_are_those_that_their_maker_wrote(tmp_path, name, encoding, read_as, said):
    notes = unpack(zipped(tmp_path / "a.zip", {name: b"x"}, encoding), tmp_path / "a")
    assert files(tmp_path / "a") == {read_as}
    assert len(notes) == (said is not None) and (said or "") in "".join(notes)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp932", "train/カローラ.jpg"),  # Japanese Windows: nobody can tell, but the note shows the name
        ("gbk", "train/奥迪.jpg"),
        ("cp1252", "train/Citroën Ï.jpg"),
    ],
)
def test_a_name_that_was_guessed_is_shown(tmp_path, encoding, name):
    archive = zipped(tmp_path / "a.zip", {name: b"x", "train/b.jpg": b"y"}, encoding)
    (note,) = unpack(archive, tmp_path / "a")
    (read,) = [path.name for path in (tmp_path / "a" / "train").iterdir() if path.name != "b.jpg"]
    start = f"{archive}: does not say how its names are encoded, read as cp"
    assert note.startswith(start) and f", such as {read}; if that is no word, unpack the archive by hand" in note


@pytest.mark.parametrize(("encoding", "said"), [("utf-8", ""), ("cp949", "cp949, such as 쏘나타_2019_0001.jpg;")])
def test_names_in_a_tar(tmp_path, encoding, said):
    with tarfile.open(tmp_path / "a.tar", "w", encoding=encoding, format=tarfile.GNU_FORMAT) as box:
        for name in (KOREAN, "train/모닝/1.jpg", "train/b.jpg"):
            box.addfile(tarfile.TarInfo(name))
    notes = unpack(tmp_path / "a.tar", tmp_path / "a")
    assert files(tmp_path / "a") == {KOREAN, "train/모닝/1.jpg", "train/b.jpg"}
    assert len(notes) == bool(said) and said in "".join(notes)


def test_bytes_that_are_no_korean_name_are_shown(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as box:
        box.addfile(tarfile.TarInfo("Müller.jpg"))
    (note,) = unpack(tmp_path / "a.tar", tmp_path / "a")
    assert "read as latin-1, such as Müller.jpg" in note and files(tmp_path / "a") == {"Müller.jpg"}


def test_names_with_and_without_the_flag_in_one_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as box:
        box.writestr(Raw("모닝.txt", "cp949"), b"1")
        box.writestr("쏘나타.txt", b"2")
    with zipfile.ZipFile(tmp_path / "a.zip") as box:
        assert zip_names(box.infolist()) == (["모닝.txt", "쏘나타.txt"], "cp949")


def test_what_macos_and_windows_leave_behind_is_never_data(tmp_path):
    junk = ["__MACOSX/train/a/._1.jpg", "train/.DS_Store", "train/a/Thumbs.db", "train/a/._1.jpg", "desktop.ini"]
    archive = zipped(tmp_path / "a.zip", {name: b"x" for name in ["train/a/1.jpg", *junk]})
    assert unpack(archive, tmp_path / "a") == [
        f"{archive}: skipped 5 files, left by macOS or Windows: {', '.join(junk)}"
    ]
    assert files(tmp_path / "a") == {"train/a/1.jpg"} and not (tmp_path / "a" / "__MACOSX").exists()
    with tarfile.open(tmp_path / "a.tar", "w") as box:
        for name in ("b/1.jpg", "b/._1.jpg"):
            box.addfile(tarfile.TarInfo(name))
    unpack(tmp_path / "a.tar", tmp_path / "b")
    assert files(tmp_path / "b") == {"b/1.jpg"}
    assert not is_left_behind("train/macosx/thumbs.dbx") and is_left_behind("THUMBS.DB")


# --- unpacked once ----------------------------------------------------------------------------------------------


def test_an_archive_is_unpacked_once_and_again_when_it_was_replaced(tmp_path, capsys):
    archive = zipped(tmp_path / "open.zip", {"train/1.txt": b"first", "train/.DS_Store": b""})
    folder, notes = unpacked(archive)
    assert (
        folder == tmp_path / "open"
        and "skipped 1 file, left by macOS" in notes[0]
        and notes[0] in capsys.readouterr().out
    )
    (folder / "train" / "1.txt").write_text("kept")
    assert unpacked(archive) == (folder, notes) and (folder / "train" / "1.txt").read_text() == "kept"
    os.utime(archive, ns=(5, 5))  # copied anew: the same bytes
    assert unpacked(archive) == (folder, notes) and capsys.readouterr().out == ""

    zipped(archive, {"train/1.txt": b"other"})
    os.utime(archive, ns=(6, 6))
    other, _ = unpacked(archive)
    assert other.parent == tmp_path and other.name.startswith("open_") and len(other.name) == 13
    assert (other / "train" / "1.txt").read_bytes() == b"other" and (folder / "train" / "1.txt").read_text() == "kept"
    assert "open/ holds something else, unpacked as open_" in capsys.readouterr().out
    assert unpacked(archive) == (other, []) and capsys.readouterr().out == ""


def test_a_folder_that_was_unpacked_by_hand_is_taken_if_it_holds_the_archive(tmp_path):
    archive = zipped(tmp_path / "open.zip", {"train/1.txt": b"one", "__MACOSX/._1": b"x"})
    (tmp_path / "open" / "train").mkdir(parents=True)
    (tmp_path / "open" / "train" / "1.txt").write_text("two")  # of the same size
    assert unpacked(archive)[0] == tmp_path / "open"
    archive = zipped(tmp_path / "cars.zip", {"cars/train/1.txt": b"one"})
    (tmp_path / "cars" / "train").mkdir(parents=True)
    (tmp_path / "cars" / "train" / "1.txt").write_text("three")
    assert unpacked(archive)[0].name.startswith("cars_")
    (tmp_path / "cars" / "train" / "1.txt").write_text("one")
    assert unpacked(archive)[0] == tmp_path / "cars"


def test_a_damaged_stamp_counts_for_nothing(tmp_path):
    archive = zipped(tmp_path / "open.zip", {"1.txt": b"one"})
    folder, _ = unpacked(archive)
    for damage in (b"", b"[]", b"{}", b'{"sha256": 3, "notes": 1}', b"\xff"):
        (folder / STAMP).write_bytes(damage)
        assert unpacked(archive)[0] == folder


# --- bytes that are no archive ----------------------------------------------------------------------------------


def some_archive(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as box:
            box.writestr(Raw(KOREAN, "cp949"), b"abc" * 50)
            box.writestr("쏘나타.txt", b"\0" * 50)
    else:
        with tarfile.open(fileobj=buffer, mode=kind) as box:
            for name in ("a/1.txt", "모닝"):
                one = tarfile.TarInfo(name)
                one.size = 50
                box.addfile(one, io.BytesIO(b"x" * 50))
    return buffer.getvalue()


ARCHIVES = [some_archive(kind) for kind in ("zip", "w", "w:gz", "w:bz2", "w:xz")]


@st.composite
def damaged_archives(draw):
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from((b"", b"PK\3\4", b"\x1f\x8b", b"BZh9"))) + draw(st.binary(max_size=300))
    content = bytearray(draw(st.sampled_from(ARCHIVES)))
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@few
@given(damaged_archives())
def test_damaged_archives_give_one_line_or_files_in_their_folder(tmp_path_factory, content):
    place = tmp_path_factory.mktemp("z")
    (place / "a.zip").write_bytes(content)
    try:
        unpack(place / "a.zip", place / "a")
    except InputError as error:
        assert "\n" not in str(error) and str(place) in str(error) and not (place / "a").exists()
    assert {path.name for path in place.iterdir()} <= {"a.zip", "a"}
