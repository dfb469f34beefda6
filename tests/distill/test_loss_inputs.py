"""Losses on input as it comes: excluded classes, half precision, shapes that do not match, nothing at all."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from kdnb.distill.alignment import embedding_l2, multi_positive_infonce, similarity_kd, similarity_logits
from kdnb.distill.bev import box_kd, heat_kd, heated_mse
from kdnb.distill.classification import soft_label_term
from kdnb.distill.losses import centred_mse, cosine_loss, feature_mse, kd_kl, kl_terms, pkd, region_mse, rkd_distance
from kdnb.distill.segmentation import channel_kl, dead_kl, feature_terms, pixel_kl, pixel_mse
from kdnb.errors import InputError

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
INF = math.inf


def rows(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", [[1.0, 1.5, -INF], [1.0, 1.5, -3.0], [1.0, 1.5, 30.0]])
@pytest.mark.parametrize("loss", ["kd_kl", "pixel_kl", "channel_kl", "soft_label_term"])
def test_a_class_that_the_teacher_excludes_counts_nothing(student, loss):
    """KL of the teacher's (2, 1, −inf) at temperature 2, as ``torch.distributions`` gives it."""
    s = torch.tensor([student], requires_grad=True)
    t = torch.tensor([[2.0, 1.0, -INF]])
    p, q = (Categorical(logits=(values / 2).clamp(min=-1e4)) for values in (t, s.detach()))
    value = {
        "kd_kl": lambda: kd_kl(s, t, 2.0),
        "pixel_kl": lambda: pixel_kl(s[..., None, None], t[..., None, None], 2.0, torch.ones(3)),
        "channel_kl": lambda: channel_kl(s[:, None, None], t[:, None, None], 2.0),
        "soft_label_term": lambda: soft_label_term(2.0).compare((s, 2.0), t, {}),
    }[loss]()
    assert value.item() == pytest.approx(4 * kl_divergence(p, q).item(), rel=1e-4)
    value.backward()
    assert s.grad.isfinite().all()


def test_the_number_of_the_issue():
    student, teacher = torch.tensor([[1.0, 1.5, -INF]]), torch.tensor([[2.0, 1.0, -INF]])
    assert kd_kl(torch.tensor([[1.0, 1.5, -3.0]]), teacher, 2.0).item() == pytest.approx(0.505, abs=5e-4)
    assert kd_kl(student, teacher, 2.0).item() == pytest.approx(0.2748, abs=5e-4)
    assert kd_kl(student, torch.tensor([[2.0, 1.0, 0.0]])).item() == INF  # a class that the student alone excludes


def test_kl_is_torchs_own_to_the_bit_where_all_is_finite():
    for seed in range(10):
        s, t = rows(6, 9, seed=seed).requires_grad_(), 5 * rows(6, 9, seed=seed + 100)
        log_q, log_p = s.log_softmax(1), t.log_softmax(1)
        ours, theirs = kl_terms(log_q, log_p), F.kl_div(log_q, log_p, reduction="none", log_target=True)
        assert torch.equal(ours, theirs)
        assert torch.equal(*(torch.autograd.grad(v.sum(), s, retain_graph=True)[0] for v in (ours, theirs)))


