import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.losses import centred_mse, kd_kl
from kdnb.distill.segmentation import (
    channel_kl,
    dead_kl,
    feature_terms,
    pixel_kl,
    pixel_mse,
    pixel_weights,
    response_terms,
    taught_pixels,
    teacher_step,
)
from kdnb.errors import InputError

CLASSES, VOID = 11, 11  # VOID: the label of no class
WEIGHTS = torch.tensor([0.3, 0.5, 3.0, 0.4, 1.0, 0.6, 2.5, 2.0, 0.8, 2.2, 4.0])
LOSSES = {
    "kl": lambda s, t, **more: pixel_kl(s, t, 2.0, **more),
    "mse": pixel_mse,
    "channel": lambda s, t, **more: channel_kl(s, t, 2.0, **more),
}


def logits(seed, size=(2, CLASSES, 6, 5), spread=2.0):
    return spread * torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mask():
    return torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(9)) > 0.3


@pytest.mark.parametrize("kind", LOSSES)
def test_agreement_has_no_loss_and_no_gradient(kind, mask):
    teacher = logits(0)
    student = (teacher + 3.0).requires_grad_()  # a constant in all logits means nothing
    loss = LOSSES[kind](student, teacher, mask=mask)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5) and student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("kind", LOSSES)
def test_values_do_not_depend_on_the_number_of_frames_or_pixels(kind, weights, mask):
    """The same pixels repeated, as more frames or as a larger frame, give the same value."""
    more = {} if kind == "channel" else {"class_weights": weights}
    loss, s, t = LOSSES[kind], logits(1), logits(2)
    once = loss(s, t, mask=mask, **more)
    for repeats in ((3, 1, 1, 1), (1, 1, 4, 1), (1, 1, 2, 7)):
        again = loss(s.repeat(repeats), t.repeat(repeats), mask=mask.repeat(repeats[0], *repeats[2:]), **more)
        assert again.item() == pytest.approx(once.item(), rel=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_reach_the_student_alone_and_only_within_the_mask(kind, mask):
    student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
    LOSSES[kind](student, teacher, mask=mask).backward()
    outside = ~mask[:, None].expand_as(student)
    assert teacher.grad is None and (student.grad[outside] == 0).all() and (student.grad[~outside] != 0).any()


def test_without_mask_and_weights_they_are_the_common_losses():
    s, t = logits(1), logits(2)
    assert pixel_kl(s, t, 3.0).item() == pytest.approx(kd_kl(s, t, 3.0).item(), rel=1e-5)
    assert pixel_mse(s, t).item() == pytest.approx(centred_mse(s, t).item(), rel=1e-5)
    assert pixel_kl(s, t, 300.0).item() == pytest.approx(pixel_mse(s, t).item() / 2, rel=0.03)


def test_a_mask_picks_pixels(mask):
    s, t = logits(1), logits(2)
    picked = [value.movedim(1, -1)[mask] for value in (s, t)]
    assert pixel_kl(s, t, 2.0, mask=mask).item() == pytest.approx(kd_kl(*picked, 2.0).item(), rel=1e-5)
    assert pixel_mse(s, t, mask=mask).item() == pytest.approx(centred_mse(*picked).item(), rel=1e-5)
    student = s.requires_grad_()
    nothing = pixel_kl(student, t, mask=torch.zeros_like(mask))
    nothing.backward()
    assert nothing.item() == 0 and (student.grad == 0).all()


def test_class_weights_do_what_weighted_cross_entropy_does():
    """Labels sampled from q, weighted by w, give a student the same gradient as a teacher that learned from them."""
    truth = logits(2).softmax(1)
    mass = (truth * WEIGHTS.view(1, -1, 1, 1)).sum(1)
    teacher = (truth * WEIGHTS.view(1, -1, 1, 1) / mass[:, None]).log()  # what weighted cross-entropy ends in
    assert torch.allclose(pixel_weights(teacher, WEIGHTS), mass, rtol=1e-4)
    by_labels, by_teacher = logits(1).requires_grad_(), logits(1).requires_grad_()
    (F.cross_entropy(by_labels, truth, WEIGHTS, reduction="sum") / mass.sum()).backward()
    pixel_kl(by_teacher, teacher, class_weights=WEIGHTS).backward()
    assert torch.allclose(by_labels.grad, by_teacher.grad, atol=1e-7, rtol=1e-4)


def test_a_sure_teachers_pixels_weigh_as_their_class_and_only_ratios_count():
    sure = 40.0 * F.one_hot(torch.arange(CLASSES), CLASSES).float().view(CLASSES, CLASSES, 1, 1)
    assert torch.allclose(pixel_weights(sure, WEIGHTS).flatten(), WEIGHTS)
    s, t = logits(1), logits(2)
    alike = torch.full((CLASSES,), 7.0)
    for loss in (pixel_kl, pixel_mse):
        weighted, rescaled = (loss(s, t, class_weights=scale * WEIGHTS).item() for scale in (1, 1e-3))
        assert weighted == pytest.approx(rescaled, rel=1e-4)
        assert loss(s, t, class_weights=alike).item() == pytest.approx(loss(s, t).item(), rel=1e-5)


def test_channel_kl_against_a_loop_and_where_a_softmax_underflows(mask):
    s, t = logits(1), logits(2)
    terms = []
    for n in range(2):
        for c in range(CLASSES):
            q, p = ((value[n, c][mask[n]] / 4).double().softmax(0) for value in (s, t))
            terms.append(16 * (p * (p / q).log()).sum())
    assert channel_kl(s, t, 4.0, mask).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)
    sharp = logits(1, spread=300).requires_grad_()  # softmax(...).log() is -inf in most of these pixels
    channel_kl(sharp, logits(2, spread=300), 1.0).backward()
    assert torch.isfinite(sharp.grad).all()


