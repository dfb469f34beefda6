"""The exercises of the notebooks: right answers, typical wrong ones, none at all, and code that raises."""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdnb.exercises import EXERCISES, check_code, check_guess, repeated_mistakes
from kdnb.exercises.checking import check
from kdnb.notebooks import read_notebook

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CASES = [(number, name) for number, exercises in EXERCISES.items() for name in exercises]


def load_solutions():
    spec = importlib.util.spec_from_file_location("solutions", NOTEBOOKS / "solutions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


solutions = load_solutions()


def verdict(name, answer):
    (exercise,) = (exercises[name] for exercises in EXERCISES.values() if name in exercises)
    return check(answer, *exercise())


# --- right, and not at all --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "name"), CASES)
def test_the_solution_is_right(number, name):
    assert verdict(name, getattr(solutions, name)) == "right"


@pytest.mark.parametrize(("number", "name"), CASES)
def test_every_listed_mistake_is_told_from_the_others(number, name):
    mistakes = EXERCISES[number][name]()[2]
    assert len(mistakes) >= 3
    with np.errstate(all="ignore"):
        found = {message: verdict(name, wrong) for message, wrong in mistakes.items()}
    assert found == {message: f"not yet: {message}" for message in mistakes}


@pytest.mark.parametrize(("number", "name"), CASES)
def test_no_answer_is_no_mistake(number, name):
    assert verdict(name, lambda *_: None) == "not answered yet (it returns None)"


def test_the_error_of_an_answer_is_shown():
    def broken(student_logits, teacher_logits, temperature):
        return student_logits / nothing  # noqa: F821

    with pytest.raises(NameError, match="nothing"):
        check_code("00", broken, solutions.relation_loss)


# --- wrong answers as readers write them ------------------------------------------------------------------------


def gradient_of_the_text(s, t, T):
    return ((s / T).softmax(1) - (t / T).softmax(1)) / T


def gradient_swapped(s, t, T):
    return T * (F.softmax(t / T, 1) - F.softmax(s / T, 1)) / s.shape[0]


def gradient_over_images(s, t, T):
    return T * ((s / T).softmax(0) - (t / T).softmax(0)) / len(s)


def relations_as_they_are(s, t):
    return F.smooth_l1_loss(torch.pdist(s), torch.pdist(t))


def relations_squared(s, t):
    s, t = torch.pdist(s), torch.pdist(t)
    return ((s / s.mean() - t / t.mean()) ** 2).mean()


def relations_of_all(s, t):
    s, t = torch.cdist(s, s), torch.cdist(t, t)
    return F.smooth_l1_loss(s / s.mean(), t / t.mean())


def pkd_without_half(s, t):
    return 2 * solutions.pkd_loss(s, t)


def pkd_summed(s, t):
    return sum(solutions.pkd_loss([a], [b]) for a, b in zip(s, t, strict=True))


def pkd_of_each_image(s, t):
    losses = [solutions.pkd_loss([a[i : i + 1] for a in s], [b[i : i + 1] for b in t]) for i in range(len(s[0]))]
    return sum(losses) / len(losses)


def level_of_area(boxes, base, levels):
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.log2(sides[:, 0] * sides[:, 1] / base).floor().clamp(0, levels - 1)


def level_rounded(boxes, base, levels):
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.log2(sides.prod(1).sqrt() / base).round().clamp(0, levels - 1)


def level_unclamped(boxes, base, levels):
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.log2(sides.prod(1).sqrt() / base).floor().int()


def error_uncentred(s, t, mask):
    return F.mse_loss(s.permute(0, 2, 3, 1)[mask], t.permute(0, 2, 3, 1)[mask])


def error_everywhere(s, t, mask):
    return F.mse_loss(s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True))


def error_summed(s, t, mask):
    return s.shape[1] * solutions.centred_error(s, t, mask)


def iou_with_hits_twice(m):
    return 100 * m.diagonal() / (m.sum(0) + m.sum(1))


def iou_as_share(m):
    return solutions.iou_per_class(m) / 100


def iou_as_recall(m):
    return 100 * np.diag(m) / m.sum(axis=1)


