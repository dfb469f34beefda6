"""COCO roots as other tools write them: the right regions or one line that names file and key; and noise."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.coco import COCORegionText, category_text, check_coco
from kdnb.datasets.coco_files import parse_captions, parse_instances
from kdnb.datasets.region_splits import split_regions
from kdnb.errors import InputError

FEW = settings(max_examples=25, deadline=None, derandomize=True)
BOX = [4.0, 6.0, 20.0, 10.0]


def instances(ids=(7, 8), name="{}.jpg"):
    """Two 64x48 images with a car each."""
    images = [{"id": number, "file_name": name.format(number), "width": 64, "height": 48} for number in ids]
    annotations = [
        {"id": k, "image_id": number, "category_id": 3, "bbox": list(BOX), "area": 200.0, "iscrowd": 0}
        for k, number in enumerate(ids, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "car"}]}


def write_root(root, content=None, captions=True, encoding="utf-8", images=True):
    content = instances() if content is None else content
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content), encoding=encoding)
    if captions:
        texts = [{"id": 1, "image_id": content["images"][0]["id"], "caption": "A car."}]
        (root / "annotations/captions_val2017.json").write_text(
            json.dumps({"images": content["images"], "annotations": texts}), encoding=encoding
        )
    for entry in content["images"] if images else []:
        path = root / "val2017" / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (200, 30, 30)).save(path)
    return root


def edited(table, key, value, k=0, **more):
    content = instances(**more)
    content[table][k][key] = value
    return content


def without(table, key):
    content = instances()
    for entry in content[table]:
        del entry[key]
    return content


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


READ = {
    "iscrowd missing": without("annotations", "iscrowd"),
    "iscrowd null": edited("annotations", "iscrowd", None),
    "iscrowd false": edited("annotations", "iscrowd", False),
    "iscrowd 0.0": edited("annotations", "iscrowd", 0.0),
    "width as a float": edited("images", "width", 64.0),
    "ids as floats": edited("annotations", "image_id", 7.0),
    "box and area of whole numbers": {**edited("annotations", "bbox", [4, 6, 20, 10])},
    "attributes null": edited("annotations", "attributes", None),
    "visible null": edited("annotations", "attributes", {"visible": None, "body": None}),
    "visible true": edited("annotations", "attributes", {"visible": True, "occluded": False}),
    "attributes of another tool": edited("annotations", "attributes", {"occluded": False, "rotation": 0.0}),
    "folders": instances(name="cam0/{}.jpg"),
}


@pytest.mark.parametrize("case", READ)
def test_what_other_tools_write_is_read(tmp_path, case):
    root = write_root(tmp_path, READ[case])
    data = COCORegionText(root, "val")
    assert [region.id for region in data.regions] == ["val/1", "val/2"]
    assert [region.box for region in data.regions] == [(4, 6, 24, 16)] * 2 and data.image(1).shape == (48, 64, 3)
    assert [region.image_id for region in data.regions] == [7, 8] and data.captions(7) == ["A car."]
    assert category_text(data.regions[0]) == "a photo of a large car"
    report = check_coco(root)
    assert report.faults == report.notes == [] and report.counts == {"val": {"car": 2}} and report.crowds == {"val": 0}


@pytest.mark.parametrize("true", [1, 1.0, True])
def test_crowds_of_any_type(tmp_path, true):
    data = COCORegionText(write_root(tmp_path, edited("annotations", "iscrowd", true)), "val")
    assert len(data) == 1 and data.dropped["crowd"] == 1


def test_words_as_ids_stay_words(tmp_path):
    content = instances(("shot_1", "007"))
    content["annotations"][0]["id"] = "a 1"
    data = COCORegionText(write_root(tmp_path, content), "val")
    assert [region.image_id for region in data.regions] == ["shot_1", "007"]
    assert [region.id for region in data.regions] == ["val/a 1", "val/2"]
    assert data.captions("shot_1") == ["A car."]
    assert "has no image 'shot_2'" in error_of(lambda: data.captions("shot_2"))
    assert check_coco(tmp_path).faults == []


def test_a_root_of_words_is_split(tmp_path):
    for split in ("train", "val"):
        content = instances([f"{split}_{k}" for k in range(8)])
        write_root(tmp_path / split, content)
        (tmp_path / "coco/annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / split / "val2017").rename(tmp_path / f"coco/{split}2017")
        written = tmp_path / split / "annotations/instances_val2017.json"
        written.rename(tmp_path / f"coco/annotations/instances_{split}2017.json")
    splits = split_regions(tmp_path / "coco", 16, keep_crops=True)
    assert [len(crops) for crops in (splits.train, splits.validation, splits.test)] == [7, 1, 8]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_with_a_mark(tmp_path, encoding):
    assert len(COCORegionText(write_root(tmp_path, encoding=encoding), "val")) == 2


@pytest.mark.parametrize("name", ["val2017/{}.jpg", "images\\{}.jpg", "./{}.jpg"])
def test_file_names_from_the_root(tmp_path, name):
    root = write_root(tmp_path, instances(name=name), images=False)
    for number in (7, 8):
        path = root / name.format(number).replace("\\", "/")
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(path)
    if name.startswith("."):
        (root / "val2017").mkdir()
        for number in (7, 8):
            (root / f"{number}.jpg").rename(root / f"val2017/{number}.jpg")
    assert COCORegionText(root, "val").image(1).shape == (48, 64, 3) and check_coco(root).faults == []


HUGE = 10**400
REFUSED = {
    "huge bbox": (edited("annotations", "bbox", [HUGE, 1, 2, 3]), "annotations[0].bbox is [1000", "expected [x, y, w"),
    "huge area": (edited("annotations", "area", HUGE), "annotations[0].area is 1000", "expected a number"),
    "huge width": (edited("images", "width", HUGE), "images[0].width is 1000", "expected a whole number above 0"),
    "width of 0": (edited("images", "width", 0), "images[0].width is 0", "expected a whole number above 0"),
    "half a pixel": (edited("images", "width", 64.5), "images[0].width is 64.5", "expected a whole number above 0"),
    "visible as a word": (
        edited("annotations", "attributes", {"colour": "red", "visible": "yes"}),
        "annotations[0].attributes.visible is 'yes'",
        "expected a number from 0 to 1",
    ),
    "body as a number": (edited("annotations", "attributes", {"body": 3}), "attributes is {'body': 3}", "an object"),
    "iscrowd as a word": (edited("annotations", "iscrowd", ""), "annotations[0].iscrowd is ''", "expected 0 or 1"),
    "ids of both kinds": (instances((7, "8")), "images[1].id is '8'", "all to be whole numbers or all words, as 7"),
    "the same id as word and number": (edited("annotations", "id", "2"), "annotations[1].id 2 is used before", "own"),
    "an id that is true": (edited("images", "id", True), "images[0].id is True", "expected a whole number or a word"),
    "a word for a number": (
        edited("annotations", "image_id", "7"),
        "image_id is '7'",
        "the id of an entry of 'images'",
    ),
    "a name that leads out": (edited("images", "file_name", "../a.jpg"), "file_name is '../a.jpg'", "images' folder"),
    "a name from the root": (edited("images", "file_name", "/a.jpg"), "file_name is '/a.jpg'", "images' folder"),
    "a name of two lines": (edited("images", "file_name", "a\nb.jpg"), "file_name is 'a\\nb.jpg'", "images' folder"),
    "half a character": (edited("categories", "name", "\ud800"), "categories[0].name is '\\ud800'", "a text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line(tmp_path, case):
    content, *parts = REFUSED[case]
    root = write_root(tmp_path, content, images=False)
    message = error_of(lambda: COCORegionText(root, "val"))
    assert "instances_val2017.json: " in message and all(part in message for part in parts) and len(message) < 400
    assert message in check_coco(root).faults


def test_a_check_says_what_it_skipped(tmp_path):
    root = write_root(tmp_path, captions=False)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (64, 48)).save(root / "val2017/7.jpg", exif=exif)
    (root / "val2017/Thumbs.db").touch()
    result = CliRunner().invoke(main, ["data", "check", "coco", str(root)])
    assert result.exit_code == 0, result.output
    notes = [line for line in result.output.splitlines() if line.startswith("note: ")]
    assert [note.partition(str(root))[2] for note in notes] == [
        "/annotations/captions_val2017.json: is missing; no notebook reads it",
        "/val2017: skipped 1 of 3 files, no entry of 'images': Thumbs.db",
        "/val2017: EXIF orientation other than 1 in 7.jpg (3); read as stored, not turned: labels are of stored pixels",
    ]


def test_a_size_that_only_exif_data_explain(tmp_path):
    root = write_root(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(root / "val2017/7.jpg", exif=exif)
    message = error_of(lambda: COCORegionText(root, "val").image(0))
    assert message.endswith(
        "as in the instances file; its EXIF data turn it, but sizes and boxes must be in stored pixels"
    )


@pytest.mark.parametrize(
    ("reader", "end"),
    [
        ("parse_instances", "instances_val2017.json: {}, expected a JSON file in COCO's format"),
        ("read_image", "7.jpg: {}, expected a JPEG file"),
    ],
)
def test_an_unforeseen_error_in_one_file_is_its_fault(tmp_path, monkeypatch, reader, end):
    def fail(path):
        raise RuntimeError("surprise\nand more")

    monkeypatch.setattr(f"kdnb.datasets.coco.{reader}", fail)
    faults = check_coco(write_root(tmp_path)).faults
    assert any(fault.endswith(end.format("cannot be checked (RuntimeError surprise)")) for fault in faults)
    assert not any("\n" in fault for fault in faults)


# ---------------------------------------------------------------- noise

VALUES = st.recursive(
    st.sampled_from(
        [None, True, 0, 1, 3, 7, -1, 0.5, 7.0, 1e308, float("nan"), HUGE, "", "7", "car", "a\nb", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["id", "colour", "visible"]), inner),
    max_leaves=6,
)


@st.composite
def damaged(draw):
    """An instances or captions file with a few values swapped for others or left out, cut off; or random bytes."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=80))
    content = instances()
    content["annotations"][0].update(caption="A car.", attributes={"colour": "red", "visible": 0.5})
    for _ in range(draw(st.integers(0, 3))):
        table = draw(st.sampled_from(sorted(content)))
        entries = content[table]
        if not isinstance(entries, list) or draw(st.integers(0, 6)) == 0:
            content[table] = draw(VALUES)
            continue
        k = draw(st.integers(0, len(entries) - 1)) if entries else 0
        if not entries or not isinstance(entries[k], dict) or not entries[k]:
            continue
        key = draw(st.sampled_from(sorted(entries[k])))
        if draw(st.integers(0, 4)) == 0:
            del entries[k][key]
        elif key == "bbox" and draw(st.booleans()):
            entries[k][key] = [draw(VALUES), *BOX[1:]]
        else:
            entries[k][key] = draw(VALUES)
    text = json.dumps(content).encode()
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 4)) == 0 else text


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("coco"))


@FEW
@given(content=damaged())
def test_damaged_files_give_boxes_in_the_image_or_faults(root, content):
    for what, parse in (("instances", parse_instances), ("captions", parse_captions)):
        path = root / f"annotations/{what}_val2017.json"
        path.write_bytes(content)
        found, faults = parse(path)
        assert all(str(path) in fault and "\n" not in fault and len(fault) < 600 for fault in faults)
        "".join(faults).encode()
        for instance in found.instances if what == "instances" else ():
            x1, y1, x2, y2 = instance.box
            assert 0 <= x1 <= x2 and 0 <= y1 <= y2 and np.isfinite([instance.area, *instance.box]).all()
    try:
        COCORegionText(root, "val")
    except InputError as error:
        assert "\n" not in str(error)
    check_coco(root).summary().encode()
