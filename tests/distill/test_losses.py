import math

import pytest
import torch
import torch.nn.functional as F

from kdnb.distill.losses import centred_mse, cosine_loss, feature_mse, kd_kl, pkd, region_mse, rkd_distance


def test_kl_of_two_classes_by_hand():
    # teacher (0.8, 0.2), student (0.5, 0.5): 0.8 ln(0.8/0.5) + 0.2 ln(0.2/0.5)
    student = torch.tensor([[0.0, 0.0]])
    teacher = torch.tensor([[math.log(0.8), math.log(0.2)]])
    expected = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert kd_kl(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_kl_does_not_depend_on_batch_or_image_size():
    pixel_s, pixel_t = torch.randn(1, 5, 1, 1), torch.randn(1, 5, 1, 1)
    small = kd_kl(pixel_s, pixel_t, 2.0)
    large = kd_kl(pixel_s.expand(3, 5, 24, 32), pixel_t.expand(3, 5, 24, 32), 2.0)
    assert small.item() == pytest.approx(large.item(), rel=1e-5)
    assert kd_kl(pixel_t, pixel_t, 4.0).item() == pytest.approx(0, abs=1e-6)


def test_temperature_squared_keeps_the_gradient():
    def gradient(temperature):
        student = torch.tensor([[0.3, -0.2, 0.1]], requires_grad=True)
        kd_kl(student, torch.tensor([[0.5, 0.1, -0.4]]), temperature).backward()
        return student.grad.norm().item()

    # for large temperatures the gradient tends to (centred difference)/C, a constant
    assert gradient(50) == pytest.approx(gradient(100), rel=0.02)
    difference = torch.tensor([0.3 - 0.5, -0.2 - 0.1, 0.1 + 0.4])
    limit = ((difference - difference.mean()) / 3).norm().item()
    assert gradient(1000) == pytest.approx(limit, rel=0.02)


def test_kl_tends_to_half_the_centred_mse():
    student, teacher = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    assert kd_kl(student, teacher, 1e3).item() == pytest.approx(centred_mse(student, teacher).item() / 2, rel=1e-2)


def test_kl_of_nothing_is_zero_and_has_a_gradient():
    student = torch.zeros(0, 5, requires_grad=True)
    kd_kl(student, torch.zeros(0, 5)).backward()


def test_centred_mse_ignores_a_constant():
    student = torch.randn(2, 5)
    assert centred_mse(student, student + 3).item() == pytest.approx(0, abs=1e-6)
    assert centred_mse(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 0.0]])).item() == pytest.approx(1)


def test_cosine_is_half_the_squared_distance_of_unit_vectors():
    s, t = F.normalize(torch.randn(6, 8), dim=1), F.normalize(torch.randn(6, 8), dim=1)
    assert cosine_loss(s, t).item() == pytest.approx(((s - t) ** 2).sum(1).mean().item() / 2, rel=1e-5)
    assert cosine_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])).item() == pytest.approx(1)


def test_feature_mse_takes_only_the_masked_cells():
    student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    teacher[0, :, 0, 0] = torch.tensor([1.0, 3.0])  # mean square 5 in one cell of four
    mask = torch.zeros(1, 1, 2, 2)
    mask[0, 0, 0, 0] = 1
    assert feature_mse(student, teacher, mask).item() == pytest.approx(5)
    assert feature_mse(student, teacher, 1 - mask).item() == 0
    assert feature_mse(student, teacher).item() == pytest.approx(1.25)
    assert feature_mse(student, teacher, torch.zeros_like(mask)).item() == 0


def test_region_mse_averages_levels_and_halves():
    student = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
    teacher = [torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 2, 2), 4.0)]
    mask = [torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]  # no foreground on the second level
    assert region_mse(student, teacher, mask).item() == pytest.approx(0.5 * (4 + 0) / 2)


def test_pkd_is_one_minus_pearson_and_blind_to_scale():
    student, teacher = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    pearson = torch.corrcoef(torch.stack([student.flatten(), teacher.flatten()]))[0, 1].item()
    assert pkd([student], [teacher]).item() == pytest.approx(1 - pearson, abs=1e-4)
    assert pkd([student * 7 + 3], [student]).item() == pytest.approx(0, abs=1e-4)


def test_relations_by_hand():
    """Three points on a line, 1 and 2 apart: distances 1, 2, 3, mean 2. An even triangle: all 1. Huber of the
    differences 0.5, 0, 0.5 is 0.125, 0, 0.125."""
    line = torch.tensor([[0.0], [1.0], [3.0]])
    even = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]])
    assert rkd_distance(line, even).item() == pytest.approx(0.25 / 3, rel=1e-5)
    # beyond a difference of 1 Huber is |d| - 0.5: distances 0, 9, 9 (mean 6) against 1, 1, 1
    pair = torch.tensor([[0.0], [0.0], [9.0]])
    assert rkd_distance(pair, even).item() == pytest.approx((0.5 * 1 + 2 * 0.5 * 0.5**2) / 3, rel=1e-5)
    far = torch.cat([torch.zeros(4, 1), torch.full((1, 1), 7.0)])  # six distances of 0, four of 7: 0 and 2.5 relative
    assert rkd_distance(far, torch.eye(5)).item() == pytest.approx((6 * 0.5 + 4 * (1.5 - 0.5)) / 10, rel=1e-5)


def test_relations_ignore_scale_translation_and_rotation():
    student = torch.randn(6, 4)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    assert rkd_distance(student, 3 * student @ rotation + 5).item() == pytest.approx(0, abs=1e-9)
    assert torch.isfinite(rkd_distance(torch.ones(3, 2, requires_grad=True), student[:3]))
    student.requires_grad_()
    teacher = torch.randn(6, 9, requires_grad=True)
    rkd_distance(student, teacher).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


def test_the_teacher_gets_no_gradient():
    for loss in (kd_kl, centred_mse, lambda s, t: cosine_loss(s, t, 1), feature_mse):
        student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
        loss(student, teacher).backward()
        assert student.grad.abs().sum() > 0 and teacher.grad is None