def ensemble_of_logits(logits):
    return logits.mean(dim=0)


def ensemble_without_log(logits):
    return F.softmax(logits, -1).mean(0)


def ensemble_underflows(logits):
    return torch.log(torch.softmax(logits, -1).mean(0))


def loss_as_given(p, y):
    return float(-np.log([p[i, k] for i, k in enumerate(y)]).mean())


def loss_unclipped(p, y):
    return float(-np.log((p / p.sum(1, keepdims=True))[range(len(y)), y]).mean())


def loss_over_classes(p, y):
    return -(np.eye(p.shape[1])[y] * np.log(p / p.sum(1, keepdims=True))).mean()


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("kd_gradient", gradient_of_the_text, "you forgot the factor T²"),
        ("kd_gradient", gradient_swapped, "student and teacher are swapped"),
        ("kd_gradient", gradient_over_images, "softmax over the wrong axis"),
        ("relation_loss", relations_as_they_are, "not divided by their mean"),
        ("relation_loss", relations_squared, "the squared error"),
        ("relation_loss", relations_of_all, "an image to itself"),
        ("pkd_loss", pkd_without_half, "the factor ½"),
        ("pkd_loss", pkd_summed, "the sum over the levels"),
        ("pkd_loss", pkd_of_each_image, "each image is standardised for itself"),
        ("level_of", level_of_area, "the logarithm of the area"),
        ("level_of", level_rounded, "rounded to the nearest level"),
        ("level_of", level_unclamped, "levels that do not exist"),
        ("centred_error", error_uncentred, "not centred"),
        ("centred_error", error_everywhere, "the mean is over all pixels"),
        ("centred_error", error_summed, "the sum over the classes"),
        ("iou_per_class", iou_with_hits_twice, "counted twice"),
        ("iou_per_class", iou_as_share, "expected percent"),
        ("iou_per_class", iou_as_recall, "this is the recall"),
        ("ensemble_logits", ensemble_of_logits, "the mean of the logits"),
        ("ensemble_logits", ensemble_without_log, "you forgot the logarithm"),
        ("ensemble_logits", ensemble_underflows, "too small for float32"),
        ("mean_log_loss", loss_as_given, "not divided by their sum"),
        ("mean_log_loss", loss_unclipped, "clip to 1e-15"),
        ("mean_log_loss", loss_over_classes, "over images and classes"),
    ],
)
def test_a_typical_mistake_is_named(name, answer, message):
    found = verdict(name, answer)
    assert found.startswith("not yet: ") and message in found


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a, b, T: T * torch.ones(3), "found shape (3,), expected (6, 5)"),
        (lambda a, b, T: torch.zeros(6, 5), "found 0, expected -0.007653 at [0, 0]"),
        (lambda a, b, T: [a, b], "it returns a list of 2, expected a tensor"),
    ],
)
def test_another_mistake_is_described(answer, message):
    assert message in verdict("kd_gradient", answer)


def test_an_answer_may_work_in_place():
    assert verdict("kd_gradient", lambda a, b, T: T * (a.div_(T).softmax(1) - b.div_(T).softmax(1)) / 6) == "right"


# --- guesses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guess", "line"),
    [
        (None, "3. not answered yet"),
        (40, "3. your guess is 40, this run has 58.2: too low"),
        (60, "3. your guess is 60, this run has 58.2: close"),
        (90.5, "3. your guess is 90.5, this run has 58.2: too high"),
    ],
)
def test_a_guess(guess, line, capsys):
    check_guess(3, guess, torch.tensor(58.2), within=5)
    assert capsys.readouterr().out == line + "\n"


def test_solutions_of_the_questions():
    student, teacher = torch.eye(3)[[0, 1, 1]], torch.eye(3)[[0, 1, 2]]
    assert repeated_mistakes(student, teacher, np.array([0, 2, 0])) == 50
    assert solutions.repeated(student, teacher, np.array([0, 2, 0])) == 50
    assert solutions.confidence_at_8(torch.zeros(2, 4)) == 25
    assert solutions.adapter_share(torch.nn.Linear(1, 2), torch.nn.Linear(3, 4)) == 25
    assert solutions.miou_of_road({"road": 30, "car": 70, "sky": 0}) == 15
    assert solutions.loss_of_no_idea(24) == math.log(24)
    sure = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    assert solutions.loss_of_two_folds({"a": sure, "b": -sure, "c": sure}, [0, 1]) == pytest.approx(math.log(2))


