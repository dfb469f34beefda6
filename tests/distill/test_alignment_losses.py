import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

from kdnb.distill.alignment import embedding_l2, multi_positive_infonce, similarity_kd, similarity_logits
from kdnb.distill.losses import cosine_loss, kd_kl


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_infonce_of_pairs_is_open_clips_own_loss():
    images, texts, scale = unit(6, 16), unit(6, 16, seed=1), torch.tensor(14.0)
    theirs = open_clip.ClipLoss()(images, texts, scale)
    assert multi_positive_infonce(images, texts, torch.eye(6, dtype=torch.bool), scale).item() == pytest.approx(
        theirs.item(), rel=1e-6
    )


def test_infonce_by_hand():
    # images along x and y; texts along x, y and −x. The first image matches texts 0 and 1, the second text 1 only.
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    positive = torch.tensor([[True, True, False], [False, True, False]])
    row0 = math.log(math.e + 1 + 1 / math.e)  # logits 1, 0, −1
    row1 = math.log(1 + math.e + 1)  # logits 0, 1, 0
    to_text = ((row0 - 1 + row0 - 0) / 2 + (row1 - 1)) / 2
    column = math.log(math.e + 1)  # both columns have the logits 1 and 0
    to_image = ((column - 1) + (column - 0 + column - 1) / 2) / 2  # the third text has no image, hence no column
    assert multi_positive_infonce(images, texts, positive, 1.0).item() == pytest.approx((to_text + to_image) / 2)


def test_infonce_cannot_go_below_the_entropy_of_its_targets():
    # four images of one category with two true texts each: rows ln 2, columns ln 4
    images = torch.tensor([[1.0, 0, 0]]).repeat(4, 1)
    texts = torch.tensor([[1.0, 0, 0], [1, 0, 0], [-1, 0, 0]])
    positive = torch.tensor([[True, True, False]]).repeat(4, 1)
    value = multi_positive_infonce(images, texts, positive, 100.0).item()
    assert value == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-5)


def test_an_unlabelled_image_is_left_out_altogether():
    images, texts = unit(5, 8), unit(4, 8, seed=1)
    positive = torch.rand(5, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    positive[[0, 2], [0, 1]] = True
    positive[3] = False
    keep = positive.any(1)
    assert keep.sum() < 5
    loss = multi_positive_infonce(images, texts, positive, 5.0)
    assert loss.item() == pytest.approx(multi_positive_infonce(images[keep], texts, positive[keep], 5.0).item())


def test_a_text_without_an_image_stays_a_negative():
    images, texts = unit(2, 8), unit(3, 8, seed=1)
    positive = torch.eye(2, 3, dtype=torch.bool)
    with_it = multi_positive_infonce(images, texts, positive, 5.0).item()
    assert with_it > multi_positive_infonce(images, texts[:2], positive[:, :2], 5.0).item() + 1e-3


def test_an_image_known_to_match_nothing_is_a_negative_of_the_texts():
    images, texts = unit(3, 8), unit(2, 8, seed=1)
    positive = torch.eye(3, 2, dtype=torch.bool)
    value = multi_positive_infonce(images, texts, positive, 5.0, known=torch.ones(3, dtype=torch.bool)).item()
    logits, target = 5 * images @ texts.T, torch.arange(2)
    expected = (F.cross_entropy(logits[:2], target) + F.cross_entropy(logits.T, target)) / 2
    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert value > multi_positive_infonce(images, texts, positive, 5.0).item()


def test_infonce_of_nothing_is_zero_and_stays_in_the_graph():
    images, scale = unit(3, 8).requires_grad_(), torch.tensor(5.0, requires_grad=True)
    loss = multi_positive_infonce(images, unit(2, 8), torch.zeros(3, 2, dtype=torch.bool), scale)
    loss.backward()
    assert loss.item() == 0 and images.grad.abs().sum() == 0 and scale.grad == 0


def test_half_precision_does_not_round_the_logits():
    images, texts = unit(4, 32), unit(4, 32, seed=1)
    exact = similarity_logits(images, texts, 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(similarity_logits(images, texts, 100.0), exact)
        assert not torch.allclose(100.0 * (images @ texts.T).float(), exact, atol=0.01)


def test_similarity_kd_by_hand():
    # texts along x and y; teacher at 0°, student at 45°; scale 8, temperature 4 → logits (2, 0) and (√2, √2)
    student = torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)]])
    teacher = torch.tensor([[1.0, 0.0]])
    p = 1 / (1 + math.exp(-2))
    expected = 16 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert similarity_kd(student, teacher, torch.eye(2), 8.0).item() == pytest.approx(expected, rel=1e-5)


def test_similarity_kd_is_kl_of_both_rankings_of_the_same_texts():
    student, teacher, texts = unit(5, 8), unit(5, 8, seed=1), unit(7, 8, seed=2)
    by_parts = kd_kl(20 * student @ texts.T, 20 * teacher @ texts.T, 3.0)
    assert similarity_kd(student, teacher, texts, 20.0, 3.0).item() == pytest.approx(by_parts.item(), rel=1e-5)
    assert similarity_kd(teacher, teacher, texts, 20.0).item() == pytest.approx(0, abs=1e-6)


def test_embedding_l2_is_twice_the_cosine_loss_on_unit_vectors():
    student, teacher = unit(6, 8), unit(6, 8, seed=1)
    assert embedding_l2(student, teacher).item() == pytest.approx(2 * cosine_loss(student, teacher).item(), rel=1e-5)
    assert embedding_l2(3 * student, teacher).item() != pytest.approx(2 * cosine_loss(3 * student, teacher).item())
    assert embedding_l2(torch.tensor([[1.0, 2], [0, 0]]), torch.zeros(2, 2)).item() == pytest.approx(2.5)


def test_on_unit_vectors_both_have_one_gradient_direction():
    student, teacher = torch.randn(4, 8, requires_grad=True), unit(4, 8)
    (l2,) = torch.autograd.grad(embedding_l2(F.normalize(student, dim=1), teacher), student)
    (cosine,) = torch.autograd.grad(cosine_loss(F.normalize(student, dim=1), teacher), student)
    assert torch.allclose(l2, 2 * cosine, atol=1e-6)


def test_the_teachers_side_gets_no_gradient():
    student, teacher, texts = (unit(3, 8, seed=i).requires_grad_() for i in range(3))
    scale = torch.tensor(10.0, requires_grad=True)
    (similarity_kd(student, teacher, texts, scale) + embedding_l2(student, teacher)).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None and texts.grad is None and scale.grad is None
