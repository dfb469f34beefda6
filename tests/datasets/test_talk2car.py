"""The Talk2Car reader and checker: official layouts and forms, the real commands, and every fault in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from kdnb.datasets.talk2car import Talk2Car, check_talk2car, read_commands, to_pixels
from kdnb.datasets.talk2car_files import names_colour, names_side, parse_commands, read_proposals
from kdnb.errors import InputError


def command(k, split="val", box=(100, 200, 300, 150), **more):
    row = {
        "scene_token": f"s{k // 2}",
        "command_token": f"{split}{k}",
        "command": "follow the red car on the left",
        "t2c_img": f"img_{split}_{k}.jpg",
        "obj_name": "vehicle.car",
    }
    return row | ({"2d_box": list(box)} if box else {}) | more


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make(root, rows, split="val", place="commands/val_commands.json", images="images"):
    write(root / place, {"commands": rows, "scene_tokens": sorted({r["scene_token"] for r in rows})})
    (root / images).mkdir(parents=True, exist_ok=True)
    for row in rows:
        noise = np.random.default_rng(0).integers(0, 255, (18, 32, 3), np.uint8)
        Image.fromarray(noise).save(root / images / row["t2c_img"])
    return root


def boxes_of(rows, split="val"):
    return {
        split: {
            r["command_token"]: [
                {"bbox": [10, 20, 30, 40], "class": "animal", "score": 0.2},
                {"bbox": [100, 200, 290, 150], "class": "vehicle.car", "score": 0.9},
            ]
            for r in rows
        }
    }


@pytest.fixture
def rows():
    return [command(0), command(1, box=(1540.5, 0, 59.5, 60), command="turn left")]


@pytest.fixture
def root(tmp_path, rows):
    return make(tmp_path / "t2c", rows)


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- what comes out


def test_items(root, rows):
    write(root / "centernet_bboxes.json", boxes_of(rows))
    t2c = Talk2Car(root, "val")
    assert len(t2c) == 2
    item = t2c[0]
    assert item["command"] == "follow the red car on the left" and item["token"] == "val0"
    assert item["image_path"] == root / "images/img_val_0.jpg" and item["name"] == "vehicle.car"
    assert item["box"].dtype == torch.float32 and item["box"].tolist() == [100, 200, 400, 350]
    assert item["proposals"].tolist() == [[100, 200, 390, 350], [10, 20, 40, 60]]  # best first
    assert item["scores"].tolist() == pytest.approx([0.9, 0.2])
    assert item["twin"] is None and item["twin_box"] is None
    assert t2c[1]["box"].tolist() == [1540.5, 0, 1600, 60]
    assert t2c.image(0).shape == (3, 18, 32) and t2c.image(0).dtype == torch.uint8
    assert len(Talk2Car(root, "val", top=1)[0]["proposals"]) == 1


def test_items_are_the_callers_to_change(root, rows):
    write(root / "centernet_bboxes.json", boxes_of(rows))
    t2c = Talk2Car(root, "val")
    t2c[0]["proposals"].zero_()
    assert t2c[0]["proposals"].any()


def test_twins_of_drawn_sets_are_read(tmp_path):
    rows = [command(0, twin="colour", twin_box=[1, 2, 3, 4]), command(1, twin=None, twin_box=None)]
    item = Talk2Car(make(tmp_path, rows), "val")[0]
    assert item["twin"] == "colour" and item["twin_box"].tolist() == [1, 2, 4, 6]


@pytest.mark.parametrize(
    ("commands", "images"),
    [
        ("commands/val_commands.json", "images"),
        ("val/commands/val_commands.json", "val/images"),
        ("data/commands/val_commands.json", "data/images"),
        ("val_commands.json", "imgs"),
        ("commands/val_commands.json", "images/val"),
    ],
)
def test_layout_variants(tmp_path, rows, commands, images):
    t2c = Talk2Car(make(tmp_path, rows, place=commands, images=images), "val")
    assert t2c[0]["image_path"].is_file()


def test_the_folder_with_the_images_is_taken_when_there_are_several(root):
    (root / "images").rename(root / "imgs")
    (root / "images").mkdir()
    assert Talk2Car(root, "val").images == root / "imgs"


def test_a_test_set_without_boxes_is_readable(tmp_path):
    rows = [command(0, "test", box=None)]
    root = make(tmp_path, rows, place="commands/test_commands.json")
    assert Talk2Car(root, "test")[0]["box"] is None
    assert check_talk2car(root).counts["test"]["boxes"] == 0 and not check_talk2car(root).faults
    mixed = make(tmp_path / "mixed", [*rows, command(1, "test")], place="commands/test_commands.json")
    assert "command test0: has no '2d_box'" in error_of(lambda: Talk2Car(mixed, "test"))


def test_the_older_form_of_proposals(tmp_path, root, rows):
    new = boxes_of(rows)["val"]
    old = {
        "val": {
            str(k): {"img": r["t2c_img"], "command_token": r["command_token"], "centernet": new[r["command_token"]]}
            for k, r in enumerate(rows)
        }
    }
    write(root / "c4av_model/data/talk2car_w_rpn_no_duplicates.json", old)
    assert Talk2Car(root, "val")[1]["proposals"].shape == (2, 4)


def test_proposals_are_cut_to_the_image_and_slivers_left_out(tmp_path):
    proposals = [
        {"bbox": [-5, -5, 20, 30], "score": 0.5},
        {"bbox": [1590, 10, 50, 5], "score": 0.6},
        {"bbox": [1600, 10, 50, 50], "score": 0.7},
        {"bbox": [10, 10, 0, 9], "score": 0.7},
    ]
    write(tmp_path / "p.json", {"val": {"a": proposals}})
    boxes, scores = read_proposals(tmp_path / "p.json", "val")["a"]
    assert boxes.tolist() == [[1590, 10, 1600, 15], [0, 0, 15, 25]] and scores.tolist() == pytest.approx([0.6, 0.5])


def test_to_pixels_of_arrays_and_tensors():
    box = [160, 90, 1600, 900]
    assert to_pixels(np.array([box]), 320, 180).tolist() == [[32, 18, 320, 180]]
    assert to_pixels(torch.tensor(box, dtype=torch.float32), 1600, 900).tolist() == box


def test_words():
    assert names_colour("Follow the RED car.") and not names_colour("the bored man, reddish") and names_colour("grey?")
    assert names_side("on the left!") and names_side("leftmost") and not names_side("bright lights, leftover")


def test_images_may_be_written_with_their_folders(tmp_path, rows):
    root = make(tmp_path / "t2c", rows)
    for written in ("images/{}", "data/old/{}", "images\\{}", "/home/somebody/{}"):
        longer = [row | {"t2c_img": written.format(row["t2c_img"])} for row in rows]
        write(root / "commands/val_commands.json", {"commands": longer})
        t2c = Talk2Car(root, "val")
        assert t2c[1]["image_path"] == root / "images/img_val_1.jpg" and t2c.image(1).shape == (3, 18, 32)
        assert not check_talk2car(root).faults
    (root / "samples/front").mkdir(parents=True)
    (root / "images/img_val_0.jpg").rename(root / "samples/front/img_val_0.jpg")
    longer = [rows[0] | {"t2c_img": "samples/front/img_val_0.jpg"}, rows[1] | {"t2c_img": "images/img_val_1.jpg"}]
    write(root / "commands/val_commands.json", {"commands": longer})
    assert [item["image_path"].is_file() for item in Talk2Car(root, "val")] == [True, True]
    longer = [row | {"t2c_img": f"{k}/img_val_1.jpg"} for k, row in enumerate(rows)]
    write(root / "commands/val_commands.json", {"commands": longer})
    fault = error_of(lambda: Talk2Car(root, "val"))
    assert "command val1: images 0/img_val_1.jpg and 1/img_val_1.jpg are one file" in fault
    assert check_talk2car(root).faults == [fault]


def test_files_that_no_command_names_are_counted(root):
    (root / "images/Thumbs.db").write_bytes(b"x")
    assert not check_talk2car(root).faults
    note = f"note: {root / 'images'}: skipped 1 file, in no command: Thumbs.db"
    assert note in check_talk2car(root).summary().splitlines()


def test_tokens_may_be_whole_numbers(tmp_path):
    root = make(tmp_path, [command(0, command_token=7292, scene_token=4)])
    assert Talk2Car(root, "val").commands[0].token == "7292" and Talk2Car(root, "val").commands[0].scene == "4"
    assert read_commands(root / "commands/val_commands.json")[0].name == "vehicle.car"


def test_commands_may_be_utf16_and_have_a_mark(root):
    path = root / "commands/val_commands.json"
    text = path.read_text()
    for coding in ("utf-8-sig", "utf-16"):
        path.write_text(text, encoding=coding)
        assert len(Talk2Car(root, "val")) == 2


# ---------------------------------------------------------------- the real commands


def test_real_commands(real_data):
    commands = read_commands(real_data / "talk2car/commands/val_commands.json")
    assert len(commands) == 1163 and commands[0].box == (260, 479, 451, 561)
    assert commands[0].image == "img_val_0.jpg" and not commands[0].knows_twins
    counts = check_talk2car(real_data / "talk2car").counts["val"]
    assert counts["commands"] == counts["boxes"] == 1163 and counts["scenes"] == 75
    shares = [counts[k] / 1163 for k in ("name a colour", "name a side", "  smaller than 64 x 64")]
    assert shares == pytest.approx([0.31, 0.43, 0.15], abs=0.005)


def test_real_data_without_images_says_where_they_are(real_data):
    text = error_of(lambda: Talk2Car(real_data / "talk2car", "val"))
    assert "img_val_0.jpg" in text and "imgs.zip" in text and "talk2car.github.io" in text
    report = check_talk2car(real_data / "talk2car")
    assert len(report.faults) == 1 and "images: no such folder" in report.summary() and "1 fault" in report.summary()


# ---------------------------------------------------------------- faults


def test_missing_files_say_where_to_get_them(tmp_path, root):
    text = error_of(lambda: Talk2Car(tmp_path / "nowhere", "val"))
    assert "nowhere/commands/val_commands.json" in text and "is nothing" in text and "talk2car.github.io" in text
    assert "train_commands.json" in error_of(lambda: Talk2Car(root, "train"))
    assert "expected one of train, val, test" in error_of(lambda: Talk2Car(root, "dev"))
    assert "talk2car.github.io" in error_of(lambda: check_talk2car(tmp_path))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"2d_box": None}, "has no '2d_box'"),
        ({"2d_box": [1, 2, 0, 5]}, "has no area"),
        ({"2d_box": [1, 2, 5, -5]}, "has no area"),
        ({"2d_box": [1, 2, 3]}, "four finite numbers"),
        ({"2d_box": [1, 2, "3", 4]}, "four finite numbers"),
        ({"2d_box": [1, 2, float("nan"), 4]}, "four finite numbers"),
        ({"2d_box": [1, 2, None, 4]}, "found [1, 2, None, 4], expected four finite numbers"),
        ({"2d_box": [1, 2, 10**400, 4]}, "four finite numbers"),
        ({"2d_box": "1 2 3 4"}, "found '1 2 3 4', expected four finite numbers"),
        ({"2d_box": [1500, 2, 200, 40]}, "within 1600 x 900"),
        ({"obj_name": [1]}, "'obj_name' is [1], expected a text"),
        ({"twin": "front"}, "'twin' is 'front', expected"),
        ({"command": "turn \ud800"}, "'command' is 'turn \\ud800', expected a text"),
        ({"command": "  "}, "'command' is '  ', expected a text"),
        ({"t2c_img": None}, "'t2c_img' is None"),
        ({"command_token": "val0"}, "appears twice"),
        ({"twin_box": [1, 2, 3]}, "four finite numbers"),
    ],
)
def test_a_faulty_command_is_named(tmp_path, change, what):
    good = command(0)
    path = tmp_path / "commands/val_commands.json"
    write(path, {"commands": [good, command(1) | change]})
    text = error_of(lambda: read_commands(path))
    token = change.get("command_token", "val1")
    assert text.startswith(f"{path}: command {token}: ") and what in text
    commands, faults = parse_commands(path)
    assert len(commands) == 1 and len(faults) == 1


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"commands": [\n{"command": "x",}]}', ":2: not JSON"),
        ("[]", "no list 'commands'"),
        ('{"commands": {}}', "no list 'commands'"),
        ('{"commands": []}', "no commands"),
        ('{"commands": [3]}', "command number 0: is a int"),
        ('{"commands": [{}]}', "command number 0: 'command_token'"),
        ('{"commands": [], "commands": []}', "key 'commands' appears twice"),
        ('{"commands": [' + "9" * 5000 + "]}", "not JSON that can be read"),
        ("[" * 100_000, "not JSON that can be read"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, what):
    write(tmp_path / "commands/val_commands.json", content)
    text = error_of(lambda: read_commands(tmp_path / "commands/val_commands.json"))
    assert "val_commands.json" in text and what in text


def test_a_missing_image_is_named_with_its_command(root):
    (root / "images/img_val_1.jpg").unlink()
    text = error_of(lambda: Talk2Car(root, "val"))
    assert "images/img_val_1.jpg: no such image" in text and "val1" in text
    assert any("img_val_1.jpg" in fault for fault in check_talk2car(root).faults)


def test_a_truncated_image_is_named(root, monkeypatch):
    path = root / "images/img_val_0.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # some libraries do
    assert "img_val_0.jpg: cannot be decoded" in error_of(lambda: Talk2Car(root, "val").image(0))
    assert [fault for fault in check_talk2car(root).faults if "img_val_0.jpg" in fault]
    path.write_text("not an image")
    assert "img_val_0.jpg: not an image" in error_of(lambda: Talk2Car(root, "val").image(0))


def test_missing_proposals_are_named_with_image_and_command(root, rows):
    for some in (boxes_of(rows[:1]), {"val": boxes_of(rows)["val"] | {"val1": []}}):
        write(root / "centernet_bboxes.json", some)
        text = error_of(lambda: Talk2Car(root, "val"))
        assert "centernet_bboxes.json: no proposals for command val1 (img_val_1.jpg)" in text
        assert text in check_talk2car(root).faults


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"train": {}}, "found no 'val'"),
        ({"val": {"val0": 3}}, "proposals of val val0: found a int"),
        ({"val": {"0": {"command_token": "val0"}}}, "val val0: found a NoneType"),
        ({"val": {"val0": [{"bbox": [1, 2, 3, 4]}]}}, "expected an object with 'bbox' and 'score'"),
        ({"val": {"val0": [{"bbox": [1, 2, 3], "score": 1}]}}, "expected finite numbers"),
        ({"val": {"val0": [{"bbox": [1, 2, 3, 4], "score": None}]}}, "expected finite numbers"),
        ({"val": {"val0": [{"bbox": [1, 2, float("nan"), 4], "score": 1}]}}, "expected finite numbers"),
        ({"val": {"val0": [{"bbox": [1, 2, 10**400, 4], "score": 1}]}}, "expected finite numbers"),
        ({"val": {"val0": [{"bbox": "1234", "score": 1}]}}, "expected finite numbers"),
        ({"val": {"0": {"command_token": [], "centernet": 3}}}, "val 0: found a int"),
    ],
)
def test_faulty_proposals_are_named(root, content, what):
    write(root / "centernet_bboxes.json", content)
    text = error_of(lambda: Talk2Car(root, "val"))
    assert "centernet_bboxes.json" in text and what in text
    assert text in check_talk2car(root).faults


def test_the_checker_goes_on_after_a_fault(root, rows):
    make(root, [command(0, "train")], place="commands/train_commands.json")
    write(root / "commands/test_commands.json", "{")
    write(root / "commands/val_commands.json", {"commands": [rows[0], command(1, box=(1, 1, 0, 0))]})
    report = check_talk2car(root)
    assert report.counts["train"]["commands"] == report.counts["val"]["commands"] == 1 and "test" not in report.counts
    assert len(report.faults) == 2 and "2 faults" in str(report)
