"""Cars as people hand them in: each case of the world gives the right value or one line, and no bytes give more."""

import csv
import io
import math
import struct
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.car_submissions import check_submission, read_submission, write_submission
from kdnb.datasets.cars import Cars, check_cars, read_car
from kdnb.errors import InputError
from kdnb.metrics.cars_read import evaluate_files

few = settings(max_examples=25, deadline=None, derandomize=True)
CLASSES = ["K5_3세대", "모닝", "쏘나타"]
IDS = ["TEST_0", "TEST_1", "TEST_2"]
SOLUTION = "ID,label\n" + "".join(f"{name},{label}\n" for name, label in zip(IDS, CLASSES, strict=True))
ROWS = ["0.7,0.2,0.1", "0.1,0.8,0.1", "0.3,0.3,0.4"]
RIGHT = -(math.log(0.7) + math.log(0.8) + math.log(0.4)) / 3


def table(header="ID", rows=ROWS, before=(), after=()):
    lines = [",".join([header, *CLASSES, *after[:1]])]
    for k, (name, row) in enumerate(zip(IDS, rows, strict=True)):
        lines.append(",".join([*(one[k] for one in before), name, row, *(one[k] for one in after[1:])]))
    return "\n".join(lines) + "\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- submissions and solutions ----------------------------------------------------------------------------------

INDEX = [["0", "1", "2"]]
NOTE = ["note", ["a", "b", "c"]]
PERCENT = ["70,20,10", "10,80,10", "30,30,40"]


@pytest.mark.parametrize(
    ("submission", "solution", "line"),
    [
        (table(), SOLUTION, None),
        (table(",ID", before=INDEX), SOLUTION, None),
        (table("Unnamed: 0,ID", before=INDEX), SOLUTION, None),
        (table(after=["", ["", "", ""]]), SOLUTION, None),  # a comma at each line's end
        (table(",ID", before=INDEX), ",ID,label\n0,TEST_0,K5_3세대\n1,TEST_1,모닝\n2,TEST_2,쏘나타\n", None),
        (table(), SOLUTION.replace("label", "차종"), None),
        (table(), SOLUTION.replace("label", "label,Usage").replace("대\n", "대,Public\n").replace("닝\n", "닝,Public\n")
         .replace("타\n", "타,Private\n"), None),
        (("\ufeff" + table()).encode(), SOLUTION.encode("utf-16"), None),
        (table().replace("\n", "\r\n"), SOLUTION + "\n\n", None),
        (table(",ID", before=[["x", "y", "z"]]), SOLUTION, "sub.csv:2: column 1 has no name and holds 'x'"),
        (table(after=NOTE), SOLUTION, "sub.csv:1: columns note are no class of"),
        (table("index,ID", before=INDEX), SOLUTION, "sub.csv:1: columns index are no class of"),
        (table(rows=PERCENT), SOLUTION, "sub.csv:2: row TEST_0 has a value above 1 in column K5_3세대: 70 (and 2 more"),
        (table(rows=[*ROWS[:2], "0.5,-0.5,1"]), SOLUTION, ":4: row TEST_2 has a negative value in column 모닝: -0.5"),
        (table(rows=[*ROWS[:2], "0.5,nan,1"]), SOLUTION, ":4: row TEST_2 has NaN or an infinite value in column 모닝"),
        (table(rows=[*ROWS[:2], "0,0,0"]), SOLUTION, "sub.csv:4: row TEST_2 has only zeros, expected"),
        (table(), SOLUTION.replace("label", "a,b").replace("대\n", "대,1\n").replace("닝\n", "닝,1\n")
         .replace("타\n", "타,1\n"), "solution.csv:1: columns ID, a, b, expected ID and one column of labels"),
        (table(), "ID\nTEST_0\n", "solution.csv:1: columns ID, expected ID and one column of labels"),
        (table().encode("cp949"), SOLUTION, "sub.csv:1: byte 0xbc is not UTF-8"),
        ("ID\nTEST_0\nTEST_1\nTEST_2\n", SOLUTION, "sub.csv: columns K5_3세대, 모닝, 쏘나타 missing"),
    ],
)  # fmt: skip
def test_the_score_reads_the_classes_or_says_why_not(tmp_path, submission, solution, line):
    files = write(tmp_path / "solution.csv", solution), write(tmp_path / "sub.csv", submission)
    if line is None:
        scores = evaluate_files(*files)
        assert scores["log_loss"] == pytest.approx(RIGHT) and scores["accuracy"] == 100 and scores["images"] == 3
        return
    with pytest.raises(InputError) as caught:
        evaluate_files(*files)
    assert line in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_is_ignored_is_named(tmp_path):
    files = write(tmp_path / "solution.csv", SOLUTION), write(tmp_path / "sub.csv", table(",ID", before=INDEX))
    done = CliRunner().invoke(main, ["eval", "cars", "--solution", str(files[0]), "--submission", str(files[1])])
    assert done.exit_code == 0 and "accuracy             100.000" in done.stdout
    assert "sub.csv: column 1 (without a name) numbers the rows and is no class, ignored" in done.stderr
    write(tmp_path / "sample_submission.csv", table())
    with pytest.raises(InputError, match=r"unknown columns \(without a name\), expected 4 others"):
        check_submission(files[1], tmp_path / "sample_submission.csv")  # a competition may refuse it


