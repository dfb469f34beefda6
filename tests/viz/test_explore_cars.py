import io
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.errors import InputError
from kdnb.viz.explore_cars import BAR, CAR, GAP, PANEL, TITLE, CarsExplorer, divergence

CLASSES = [f"{body}_{year}" for body in ("sedan", "suv") for year in (2009, 2012, 2015, 2018)]
TRUTH = [0, 3, 7]


class Toy:
    """Knows one class by heart; remembers what it was shown."""

    def __init__(self, favourite):
        self.favourite, self.shown = favourite, []

    def __call__(self, image):
        self.shown.append(tuple(image.shape))
        return torch.eye(len(CLASSES))[self.favourite] * 4


@pytest.fixture
def answers():
    """Ensemble and student agree on the last car, differ a little on the first and most on the second."""
    sure = 5 * torch.eye(len(CLASSES))
    ensemble = torch.stack([sure[0], sure[3], sure[7]])
    student = torch.stack([0.5 * sure[0], sure[4], sure[7]])
    return {"ensemble": ensemble, "baseline": torch.zeros(3, len(CLASSES)), "distilled": student}


@pytest.fixture
def toys():
    return {"ensemble": Toy(1), "distilled": Toy(2)}


@pytest.fixture
def items():
    torch.manual_seed(0)
    return [
        {"name": name, "image": torch.randint(0, 255, (3, 40 + 10 * k, 80), dtype=torch.uint8)}
        for k, name in enumerate("abc")
    ]


@pytest.fixture
def explorer(items, answers, toys):
    return CarsExplorer(items, answers, CLASSES, TRUTH, toys)


def screen(explorer):
    assert explorer.message.value == ""
    shown = np.asarray(Image.open(io.BytesIO(explorer.screen.value)))
    assert (shown == explorer.render()).all()
    return shown


def uploaded(name, content):
    return (
        {"name": name, "content": content, "size": len(content), "type": "image/png", "last_modified": datetime.now()},
    )


def png(size=(90, 60)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "green").save(buffer, "png")
    return buffer.getvalue()


def bar(explorer, k):
    """Filled pixels of the first bar of the k-th panel."""
    row = screen(explorer)[TITLE + 22, CAR + GAP + k * (PANEL + GAP) + 1 :][: BAR - 1]
    return int((row != 255).any(-1).sum())


def test_the_divergence_is_torchs(answers):
    teacher, student = (torch.randn(4, 6, generator=torch.Generator().manual_seed(k)) * 3 for k in (0, 1))
    expected = torch.nn.functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    assert divergence(teacher, student) == pytest.approx(expected.numpy(), rel=1e-4)
    assert divergence(teacher, teacher) == pytest.approx(np.zeros(4))
    never = torch.tensor([0.0, -torch.inf])  # an ensemble's logarithm of a probability that underflowed
    assert divergence(never, never.flip(0)) == pytest.approx(-np.log(1e-15))


def test_cars_come_in_the_order_of_disagreement(explorer):
    assert [name for _, name in explorer.car.options] == ["b", "a", "c"]
    assert explorer.car.value == "b" and explorer.car.options[2][0] == "c: 0.00 nats apart"
    assert (explorer.teacher, explorer.student) == ("ensemble", "distilled")


@pytest.mark.parametrize(("control", "value"), [("car", "a"), ("temperature", 4.0)])
def test_every_control_changes_the_pixels_and_moves_nothing(explorer, control, value):
    before = screen(explorer)
    getattr(explorer, control).value = value
    after = screen(explorer)
    assert after.shape == before.shape and (after != before).any()


def test_an_arm_switched_off_leaves_the_screen(explorer):
    before = screen(explorer)
    explorer.arms["ensemble"].value = False
    after = screen(explorer)
    first, second = CAR + GAP, CAR + GAP + PANEL + GAP
    assert (after[:, first : first + PANEL] == before[:, second : second + PANEL]).all()
    explorer.arms["ensemble"].value = True
    assert (screen(explorer) == before).all()
    for box in explorer.arms.values():
        box.value = False
    assert (screen(explorer)[:, first:] != before[:, first:]).any()  # asks for an arm