def test_logits_of_two_sizes_are_refused_in_one_line():
    for loss in LOSSES.values():
        with pytest.raises(InputError, match=r"^logits of student and teacher are \(2, 11, 6, 5\) and \(2, 11, 3, 5\)"):
            loss(logits(1), logits(2, (2, CLASSES, 3, 5)))


# --- what the original does -------------------------------------------------------------------------------------


def test_the_originals_kl_grows_with_the_image_and_then_has_no_gradient_at_all():
    pixel_s, pixel_t = logits(1, (1, CLASSES, 1, 1), 0.3), logits(2, (1, CLASSES, 1, 1), 0.3)

    def value_and_gradient(loss, height, width):
        student = pixel_s.expand(2, -1, height, width).clone().requires_grad_()
        value = loss(student, pixel_t.expand_as(student))
        value.backward()
        return value.item(), student.grad.abs().sum().item()

    small, twice = value_and_gradient(dead_kl, 4, 4), value_and_gradient(dead_kl, 4, 8)
    assert twice[0] == pytest.approx(2 * small[0], rel=1e-4) and twice[1] == pytest.approx(2 * small[1], rel=1e-4)
    assert value_and_gradient(dead_kl, 24, 32) == (1.0, 0.0)
    ours = [value_and_gradient(pixel_kl, *size) for size in ((4, 4), (24, 32), (60, 80))]
    assert all(value == pytest.approx(ours[0], rel=1e-3) for value in ours) and ours[0][1] > 0


# --- in the distiller -------------------------------------------------------------------------------------------


class Toy(nn.Module):
    def __init__(self, channels, cells=1):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, channels, cells, cells), nn.Conv2d(channels, CLASSES, 1)

    def forward(self, images):
        features = self.body(images.float() / 255)
        return {"features": features, "logits": F.interpolate(self.head(features), images.shape[2:])}


def step(model, batch):
    output = model(batch["images"])
    loss = F.cross_entropy(output["logits"], batch["labels"], ignore_index=VOID)
    return {**output, "loss": loss, "labels": batch["labels"], "labelled": batch["labelled"]}


