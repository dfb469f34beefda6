"""Talk2Car against noise: damaged commands, proposals and predictions give what they hold or one line."""

import json
import time

import numpy as np
import pytest
from damage import damaged_json
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdnb.datasets.talk2car import Talk2Car, check_talk2car, read_commands
from kdnb.errors import InputError
from kdnb.metrics.grounding import evaluate_talk2car, read_predictions

FEW = settings(max_examples=25, deadline=None, derandomize=True)
COMMANDS = {
    "commands": [
        {
            "scene_token": f"s{k}",
            "command_token": f"val{k}",
            "command": "stop behind the red car",
            "t2c_img": f"img_val_{k}.jpg",
            "2d_box": [100, 200, 300, 150],
            "obj_name": "vehicle.car",
            "twin": "colour",
            "twin_box": [1, 2, 3, 4],
        }
        for k in range(2)
    ],
    "scene_tokens": ["s0", "s1"],
}
BOXES = [{"bbox": [10, 20, 30, 40], "class": "animal", "score": 0.2}]
PROPOSALS = {"val": {"val0": BOXES, "1": {"img": "img_val_1.jpg", "command_token": "val1", "centernet": BOXES}}}
PREDICTIONS = {"val0": [100, 200, 300, 140], "val1": [1, 2, 3, 4]}


def quietly(call):
    """The result, or None after one line that can be printed; in less than two seconds."""
    start = time.perf_counter()
    try:
        return call()
    except InputError as error:
        assert "\n" not in str(error) and str(error).encode()
        return None
    finally:
        assert time.perf_counter() - start < 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("t2c") / "root"
    for folder in ("commands", "images"):
        (root / folder).mkdir(parents=True)
    (root / "commands" / "val_commands.json").write_text(json.dumps(COMMANDS))
    (root / "centernet_bboxes.json").write_text(json.dumps(PROPOSALS))
    for k in range(2):
        Image.new("RGB", (16, 9)).save(root / "images" / f"img_val_{k}.jpg")
    return root


@pytest.mark.parametrize("name", ["commands/val_commands.json", "centernet_bboxes.json"])
@given(data=st.data())
@FEW
def test_damaged_files_are_faults_of_their_own(name, data, place):
    path = place / name
    path.write_bytes(data.draw(damaged_json(COMMANDS if name.startswith("commands") else PROPOSALS)))
    try:
        report = quietly(lambda: check_talk2car(place))
        assert report is not None and report.summary().encode()
        assert not any("\n" in fault or "cannot be checked" in fault for fault in report.faults)
        items = quietly(lambda: list(Talk2Car(place, "val")))
        for item in items or ():
            assert np.isfinite(item["box"].numpy()).all() and np.isfinite(item["proposals"].numpy()).all()
            assert item["image_path"].is_file() and (item["command"] + item["name"]).encode()
    finally:
        path.write_text(json.dumps(COMMANDS if name.startswith("commands") else PROPOSALS))


@given(content=damaged_json(PREDICTIONS), of_commands=st.booleans(), commands=damaged_json(COMMANDS))
@FEW
def test_damaged_predictions_give_scores_or_one_line(content, of_commands, commands, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged grounding"
    folder.mkdir(exist_ok=True)
    (folder / "commands.json").write_bytes(commands if of_commands else json.dumps(COMMANDS).encode())
    (folder / "pred.json").write_bytes(json.dumps(PREDICTIONS).encode() if of_commands else content)

    def score():
        return evaluate_talk2car(
            read_commands(folder / "commands.json", blind=True), read_predictions(folder / "pred.json")
        )

    scores = quietly(score)
    if scores is not None:
        assert all(0 <= scores[key] <= 100 for key in ("AP50", "AP50..95", "mIoU"))
