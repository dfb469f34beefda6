import os
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from commands import TORCHRUN, python
from torch import nn

from kdnb.distill import teacher_outputs
from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.teacher_outputs import TeacherOutputs
from kdnb.errors import InputError

VIEWS = ("plain", "flip")
ITEMS = ["van/red_01", "van_red/01", "c", "d", "e"]
LOSS = {"loss": torch.zeros(())}
ACC = Accelerator(cpu=True)


def step(model, batch, student_outputs):
    logits = model(batch["images"])
    return {"features": {"1": logits, "0": batch["images"].mean((2, 3))}, "logits": logits.flatten(1)[:, :3]}


def make_teacher(seed=0):
    """Of weights in eighths, so that sums are exact: else they would depend on the other items of a batch."""
    torch.manual_seed(seed)
    model = nn.Conv2d(3, 2, 3, padding=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((8 * parameter).round() / 8)
    return LiveTeacher(model, step)


def make_image(number, view):
    image = torch.arange(48.0).view(3, 4, 4).roll(number, 2)
    return image.flip(-1) if view == "flip" else image


def make_batch(ids, views, items=ITEMS):
    images = [make_image(items.index(item), view) for item, view in zip(ids, views, strict=True)]
    return {"ids": ids, "views": views, "images": torch.stack(images)}


class Loader:
    """Counts the rows that are asked for; breaks off after some batches."""

    def __init__(self, items=ITEMS, stop=100):
        self.items, self.stop, self.rows = items, stop, 0

    def __call__(self, batches):
        for number, keys in enumerate(batches):
            if number == self.stop:
                raise KeyboardInterrupt
            self.rows += len(keys)
            yield make_batch([self.items[row] for row, _ in keys], [view for _, view in keys], self.items)


def make(root, teacher=None, data="street", items=ITEMS, views=VIEWS, outputs=("features", "logits"), **more):
    return TeacherOutputs(teacher or make_teacher(), root, data, items, views, outputs, **more)


def equal(a, b):
    assert list(a) == list(b)
    return all(equal(a[k], b[k]) if isinstance(a[k], dict) else torch.equal(a[k], b[k]) for k in a)


MIXED = make_batch(["van_red/01", "e", "van/red_01", "e"], ["flip", "plain", "plain", "flip"])


@pytest.mark.parametrize("limit", [teacher_outputs.IN_MEMORY, 0], ids=["in memory", "memory-mapped"])
def test_it_gives_what_the_live_teacher_gives(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(teacher_outputs, "IN_MEMORY", limit)
    store = make(tmp_path).fill(Loader(), ACC, 3)
    live = make_teacher().observe(MIXED, LOSS, [])
    for each in (store, make(tmp_path)):  # filled now; read back
        kept = each.observe(MIXED, LOSS, ["features"])
        assert list(kept["features"]) == ["1", "0"]  # the teacher's order, not the alphabet's
        assert equal(kept, live)
    assert [path.name for path in tmp_path.iterdir()] == [store.folder.name]


def test_names_that_differ_only_in_their_slash_do_not_share_a_row(tmp_path):
    store = make(tmp_path).fill(Loader(), ACC)
    one, two = (store.observe({"ids": [i], "views": ["plain"]}, LOSS, [])["logits"] for i in ITEMS[:2])
    assert not torch.equal(one, two)


@pytest.mark.parametrize("ids", [[30, 10], torch.tensor([30, 10]), [torch.tensor(30), np.int64(10)]])
def test_integer_ids(tmp_path, ids):
    items = [10, 20, 30]
    store = make(tmp_path, items=np.array(items)).fill(Loader(items), ACC)
    live = make_teacher().observe(make_batch([30, 10], ["plain", "flip"], items), LOSS, [])
    assert equal(store.observe({"ids": ids, "views": ["plain", "flip"]}, LOSS, []), live)
    with pytest.raises(InputError, match="id '10' is not among the 3 items"):
        store.observe({"ids": ["10"], "views": ["plain"]}, LOSS, [])


def test_half_precision_is_stored_as_torch_rounds_it(tmp_path):
    store = make(tmp_path, dtype=torch.float16).fill(Loader(), ACC)
    live, kept = make_teacher().observe(MIXED, LOSS, [])["logits"], store.observe(MIXED, LOSS, [])["logits"]
    assert kept.dtype == torch.float32 and torch.equal(kept, live.half().float())
    with pytest.raises(InputError, match="bfloat16, expected one of torch.float16, torch.float32"):
        make(tmp_path, dtype=torch.bfloat16)


def test_a_killed_fill_goes_on_and_its_seconds_add_up(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).fill(Loader(stop=2), ACC, 3)
    store, rest = make(tmp_path), Loader()
    before = np.nansum(store.row_seconds)
    assert before > 0 and np.isnan(store.seconds)
    assert store.observe({"ids": ["c"], "views": ["plain"]}, LOSS, [])
    with pytest.raises(InputError, match="of 'c' in view 'flip' are missing: call fill"):
        store.observe({"ids": ["c"], "views": ["flip"]}, LOSS, [])
    store.fill(rest, ACC, 3)
    assert rest.rows == 4 and store.seconds > before
    again = Loader()
    assert make(tmp_path).fill(again, ACC, 4).seconds == store.seconds and again.rows == 0
    assert equal(
        store.observe(MIXED, LOSS, []), make(tmp_path / "at_once").fill(Loader(), ACC).observe(MIXED, LOSS, [])
    )


def test_a_full_disk_leaves_what_was_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(np, "save", full)
        make(tmp_path).fill(Loader(), ACC, 3)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).fill(Loader(stop=1), ACC, 3)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(teacher_outputs, "write_rows", full)
        make(tmp_path).fill(Loader(), ACC, 3)
    rest = Loader()
    make(tmp_path).fill(rest, ACC, 3)
    assert rest.rows == 7


def test_two_trainings_that_fill_one_store_do_not_spoil_it(tmp_path):
    """The second one finds no store when it begins, but the first one's when it wants to create its own."""
    first, second = make(tmp_path), make(tmp_path)

    def late(batches):
        for number, batch in enumerate(Loader()(batches)):
            if number == 0:
                first.fill(Loader(), ACC, 3)
            yield batch

    second.fill(late, ACC, 3)
    assert equal(first.observe(MIXED, LOSS, []), second.observe(MIXED, LOSS, []))
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_another_teacher_data_set_item_or_view_means_another_store(tmp_path):
    changes = [
        {},
        {"teacher": make_teacher(1)},
        {"data": "other"},
        {"items": ITEMS[::-1]},
        {"items": ["van/red_01"]},
        {"views": ["plain"]},
        {"outputs": ["logits"]},
        {"dtype": torch.float16},
    ]
    folders = {make(tmp_path, **change).folder for change in changes}
    assert len(folders) == len(changes) and make(tmp_path).folder in folders


def test_what_it_was_not_computed_for_is_refused(tmp_path):
    store = make(tmp_path)
    with pytest.raises(InputError, match="of 'c' in view 'plain' are missing: call fill"):
        store.observe({"ids": ["c"], "views": ["plain"]}, LOSS, [])
    store.fill(Loader(), ACC)
    with pytest.raises(InputError, match="view 'crop' is not among .* views .'plain', 'flip'."):
        store.observe({"ids": ["c"], "views": ["crop"]}, LOSS, [])
    with pytest.raises(InputError, match="id 'x' is not among the 5 items"):
        store.observe({"ids": ["x"], "views": ["plain"]}, LOSS, [])
    with pytest.raises(InputError, match="taps .'neck'. are not among the kept teacher outputs .'features', 'logits'."):
        store.observe(MIXED, LOSS, ["logits", "neck"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": ["a", "b", "a"]}, "id 'a' comes twice, at 0 and 2; expected each once"),
        ({"views": ["plain", "plain"]}, "view 'plain' comes twice"),
        ({"items": []}, "no id, expected at least one"),
        ({"outputs": []}, "no output, expected at least one"),
        ({"outputs": ["maps/0"]}, r"outputs are named \['maps/0'\], expected names without '/'"),
        ({"items": [1.5]}, "id 1.5 is of type float, expected a string or an integer"),
    ],
)
def test_ids_and_views_must_be_names_of_their_own(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path, **change)


def altered(change):
    def loader(batches):
        for batch in Loader()(batches):
            if "d" in batch["ids"]:
                change(batch)
            yield batch

    return loader


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["images"][1].fill_(torch.nan), "'features/1' of 'd' in view 'plain' is NaN"),
        (
            lambda b: b.update(images=torch.zeros(2, 3, 8, 8)),
            r"shape \(2, 2, 8, 8\) in the batch of 'c' in view 'plain', expected \(2, 2, 4, 4\).* live teacher",
        ),
        (
            lambda b: b["ids"].reverse(),
            r"a batch to fill has ids \['d', 'c'\], expected 2 items from 'c' in view 'plain' on",
        ),
    ],
)
def test_a_batch_that_cannot_be_kept_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path).fill(altered(change), ACC, 2)


