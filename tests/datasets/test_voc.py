"""The VOC reader and checker: against torchvision on real files, and against every fault we could think of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from kdnb.datasets import voc as voc_module
from kdnb.datasets.voc import VOC, VOC_CLASSES, check_voc, download_voc, find_devkit
from kdnb.errors import InputError

SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "voc" / "VOCdevkit"
CAR = ("car", 0, (5, 6, 20, 16))


@pytest.fixture
def sample():
    if not SAMPLE.is_dir():
        pytest.skip("needs the real samples in ../shared/data")
    return SAMPLE


def write_xml(path, objects, size=(40, 30)):
    lines = ["<annotation>", f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"]
    for name, difficult, box in objects:
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        lines += ["<object>", f"<name>{name}</name>", f"<difficult>{difficult}</difficult>"]
        lines += [f"<bndbox>{corners}</bndbox>", "</object>"]
    path.write_text("\n".join([*lines, "</annotation>"]))


def write_devkit(root, images, year="2007", image_set="trainval"):
    """A devkit of 40x30 noise images; ``images``: id -> list of (class, difficult, corners)."""
    base = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, objects in images.items():
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(base / "JPEGImages" / f"{name}.jpg")
        write_xml(base / "Annotations" / f"{name}.xml", objects)
    (base / "ImageSets/Main" / f"{image_set}.txt").write_text("".join(f"{name}\n" for name in images))
    return root / "VOCdevkit"


@pytest.fixture
def devkit(tmp_path):
    return write_devkit(tmp_path, {"000001": [CAR, ("person", 1, (1, 1, 40, 30))], "000002": []})


def annotation(devkit, name="000001"):
    return devkit / "VOC2007" / "Annotations" / f"{name}.xml"


def image_file(devkit, name="000001"):
    return devkit / "VOC2007" / "JPEGImages" / f"{name}.jpg"


def image_list(devkit):
    return devkit / "VOC2007" / "ImageSets" / "Main" / "trainval.txt"


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what comes out


def test_classes_are_the_twenty_in_alphabetical_order():
    assert len(VOC_CLASSES) == 20 and list(VOC_CLASSES) == sorted(VOC_CLASSES)


def test_sample_has_the_documented_shapes_and_edges(devkit):
    first = VOC(devkit)[0]
    assert list(first) == ["id", "image", "boxes", "labels", "difficult", "area"]
    assert first["id"] == "2007/000001"
    assert first["image"].dtype == torch.uint8 and first["image"].shape == (3, 30, 40)
    # 1-based inclusive (5, 6, 20, 16) covers columns 5..20 = 16 pixels and rows 6..16 = 11 pixels.
    assert first["boxes"].tolist() == [[4, 5, 20, 16], [0, 0, 40, 30]] and first["boxes"].dtype == torch.float32
    assert first["area"].tolist() == [16 * 11, 40 * 30]
    assert first["labels"].tolist() == [7, 15] and first["labels"].dtype == torch.int64
    assert first["difficult"].tolist() == [False, True] and first["difficult"].dtype == torch.bool


def test_image_without_objects_is_legal(devkit):
    empty = VOC(devkit)[1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,) and empty["area"].shape == (0,)


def test_image_is_rgb_also_from_a_grey_jpeg(devkit):
    Image.fromarray(np.full((30, 40), 77, np.uint8)).save(image_file(devkit))
    assert VOC(devkit)[0]["image"].shape == (3, 30, 40)


def test_annotation_does_not_touch_the_image(devkit):
    data = VOC(devkit)
    image_file(devkit).unlink()
    assert data.annotation(0)["labels"].tolist() == [7, 15]


def test_body_parts_are_not_objects_and_fractional_corners_are_read(devkit):
    text = annotation(devkit).read_text()
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    text = text.replace("</bndbox>\n</object>", f"</bndbox>{part}</object>").replace("<xmin>5<", "<xmin>5.5<")
    annotation(devkit).write_text(text)
    assert VOC(devkit).annotation(0)["boxes"].tolist() == [[4.5, 5, 20, 16], [0, 0, 40, 30]]


def test_several_sets_are_joined_and_overlapping_ones_refused(tmp_path):
    write_devkit(tmp_path, {"000001": [CAR]})
    devkit = write_devkit(tmp_path, {"2008_000001": []}, year="2012")
    assert VOC(devkit, (("2007", "trainval"), ("2012", "trainval"))).ids == ["2007/000001", "2012/2008_000001"]
    assert "two of the sets" in error_of(lambda: VOC(devkit, (("2007", "trainval"),) * 2))
    assert "pairs" in error_of(lambda: VOC(devkit, ("2007", "trainval")))


def test_devkit_is_found_from_its_parent_itself_and_a_year(devkit):
    for data in (devkit.parent, devkit, devkit / "VOC2007"):
        assert find_devkit(data) == devkit


def test_kept_in_memory_survives_the_files_and_callers_who_write(devkit):
    data = VOC(devkit, keep_in_memory=True)
    before = data[0]["image"].clone()
    data[0]["image"].zero_()
    image_file(devkit).unlink()
    assert torch.equal(data[0]["image"], before)


def test_equals_torchvision_on_real_files(sample):
    from torchvision.datasets import VOCDetection

    theirs = VOCDetection(str(sample.parent), year="2007", image_set="trainval")
    ours = VOC(sample)
    assert len(ours) == len(theirs) == 65
    for index in range(len(ours)):
        item = ours[index]
        image, target = theirs[index]
        assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))
        objects = target["annotation"]["object"]
        assert [VOC_CLASSES[label - 1] for label in item["labels"]] == [o["name"] for o in objects]
        corners = [[int(o["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
        assert torch.equal(item["boxes"] + torch.tensor([1, 1, 0, 0]), torch.tensor(corners).reshape(-1, 4))


def test_counts_of_the_real_sample(sample):
    report = check_voc(sample)
    assert report.images == {"VOC2007/test": 40, "VOC2007/trainval": 65}
    assert report.faults == []
    assert sum(sum(counts.values()) for counts in report.counts.values()) == 513
    text = "".join(path.read_text() for path in (sample / "VOC2007/Annotations").glob("*.xml"))
    for name in VOC_CLASSES:
        assert sum(counts[name] for counts in report.counts.values()) == text.count(f"<name>{name}</name>")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("folder", "what"), [("absent", "nothing"), ("empty", "folder without"), ("a.txt", "a file")])
def test_data_that_is_no_devkit(tmp_path, folder, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    message = error_of(lambda: VOC(tmp_path / folder))
    assert folder in message and what in message and "expected a VOC devkit" in message


def test_a_missing_list_names_the_existing_ones(devkit):
    message = error_of(lambda: VOC(devkit, (("2007", "test"),)))
    assert "ImageSets/Main/test.txt" in message and "found: trainval" in message


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("000001\n\n000002\n", 2, "an empty line"),
        ("000001\n000002\n000001\n", 3, "listed again (first in line 1)"),
        ("000001 -1\n", 1, "'000001 -1'"),
    ],
)
def test_faulty_list_lines(devkit, text, line, what):
    image_list(devkit).write_text(text)
    message = error_of(lambda: VOC(devkit))
    assert f"trainval.txt:{line}:" in message and what in message


def test_empty_list(devkit):
    image_list(devkit).write_text("")
    assert "trainval.txt: empty" in error_of(lambda: VOC(devkit))


@pytest.mark.parametrize(("path_of", "what"), [(image_file, "image"), (annotation, "annotation")])
def test_missing_file_is_found_before_training_and_while_reading(devkit, path_of, what):
    data = VOC(devkit)
    path_of(devkit).unlink()
    for call in (lambda: VOC(devkit), lambda: data[0]):
        message = error_of(call)
        assert path_of(devkit).name in message and f"no such {what}" in message


@pytest.mark.parametrize("switched_on", [False, True])
def test_truncated_jpeg_is_never_padded(devkit, switched_on, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switched_on)
    whole = image_file(devkit).read_bytes()
    for length in (len(whole) - 2, len(whole) - 40, len(whole) // 2, 300, 0):
        image_file(devkit).write_bytes(whole[:length])
        assert "000001.jpg" in error_of(lambda: VOC(devkit)[0])


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("<name>car<", "<name>carr<", 4, "unknown class 'carr', expected one of the 20 VOC classes (nearest: 'car')"),
        ("<name>car<", "<name>Person<", 4, "nearest: 'person'"),
        ("<name>car</name>", "", 3, "unknown class ''"),
        ("<xmin>5<", "<xmin>abc<", 6, "<xmin> is 'abc', expected a number"),
        ("<xmin>5<", "<xmin>nan<", 6, "<xmin> is 'nan', expected a number"),
        ("<xmin>5</xmin>", "", 3, "found no <xmin> in <bndbox>"),
        ("<xmin>5<", "<xmin>21<", 6, "xmax 20 is below xmin 21"),
        ("<ymax>16<", "<ymax>3<", 6, "ymax 3 is below ymin 6"),
        ("<xmin>5<", "<xmin>-1<", 6, "is outside the image, expected corners from 1 to 40 x 30"),
        ("<xmax>20<", "<xmax>1e9<", 6, "<xmax> is '1e9', expected a number of pixels"),
        ("<xmax>20<", "<xmax>41<", 6, "is outside the image"),
        ("<ymax>16<", "<ymax>31<", 6, "is outside the image"),
        ("<difficult>0<", "<difficult>maybe<", 5, "<difficult> is 'maybe', expected 0 or 1"),
        ("<width>40<", "<width>wide<", 2, "<width> is 'wide', expected a number"),
        ("</name>", "</nane>", 4, "malformed XML"),
    ],
)
def test_faulty_annotation_names_file_and_line(devkit, old, new, line, what):
    text = annotation(devkit).read_text()
    assert old in text
    annotation(devkit).write_text(text.replace(old, new, 1))
    data = VOC(devkit)
    for call in (lambda: data.annotation(0), lambda: data[0]):
        message = error_of(call)
        assert f"000001.xml:{line}: " in message and what in message
    faults = check_voc(devkit).faults
    assert any(f"000001.xml:{line}: " in fault and what in fault for fault in faults)


def test_image_of_another_size(devkit):
    Image.new("RGB", (30, 40)).save(image_file(devkit))
    assert "<size> says 40 x 30, expected 30 x 40" in error_of(lambda: VOC(devkit)[0])


def test_cut_off_and_empty_xml(devkit):
    text = annotation(devkit).read_text()
    annotation(devkit).write_text(text[: len(text) // 2])
    assert "000001.xml:6: malformed XML" in error_of(lambda: VOC(devkit)[0])
    annotation(devkit).write_text("")
    assert "000001.xml:1: malformed XML" in error_of(lambda: VOC(devkit)[0])


def test_check_reports_every_fault_and_still_counts_the_rest(devkit):
    write_xml(annotation(devkit), [("cra", 0, (5, 6, 20, 16)), ("dog", 0, (9, 9, 2, 2)), ("cat", 1, (1, 1, 9, 9))])
    data = image_file(devkit, "000002").read_bytes()
    image_file(devkit, "000002").write_bytes(data[: len(data) // 2])
    image_list(devkit).write_text("000001\n000002\n000002\n000003\n")
    report = check_voc(devkit)
    expected = ["trainval.txt:3", "'cra'", "xmax 2", "ymax 2", "000002.jpg", "000003.xml", "000003.jpg"]
    assert len(report.faults) == len(expected), report.faults
    for fault, part in zip(report.faults, expected, strict=True):
        assert part in fault
    assert report.images == {"VOC2007/trainval": 3} and report.counts["VOC2007/trainval"] == {"cat": 1}
    assert report.difficult == {"VOC2007/trainval": 1}
    assert "7 faults" in str(report) and "'cra'" in str(report) and report.notes == []


def test_check_passes_over_lists_of_single_classes(devkit):
    image_list(devkit).with_name("car_trainval.txt").write_text("000001  1\n000002 -1\n")
    report = check_voc(devkit)
    assert report.faults == [] and list(report.images) == ["VOC2007/trainval"] and "no faults" in report.summary()
    assert len(report.notes) == 1 and "skipped 1 list, of single classes: car_trainval.txt" in str(report)


def test_download_voc_uses_the_table_of_torchvision(tmp_path, monkeypatch):
    import shutil

    from torchvision.datasets.voc import DATASET_YEAR_DICT

    write_devkit(tmp_path / "made", {"000001": [CAR]})
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "tar", tmp_path / "made"))
    downloads = []

    def fetch(url, target, checksum):
        downloads.append((url, checksum))
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(packed, target))

    monkeypatch.setattr(voc_module, "download", fetch)
    assert len(VOC(download_voc(tmp_path / "root"))) == 1
    assert downloads == [
        (DATASET_YEAR_DICT[k]["url"], DATASET_YEAR_DICT[k]["md5"]) for k in ("2007", "2007-test", "2012")
    ]
    download_voc(tmp_path / "root")
    assert len(downloads) == 3