MAPS = rows(2, 6, 4, 4), rows(2, 6, 4, 4, seed=1)
BOXES = rows(2, 9, 4, 4), rows(2, 9, 4, 4, seed=1)
UNIT = [F.normalize(rows(4, 6, seed=seed), dim=1) for seed in range(3)]
HEAT = rows(2, 3, 4, 4, seed=2)
LOSSES = {  # name: (loss of a student's and a teacher's tensor, the two)
    "kd_kl": (lambda s, t: kd_kl(s, t, 10.0), MAPS),
    "centred_mse": (centred_mse, MAPS),
    "cosine_loss": (lambda s, t: cosine_loss(s, t, 1), MAPS),
    "feature_mse": (feature_mse, MAPS),
    "region_mse": (lambda s, t: region_mse([s], [t], [torch.ones(*s.shape[:1], 1, *s.shape[2:])]), MAPS),
    "pkd": (lambda s, t: pkd([s], [t]), MAPS),
    "pixel_kl": (lambda s, t: pixel_kl(s, t, 10.0), MAPS),
    "pixel_mse": (pixel_mse, MAPS),
    "channel_kl": (lambda s, t: channel_kl(s, t, 10.0), MAPS),
    "dead_kl": (dead_kl, MAPS),
    "feature_terms": (lambda s, t: feature_terms((6, 6), "mse")[0].loss(s, t), MAPS),
    "heat_kd": (heat_kd, MAPS),
    "heated_mse": (lambda s, t: heated_mse(s, (t, HEAT)), MAPS),
    "box_kd": (lambda s, t: box_kd(s, (t, HEAT)), BOXES),
    "rkd_distance": (rkd_distance, UNIT[:2]),
    "embedding_l2": (embedding_l2, UNIT[:2]),
    "similarity_kd": (lambda s, t: similarity_kd(s, t, UNIT[2], 20.0), UNIT[:2]),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_compared_in_float32(name, dtype):
    loss, (student, teacher) = LOSSES[name]
    student, teacher = student.to(dtype), teacher.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(student, teacher)
    full = loss(student.float(), teacher.float())
    assert half.dtype == torch.float32 and half.item() == pytest.approx(full.item(), rel=1e-6)


def test_bf16_at_a_high_temperature():
    """Logits that are nearly alike: a KL in bf16 was a fifth off."""
    student = rows(64, 10).bfloat16()
    teacher = (student.float() + 0.3 * rows(64, 10, seed=1)).bfloat16()
    exact = kd_kl(student.double(), teacher.double(), 10.0).item()
    assert kd_kl(student, teacher, 10.0).item() == pytest.approx(exact, rel=1e-4)


# --- shapes -----------------------------------------------------------------------------------------------------

WRONG = {
    "fewer samples": lambda v: v[:1],
    "one channel": lambda v: v[:, :1],
    "more channels": lambda v: torch.cat([v, v], 1),
    "without samples": lambda v: v[0],
    "a list": lambda v: [v],
    "another size": lambda v: v[..., :1],
}
FREE = {("rkd_distance", "one channel"), ("rkd_distance", "more channels"), ("rkd_distance", "another size")}
FREE |= {("feature_terms", "another size")}  # is interpolated


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_broadcasts(name, change, request):
    loss, (student, teacher) = LOSSES[name]
    if any(name == free and WRONG[kind] is change for free, kind in FREE):
        assert loss(student, change(teacher)).isfinite()
        return
    with pytest.raises(InputError) as caught:
        loss(student, change(teacher))
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda: kd_kl(rows(4, 10), rows(1, 10)),
            r"^logits of student and teacher are \(4, 10\) and \(1, 10\), expected one shape$",
        ),
        (lambda: kd_kl(rows(4, 10), rows(4, 1)), r"are \(4, 10\) and \(4, 1\), expected one shape$"),
        (lambda: kd_kl(rows(4, 10), rows(10)), r"are \(4, 10\) and \(10,\), expected one shape$"),
        (lambda: kd_kl(rows(0, 10), rows(0, 1)), r"are \(0, 10\) and \(0, 1\), expected one shape$"),
        (lambda: kd_kl(rows(4, 10), {"a": 1, "b": 2}), r"are \(4, 10\) and a dict of a, b, expected one shape$"),
        (lambda: kd_kl(rows(10), rows(10), dim=1), r"^a tensor of shape \(10,\) has no dimension 1 to compare along$"),
        (
            lambda: feature_mse(*MAPS, torch.ones(2, 4, 4)),
            r"^the mask of a feature map \(2, 6, 4, 4\): \(2, 4, 4\), expected \(N, 1, H, W\) = \(2, 1, 4, 4\)$",
        ),
        (lambda: feature_mse(*MAPS, torch.ones(1, 1, 4, 4)), r": \(1, 1, 4, 4\), expected .* = \(2, 1, 4, 4\)$"),
        (lambda: feature_mse(rows(2, 3), rows(2, 3)), r"feature map: \(2, 3\), expected \(N, C, H, W\)$"),
        (lambda: region_mse([MAPS[0]], [MAPS[1]] * 2, [HEAT]), "^pyramids are a list of 1, a list of 2, a list of 1"),
        (lambda: pkd(MAPS[0], MAPS[1]), r"^pyramids are \(2, 6, 4, 4\), \(2, 6, 4, 4\), expected lists of as many"),
        (lambda: pkd([], []), "^pyramids have no level, expected at least one$"),
        (lambda: rkd_distance(rows(1, 4), rows(1, 4)), "^distances between 1 images, expected at least 2 in a batch$"),
        (lambda: pixel_kl(*MAPS, 1.0, torch.ones(5)), r"^the class weights: \(5,\), expected \(C,\) = \(6,\)$"),
        (lambda: pixel_kl(*MAPS, 1.0, None, torch.ones(2, 1, 4, 4)), r"^the mask: \(2, 1, 4, 4\), expected \(N, H"),
        (lambda: channel_kl(*MAPS, 1.0, torch.ones(2, 1, 4)), r"^the mask: \(2, 1, 4\), expected .* = \(2, 4, 4\)$"),
        (lambda: heated_mse(MAPS[0], (MAPS[1], HEAT[:, :, :2])), r"^the mask .*, expected .* = \(2, 1, 4, 4\)$"),
        (lambda: box_kd(*[MAPS[0]], (MAPS[1], HEAT)), r"^the student's boxes: \(2, 6, 4, 4\), expected \(B, 9, H, W"),
        (lambda: similarity_logits(rows(2, 6), rows(3, 5), 1.0), r"are \(2, 6\) and \(3, 5\), expected \(N, D\) and"),
        (
            lambda: multi_positive_infonce(rows(2, 6), rows(3, 6), torch.ones(3, 2), 1.0),
            r"^the table of matches: \(3, 2\), expected \(images, texts\) = \(2, 3\)$",
        ),
        (
            lambda: multi_positive_infonce(rows(2, 6), rows(3, 6), torch.ones(2, 3), 1.0, torch.ones(3)),
            r"^the images whose texts are known: \(3,\), expected \(images,\) = \(2,\)$",
        ),
    ],
)
def test_shapes_that_do_not_match_are_one_line(call, line):
    with pytest.raises(InputError, match=line):
        call()