def test_a_value_beyond_half_precision_is_refused_and_infinity_is_kept(tmp_path):
    """A class that the teacher excludes has the logit −inf; a logit of 1e6 would become +inf."""

    def changed(value):
        return altered(lambda batch: batch["images"].fill_(value))

    with pytest.raises(InputError, match="of 'c' in view 'plain' is too large for torch.float16: keep torch.float32"):
        make(tmp_path / "half", dtype=torch.float16).fill(changed(1e6), ACC, 2)
    make(tmp_path / "full").fill(changed(1e6), ACC, 2)

    def excluding(model, batch, student_outputs):
        return {"logits": torch.full((len(batch["ids"]), 3), -torch.inf)}

    teacher = LiveTeacher(nn.Linear(1, 1), excluding)
    store = make(tmp_path, teacher, outputs=["logits"], dtype=torch.float16).fill(Loader(), ACC)
    assert (store.values["logits"] == -torch.inf).all()


def test_a_damaged_store_is_named_and_a_batch_needs_a_view_for_each_id(tmp_path):
    store = make(tmp_path).fill(Loader(), ACC)
    with pytest.raises(InputError, match="^a batch has 2 ids and 1 views, expected a view for each id$"):
        store.observe({"ids": ["c", "d"], "views": ["plain"]}, LOSS, [])
    (store.folder / "seconds.npy").write_bytes(b"")
    with pytest.raises(InputError, match="seconds.npy: cannot be read .*; delete its folder$"):
        make(tmp_path)


