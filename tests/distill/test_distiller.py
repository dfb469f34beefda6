import copy
import warnings

import pytest
import torch
from torch import nn

from kdnb.distill.distiller import Distiller, LiveTeacher, require_stronger_teacher
from kdnb.distill.losses import cosine_loss, feature_mse
from kdnb.distill.schedules import two_phase, weight_at
from kdnb.distill.taps import Taps
from kdnb.distill.terms import Term
from kdnb.errors import InputError


class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU())
        self.head = nn.Linear(width, 2)

    def forward(self, batch):
        logits = self.head(self.body(batch["x"]))
        return {"loss": nn.functional.cross_entropy(logits, batch["y"]), "logits": logits}


def teacher_step(model, batch, student_outputs):
    return {"logits": model.head(model.body(batch["x"]))}


@pytest.fixture
def parts():
    torch.manual_seed(0)
    batch = {"x": torch.randn(8, 4), "y": torch.arange(8) % 2}
    return Small(3), LiveTeacher(Small(5), teacher_step), batch


def body_term(weight=1.0, **changes):
    return Term("body", feature_mse_2d, "body", "body", nn.Linear(3, 5), weight=weight, **changes)


def feature_mse_2d(student, teacher):
    return feature_mse(student[..., None, None], teacher[..., None, None])


def train(distiller, batch, steps=5):
    optimizer = torch.optim.SGD(distiller.parameters(), 0.1)
    for step in range(steps):
        optimizer.zero_grad()
        distiller(batch, step / steps)["loss"].backward()
        nn.utils.clip_grad_norm_(distiller.parameters(), 0.1)
        optimizer.step()
    return distiller.student.state_dict()


def test_parts_have_names_and_add_up(parts):
    student, teacher, batch = parts
    term = Term("logits", cosine_loss, "logits", "logits", weight=0.5)
    out = Distiller(student, teacher, [body_term(3.0), term])(batch)
    assert list(out) == ["loss", "task", "body", "logits"]
    assert out["loss"].item() == pytest.approx(sum(out[k].item() for k in ("task", "body", "logits")), rel=1e-6)
    logits = student(batch)["logits"], teacher.model.head(teacher.model.body(batch["x"]))
    assert out["logits"].item() == pytest.approx(0.5 * cosine_loss(*logits).item(), rel=1e-6)


def test_weights_zero_is_the_baseline_bit_for_bit(parts):
    student, teacher, batch = parts
    twin = copy.deepcopy(student)
    state = torch.get_rng_state()
    baseline = train(Distiller(student), batch)
    torch.set_rng_state(state)
    distilled = train(Distiller(twin, teacher, [body_term(0.0)]), batch)
    assert all(torch.equal(baseline[key], distilled[key]) for key in baseline)
    nonzero = train(Distiller(copy.deepcopy(parts[0]), teacher, [body_term(1.0)]), batch)
    assert not all(torch.equal(baseline[key], nonzero[key]) for key in baseline)


def test_an_idle_adapter_still_gets_a_gradient_for_ddp(parts):
    student, teacher, batch = parts
    distiller = Distiller(student, teacher, [body_term(lambda progress: 0.0)])
    distiller(batch)["loss"].backward()
    assert distiller.adapters and all(p.grad is not None for p in distiller.parameters())


def test_a_term_of_weight_zero_is_left_out_with_its_adapter(parts):
    student, teacher, _ = parts
    off = Distiller(student, teacher, [body_term(0.0)])
    assert [name for name, _ in off.named_parameters()] == [name for name, _ in Distiller(student).named_parameters()]


def test_teacher_is_frozen_and_outside_while_adapters_train(parts):
    student, teacher, batch = parts
    distiller = Distiller(student, teacher, [body_term()])
    before = copy.deepcopy(teacher.model.state_dict())
    names = [name for name, _ in distiller.named_parameters()]
    assert not any("teacher" in key for key in distiller.state_dict())
    assert "adapters.body.weight" in names and len(names) == 6
    train(distiller, batch)
    assert all(torch.equal(before[k], v) for k, v in teacher.model.state_dict().items())
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())


