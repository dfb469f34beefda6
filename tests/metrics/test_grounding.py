"""The Talk2Car score: closed forms, the official rule done by hand, the real baseline, and one-line errors."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from kdnb.cli import main
from kdnb.datasets.talk2car_files import Command, read_commands
from kdnb.errors import InputError
from kdnb.metrics.grounding import (
    chance,
    evaluate_talk2car,
    iou,
    iou_per_command,
    read_predictions,
    slices,
    upper_bound,
    write_predictions,
)


def command(token, box=(0, 0, 100, 100), text="stop", **more):
    return Command(token, text, box, "img.jpg", "vehicle.car", **more)


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def real(real_data):
    folder = real_data / "talk2car"
    return folder / "commands/val_commands.json", folder / "baseline_val_predictions.json"


# ---------------------------------------------------------------- numbers


def test_exactly_one_half_is_a_miss():
    commands = [command("a"), command("b")]
    result = evaluate_talk2car(commands, {"a": [0, 0, 50, 100], "b": [0, 0, 51, 100]})
    assert result["AP50"] == 50 and result["AP55"] == 0 and result["AP50..95"] == pytest.approx(5)
    assert result["mIoU"] == pytest.approx(50.5) and result["n"] == 2


def test_each_threshold_is_strict():
    """Overlaps of 0.50, 0.55 ... 1.00: AP at t counts those above t."""
    overlaps = [50 + 5 * k for k in range(11)]
    commands = [command(str(p)) for p in overlaps]
    result = evaluate_talk2car(commands, {str(p): [0, 0, p, 100] for p in overlaps})
    for k in range(10):
        assert result[f"AP{50 + 5 * k}"] == pytest.approx(100 * (10 - k) / 11)


def test_overlap_in_closed_form():
    a = np.array([0, 0, 10, 10])
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [10, 0, 20, 10], [20, 20, 30, 30], [2, 2, 4, 4], [5, 5, 5, 9]])
    assert iou(a, boxes) == pytest.approx([1, 25 / 175, 0, 0, 0.04, 0])
    assert iou(boxes[:, None], boxes[None]).shape == (6, 6)


def test_the_real_baseline_scores_what_the_official_rule_gives(real):
    commands, predictions = read_commands(real[0]), read_predictions(real[1])
    result = evaluate_talk2car(commands, predictions)
    assert result["AP50"] == pytest.approx(43.51, abs=0.005) and result["n"] == 1163
    overlaps = []
    for row in json.loads(real[0].read_text())["commands"]:  # the rule once more, in plain Python
        (x, y, w, h), (u, v, p, q) = row["2d_box"], predictions[row["command_token"]]
        wide, high = min(x + w, u + p) - max(x, u), min(y + h, v + q) - max(y, v)
        shared = max(wide, 0) * max(high, 0)
        overlaps.append(shared / (w * h + p * q - shared))
    assert iou_per_command(commands, predictions) == pytest.approx(overlaps)
    assert result["mIoU"] == pytest.approx(100 * np.mean(overlaps))
    assert result["AP75"] == pytest.approx(100 * np.mean([o > 0.75 for o in overlaps]))


def test_the_order_of_predictions_does_not_matter(real):
    commands, predictions = read_commands(real[0]), read_predictions(real[1])
    assert evaluate_talk2car(commands, dict(reversed(predictions.items()))) == evaluate_talk2car(commands, predictions)


def test_real_slices(real):
    masks = slices(read_commands(real[0]))
    assert set(masks) == {"colour", "side", "neither", "small"}  # nobody noted twins in photographs
    shares = [masks[name].mean() for name in ("colour", "side", "small")]
    assert shares == pytest.approx([0.31, 0.43, 0.15], abs=0.005)


def test_real_scores_have_the_slices_of_drawn_ones(real):
    """What reads "twin_side" of a drawn street's scores reads "there are none" of the photographs'."""
    parts = evaluate_talk2car(read_commands(real[0]), read_predictions(real[1]))["slices"]
    assert list(parts) == ["colour", "side", "neither", "small", "twin", "twin_colour", "twin_side"]
    assert parts["twin_side"] == {"n": 0, "AP50": None, "AP50..95": None, "mIoU": None}


def test_slices_and_their_scores():
    commands = [
        command("a", text="the red car"),
        command("b", text="the car on the left", box=(0, 0, 60, 60)),
        command("c", text="the bus", twin=None, knows_twins=True),
        command("d", text="the car on the right", twin="side", knows_twins=True),
    ]
    masks = {name: mask.tolist() for name, mask in slices(commands).items()}
    assert masks["colour"] == [True, False, False, False] and masks["side"] == [False, True, False, True]
    assert masks["neither"] == [False, False, True, False] and masks["small"] == [False, True, False, False]
    assert masks["twin"] == masks["twin_side"] == [False, False, False, True]
    good, bad = [0, 0, 100, 100], [500, 500, 9, 9]
    parts = evaluate_talk2car(commands, {"a": good, "b": bad, "c": good, "d": bad})["slices"]
    assert parts["colour"] == {"n": 1, "AP50": 100, "AP50..95": 100, "mIoU": 100}
    assert parts["side"]["AP50"] == 0 and parts["side"]["n"] == 2
    assert parts["twin_colour"] == {"n": 0, "AP50": None, "AP50..95": None, "mIoU": None}


def test_upper_bound_and_chance():
    box = np.array([0, 0, 100, 100])
    proposals = [[[0, 0, 60, 100], [0, 0, 50, 100], [500, 500, 600, 600], [0, 0, 9, 9]], [[0, 0, 50, 100]], []]
    items = [{"box": box, "proposals": np.array(some)} for some in proposals]
    assert upper_bound(items) == pytest.approx(100 / 3) and chance(items) == pytest.approx(25 / 3)


# ---------------------------------------------------------------- faults


def test_missing_and_extra_tokens_are_counted_and_the_first_ten_listed():
    commands = [command(f"t{k:02d}") for k in range(15)]
    text = error_of(lambda: evaluate_talk2car(commands, {"t00": [0, 0, 1, 1], "x": [0, 0, 1, 1]}))
    assert "14 commands without a prediction: t01, " in text and "t10, ..." in text and "t11" not in text
    assert "1 predictions without a command: x" in text


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, float("nan"), 5],
        [0, 0, float("inf"), 5],
        [0, 0, 0, 5],
        [0, 0, 5, -1],
        [0, 0, 5],
        [0, 0, "5", 5],
        None,
        {},
        [0, 0, True, 5],
        "box",
        [[0, 0, 5, 5]],
    ],
)
def test_a_faulty_prediction_is_named(box, tmp_path):
    assert "prediction of command a: " in error_of(lambda: evaluate_talk2car([command("a")], {"a": box}))
    assert "prediction of command a: " in error_of(lambda: write_predictions(tmp_path / "p.json", {"a": box}))
    assert not list(tmp_path.iterdir())


def test_commands_without_boxes_cannot_be_scored():
    assert "command a has no box" in error_of(lambda: evaluate_talk2car([command("a", None)], {"a": [0, 0, 1, 1]}))
    assert "no commands" in error_of(lambda: evaluate_talk2car([], {}))
    assert "predictions are a list" in error_of(lambda: evaluate_talk2car([command("a")], []))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", ":1: not JSON"),
        ("[]", "found a list"),
        ('{"a": [1, 2, 3, 4], "a": [1, 2, 3, 4]}', "key 'a' appears twice"),
    ],
)
def test_a_faulty_predictions_file_is_named(tmp_path, content, what):
    (tmp_path / "p.json").write_text(content)
    text = error_of(lambda: read_predictions(tmp_path / "p.json"))
    assert "p.json" in text and what in text
    assert "none.json: no such file" in error_of(lambda: read_predictions(tmp_path / "none.json"))


# ---------------------------------------------------------------- files and command line


def test_written_predictions_come_back(tmp_path):
    boxes = {"a": np.array([1.5, 2, 3, 4], np.float32), "b": [0.1234567, 0, 10, 10]}
    write_predictions(tmp_path / "p.json", boxes)
    assert read_predictions(tmp_path / "p.json") == {"a": [1.5, 2, 3, 4], "b": [0.123, 0, 10, 10]}
    assert os.listdir(tmp_path) == ["p.json"]


def test_command_line(real, tmp_path):
    out = tmp_path / "score.json"
    done = CliRunner().invoke(
        main, ["eval", "talk2car", "--commands", str(real[0]), "--pred", str(real[1]), "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "43.51" in done.output and "small" in done.output
    assert json.loads(out.read_text())["AP50"] == pytest.approx(43.51, abs=0.005)


def test_command_line_names_what_is_wrong(real, tmp_path):
    (tmp_path / "p.json").write_text("{}")
    pred = str(tmp_path / "p.json")
    done = CliRunner().invoke(main, ["eval", "talk2car", "--commands", str(real[0]), "--pred", pred])
    assert done.exit_code == 1 and "1163 commands without a prediction" in done.output


def test_command_line_makes_and_checks_a_set(tmp_path):
    make = [
        "data",
        "make",
        "talk2car",
        "--out",
        str(tmp_path / "t2c"),
        "--train",
        "1",
        "--val",
        "1",
        "--test",
        "1",
        "--size",
        "160x90",
    ]
    done = CliRunner().invoke(main, make)
    assert done.exit_code == 0 and "rendered: " in done.output, done.output
    done = CliRunner().invoke(main, ["data", "check", "talk2car", str(tmp_path / "t2c")])
    assert done.exit_code == 0 and "no faults" in done.output
    (tmp_path / "t2c/images/img_val_0.jpg").unlink()
    done = CliRunner().invoke(main, ["data", "check", "talk2car", str(tmp_path / "t2c")])
    assert done.exit_code == 1 and "img_val_0.jpg" in done.output