def test_solutions_of_the_open_questions():
    def found(score):
        one = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([7]), "scores": torch.tensor([score])}
        return {"street": one}

    item = {"id": "street", "difficult": torch.tensor([False]), **found(1.0)["street"]}
    assert solutions.confident_boxes(found(0.9), found(0.4)) == 0
    assert solutions.objects_lost([item], found(0.9), found(0.4)) == [(1, "street")]
    assert solutions.objects_lost([item], found(0.9), found(0.8)) == []

    item = {"image": torch.zeros(3, 1, 2), "label": torch.tensor([[3, 8]])}
    ious = solutions.iou_with_words({"car": ["zebra"]}, {"road": ["road"]}, lambda image, texts: item["label"], [item])
    assert ious[3] == ious[8] == 100 and np.isnan(ious[0])

    unsure = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    best, before, after = solutions.best_temperature(unsure, [0, 1, 2, 0, 1, 2])
    assert best < 1 and after < before
    assert solutions.poor_teacher(lambda net, steps, rows, lr: (net, steps, rows), lambda *_: "net", "few")[1] == 20


# --- the cells --------------------------------------------------------------------------------------------------


def arm_of_detections(name):
    return {"street": {"scores": torch.tensor([0.9, 0.3])}}


STUBS = {
    "00": {
        "logits": torch.eye(3),
        "experiment": SimpleNamespace(logits=lambda name: torch.eye(3)),
        "data": SimpleNamespace(test=SimpleNamespace(labels=np.array([0, 1, 1]))),
    },
    "03": {
        "count_parameters": lambda model: 5,
        "terms": [SimpleNamespace(adapter=None)],
        "small": 20,
        "experiment": SimpleNamespace(detections=arm_of_detections),
    },
    "05": {"share": {"test": {"road": 30.0, "car": 70.0, "sky": 0.0}}},
    "06": {
        "np": np,
        "torch": torch,
        "classes": list("abc"),
        "fold_logits": {"fold_1": torch.eye(3), "fold_2": torch.eye(3), "fold_3": torch.eye(3)},
        "experiment": SimpleNamespace(truth=[0, 1, 2], scores=lambda logits, truth: {"log_loss": 0.5}),
    },
}


def exercise_cells(number):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = read_notebook(path).cells
    (place,) = (i for i, cell in enumerate(cells) if cell.source.startswith("## Exercises"))
    return cells[place].source, cells[place + 1].source


@pytest.mark.parametrize("number", STUBS)
def test_the_cell_runs_unanswered(number, capsys):
    text, code = exercise_cells(number)
    exec(code, dict(STUBS[number]))
    lines = capsys.readouterr().out.splitlines()
    guesses = text.count("**Guess:**")
    assert text.count("**Code:**") == len(EXERCISES[number]) >= 2 and guesses >= 1 and text.count("**Open:**") == 1
    assert len(lines) == len(EXERCISES[number]) + guesses and all("not answered yet" in line for line in lines)


@pytest.mark.parametrize("number", STUBS)
def test_the_cell_with_answers(number, capsys):
    """The solutions under the names of the cell, and a guess for everything else that is None."""
    _, code = exercise_cells(number)
    head, tail = code.split("\ncheck_code(")
    space = dict(STUBS[number])
    exec(head, space)
    space |= {name: getattr(solutions, name) for name in EXERCISES[number]}
    guesses = [name for name, value in space.items() if value is None]
    exec("check_code(" + tail, space | dict.fromkeys(guesses, 1))
    lines = capsys.readouterr().out.splitlines()
    right = [f"{i}. {name}: right" for i, name in enumerate(EXERCISES[number], 1)]
    assert lines[: len(right)] == right
    assert len(guesses) == len(lines) - len(right) and all("your guess is 1" in line for line in lines[len(right) :])