def test_a_class_that_no_label_names_is_one_by_the_sample(tmp_path):
    two = SOLUTION.replace("쏘나타", "모닝")
    files = write(tmp_path / "solution.csv", two), write(tmp_path / "sub.csv", table())
    with pytest.raises(InputError, match="columns 쏘나타 are no class of .*solution.csv"):
        evaluate_files(*files)
    write(tmp_path / "sample_submission.csv", table())
    assert evaluate_files(*files)["accuracy"] == pytest.approx(200 / 3)


def test_what_a_sum_in_float32_leaves_above_1_is_1(tmp_path):
    write_submission(tmp_path / "a.csv", ["x"], ["a", "b"], np.array([[1 + 1e-7, 0]]))
    assert read_submission(tmp_path / "a.csv")[2].tolist() == [[1, 0]]


FIELDS = st.sampled_from(
    ["", "ID", "label", "TEST_0", "TEST_1", *CLASSES, "0", "1", "-1", "nan", "inf", "1e999", "5e-324", "0.3", "70",
     "_1", '"', "\0", "\ufeff", "0x1", "１", "Unnamed: 0", "1\n2", "a" * 200_000]
)  # fmt: skip


@st.composite
def damaged_tables(draw, text):
    """A table whose fields were swapped, or which was cut off or overwritten."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        kind, place = draw(st.integers(0, 3)), draw(st.integers(0, len(row)))
        if kind == 0:
            row.insert(place, draw(FIELDS))
        elif kind == 1 and place < len(row):
            row[place] = draw(FIELDS)
        elif kind == 2 and place < len(row):
            del row[place]
        elif row:
            row[:] = row[place:] + row[:place]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    content = bytearray(buffer.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))))
    for _ in range(draw(st.integers(0, 2))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@few
@given(
    st.binary(max_size=200) | damaged_tables(table(",ID", before=INDEX)), damaged_tables(SOLUTION) | st.just(SOLUTION)
)
def test_no_submission_gives_a_traceback_or_nan(tmp_path_factory, submission, solution):
    place = tmp_path_factory.mktemp("s")
    try:
        scores = evaluate_files(write(place / "solution.csv", solution), write(place / "sub.csv", submission))
    except InputError as error:
        assert "\n" not in str(error) and str(place) in str(error)
    else:
        assert all(math.isfinite(value) for value in scores.values())


# --- the competition's folder -----------------------------------------------------------------------------------

TEST_CSV = "ID,img_path\nTEST_0,./test/TEST_0.jpg\nTEST_1,./test/TEST_1.jpg\n"


def save(path, seed=0, **more):
    pixels = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of five images, two test images."""
    root = tmp_path_factory.mktemp("cars")
    for k, name in enumerate(CLASSES):
        (root / "train" / name).mkdir(parents=True)
        for n in range(5):
            save(root / "train" / name / f"{n}.jpg", 10 * k + n)
    (root / "test").mkdir()
    for n in range(2):
        save(root / "test" / f"TEST_{n}.jpg", n)
    write(root / "test.csv", TEST_CSV)
    return root


