import io
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.viz.detection import disagreement, draw_boxes, free_row
from kdnb.viz.explore import DetectionExplorer
from kdnb.viz.guard import read_upload, side_by_side_titled

CLASSES = ["car", "person"]


def found(score=0.9, x=4.0):
    return {"boxes": torch.tensor([[x, 4, x + 20, 24]]), "labels": torch.tensor([1]), "scores": torch.tensor([score])}


@pytest.fixture
def explorer():
    torch.manual_seed(0)
    items = [
        {
            "id": name,
            "image": torch.randint(0, 255, (3, 48, 64), dtype=torch.uint8),
            "boxes": torch.tensor([[4.0, 4, 24, 24]]),
            "labels": torch.tensor([1]),
            "difficult": torch.tensor([False]),
        }
        for name in "ab"
    ]
    arms = {
        "teacher": {"a": found(), "b": found()},
        "baseline": {"a": found(), "b": found(0.3)},
        "distilled": {"a": found(), "b": found(0.8)},
    }
    masks = [torch.zeros(1, 1, 6, 8), torch.ones(1, 1, 3, 4)]
    return DetectionExplorer(items, arms, CLASSES, lambda item: masks, {n: lambda image: found() for n in arms}, 3)


def test_pictures_are_sorted_by_disagreement(explorer):
    assert explorer.image.value == "b" and explorer.image.options[0][0] == "b: 1 differences"
    assert disagreement(found(), found(x=40.0)) == 2 and disagreement(found(), found()) == 0


def test_every_control_changes_the_picture(explorer):
    def screen():
        return np.asarray(Image.open(io.BytesIO(explorer.screen.value)))

    before = screen()
    explorer.threshold.value = 0.25  # the baseline's 0.3 appears
    lower = screen()
    assert before.shape == lower.shape and (before != lower).any()
    explorer.arms["teacher"].value = False
    assert screen().shape != lower.shape or (screen() != lower).any()
    now = screen()
    explorer.level.value = 1
    assert screen().shape != now.shape or (screen() != now).any()
    explorer.image.value = "a"
    assert explorer.message.value == ""


def test_an_upload_is_shown_with_every_arm(explorer):
    buffer = io.BytesIO()
    Image.new("RGB", (90, 60), "red").save(buffer, "png")
    explorer.upload.value = (
        {
            "name": "mine.png",
            "content": buffer.getvalue(),
            "size": 1,
            "type": "image/png",
            "last_modified": datetime.now(),
        },
    )
    assert explorer.message.value == "" and explorer.image.value == "your mine.png"
    assert explorer.level.disabled  # nobody knows what is foreground there
    explorer.image.value = "a"
    assert not explorer.level.disabled


def test_a_callback_that_fails_says_so_inside_the_explorer(explorer):
    explorer.upload.value = (
        {"name": "notes.txt", "content": b"hello", "size": 5, "type": "text/plain", "last_modified": datetime.now()},
    )
    assert "notes.txt: not a readable image" in explorer.message.value
    with pytest.raises(Exception, match="expected a JPEG or PNG"):
        read_upload("x", b"")


def test_no_arm_chosen_is_said_not_raised(explorer):
    for box in explorer.arms.values():
        box.value = False
    assert explorer.message.value == ""
    assert side_by_side_titled([]).shape[2] == 3


def test_drawing_leaves_the_picture_alone():
    image = torch.full((3, 30, 40), 128, dtype=torch.uint8)
    drawn = draw_boxes(image, torch.tensor([[5.0, 5, 20, 20]]), torch.tensor([2]), CLASSES, zoom=2)
    assert drawn.shape == (60, 80, 3) and (drawn != 128).any() and (image == 128).all()


def test_words_cover_no_other_word():
    taken = []
    assert free_row(taken, 10, 50, 100, 13) == 100
    assert free_row(taken, 40, 50, 95, 13) == 87  # above the first
    assert free_row(taken, 61, 50, 100, 13) == 100  # beside the first, below the second
    assert free_row(taken, 20, 50, 2, 13) == 2
    assert free_row(taken, 20, 50, 5, 13) is None  # no room up to the picture's edge
    assert taken == [(10, 100, 50), (40, 87, 50), (61, 100, 50), (20, 2, 50)]


def test_an_arm_may_answer_for_uploads_only(explorer):
    seen = []
    predictors = {"photo_distilled": lambda image: seen.append(image.shape) or found(0.9)}
    items = [{key: value for key, value in item.items()} for item in explorer.items.values()]
    detections = {arm: explorer.detections[arm] for arm in ("baseline", "distilled")}
    both = DetectionExplorer(items, detections, CLASSES, lambda item: [torch.zeros(1, 1, 6, 8)], predictors)
    before = both.render()
    both.arms["photo_distilled"].value = False
    assert before.shape == both.render().shape and not seen  # it says nothing of the course's own images
    both.arms["photo_distilled"].value = True
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "navy").save(picture, "png")
    both.upload.value = (
        {
            "name": "mine.png",
            "type": "",
            "size": 1,
            "content": picture.getvalue(),
            "last_modified": datetime(2026, 1, 1),
        },
    )
    assert both.message.value == "" and seen == [(3, 48, 64)] and both.image.value == "your mine.png"
    assert "distilled" in both.arms and both.screen.value
