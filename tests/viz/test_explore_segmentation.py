import io
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.viz.explore_segmentation import SegmentationExplorer

CLASSES = ["sky", "road", "car"]
PALETTE = np.array([(90, 190, 250), (80, 5, 140), (250, 240, 10), (0, 0, 0)], np.uint8)
WORDS = {"sky": "sky", "road": ["road", "asphalt"], "car": ["a car, seen from behind"]}


class Toy:
    """Names a pixel by its largest channel, shifted; remembers how often it was asked."""

    def __init__(self, shift=0):
        self.shift, self.asked = shift, []

    def __call__(self, image):
        self.asked.append(tuple(image.shape))
        return (image.argmax(0) + self.shift) % 3


class Told(Toy):
    """A teacher that sees the first class whose prompts contain "everything" everywhere."""

    def __call__(self, image, texts):
        self.asked.append(texts)
        if "explode" in texts["car"]:
            raise ValueError("no such <word>")
        for k, given in enumerate(texts.values()):
            if "everything" in given:
                return torch.full(image.shape[1:], k)
        return image.argmax(0)


@pytest.fixture
def toys():
    return {"teacher": Toy(), "distilled": Toy(1)}


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def explorer(toys, told):
    torch.manual_seed(0)
    items = []
    for name in ("a", "b"):
        image = torch.randint(0, 255, (3, 30, 40), dtype=torch.uint8)
        label = image.argmax(0)
        label[-5:] = 3
        items.append({"name": name, "image": image, "label": label})
    stored = {item["name"]: torch.zeros(30, 40, dtype=torch.int64) for item in items}
    return SegmentationExplorer(items, {**toys, "stored": stored}, CLASSES, PALETTE, WORDS, told)


def screen(explorer):
    assert explorer.message.value == ""
    shown = np.asarray(Image.open(io.BytesIO(explorer.screen.value)))
    assert (shown == explorer.render()).all()
    return shown


def uploaded(name, content):
    return (
        {"name": name, "content": content, "size": len(content), "type": "image/png", "last_modified": datetime.now()},
    )


def picture(size=(90, 60), colour="green"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "value"), [("frame", "b"), ("opacity", 0.2), ("opacity", 1.0)])
def test_every_control_changes_the_pixels_and_moves_nothing(explorer, name, value):
    before = screen(explorer)
    getattr(explorer, name).value = value
    after = screen(explorer)
    assert after.shape == before.shape and (after != before).any()


def test_an_arm_switched_off_leaves_the_screen(explorer, toys):
    before = screen(explorer)
    explorer.arms["teacher"].value = False
    after = screen(explorer)
    assert (after[28:352, 408:808] == before[28:352, 816:1216]).all()  # the next arm has moved into its place
    explorer.arms["teacher"].value = True
    assert (screen(explorer) == before).all() and len(toys["teacher"].asked) == 1


def test_a_new_prompt_segments_anew_and_says_what_changed(explorer, told):
    before = screen(explorer)
    explorer.prompts["road"].value = "asphalt ; everything;"
    after = screen(explorer)
    assert after.shape == before.shape and (after != before).any()
    assert told.asked[-1] == {"sky": ["sky"], "road": ["asphalt", "everything"], "car": ["a car, seen from behind"]}
    assert len(told.asked) == 2  # looking again asks nobody
    explorer.opacity.value = 0.3
    assert len(told.asked) == 2


def test_changed_pixels_are_marked(explorer):
    vermilion = np.array([213, 94, 0])

    def marked():
        """Panel 6 of 6, at its middle: mostly vermilion or mostly white."""
        rows = screen(explorer)[-300:, -408:-8].astype(float)
        return (np.abs(rows - vermilion).sum(-1) < 300).mean()

    nothing = marked()
    explorer.prompts["sky"].value = "everything"
    assert nothing < 0.1 and marked() > 0.4  # two thirds of the pixels were no sky


def test_the_prompts_come_back_with_one_redraw(explorer, told):
    before = screen(explorer)
    explorer.prompts["sky"].value, explorer.prompts["car"].value = "everything", "everything"
    asked = len(told.asked)
    explorer.reset.click()
    assert (screen(explorer) == before).all() and len(told.asked) == asked
    assert explorer.prompts["road"].value == "road; asphalt" and explorer.texts()["road"] == ["road", "asphalt"]


def test_an_empty_prompt_and_an_error_of_the_teacher_are_shown_and_pass(explorer):
    explorer.prompts["car"].value = " ; "
    assert "the prompt of car is empty, expected words such as" in explorer.message.value
    explorer.prompts["car"].value = "explode"
    assert "ValueError: no such &lt;word&gt;" in explorer.message.value
    explorer.prompts["car"].value = "car"
    screen(explorer)


def test_an_upload_reaches_the_arms_that_can_answer_in_the_size_of_the_frames(explorer, toys):
    before = screen(explorer)
    explorer.prompts["road"].value = "street"
    explorer.upload.value = uploaded("mine.png", picture((400, 100)))
    assert explorer.frame.value == "your mine.png" and toys["distilled"].asked[-1] == (3, 10, 40)
    assert screen(explorer).shape[1] == before.shape[1]
    explorer.upload.value = uploaded("mine.png", picture((50, 100), "red"))  # another picture of the same name
    assert toys["distilled"].asked[-1] == (3, 40, 20) and len(explorer.frame.options) == 3
    screen(explorer)
    explorer.frame.value = "a"
    explorer.reset.click()
    assert (screen(explorer) == before).all()


def test_an_upload_that_fails_leaves_everything_as_it_was(explorer):
    def fail(image):
        raise ValueError("too small")

    before = screen(explorer)
    explorer.upload.value = uploaded("notes.txt", b"hello")
    assert "notes.txt: not a readable image" in explorer.message.value and "\n" not in explorer.message.value
    explorer.predictions["distilled"] = fail
    explorer.upload.value = uploaded("mine.png", picture())
    assert "too small" in explorer.message.value
    assert explorer.frame.value == "a" and list(explorer.frame.options) == ["a", "b"]
    assert (explorer.render() == before).all()