def test_the_temperature_reshapes_the_soft_labels(explorer):
    """A logit 5 above seven others: probability 1 / (1 + 7 exp(-5 / T)), and the bar is that long."""
    for temperature in (1.0, 2.0, 8.0):
        explorer.temperature.value = temperature
        expected = 1 / (1 + 7 * np.exp(-5 / temperature))
        assert explorer.soft("ensemble")[3] == pytest.approx(expected)
        assert explorer.soft("ensemble").sum() == pytest.approx(1)
        assert abs(bar(explorer, 0) - BAR * expected) <= 2
    assert explorer.soft("baseline") == pytest.approx(np.full(8, 1 / 8))


def test_it_says_how_far_and_how_wide(explorer):
    assert explorer._summary("baseline").startswith("spread over 8.0 classes, ")
    explorer.car.value = "c"
    assert explorer._summary("distilled").endswith(", 0.00 nats from ensemble")
    assert "nats" not in explorer._summary("ensemble")


def test_a_true_class_that_is_not_among_the_first_is_listed_with_its_place(explorer, items, answers):
    logits = torch.arange(8, 0, -1.0).repeat(3, 1)  # the true class of c, number 7, comes last
    last = CarsExplorer(items, {"baseline": logits}, CLASSES, TRUTH)
    unknown = CarsExplorer(items, {"baseline": logits}, CLASSES)
    last.car.value = unknown.car.value = "c"
    differ = (last.render() != unknown.render()).any((1, 2))[TITLE:]
    assert differ.nonzero()[0].min() >= 5 * 34  # the five first lines are alike, the sixth is the truth's


def test_an_upload_is_asked_of_every_arm_that_can_answer(explorer, toys):
    before = screen(explorer)
    explorer.upload.value = uploaded("mine.png", png((900, 300)))
    assert explorer.car.value == "your mine.png" and toys["ensemble"].shown == [(3, 213, 640)]
    assert explorer.soft("ensemble").argmax() == 1 and explorer.soft("distilled").argmax() == 2
    assert explorer.soft("baseline") is None  # it has stored answers only
    assert screen(explorer).shape == before.shape
    explorer.temperature.value = 3.0
    assert toys["ensemble"].shown == [(3, 213, 640)]  # looking again asks nobody
    explorer.upload.value = uploaded("mine.png", png((50, 100)))  # another picture of the same name
    assert toys["distilled"].shown[-1] == (3, 100, 50) and len(explorer.car.options) == 4
    explorer.car.value, explorer.temperature.value = "b", 1.0
    assert (screen(explorer) == before).all()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda image: torch.zeros(3), "output of distilled has 3 numbers, expected one per class"),
        (lambda image: image[..., 10**6], "IndexError"),
    ],
)
def test_an_upload_that_fails_leaves_everything_as_it_was(explorer, fault, words):
    before = screen(explorer)
    explorer.upload.value = uploaded("notes.txt", b"hello")
    assert "notes.txt: not a readable image" in explorer.message.value and "\n" not in explorer.message.value
    explorer.predict["distilled"] = fault
    explorer.upload.value = uploaded("mine.png", png())
    assert words in explorer.message.value
    assert [name for _, name in explorer.car.options] == ["b", "a", "c"]
    assert (explorer.render() == before).all()


def test_answers_of_another_size_are_refused(items, answers):
    with pytest.raises(InputError, match=r"outputs of distilled are \(3, 5\), expected \(3, 8\)"):
        CarsExplorer(items, {**answers, "distilled": torch.zeros(3, 5)}, CLASSES)


def test_an_arm_with_classes_of_its_own_answers_for_uploads(items, answers):
    arms = {"photo_distilled": lambda image: torch.tensor([2.0, 0.0])}
    explorer = CarsExplorer(items, answers, CLASSES, TRUTH, arms, {"photo_distilled": ["Golf", "A5"]})
    assert explorer.soft("photo_distilled") is None
    explorer.upload.value = uploaded("mine.png", png((80, 40)))
    assert explorer.message.value == "" and explorer.soft("photo_distilled").shape == (2,)
    screen(explorer)