def test_gaps_and_unknown_outputs_are_told(tmp_path):
    with pytest.raises(InputError, match="of 'd' in view 'plain' are missing"):
        make(tmp_path).fill(lambda batches: Loader()(batches[:1]), ACC, 3)
    with pytest.raises(InputError, match="no output 'neck', only .'features', 'logits'."):
        make(tmp_path, outputs=["neck"]).fill(Loader(), ACC)


def test_from_tensors():
    logits = torch.arange(24.0).view(3, 2, 4)
    store = TeacherOutputs.from_tensors({"logits": logits.half(), "maps/0": logits}, [7, 8, 9], VIEWS)
    kept = store.observe({"ids": [9, 7], "views": ["flip", "plain"]}, LOSS, ["logits", "maps"])
    assert kept["logits"].dtype == torch.float32
    assert equal(kept, {"logits": logits[[2, 0], [1, 0]], "maps": {"0": logits[[2, 0], [1, 0]]}})
    assert store.seconds == 0
    with pytest.raises(InputError, match=r"'logits' has shape \(3, 2, 4\), expected 2 items x 2 views"):
        TeacherOutputs.from_tensors({"logits": logits}, [7, 8], VIEWS)


def test_two_processes_fill_one_store(tmp_path):
    here = Path(__file__).resolve()
    script = tmp_path / "fill.py"
    script.write_text(
        "import sys; from test_teacher_outputs import *\n"
        "loader = Loader(); store = make(sys.argv[1]).fill(loader, ACC, 3)\n"
        "assert equal(store.observe(MIXED, LOSS, []), make_teacher().observe(MIXED, LOSS, []))\n"
        "Path(f'{sys.argv[1]}/rows_{ACC.process_index}').write_text(str(loader.rows))\n"
    )
    path = os.pathsep.join(map(str, (here.parents[2], here.parents[1], here.parent)))
    python(*TORCHRUN, script, tmp_path, PYTHONPATH=path)
    assert [(tmp_path / f"rows_{process}").read_text() for process in (0, 1)] == ["6", "4"]
