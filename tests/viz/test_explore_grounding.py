import io
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.viz.explore_grounding import MOST, GroundingExplorer


class Toy:
    """An arm that takes a proposal by the length of the command, and remembers what it was asked."""

    def __init__(self, step=0):
        self.step, self.asked = step, []

    def __call__(self, image, proposals, command):
        self.asked.append(command)
        if command == "explode":
            raise ValueError("no such <word>")
        order = torch.arange(len(proposals)).roll(self.step + len(command))
        return {
            "box": proposals[order.argmin()],
            "scores": torch.softmax(-order.float(), 0),
            "attention": torch.softmax(order.float() / 3, 0),
        }


@pytest.fixture
def toys():
    return {"baseline": Toy(), "distilled": Toy(2)}


@pytest.fixture
def explorer(toys):
    torch.manual_seed(0)
    proposals = torch.tensor([[4.0, 4, 24, 24], [30, 10, 60, 40], [50, 5, 79, 30], [10, 25, 40, 44]])
    items = [
        {
            "id": name,
            "image": torch.randint(0, 255, (3, 45, 80), dtype=torch.uint8),
            "command": command,
            "box": proposals[k] + 1,
            "proposals": proposals,
        }
        for k, (name, command) in enumerate([("a", "stop at the van"), ("b", "park near the dog")])
    ]
    return GroundingExplorer(items, toys, lambda image: torch.tensor([[0.0, 0, 20, 20], [10, 10, 50, 40]]))


def screen(explorer):
    assert explorer.message.value == ""
    shown = np.asarray(Image.open(io.BytesIO(explorer.screen.value)))
    assert (shown == explorer.render()).all()
    return shown


def uploaded(name, content):
    return (
        {"name": name, "content": content, "size": len(content), "type": "image/png", "last_modified": datetime.now()},
    )


def picture(size=(90, 120)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "green").save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "value"), [("image", "b"), ("command", "turn"), ("show", "scores"), ("show", "attention"), ("count", 2)]
)
def test_every_control_changes_the_pixels_and_moves_nothing(explorer, name, value):
    before = screen(explorer)
    getattr(explorer, name).value = value
    after = screen(explorer)
    assert after.shape == before.shape and (after != before).any()


def test_an_arm_switched_off_leaves_the_screen(explorer):
    before = screen(explorer)
    explorer.arms["baseline"].value = False
    assert screen(explorer).shape != before.shape
    explorer.arms["distilled"].value = False
    screen(explorer)  # the question alone
    explorer.arms["baseline"].value = explorer.arms["distilled"].value = True
    assert (screen(explorer) == before).all()


def test_a_picture_brings_its_command_and_your_own_reaches_every_arm(explorer, toys):
    explorer.image.value = "b"
    assert explorer.command.value == "park near the dog"
    explorer.command.value = "  overtake the tram "
    assert [toy.asked for toy in toys.values()] == [["stop at the van", "park near the dog", "overtake the tram"]] * 2
    explorer.show.value, explorer.count.value = "attention", MOST
    assert len(toys["baseline"].asked) == 3  # looking at the same answer in another way asks nobody


def test_the_true_box_is_shown_for_the_pictures_own_command_only(explorer):
    yellow = np.array([0xF0, 0xE4, 0x42])
    assert (screen(explorer) == yellow).all(-1).any()
    explorer.command.value = "turn left"
    assert not (screen(explorer) == yellow).all(-1).any()


def test_an_error_of_an_arm_and_an_empty_command_are_shown_and_pass(explorer):
    explorer.command.value = "explode"
    assert "ValueError: no such &lt;word&gt;" in explorer.message.value
    explorer.command.value = "   "
    assert "the command is empty, expected words such as" in explorer.message.value
    explorer.command.value = "stop"
    screen(explorer)


def test_an_upload_is_asked_with_the_command_that_stands_there(explorer, toys):
    before = screen(explorer)
    explorer.upload.value = uploaded("mine.png", picture())
    assert explorer.image.value == "your mine.png" and explorer.command.value == "stop at the van"
    assert screen(explorer).shape == before.shape and len(toys["distilled"].asked) == 2
    explorer.image.value = "a"
    explorer.upload.value = uploaded("mine.png", picture((200, 50)))  # another picture of the same name
    assert len(explorer.image.options) == 3 and len(toys["distilled"].asked) == 3
    screen(explorer)


def test_an_upload_that_is_no_picture_or_empty_of_things_says_so(explorer):
    explorer.upload.value = uploaded("notes.txt", b"hello")
    assert "notes.txt: not a readable image" in explorer.message.value and "\n" not in explorer.message.value
    explorer.propose = lambda image: torch.zeros(0, 4)
    explorer.upload.value = uploaded("wall.png", picture())
    assert "wall.png: no proposals found in it" in explorer.message.value
    assert [value for _, value in explorer.image.options] == ["a", "b"]


def test_boxes_beyond_the_picture_and_a_single_proposal_are_drawn(explorer):
    item = explorer.items["a"]
    item |= {"proposals": torch.tensor([[-20.0, -5, 200, 99]]), "box": torch.tensor([90.0, 50, 95, 60])}
    for show in ("scores", "attention", "box"):
        explorer.show.value = show
    explorer.command.value = "a " * 200
    screen(explorer)
