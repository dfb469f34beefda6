import pytest
import torch
from torch import nn

from kdnb.distill.cache import TeacherCache
from kdnb.distill.distiller import LiveTeacher
from kdnb.errors import InputError

VIEWS = ("plain", "flip")


def step(model, batch, student_outputs):
    return {"features": {"0": model(batch["x"]), "pool": batch["x"].mean(1, keepdim=True)}}


def batch_of(items, view="plain"):
    x = torch.stack([torch.full((3, 4, 4), float(i)) for i in items])
    x[:, :, :, 0] += 1
    return {
        "ids": [f"2007/{i:06d}" for i in items],
        "views": [view] * len(items),
        "x": x.flip(-1) if view == "flip" else x,
    }


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return LiveTeacher(nn.Conv2d(3, 2, 3, padding=1), step)


def make(teacher, root, data="street", **changes):
    return TeacherCache(teacher, root, data, VIEWS, ["features"], **changes)


def test_cached_equals_live_in_each_view(teacher, tmp_path):
    cache = make(teacher, tmp_path)
    assert cache.fill([batch_of([0, 1], view) for view in VIEWS]) == 4
    seen = {"loss": torch.zeros(())}
    for view in VIEWS:
        batch = batch_of([1, 0], view)
        live, cached = (t.observe(batch, seen, ["features"])["features"] for t in (teacher, cache))
        assert list(cached) == ["0", "pool"]
        assert all(torch.allclose(live[k], cached[k], atol=1e-6) for k in live)


def test_half_precision_is_close(teacher, tmp_path):
    cache = make(teacher, tmp_path, dtype=torch.float16)
    cache.fill([batch_of([3])])
    live = teacher.observe(batch_of([3]), None, [])["features"]["0"]
    cached = cache.observe(batch_of([3]), {"loss": torch.zeros(())}, ["features"])["features"]["0"]
    assert cached.dtype == torch.float32 and torch.allclose(live, cached, rtol=2e-3, atol=1e-3)


def test_a_killed_fill_goes_on(teacher, tmp_path):
    assert make(teacher, tmp_path).fill([batch_of([0])]) == 1
    assert make(teacher, tmp_path).fill([batch_of([0]), batch_of([1])]) == 1


def test_refuses_what_it_was_not_computed_for(teacher, tmp_path):
    cache = make(teacher, tmp_path)
    cache.fill([batch_of([0])])
    seen = {"loss": torch.zeros(())}
    with pytest.raises(InputError, match="view 'crop' .* was not computed"):
        cache.observe(batch_of([0], "crop"), seen, ["features"])
    with pytest.raises(InputError, match="2007/000009 is not in the teacher cache"):
        cache.observe(batch_of([9]), seen, ["features"])
    with pytest.raises(InputError, match="not in the teacher cache"):
        cache.observe(batch_of([0]), seen, ["logits"])


def test_other_teacher_or_data_means_another_cache(teacher, tmp_path):
    first = make(teacher, tmp_path).folder
    assert make(teacher, tmp_path).folder == first
    assert make(teacher, tmp_path, data="other").folder != first
    with torch.no_grad():
        teacher.model.bias += 1e-3
    assert make(teacher, tmp_path).folder != first


def test_pictures_of_different_size_need_the_live_teacher(teacher, tmp_path):
    cache = make(teacher, tmp_path)
    small, large = batch_of([0]), batch_of([1])
    large["x"] = torch.zeros(1, 3, 8, 8)
    cache.fill([small, large])
    both = {"ids": small["ids"] + large["ids"], "views": ["plain"] * 2}
    with pytest.raises(InputError, match="differs in size"):
        cache.observe(both, {"loss": torch.zeros(())}, ["features"])
