import io
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.viz.explore_alignment import BEST, MOST, AlignmentExplorer

SENTENCES = ["a red car", "a green car", "a blue car"]
AXES = {"red": 0, "green": 1, "blue": 2}


def encode_texts(sentences):
    """The colours named, as axes of the space."""
    if "explode" in sentences:
        raise ValueError("no such <word>")
    return torch.tensor([[float(colour in sentence) + 0.01 for colour in AXES] for sentence in sentences])


def encode_image(image):
    """The mean colour: (3,)."""
    return image.float().mean((1, 2)) + 1


@pytest.fixture
def explorer():
    crops = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    for k in range(12):
        crops[k, k % 3] = 250 - 10 * (k // 3)
        crops[k, (k + 1) % 3] = 10 * (k // 3)
    right = torch.stack([encode_image(crop) for crop in crops])
    embeddings = {"teacher": right, "distilled": right.roll(1, 1)}  # the second takes red for green
    encoders = {"teacher": encode_image, "distilled": lambda image: encode_image(image).roll(1)}
    return AlignmentExplorer(crops, [f"crop {k}" for k in range(12)], SENTENCES, embeddings, encoders, encode_texts)


def screen(explorer):
    assert explorer.message.value == ""
    shown = np.asarray(Image.open(io.BytesIO(explorer.screen.value)))
    assert (shown == explorer.render()).all()
    return shown


def uploaded(name, content):
    return (
        {"name": name, "content": content, "size": len(content), "type": "image/png", "last_modified": datetime.now()},
    )


def picture(colour, size=(90, 60)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "value"), [("crop", 4), ("count", 1), ("sentence", "a blue car"), ("sentence", "something green " * 30)]
)
def test_every_control_changes_the_pixels_and_moves_nothing(explorer, name, value):
    before = screen(explorer)
    getattr(explorer, name).value = value
    after = screen(explorer)
    assert after.shape == before.shape and (after != before).any()


def test_a_crop_is_ranked_by_each_arm_in_its_own_way(explorer):
    assert explorer.ranked("teacher")[0][0] == "a red car" and explorer.ranked("distilled")[0][0] == "a green car"
    explorer.crop.value = 2
    assert explorer.ranked("teacher")[0][0] == "a blue car"
    cosines = [cosine for _, cosine in explorer.ranked("teacher")]
    assert cosines == sorted(cosines, reverse=True) and 0.99 < cosines[0] <= 1.0001


def test_a_sentence_finds_its_crops_purest_first(explorer):
    explorer.sentence.value = "a green car"
    found = [index for index, _ in explorer.nearest("teacher")]
    assert found[:4] == [1, 4, 7, 10] and len(found) == BEST
    assert [index for index, _ in explorer.nearest("distilled")][:4] == [0, 3, 6, 9]


def test_a_typed_sentence_joins_the_ranked_ones_once(explorer):
    explorer.crop.value = 1
    explorer.sentence.value = "  something   green "
    explorer.sentence.value = "a red car"
    explorer.sentence.value = "something green"
    assert explorer.sentences == [*SENTENCES, "something green"] and explorer.texts.shape == (4, 3)
    assert {sentence for sentence, _ in explorer.ranked("teacher")[:2]} == {"a green car", "something green"}
    screen(explorer)


def test_an_arm_switched_off_leaves_the_screen(explorer):
    before = screen(explorer)
    explorer.arms["teacher"].value = False
    assert screen(explorer).shape[0] < before.shape[0]
    explorer.arms["distilled"].value = False
    screen(explorer)  # asks for an arm
    explorer.arms["teacher"].value = explorer.arms["distilled"].value = True
    assert (screen(explorer) == before).all()


def test_an_upload_of_any_size_is_ranked_and_replaced_by_the_next_of_its_name(explorer):
    before = screen(explorer)
    explorer.upload.value = uploaded("mine.png", picture("blue", (40, 200)))
    assert explorer.crop.value == "your mine.png" and screen(explorer).shape == before.shape
    assert explorer.ranked("teacher")[0][0] == "a blue car"
    explorer.upload.value = uploaded("mine.png", picture((0, 255, 0)))
    assert explorer.ranked("teacher")[0][0] == "a green car" and len(explorer.crop.options) == 13
    explorer.crop.value = 0
    assert (screen(explorer) == before).all()


def test_an_arm_that_cannot_encode_pictures_leaves_the_others_alone(explorer):
    del explorer.encode_image["distilled"]
    explorer.upload.value = uploaded("mine.png", picture("blue"))
    assert explorer.ranked("distilled") == [] and explorer.ranked("teacher")[0][0] == "a blue car"
    screen(explorer)


def test_an_encoder_that_fails_is_shown_and_leaves_everything_as_it_was(explorer):
    def fail(image):
        raise ValueError("weights are <gone>")

    before, works = screen(explorer), explorer.encode_image["distilled"]
    explorer.encode_image["distilled"] = fail
    explorer.upload.value = uploaded("mine.png", picture("blue"))
    assert "ValueError: weights are &lt;gone&gt;" in explorer.message.value
    assert explorer.crop.value == 0 and len(explorer.crop.options) == 12 and (explorer.render() == before).all()
    explorer.encode_image["distilled"] = works
    explorer.upload.value = uploaded("mine.png", picture("red"))
    screen(explorer)


def test_a_broken_upload_says_so_in_one_line(explorer):
    explorer.upload.value = uploaded("notes.txt", b"hello")
    assert "notes.txt: not a readable image" in explorer.message.value and "\n" not in explorer.message.value
    assert len(explorer.crop.options) == 12


def test_a_sentence_that_is_empty_or_fails_is_shown_and_passes(explorer):
    explorer.sentence.value = "   "
    assert "the sentence is empty, expected words such as" in explorer.message.value
    explorer.sentence.value = "explode"
    assert "ValueError: no such &lt;word&gt;" in explorer.message.value and explorer.sentences == SENTENCES
    explorer.sentence.value = "a blue car"
    explorer.count.value = MOST
    screen(explorer)
