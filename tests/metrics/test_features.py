import pytest
import torch

from kdnb.metrics.features import linear_map, unexplained


def test_a_linear_copy_is_fully_explained_and_noise_is_not():
    torch.manual_seed(0)
    student = torch.randn(500, 6)
    copy = student @ torch.randn(6, 4) + 3
    mapping = linear_map(student, copy, ridge=1e-9)
    assert mapping.shape == (7, 4)
    assert unexplained(student, copy, mapping).max() < 1e-6
    noise = torch.randn(500, 4)
    assert unexplained(student, noise, linear_map(student, noise)).mean().item() == pytest.approx(1, abs=0.05)


def test_half_of_the_channels_explain_half_of_the_variance():
    torch.manual_seed(0)
    teacher = torch.randn(4000, 4)
    mapping = linear_map(teacher[:, :2], teacher)
    assert unexplained(teacher[:, :2], teacher, mapping).mean().item() == pytest.approx(0.5, abs=0.03)
