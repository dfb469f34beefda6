import numpy as np
import pytest
import torch

from kdnb.projects.car_kfold import lessons


def test_soft_labels_of_own_images_look_better_than_they_are():
    """Two folds, each sure and right on what it trained on, sure and wrong on the rest."""
    labels, fold_of = np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2])
    right = 6 * torch.nn.functional.one_hot(torch.tensor(labels), 2).float()
    logits = torch.stack([right.where(torch.tensor(fold_of)[:, None] != fold, right.flip(1) / 2) for fold in (1, 2)])
    table = lessons.own_and_unseen(logits, labels, fold_of, logits[:, :2], labels[:2])
    assert table["accuracy"].tolist() == [100, 0, 50, 100]
    wrong = np.log(1 + np.exp(3))  # -log of the softmax of (0, 3) at its first place
    assert table.loc["fold that has not trained on them", "log_loss"] == pytest.approx(wrong)
    mean = (1 / (1 + np.exp(-6)) + 1 / (1 + np.exp(3))) / 2
    assert table.loc["ensemble, training images", "log_loss"] == pytest.approx(-np.log(mean))


@pytest.mark.parametrize("name", ["T = 1", "T = 2", "T from 2 to 1"])
def test_each_temperature_ends_at_the_teacher(name):
    teacher = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    path = lessons.follow_teacher(teacher, lessons.temperatures(2000)[name], 2000)
    centred = [logits - logits.mean(1, keepdim=True) for logits in (teacher, path["student"])]
    assert torch.allclose(*centred, atol=0.02) and path["distance"][-1] < 1e-4 < path["distance"][0]


def test_a_schedule_changes_what_is_logged():
    teacher = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    schedules = lessons.temperatures(100)
    assert [schedules["T from 2 to 1"](step) for step in (0, 4, 5, 99)] == pytest.approx([2, 2, 1.9, 1])
    first = {name: lessons.follow_teacher(teacher, at, 1)["loss"][0] for name, at in schedules.items()}
    assert first["T = 2"] == first["T from 2 to 1"] != first["T = 1"]


def test_a_padded_copy_is_darker_and_square():
    """A white image twice as wide as high: half of its padded copy is black."""
    image = torch.full((3, 40, 80), 255, dtype=torch.uint8)
    facts = lessons.facts_of_copies([image], side=20).iloc[0]
    assert facts["original", "aspect"] == 2 and facts["original", "colour"] == pytest.approx(1)
    assert facts["padded copy", "aspect"] == facts["square copy", "aspect"] == 1
    assert facts["padded copy", "colour"] == pytest.approx(0.5) and facts["square copy", "colour"] == pytest.approx(1)


def test_the_gain_on_test_images_is_split():
    losses = {"distilled": np.array([1.0, 1.0, 1.0, 1.0]), "transductive_half": np.array([0.5, 0.9, 0.5, 0.9])}
    table = lessons.transductive_gain(losses)
    assert table["gain"].tolist() == pytest.approx([0.5, 0.1])