def png(width, height, depth=8):
    """The head of a PNG, and no pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT"


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, exif=exif)


def in_16_bits(path):
    Image.fromarray(np.full((4, 4), 300 * 100, np.uint16)).save(path)


NEW = CLASSES[0] + "/5"


@pytest.mark.parametrize(
    ("name", "make", "images", "note", "fault"),
    [
        (f"{NEW}.webp", save, 16, None, None),
        (f"{NEW}.JPEG", lambda path: save(path, format="JPEG"), 16, None, None),
        (f"{NEW}.png", in_16_bits, 16, None, None),
        (f"{NEW}.jpg", turned, 16, "EXIF orientation other than 1 in 5.jpg (6)", None),
        (f"{NEW}.heic", lambda path: path.touch(), 15, "skipped 1 file, not ending in .jpg", None),
        (f"{NEW}.jpg~", lambda path: save(path, format="JPEG"), 15, "skipped 1 file, not ending in .jpg", None),
        (f"{CLASSES[0]}/Thumbs.db", lambda path: path.touch(), 15, "skipped 1 file, hidden or left by macOS", None),
        (f"{CLASSES[0]}/._0.jpg", lambda path: path.touch(), 15, "skipped 1 file, hidden or left by macOS", None),
        ("__MACOSX", lambda path: path.mkdir(), 15, "skipped 1 file, hidden or left by macOS", None),
        (f"{CLASSES[0]}/more", lambda path: path.mkdir(), 15, "skipped 1 folder, in one of a class: train/", None),
        ("alone.jpg", save, 15, "skipped 1 image, outside the folder of a class: train/alone.jpg", None),
        ("../test/TEST_9.jpg", save, 15, "skipped 1 image, not listed in test.csv: test/TEST_9.jpg", None),
        (f"{NEW}.png", lambda path: path.write_bytes(png(30000, 30000)), 16, None, "5.png: has more than"),
        (f"{NEW}.png", lambda path: path.write_bytes(png(9500, 9500)), 16, None, "5.png: has 9500 x 9500 pixels"),
        (f"{NEW}.jpg", lambda path: path.write_bytes(b"GIF89a"), 16, None, "5.jpg: not an image"),
        (f"{NEW}.jpg", lambda path: path.mkdir(), 16, None, "5.jpg: cannot be decoded (Is a directory)"),
    ],
)  # fmt: skip
def test_a_file_is_counted_skipped_with_a_word_or_named(folder, name, make, images, note, fault):
    path = folder / "train" / name
    make(path)
    try:
        report = check_cars(folder)
        assert sum(k != 9 for _, k in Cars(folder).train) == images
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
    assert sum(report.images.values()) == images
    assert len(report.notes) == (note is not None) and (note or "") in "".join(report.notes)
    assert len(report.faults) == (fault is not None) and (fault or "") in "".join(report.faults)
    assert all("\n" not in line for line in report.notes + report.faults)


def test_a_folder_that_was_unpacked_in_the_wrong_encoding_is_named(folder):
    wrong = folder / "train" / "모닝".encode("cp949").decode("cp437")
    (folder / "train" / "모닝").rename(wrong)
    try:
        assert any(
            "names such as ╕≡┤╫ were unpacked in the wrong encoding" in note for note in check_cars(folder).notes
        )
    finally:
        wrong.rename(folder / "train" / "모닝")


def test_16_bits_are_read_by_their_upper_8(tmp_path):
    in_16_bits(tmp_path / "a.png")
    assert (read_car(tmp_path / "a.png")[0] == 30000 >> 8).all()


def test_one_image_that_breaks_a_decoder_is_one_fault(folder, monkeypatch):
    import kdnb.datasets.cars as module

    real = module.read_image

    def read(path, kind):
        if path.name == "0.jpg":
            raise ZeroDivisionError("in a codec\nsomewhere")
        return real(path, kind)

    monkeypatch.setattr(module, "read_image", read)
    faults = check_cars(folder).faults
    assert len(faults) == 3 and all("0.jpg: cannot be checked (ZeroDivisionError in a codec)" in one for one in faults)


@few
@given(damaged_tables(TEST_CSV))
def test_no_test_table_gives_a_traceback(folder, content):
    write(folder / "test.csv", content)
    try:
        Cars(folder)
    except InputError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    finally:
        write(folder / "test.csv", TEST_CSV)


@st.composite
def damaged_images(draw):
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=200))
    buffer = io.BytesIO()
    save(buffer, format=draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])))
    content = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 5))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about damaged tags
@few
@given(damaged_images())
def test_no_image_gives_a_traceback_or_nan(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("i") / "a.jpg", content)
    try:
        image, meta = read_car(path)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert image.shape[0] == 3 and all(map(math.isfinite, [meta["aspect"], *meta["colour"]]))