def soft_labels(student, teacher, dim=None):
    return soft_label_term(1.0, dim=dim).loss((student, 1.0), teacher)


@pytest.mark.parametrize("loss", [kd_kl, centred_mse, soft_labels])
def test_logits_of_tokens_say_where_their_classes_are(loss):
    """(N, tokens, C) and (N, C, length) look alike: over the wrong dimension a KL is a number like any other."""
    student, teacher = rows(2, 5, 7), rows(2, 5, 7, seed=1)
    for shape in ((2, 5, 7), (0, 5, 7)):
        line = f"logits are {shape}, expected (N, C) or (N, C, H, W); for another shape say which dimension is compared"
        with pytest.raises(InputError, match=f"^{re.escape(line)}, such as dim=-1 for the last$"):
            loss(rows(*shape), rows(*shape))
    flat = loss(student.flatten(0, 1), teacher.flatten(0, 1)).item()
    assert loss(student, teacher, dim=-1).item() == loss(student, teacher, dim=2).item() == pytest.approx(flat)
    turned = loss(student.transpose(1, 2), teacher.transpose(1, 2), dim=1).item()
    assert turned == pytest.approx(flat, rel=1e-5)
    pixels = loss(*(value.unflatten(1, (5, 1)).permute(0, 3, 1, 2) for value in (student, teacher))).item()
    assert pixels == pytest.approx(flat, rel=1e-5)


