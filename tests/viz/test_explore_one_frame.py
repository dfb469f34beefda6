import io
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.viz.explore_one_frame import OneFrameExplorer

CLASSES = ["bus", "car"]


def make_frame(name, pixels, cars=(), command="stop", fov=81):
    return SimpleNamespace(
        name=name,
        image=pixels,
        calibration=guessed_calibration(pixels.shape[1::-1], fov),
        points=None,
        truth=None,
        cars=list(cars),
        command=command,
        target=cars[0][0] if cars else None,
    )


class Toy:
    """A stack that takes the first word's length for a place; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, frame, command, car):
        self.asked.append((frame.name, command, car, frame.calibration.P2[0, 0]))
        if "explode" in command:
            raise ValueError("no such <word>")
        x = 10.0 * len(command)
        objects = {
            "boxes": np.array([[20.0, 20, 60, 50], [90, 20, 120, 50]]),
            "labels": np.array([2, 2]),
            "scores": np.array([0.5, 0.7]),
        }
        model = None if car is None else [("sedan", 0.5 + car[0] / 1000), ("suv", 0.5 - car[0] / 1000)]
        mask = np.zeros(frame.image.shape[:2], bool)
        mask[-60:] = True
        return {
            "objects": objects,
            "road": {"mask": mask},
            "boxes": None,
            "target": np.array([x, 30.0, x + 40, 60]),
            "model": model,
        }


@pytest.fixture
def toys():
    return {"teachers": Toy(), "students": Toy()}


@pytest.fixture
def explorer(toys):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 255, (2, 208, 414, 3)).astype(np.uint8)
    cars = [((30, 30, 80, 60), "sedan"), ((100, 30, 160, 60), "suv")]
    frames = [make_frame("a", first, cars, "stop here"), make_frame("b", second, command="go on")]
    took = {side: {"objects": 5.0, "boxes": 9.0} for side in toys}
    return OneFrameExplorer(frames, toys, lambda name, pixels, fov: make_frame(name, pixels, fov=fov), CLASSES, took)


def screen(explorer):
    assert explorer.message.value == ""
    return np.asarray(Image.open(io.BytesIO(explorer.screen.value))).astype(int)


def uploaded(name, content):
    return (
        {"name": name, "content": content, "size": len(content), "type": "image/png", "last_modified": datetime.now()},
    )


def picture(size=(200, 120), colour="green"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "value"), [("frame", "b"), ("command", "go behind"), ("car", 1), ("car", -1), ("threshold", 0.6)]
)
def test_every_control_changes_the_pixels_and_moves_nothing(explorer, name, value):
    before = screen(explorer)
    getattr(explorer, name).value = value
    after = screen(explorer)
    assert after.shape == before.shape and (abs(after - before) > 40).any()


@pytest.mark.parametrize("layer", ["objects", "road", "command"])
def test_a_layer_switched_off_and_on_asks_nobody_again(explorer, toys, layer):
    before, asked = screen(explorer), len(toys["students"].asked)
    explorer.layers[layer].value = False
    assert (abs(screen(explorer) - before) > 40).any()
    explorer.layers[layer].value = True
    assert (screen(explorer) == before).all() and len(toys["students"].asked) == asked


def test_a_frame_brings_its_own_command_and_cars(explorer, toys):
    assert [value for _, value in explorer.car.options] == [0, 1, -1] and explorer.car.value == 0
    explorer.command.value = "another"
    explorer.frame.value = "b"
    assert explorer.command.value == "go on" and explorer.car.value == -1
    assert toys["teachers"].asked[-1][:3] == ("b", "go on", None)
    explorer.frame.value = "a"
    assert toys["teachers"].asked[-1][:3] == ("b", "go on", None)  # what was asked of a is known already
    assert explorer.command.value == "stop here" and explorer.car.value == 0
    screen(explorer)


def test_an_empty_command_and_an_error_are_shown_and_pass(explorer):
    explorer.command.value = "  "
    assert "the command is empty, expected words such as" in explorer.message.value
    explorer.command.value = "explode"
    assert "ValueError: no such &lt;word&gt;" in explorer.message.value
    explorer.command.value = "stop"
    screen(explorer)


def test_an_upload_has_the_cars_that_were_found_and_a_field_of_view(explorer, toys):
    explorer.upload.value = uploaded("mine.png", picture())
    assert explorer.frame.value == "your mine.png" and explorer.fov.layout.display == ""
    assert explorer.car.options[0] == ("car 1, 30 pixels wide", 0)  # the surest first
    before = screen(explorer)
    asked = toys["students"].asked[-1]
    assert asked[2] == (90.0, 20.0, 120.0, 50.0)
    explorer.fov.value = 50
    assert toys["students"].asked[-1][3] > asked[3]  # a longer lens
    explorer.upload.value = uploaded("mine.png", picture(colour="red"))  # another picture of the same name
    assert (abs(screen(explorer) - before) > 40).any() and len(explorer.frame.options) == 3
    explorer.frame.value = "a"
    assert explorer.fov.layout.display == "none"


def test_an_upload_that_is_no_picture_leaves_everything_as_it_was(explorer):
    before = screen(explorer)
    explorer.upload.value = uploaded("notes.txt", b"hello")
    assert "notes.txt: not a readable image" in explorer.message.value
    assert explorer.frame.value == "a" and list(explorer.frame.options) == ["a", "b"]
    explorer.threshold.value = 0.45
    assert screen(explorer).shape == before.shape


def test_photo_students_answer_for_a_photograph_in_the_teachers_place(toys):
    pixels, photo = np.full((208, 414, 3), 90, np.uint8), Toy()
    frames = [make_frame("a", pixels, [((30, 30, 80, 60), "sedan")])]
    explorer = OneFrameExplorer(
        frames, toys, lambda name, pixels, fov: make_frame(name, pixels, fov=fov), CLASSES, {}, photo
    )
    assert not photo.asked and toys["teachers"].asked
    asked = len(toys["teachers"].asked)
    explorer.show("street", pixels)
    assert explorer.message.value == "" and explorer.frame.value == "street"
    assert photo.asked and photo.asked[0][0] == "street" and len(toys["teachers"].asked) == asked
    assert len(explorer.car.options) == 3  # the two cars that the photo students see, and none
