"""The car competition's reader: folder or archive, names in any Unicode form, and every fault in one line by name."""

import shutil
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.cars import DUPLICATES, Cars, check_cars, describe, merged, read_car
from kdnb.errors import InputError

CLASSES = ["b_2010", "라브4_5세대_2019_2024", "RAV4_5세대_2019_2024"]  # in the sample's order, which is no alphabet's


def save(path, seed, mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, quality=95)


@pytest.fixture
def root(tmp_path):
    """Three classes of five images, two test images; folder names as macOS stores them."""
    root = tmp_path / "set"
    for k, name in enumerate(CLASSES):
        folder = root / "train" / unicodedata.normalize("NFD", name)
        folder.mkdir(parents=True)
        for n in range(5):
            save(folder / f"{n}.jpg", 10 * k + n)
    (root / "test").mkdir()
    for n in range(2):
        save(root / "test" / f"TEST_{n:05d}.jpg", 90 + n, size=(50 + n, 20))
    write(root / "test.csv", "ID,img_path", *(f"TEST_{n:05d},./test/TEST_{n:05d}.jpg" for n in range(2)))
    write(root / "sample_submission.csv", ",".join(["ID", *CLASSES]), "TEST_00000,0,0,0", "TEST_00001,0,0,0")
    return root


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def error(root):
    with pytest.raises(InputError) as caught:
        Cars(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zipped(root, archive, *more):
    with zipfile.ZipFile(archive, "w") as box:
        for path in sorted(root.rglob("*")):
            box.write(path, path.relative_to(root))
        for name in more:
            box.writestr(name, b"x")
    return archive


# --- lists ------------------------------------------------------------------------------------------------------


def test_classes_follow_the_sample_and_korean_folders_are_found(root):
    cars = Cars(root)
    assert cars.classes == CLASSES and cars.merged == [0, 1, 1]
    assert [k for _, k in cars.train] == [0] * 5 + [1] * 5 + [2] * 5 and all(path.is_file() for path, _ in cars.train)
    assert unicodedata.normalize("NFC", cars.train[5][0].parent.name) == CLASSES[1]
    assert cars.test_ids == ["TEST_00000", "TEST_00001"] and cars.solution is None
    assert cars.test_paths == [root / "test/TEST_00000.jpg", root / "test/TEST_00001.jpg"]
    (root / "sample_submission.csv").unlink()
    assert Cars(root).classes == sorted(CLASSES)


def test_folders_of_one_name_in_two_forms_are_one_class(root):
    other = root / "train" / CLASSES[1]
    other.mkdir()
    save(other / "more.jpg", 7)
    cars = Cars(root)
    assert len(cars.classes) == 3 and sum(k == 1 for _, k in cars.train) == 6


def test_the_solution_is_read_as_class_ids(root):
    write(
        root / "solution.csv",
        "ID,label",
        f"TEST_00001,{unicodedata.normalize('NFD', CLASSES[2])}",
        f"TEST_00000,{CLASSES[0]}",
    )
    assert Cars(root).solution == {"TEST_00000": 0, "TEST_00001": 2}
    write(root / "solution.csv", "ID,label", "TEST_00001,b_2011", "TEST_00000,b_2010")
    assert "solution.csv:2: label 'b_2011', expected one of the 3 classes" in error(root)
    write(root / "solution.csv", "ID,label", "TEST_00001,b_2010")
    assert "solution.csv: IDs TEST_00000 missing, expected 2" in error(root)


def test_the_five_pairs_are_merged_in_any_form():
    names = [unicodedata.normalize("NFD", name) for pair in DUPLICATES for name in pair[::-1]] + ["other"]
    assert len(DUPLICATES) == 5 and merged(names) == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10]
    assert merged([names[1], "x", names[0]]) == [0, 1, 0] and merged(names[:1]) == [0]


# --- faults -----------------------------------------------------------------------------------------------------


def test_a_small_class_is_named(root):
    next((root / "train" / "b_2010").iterdir()).unlink()
    assert f"{root / 'train' / 'b_2010'}: 4 images, expected at least 5" in error(root)


def test_folders_and_columns_must_agree(root):
    (root / "train" / "b_2010").rename(root / "train" / "b_2011")
    assert f"{root / 'train'}: classes (folders) b_2010 missing" in error(root)
    shutil.rmtree(root / "train")
    assert "expected the competition's folder with train/" in error(root)


FIRST = "TEST_00000,./test/TEST_00000.jpg"