def test_vectors_say_where_they_lie():
    line = r"^vectors are \(2, 6, 4, 4\), expected \(N, D\); for another shape say .* such as dim=-1 for the last$"
    with pytest.raises(InputError, match=line):
        cosine_loss(*MAPS)
    cells = [value.permute(0, 2, 3, 1).flatten(0, 2) for value in MAPS]
    assert cosine_loss(*MAPS, dim=1).item() == pytest.approx(cosine_loss(*cells).item(), rel=1e-5)


ANY_SHAPE = {"kd_kl", "centred_mse", "cosine_loss", "heat_kd"}  # element by element, or along a dim that is said


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ANY_SHAPE])
def test_a_loss_of_one_layout_takes_no_other(name):
    loss, (student, _) = LOSSES[name]
    with pytest.raises(InputError, match="expected"):
        loss(rows(*student.shape[:1], 5, 6), rows(*student.shape[:1], 5, 6))


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, INF, "4", None])
@pytest.mark.parametrize("loss", [kd_kl, pixel_kl, channel_kl, dead_kl])
def test_temperatures(loss, temperature):
    with pytest.raises(InputError, match=f"^temperature is {temperature}, expected a number above 0$"):
        loss(*MAPS, temperature)
    assert loss(*MAPS, torch.tensor(2.0)).item() == pytest.approx(loss(*MAPS, 2).item())


@pytest.mark.parametrize("name", LOSSES)
def test_of_nothing_a_loss_is_zero_and_has_a_gradient(name):
    if name in ("rkd_distance", "heated_mse", "box_kd", "similarity_kd"):  # need two images, or a heatmap of as many
        return
    loss, (student, teacher) = LOSSES[name]
    student = student[:0].clone().requires_grad_()
    value = loss(student, teacher[:0])
    value.backward()
    assert value.item() == 0 and student.grad.shape == student.shape


# --- any input --------------------------------------------------------------------------------------------------

sizes = st.integers(0, 3)
shapes = st.lists(sizes, min_size=0, max_size=4).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64])


@EXAMPLES
@given(st.sampled_from(sorted(LOSSES)), shapes, shapes, dtypes, dtypes, st.booleans(), st.integers(0, 99))
def test_any_two_tensors_give_a_number_or_one_line(name, shape, other, dtype, other_dtype, same, seed):
    loss = LOSSES[name][0]
    student = (3 * rows(*shape, seed=seed)).to(dtype)
    teacher = (3 * rows(*(shape if same else other), seed=seed + 1)).to(other_dtype)
    try:
        value = loss(student, teacher)
    except InputError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert value.ndim == 0 and value.isfinite()


@EXAMPLES
@given(
    st.lists(st.lists(st.floats(-1e4, 1e4, width=32) | st.just(-INF), min_size=3, max_size=3), min_size=2, max_size=2),
    st.floats(1e-2, 1e3),
)
def test_excluded_classes_never_give_nan(logits, temperature):
    """As the sum over the classes that the teacher allows, in double precision."""
    student, teacher = (torch.tensor([row[:2] + [0.0, row[2]]]) for row in logits)
    student.requires_grad_()
    value = kd_kl(student, teacher, temperature)
    log_q, log_p = ((v.detach().double() / temperature).log_softmax(1) for v in (student, teacher))
    kept = log_p.exp().float() > 0
    exact = temperature**2 * (log_p.exp() * (log_p - log_q))[kept].sum()
    assert not value.isnan() and value.item() == pytest.approx(exact.item(), rel=1e-3, abs=1e-5 * temperature**2)
    if value.isfinite():
        value.backward()
        assert student.grad.isfinite().all()
