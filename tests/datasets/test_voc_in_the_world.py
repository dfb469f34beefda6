"""VOC devkits as other tools write them: right boxes or one line that names the place; and noise."""

import codecs
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.voc import VOC, VOC_CLASSES, check_voc
from kdnb.datasets.voc_files import parse_list, write_detections
from kdnb.datasets.voc_xml import parse_annotation
from kdnb.errors import InputError
from kdnb.metrics.voc import evaluate_voc, read_detections, read_ground_truth, voc_main

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SETS = (("2007", "test"),)
BOX = "<bndbox><xmin>10</xmin><ymin>12</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"
EDGES = [9, 11, 30, 20]


def xml(box=BOX, size=SIZE, root="annotation", difficult="<difficult>0</difficult>", name="a.jpg", head=""):
    thing = f"<object><name>car</name>{difficult}{box}</object>"
    return f"{head}<{root}>\n<filename>{name}</filename>{size}\n{thing}\n</{root.split()[0]}>\n"


def bndbox(*corners):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    return f"<bndbox>{''.join(f'<{tag}>{value}</{tag}>' for tag, value in tags)}</bndbox>"


def declared(encoding, name, as_=None):
    return xml(name=name, head=f'<?xml version="1.0" encoding="{encoding}"?>\n').encode(as_ or encoding)