@pytest.fixture
def batch():
    """Two frames of 6 x 8 pixels: the first labelled but for its void lower row, the second without labels."""
    torch.manual_seed(0)
    labels = torch.randint(0, CLASSES, (2, 6, 8))
    labels[0, -1], labels[1] = VOID, VOID
    images = torch.randint(0, 256, (2, 3, 6, 8), dtype=torch.uint8)
    return {"images": images, "labels": labels, "labelled": torch.tensor([True, False])}


def test_void_is_left_out_where_there_are_labels_and_nowhere_else(batch):
    taught = taught_pixels(batch, VOID)
    assert taught[0, :-1].all() and not taught[0, -1].any() and taught[1].all()
    bonnet = {"labels": batch["labels"][1:], "labelled": torch.tensor([True])}  # labelled, but void throughout
    assert not taught_pixels(bonnet, VOID).any()


def test_in_the_distiller(batch):
    torch.manual_seed(0)
    teacher, student = Toy(6, 2), Toy(4)
    terms = [
        *response_terms("kl", 2.0, 0.5, WEIGHTS, ignore_index=VOID),
        *response_terms("mse", class_weights=WEIGHTS, ignore_index=VOID),
        *response_terms("channel", 4.0, 3.0, ignore_index=VOID),
        *feature_terms((4, 6)),
    ]
    distiller = Distiller(student, LiveTeacher(teacher, teacher_step), terms, step)
    parts = distiller(batch)
    assert list(parts) == ["loss", "task", "kd_kl", "kd_mse", "kd_channel", "kd_features"]
    outputs = [model(batch["images"])["logits"] for model in (student, teacher)]
    expected = 0.5 * pixel_kl(*outputs, 2.0, WEIGHTS, taught_pixels(batch, VOID))
    assert parts["kd_kl"].item() == pytest.approx(expected.item(), rel=1e-5)
    parts["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in distiller.parameters())
    twin = Distiller(copy.deepcopy(teacher), distiller.teacher, terms[:3], step)(batch)
    assert max(twin[name].item() for name in ("kd_kl", "kd_mse", "kd_channel")) < 1e-5


def test_a_batch_without_labels_still_teaches(batch):
    batch |= {"labels": torch.full_like(batch["labels"], VOID), "labelled": torch.tensor([False, False])}
    teacher, student = Toy(6), Toy(4)

    def quiet(model, batch):
        output = model(batch["images"])
        return {**batch, **output, "loss": 0 * output["logits"].sum()}

    parts = Distiller(student, LiveTeacher(teacher, teacher_step), response_terms(ignore_index=VOID), quiet)(batch)
    parts["loss"].backward()
    assert parts["task"] == 0 and student.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["pkd", "mse"])
def test_features_of_another_size_and_width_are_compared_on_the_students_cells(kind):
    torch.manual_seed(0)
    (term,) = feature_terms((6, 6), kind)
    with torch.no_grad():
        term.adapter.weight.copy_(torch.eye(6)[:, :, None, None]).requires_grad_()
        term.adapter.bias.zero_()
    coarse = torch.randn(2, 6, 4, 5)
    same = {"features": F.interpolate(coarse, (8, 10), mode="bilinear", antialias=True)}
    assert term.loss(term.read_student(same), coarse).item() == pytest.approx(0, abs=1e-4)
    assert term.loss(term.read_student({"features": torch.randn(2, 6, 8, 10)}), coarse) > 0.1


def test_unknown_kinds_and_weights_that_are_not_positive_are_refused():
    with pytest.raises(InputError, match="unknown response loss 'ce', expected one of"):
        response_terms("ce", ignore_index=VOID)
    with pytest.raises(InputError, match="unknown feature loss 'l1'"):
        feature_terms((4, 4), "l1")
    with pytest.raises(InputError, match="expected numbers above 0"):
        response_terms(class_weights=torch.tensor([1.0, 0.0]), ignore_index=VOID)