@pytest.mark.parametrize(
    "rows, what",
    [
        (("ID,img_path", FIRST, "TEST_00000,./test/TEST_00001.jpg"), "test.csv: IDs TEST_00000 more than once"),
        (("ID,img_path", FIRST), "sample_submission.csv: unknown IDs TEST_00001"),
        (("ID,img_path", FIRST, "TEST_00001,./test/x.jpg"), "no such image, expected one for line 3"),
        (("ID,path", FIRST), "test.csv:1: columns ID, path, expected a column 'img_path'"),
        (("ID,img_path", "TEST_00000"), "test.csv:2: 1 values, expected 2"),
        (("ID,img_path",), "test.csv: no rows"),
    ],
)
def test_faults_of_the_test_table_are_named(root, rows, what):
    write(root / "test.csv", *rows)
    assert what in error(root)


def test_a_missing_table_is_named(root):
    (root / "test.csv").unlink()
    assert f"{root / 'test.csv'}: no such file" in error(root)


# --- open.zip ---------------------------------------------------------------------------------------------------


def test_the_archive_is_unpacked_once_beside_itself(root, tmp_path):
    archive = zipped(root, tmp_path / "open.zip")
    first = Cars(archive)
    assert first.root == tmp_path / "open" and len(first.train) == 15 and first.classes == CLASSES
    shutil.rmtree(root)
    assert Cars(archive).train == first.train and Cars(tmp_path / "open").train == first.train
    assert Cars(tmp_path).root == tmp_path / "open"
    archive.write_bytes(b"gone")
    assert f"{archive}: cannot be unpacked" in error(archive)
    assert Cars(tmp_path / "open").train == first.train


def test_bad_archives_are_refused_and_leave_nothing(root, tmp_path):
    harmful = zipped(root, tmp_path / "open.zip", "train/../../../evil.txt")
    assert f"{harmful}: member 'train/../../../evil.txt' would be written outside the folder" in error(harmful)
    whole = zipped(root, tmp_path / "short.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[: len(whole) // 2])
    assert f"{tmp_path / 'short.zip'}: cannot be unpacked" in error(tmp_path / "short.zip")
    (tmp_path / "data").write_text("no archive")
    assert "expected the competition's folder or its open.zip" in error(tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "open.zip", "set", "short.zip"]


# --- images -----------------------------------------------------------------------------------------------------


def test_what_is_said_of_an_image_comes_from_the_image_itself(tmp_path):
    pixels = np.zeros((20, 50, 3), np.uint8)
    pixels[:, :10] = (255, 0, 0)
    pixels[:10, :, 2] = 51
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image, meta = read_car(tmp_path / "a.png")
    assert image.shape == (3, 20, 50) and image.dtype == torch.uint8
    assert (image.permute(1, 2, 0).numpy() == pixels).all()
    assert meta["aspect"] == 2.5 and meta["colour"] == pytest.approx((0.2, 0.0, 0.1)) and meta == describe(image)


def test_grey_images_have_three_equal_channels(tmp_path):
    save(tmp_path / "grey.jpg", 0, "L")
    image, _ = read_car(tmp_path / "grey.jpg")
    assert image.shape == (3, 30, 40) and (image[0] == image[1]).all() and (image[1] == image[2]).all()


def test_unreadable_images_are_named(root):
    paths = [path for path, _ in Cars(root).train[:2]]
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    paths[1].write_text("text")
    for path in (*paths, root / "none.jpg"):
        with pytest.raises(InputError, match=path.name):
            read_car(path)
    report = check_cars(root)
    assert len(report.faults) == 2 and all(str(path) in "".join(report.faults) for path in paths)


# --- kdnb data check, real sample -------------------------------------------------------------------------------


def test_check_counts_and_gives_status_1_for_faults(root):
    save(root / "train" / "b_2010" / "grey.jpg", 3, "L")
    done = CliRunner().invoke(main, ["data", "check", "cars", str(root)])
    assert done.exit_code == 0 and "train images        16   5 to 6 a class" in done.output
    assert "grey                 1" in done.output and "1 pairs count as one" in done.output
    (root / "test.csv").unlink()
    done = CliRunner().invoke(main, ["data", "check", "cars", str(root)])
    assert done.exit_code == 1 and "test.csv: no such file" in done.output and done.output.endswith("\n1 fault\n")


def test_the_real_sample_is_read(real_data):
    if not (real_data / "cars").is_dir():
        pytest.skip("needs the real sample in ../shared/data/cars")
    cars = Cars(real_data / "cars")
    assert (len(cars.classes), len(cars.train), len(cars.test_ids)) == (40, 1257, 401) and cars.solution is None
    image, meta = read_car(cars.test_paths[0])
    assert image.shape == (3, 40, 100) and meta["aspect"] == 2.5 and len(set(meta["colour"])) == 1