def write_devkit(root, annotation=None, listed=b"a\n", image="a.jpg", year="2007"):
    """A devkit of one 40x30 image ``a``; ``annotation`` is its XML as text or bytes."""
    base = Path(root) / "VOCdevkit" / f"VOC{year}"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (90, 120, 60)).save(base / "JPEGImages" / image)
    content = xml() if annotation is None else annotation
    (base / "Annotations" / "a.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    (base / "ImageSets" / "Main" / "test.txt").write_bytes(listed)
    return base.parent


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def status(command):
    with pytest.raises(SystemExit) as end:
        main(command)
    return end.value.code


# ---------------------------------------------------------------- what is read, and as what


READ = {
    "gb2312": (declared("gb2312", "路口.jpg"), [EDGES]),
    "gb2312 with a sign of GBK": (declared("gb2312", "镕.jpg", "gbk"), [EDGES]),
    "euc-kr": (declared("euc-kr", "교차로.jpg"), [EDGES]),
    "euc-kr with a syllable of cp949": (declared("euc-kr", "똠.jpg", "cp949"), [EDGES]),
    "utf8 without a dash": (declared("utf8", "교차로.jpg"), [EDGES]),
    "windows-1252": (declared("windows-1252", "Straße.jpg"), [EDGES]),
    "says utf-16, is utf-8": (declared("utf-16", "교차로.jpg", "utf-8"), [EDGES]),
    "utf-16": (declared("utf-16", "교차로.jpg"), [EDGES]),
    "utf-8 with a mark": (codecs.BOM_UTF8 + xml().encode(), [EDGES]),
    "root with a capital": (xml(root="Annotation"), [EDGES]),
    "root in the plural": (xml(root="annotations"), [EDGES]),
    "root with a prefix": (xml(root='v:annotation xmlns:v="urn:example:voc"'), [EDGES]),
    "root with a name space": (xml(root='annotation xmlns="urn:example:voc"'), [EDGES]),
    "tags in capitals": (xml().replace("object", "Object").replace("xmin", "XMin"), [EDGES]),
    "three boxes in an object": (
        xml(BOX + bndbox(1, 1, 5, 5) + bndbox(31, 2, 40, 30)),
        [EDGES, [0, 0, 5, 5], [30, 1, 40, 30]],
    ),
    "size of 0": (xml(size="<size><width>0</width><height>0</height></size>"), [EDGES]),
    "size without numbers": (xml(size="<size><width/><height/></size>"), [EDGES]),
    "no size": (xml(size=""), [EDGES]),
    "no size, to the edge": (xml(bndbox(0, 0, 40, 30), size=""), [[0, 0, 40, 30]]),
    "a corner of 0": (xml(bndbox(0, 12, 30, 20)), [[0, 11, 30, 20]]),
    "0-based to the width": (xml(bndbox(0, 3.26, 13.5, 4.75)), [[0, 2.26, 13.5, 4.75]]),
    "half a pixel beyond": (xml(bndbox(30, 12, 40.5, 30.5)), [[29, 11, 40, 30]]),
    "difficult without a value": (xml(difficult="<difficult/>"), [EDGES]),
}


@pytest.mark.parametrize("case", READ)
def test_what_other_tools_write_is_read(tmp_path, case):
    annotation, boxes = READ[case]
    data = VOC(write_devkit(tmp_path, annotation), SETS)
    assert data[0]["boxes"].numpy() == pytest.approx(np.array(boxes))
    assert data.annotation(0)["boxes"].numpy() == pytest.approx(np.array(boxes))
    assert data[0]["labels"].tolist() == [7] * len(boxes) and not data[0]["difficult"].any()
    report = check_voc(data.devkit)
    assert report.faults == [] and report.counts["VOC2007/test"] == {"car": len(boxes)}
    truth = read_ground_truth(data.devkit)
    assert truth["a"]["boxes"] == pytest.approx(np.array(boxes), abs=0.5)


REFUSED = {
    "unknown encoding": (declared("x-user-defined", "a.jpg", "ascii"), 1, "encoding 'x-user-defined' is unknown"),
    "an encoding that is none": (declared("hex", "a.jpg", "ascii"), 1, "encoding 'hex' is unknown"),
    "another than it says": (declared("utf-8", "교차로", "cp949"), 3, "byte 0xb1 is not UTF-8"),
    "another than euc-kr": (declared("euc-kr", "Straße", "latin-1"), 3, "is not in euc-kr, which its first line names"),
    "another root": (xml(root="html"), 1, "found <html>, expected one <annotation>"),
    "two annotations": (
        f"<annotations>{xml()}{xml()}</annotations>",
        1,
        "found <annotation>, expected one <annotation>",
    ),
    "no box": (xml(""), 3, "found no <xmin> in <bndbox>"),
    "half a size": (xml(size="<size><width>40</width></size>"), 1, "found no <height> in <size>"),
    "a negative size": (xml(size="<size><width>-4</width><height>3</height></size>"), 2, "<size> is -4 x 3"),
    "outside the image": (xml(bndbox(1, 1, 42, 9)), 3, "is outside the image, expected corners from 1 to 40 x 30"),
    "outside, by the image": (xml(bndbox(1, 1, 42, 9), size=""), 3, "expected corners from 1 to 40 x 30"),
    "below the first pixel": (xml(bndbox(-2, 1, 4, 9)), 3, "is outside the image"),
    "ends at 0": (xml(bndbox(0, 1, 0, 9)), 3, "is outside the image"),
    "a second faulty box": (xml(BOX + bndbox(9, 9, 2, 12)), 3, "xmax 2 is below xmin 9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line(tmp_path, case):
    annotation, line, what = REFUSED[case]
    data = VOC(write_devkit(tmp_path, annotation), SETS)
    message = error_of(lambda: data[0])
    assert f"a.xml:{line}: " in message and what in message
    assert message in check_voc(data.devkit).faults


@pytest.mark.parametrize("listed", [b"a\n\n", b"a\r\n", b"a\n\n \n", "a\n".encode("utf-8-sig"), "a\n".encode("utf-16")])
def test_lists_with_marks_and_blank_ends(tmp_path, listed):
    assert VOC(write_devkit(tmp_path, listed=listed), SETS).ids == ["2007/a"]


@pytest.mark.parametrize(
    ("listed", "what"),
    [
        (b"a\n\nb\n", "test.txt:2: found an empty line"),
        (b"\n\n", "test.txt: empty"),
        (b"2007/a\n", "test.txt:1: found '2007/a', expected one image id"),
        ("교\n".encode("cp949"), "test.txt:1: byte 0xb1 is not UTF-8"),
        (b"a\0\n", "test.txt:1: found a NUL byte"),
        (b"x" * 5000, "x" * 5000),
    ],
)
def test_faulty_lists(tmp_path, listed, what):
    devkit = write_devkit(tmp_path, listed=listed)
    assert what in error_of(lambda: VOC(devkit, SETS))
    assert any(what in fault for fault in check_voc(devkit).faults)


@pytest.mark.parametrize("image", ["a.JPG", "a.jpeg", "a.JPEG", "a.png"])
def test_images_of_other_endings(tmp_path, image):
    data = VOC(write_devkit(tmp_path, image=image), SETS)
    assert data[0]["image"].shape == (3, 30, 40) and check_voc(data.devkit).faults == []


# ---------------------------------------------------------------- what a check says beside faults


def test_a_check_says_what_it_read_anew_and_what_it_skipped(tmp_path, capsys):
    devkit = write_devkit(tmp_path, xml(bndbox(0, 1, 9, 9) + bndbox(0, 2, 9, 9)))
    base = devkit / "VOC2007"
    (base / "JPEGImages" / "Thumbs.db").touch()
    (base / "Annotations" / "b.xml").touch()
    (base / "ImageSets" / "Main" / "car_test.txt").write_text("a 1\n")
    assert status(["data", "check", "voc", str(devkit)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [note.partition(str(base))[2] for note in notes] == [
        "/ImageSets/Main: skipped 1 list, of single classes: car_test.txt",
        "/Annotations: 2 boxes with a corner of 0, first in a.xml: looks 0-based, cut to the image; "
        "official corners count from 1",
        "/Annotations: 1 boxes follow another in their <object>; each is read as an object of its class",
        "/JPEGImages: skipped 1 of 2 files, in no list: Thumbs.db",
        "/Annotations: skipped 1 of 2 files, in no list: b.xml",
    ]


def test_rotated_photographs_are_named_and_read_as_stored(tmp_path):
    devkit = write_devkit(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(devkit / "VOC2007/JPEGImages/a.jpg", exif=exif)
    report = check_voc(devkit)
    assert report.faults == [] and len(report.notes) == 1 and "a.jpg (6)" in report.notes[0]
    assert VOC(devkit, SETS)[0]["image"].shape == (3, 30, 40)
    turned = SIZE.replace("40", "x").replace("30", "40").replace("x", "30")
    (devkit / "VOC2007/Annotations/a.xml").write_text(xml(size=turned, box=bndbox(1, 1, 9, 9)))
    message = error_of(lambda: VOC(devkit, SETS)[0])
    assert message.endswith("; its EXIF data turn it, but sizes and boxes must be in stored pixels")


@pytest.mark.parametrize(
    ("reader", "end"),
    [
        ("parse_annotation", "a.xml: {}, expected an annotation in VOC's format"),
        ("read_image", "a.jpg: {}, expected a JPEG file"),
    ],
)
def test_an_unforeseen_error_in_one_file_is_its_fault(tmp_path, monkeypatch, reader, end):
    def fail(path, size=None):
        raise RuntimeError("surprise\nand more")

    monkeypatch.setattr(f"kdnb.datasets.voc.{reader}", fail)
    (fault,) = check_voc(write_devkit(tmp_path)).faults
    assert fault.endswith(end.format("cannot be checked (RuntimeError surprise)"))


# ---------------------------------------------------------------- evaluation


def score(devkit, pred, *options):
    return status(["eval", "voc", "--devkit", str(devkit), "--pred", str(pred), *options])


def test_eval_of_2012_without_sizes_and_with_marks(tmp_path, capsys, caplog):
    devkit = write_devkit(tmp_path, xml(bndbox(0, 12, 30, 20), size=""), year="2012")
    (tmp_path / "pred").mkdir()
    lines = "a 0.9 1 12 30 20\na 0.8 30 12 10 20\n"  # the second's right is left of its left
    (tmp_path / "pred" / "comp4_det_test_car.txt").write_text(lines, encoding="utf-16")
    with caplog.at_level(logging.WARNING):
        for options in ([], ["--year", "2012"]):
            assert score(devkit, tmp_path / "pred", *options) == 0
            assert "mAP           100.00" in capsys.readouterr().out
    assert "1 box with a corner of 0, first in a.xml" in caplog.text
    assert score(devkit, tmp_path / "pred", "--year", "2007") == 1
    write_devkit(tmp_path)
    assert voc_main(devkit, "test", tmp_path / "pred", "07")["mAP"] == 100  # 2007 where both are there


@pytest.mark.parametrize("text", ["1_0", "１０", "1e9", "-1e8", "1,5", "0x10"])
def test_odd_numbers_in_detections(tmp_path, text):
    (tmp_path / "comp4_det_test_car.txt").write_text(f"a 0.9 1 2 30 40\na 0.9 1 2 3 {text}\n")
    try:
        found = read_detections(tmp_path, ["car"])
    except InputError as error:
        assert f"comp4_det_test_car.txt:2: ymax is {text!r}, expected a finite number" in str(error)
    else:
        assert np.isfinite(found["a"]["boxes"]).all()


# ---------------------------------------------------------------- noise


TEXTS = [xml(), xml(BOX * 2), xml(size=""), xml(bndbox(0, 0, 40, 30)), declared("euc-kr", "교").decode("latin-1")]
PIECES = ["0", "-1", "1e400", "nan", "", "<", "&", "</object>", "<object>", "<bndbox>", "\0", "9" * 400, "é", "]]>"]


@st.composite
def damaged(draw):
    """An annotation with a few pieces replaced by others, cut off; or random bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=80))
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(0, 4))):
        place, piece = draw(st.integers(0, len(text))), draw(st.sampled_from(PIECES))
        text = text[:place] + piece + text[place + draw(st.integers(0, 12)) :]
    content = text.encode("latin-1", "replace")
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 2)) == 0 else content


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("voc")


@FEW
@given(content=damaged(), sized=st.booleans())
def test_damaged_annotations_give_boxes_in_the_image_or_faults(place, content, sized):
    (place / "a.xml").write_bytes(content)
    found, faults = parse_annotation(place / "a.xml", (40, 30) if sized else None)
    assert all("a.xml" in fault and "\n" not in fault for fault in faults)
    assert found is not None or len(faults) == 1
    if found is not None:
        assert found.boxes.shape == (len(found.labels), 4) and np.isfinite(found.boxes).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all() and (found.boxes >= 0).all()


@FEW
@given(content=st.one_of(st.binary(max_size=60), st.text("ab/ \n\r\0é", max_size=30).map(str.encode)))
def test_damaged_lists_give_ids_or_faults(place, content):
    (place / "list.txt").write_bytes(content)
    ids, faults = parse_list(place / "list.txt")
    assert (ids or faults) and all("list.txt" in fault and "\n" not in fault for fault in faults)


FIELDS = st.sampled_from(["a", "b", "0.5", "1", "40", "-3", "nan", "inf", "1e308", "", "x", "1_0", "\0", "９"])


@FEW
@given(lines=st.lists(st.lists(FIELDS, min_size=4, max_size=7), max_size=5), plain=st.integers(0, 3))
def test_damaged_detections_give_a_score_or_one_line(place, lines, plain):
    rows = ["a 0.5 1 1 20 20"] * plain + [" ".join(fields) for fields in lines]
    (place / "comp4_det_test_car.txt").write_text("\n".join(rows))
    truth = {name: {"boxes": [[0, 0, 20, 20]], "labels": [7], "difficult": [False]} for name in "ab"}
    try:
        found = read_detections(place, ["car"], truth)
    except InputError as error:
        assert "comp4_det_test_car.txt:" in str(error) and "\n" not in str(error)
    else:
        for metric in ("07", "area"):
            assert 0 <= evaluate_voc(truth, found, metric)["AP"]["car"] <= 100


def test_written_detections_score_as_before(tmp_path):
    devkit = write_devkit(tmp_path)
    truth = read_ground_truth(devkit)
    boxes = {"a": {**truth["a"], "scores": np.ones(1)}}
    write_detections(tmp_path / "pred", VOC_CLASSES, boxes)
    assert voc_main(devkit, "test", tmp_path / "pred", "area")["mAP"] == 100