def test_a_teacher_that_was_put_into_train_mode_is_put_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    teacher = LiveTeacher(model, lambda model, batch, _: {"y": model(batch)})
    before = model[0].running_mean.clone()
    model.train()
    x = torch.randn(8, 4)
    assert torch.equal(*(teacher.observe(x, None, [])["y"] for _ in range(2)))
    assert torch.equal(model[0].running_mean, before) and not model.training


def test_what_a_student_borrows_of_its_teacher_stays_as_it_is():
    """SimKD: the student ends in the teacher's classifier, here with its BatchNorm; train() of the distiller, or of the
    student by itself, must not let batches move the teacher's statistics nor drop its outputs."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    teacher = LiveTeacher(nn.Sequential(nn.Linear(5, 4), head), lambda model, batch, _: {"y": model(batch)})
    student = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), head)

    def step(model, batch):
        y = model(batch)
        return {"loss": y.pow(2).mean(), "y": y}

    distiller = Distiller(student, teacher, [Term("kd", cosine_loss, "y", "y")], step).train()
    x, before = torch.randn(8, 5), copy.deepcopy(head.state_dict())
    first = teacher.observe(x, None, [])["y"]
    distiller(x)["loss"].backward()
    assert student.training and student[1].training and not head.training
    assert all(torch.equal(before[key], value) for key, value in head.state_dict().items())
    assert student[0].weight.grad is not None and not any(p.requires_grad for p in head.parameters())
    student.train()
    assert torch.equal(teacher.observe(x, None, [])["y"], first) and not head.training


def test_the_students_file_is_a_plain_state_dict(parts):
    student, teacher, _ = parts
    saved = Distiller(student, teacher, [body_term()]).student.state_dict()
    Small(3).load_state_dict(saved)


def test_a_shared_adapter_runs_once(parts):
    student, teacher, batch = parts
    calls = []
    adapter = nn.Linear(3, 5)
    adapter.register_forward_hook(lambda *_: calls.append(1))
    terms = [Term(name, feature_mse_2d, "body", "body", adapter) for name in ("one", "two")]
    Distiller(student, teacher, terms)(batch)
    assert len(calls) == 1


def test_unknown_taps_and_names_are_refused(parts):
    student, teacher, batch = parts
    with pytest.raises(InputError, match="'bdoy' is not a module path"):
        Distiller(student, teacher, [Term("t", cosine_loss, "bdoy", "body")])(batch)
    with pytest.raises(InputError, match="must be unique"):
        Distiller(student, teacher, [body_term(), body_term()])
    with pytest.raises(InputError, match="need a teacher"):
        Distiller(student, None, [body_term()])
    with pytest.raises(InputError, match="children are body, head"):
        Taps(student, ["neck"])


def test_taps_leave_no_hooks_behind(parts):
    student, _, batch = parts
    with Taps(student, ["body"]) as outputs:
        student(batch)
    assert outputs["body"].shape == (8, 3)
    assert not student.body._forward_hooks


def test_warns_once_about_a_term_that_drowns_the_task(parts):
    student, teacher, batch = parts
    distiller = Distiller(student, teacher, [body_term(1e4)])
    with pytest.warns(UserWarning, match="'body' is .* 10 times the task loss"):
        distiller(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller(batch)


def test_a_weaker_teacher_is_refused_unless_asked_for():
    with pytest.raises(InputError, match="48.00 is not above the student's own 58.00"):
        require_stronger_teacher(48.0, 58.0, "accuracy")
    require_stronger_teacher(48.0, 58.0, "accuracy", allow_weaker=True)
    require_stronger_teacher(60.0, 58.0, "accuracy")
    with pytest.raises(InputError):
        require_stronger_teacher(float("nan"), 58.0, "accuracy")


def test_schedules():
    assert weight_at(3.0, 0.5) == 3.0
    assert [weight_at(two_phase(1.0, 3.0, 0.5), p) for p in (0, 0.49, 0.5)] == [1, 1, 3]
