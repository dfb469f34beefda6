"""Soft labels: the closed form at several temperatures, the schedule, one teacher and an ensemble."""

import math

import pytest
import torch
from torch import nn

from kdnb.distill.classification import soft_label_term, teacher_step, temperature_at
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.errors import InputError
from kdnb.models.classifier import CarClassifier, Ensemble, classifier_step

STUDENT, TEACHER = [[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], [[1.0, 1.0, -2.0], [3.0, 0.0, 0.0]]


class Fixed(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images, meta=None):
        return {"logits": self.logits, "features": self.logits}


def batch_of(labels=(0, 0), n=2):
    labels = torch.tensor(labels)
    return {
        "images": torch.zeros(n, 3, 32, 32, dtype=torch.uint8),
        "meta": torch.zeros(n, 0),
        "labels": labels,
        "labelled": labels >= 0,
        "ids": list(range(n)),
        "views": ["plain"] * n,
    }


def distiller(temperature, weight=1.0, student=STUDENT, teacher=TEACHER):
    return Distiller(
        Fixed(student),
        LiveTeacher(Fixed(teacher), teacher_step),
        [soft_label_term(temperature, weight)],
        classifier_step,
    )


def soft(row, temperature):
    parts = [math.exp(value / temperature) for value in row]
    return [part / sum(parts) for part in parts]


def by_hand(temperature):
    """T² · KL of the softened teacher from the softened student, mean over the two images."""
    total = 0.0
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        q, p = soft(student, temperature), soft(teacher, temperature)
        total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    return temperature**2 * total / 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_the_term_is_hintons(temperature):
    assert distiller(temperature)(batch_of())["kd_kl"].item() == pytest.approx(by_hand(temperature), rel=1e-4)


def test_all_images_are_taught_labelled_or_not():
    parts = [distiller(2.0)(batch_of(labels)) for labels in ((0, 0), (0, -1), (-1, -1))]
    assert {part["kd_kl"].item() for part in parts} == {parts[0]["kd_kl"].item()}
    assert parts[2]["loss"].item() == parts[2]["kd_kl"].item()
    assert parts[1]["task"].item() == pytest.approx(-math.log(soft(STUDENT[0], 1)[0]), rel=1e-5)


def test_the_gradient_is_temperature_times_the_difference_of_probabilities():
    """d(T² KL)/dz = T (q - p) an image, over their number: towards the teacher, and of one size at any temperature."""
    at = distiller(4.0)
    at(batch_of((-1, -1)))["loss"].backward()
    for row, student, teacher in zip(at.student.logits.grad, STUDENT, TEACHER, strict=True):
        expected = [4 * (q - p) / 2 for q, p in zip(soft(student, 4), soft(teacher, 4), strict=True)]
        assert row.tolist() == pytest.approx(expected, abs=1e-6)
    assert at.teacher.model.logits.grad is None


def test_temperature_and_weight_follow_training():
    falling = distiller(lambda progress: 3 - 2 * progress, weight=lambda progress: 1 + progress)
    for progress, temperature in ((0.0, 3.0), (0.5, 2.0), (1.0, 1.0)):
        expected = (1 + progress) * by_hand(temperature)
        assert falling(batch_of(), progress)["kd_kl"].item() == pytest.approx(expected, rel=1e-4)


def test_the_originals_schedule():
    assert [temperature_at(epoch) for epoch in (0, 1, 2)] == pytest.approx([2.0, 1.9, 1.805])
    # 2 · 0.95^13 = 1.027 and 2 · 0.95^14 = 0.975: thirteen epochs, then constant
    assert temperature_at(13) == pytest.approx(1.0267, abs=1e-4) and temperature_at(14) == temperature_at(49) == 1.0
    assert temperature_at(7, start=4.0, stop=2.0, factor=1.0) == 4.0


def test_an_ensemble_teaches_its_mean_probabilities():
    """The loss is 0 for a student that predicts the mean of the two softmaxes, and not for the mean of the logits."""
    members = [[[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 2.0, 5.0]]]
    teacher = LiveTeacher(Ensemble([Fixed(member) for member in members]), teacher_step)
    mean = [
        [math.log((a + b) / 2) for a, b in zip(soft(one, 1), soft(two, 1), strict=True)]
        for one, two in zip(*members, strict=True)
    ]
    between = [[(a + b) / 2 for a, b in zip(one, two, strict=True)] for one, two in zip(*members, strict=True)]
    costs = [
        Distiller(Fixed(student), teacher, [soft_label_term(2.0)], classifier_step)(batch_of())["kd_kl"].item()
        for student in (mean, between)
    ]
    assert costs[0] == pytest.approx(0, abs=1e-6) and costs[1] > 0.02


def test_the_teacher_gets_the_students_meta_and_keeps_its_statistics():
    torch.manual_seed(0)
    options = {"backbone": "test_efficientnet", "classes": 3, "meta": 2, "hidden": 8, "channel_multiplier": 0.25}
    student, teacher = CarClassifier(**options), CarClassifier(**options)
    batch = {**batch_of(), "meta": torch.randn(2, 2)}
    batch["images"] = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    parts = Distiller(student, LiveTeacher(teacher, teacher_step), [soft_label_term(2.0)], classifier_step)(batch, 0.4)
    parts["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert student.head[-1].weight.grad.any()
    logits = teacher_step(teacher, batch, None)["logits"]
    assert torch.equal(logits, teacher(batch["images"], batch["meta"])["logits"])
    assert not torch.allclose(logits, teacher_step(teacher, {**batch, "meta": -batch["meta"]}, None)["logits"])


def test_errors_are_one_line():
    for temperature in (0.0, -1.0, float("nan"), lambda progress: 0.0):
        with pytest.raises(InputError, match="temperature is .*, expected a number above 0"):
            soft_label_term(temperature)
    late = distiller(lambda progress: 1 - progress)
    with pytest.raises(InputError, match="temperature is 0.0"):
        late(batch_of(), 1.0)
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 2\), expected one shape"):
        distiller(1.0, teacher=[[0.0, 1.0], [1.0, 0.0]])(batch_of())
