import pytest
import torch
from torch import nn

from kdnb.distill.distiller import LiveTeacher
from kdnb.distill.table import TeacherTable
from kdnb.errors import InputError


def teacher(seed=0):
    torch.manual_seed(seed)
    return LiveTeacher(nn.Linear(4, 3), lambda model, batch, seen: {"embedding": model(batch["images"])})


def batch(items, view):
    values = torch.stack([torch.arange(4.0) + 10 * int(item) + (view == "flip") for item in items])
    return {"ids": items, "views": [view] * len(items), "images": values}


SEEN = {"loss": torch.tensor(0.0)}


def filled(folder, who=None):
    table = TeacherTable(who or teacher(), folder, "toys", ["0", "1", "2"], ["plain", "flip"], "embedding")
    table.fill(batch(["2", "0", "1"], view) for view in ("plain", "flip"))
    return table


def test_it_answers_as_the_live_teacher_in_any_order(tmp_path):
    table, live = filled(tmp_path), teacher()
    mixed = {
        "ids": ["1", "2", "1"],
        "views": ["flip", "plain", "plain"],
        "images": torch.cat([batch([i], v)["images"] for i, v in (("1", "flip"), ("2", "plain"), ("1", "plain"))]),
    }
    kept = table.observe(mixed, SEEN, ["embedding"])["embedding"]
    assert torch.allclose(kept, live.observe(mixed, None, [])["embedding"], atol=1e-6)


def test_it_is_read_back_only_for_the_same_teacher(tmp_path):
    file = filled(tmp_path).file
    arguments = (tmp_path, "toys", ["0", "1", "2"], ["plain", "flip"], "embedding")
    assert TeacherTable(teacher(), *arguments).values is not None
    assert TeacherTable(teacher(1), *arguments).values is None
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_what_filling_took_lies_in_the_same_file(tmp_path):
    """A process that is killed leaves both or neither; the next one reads both."""
    table = filled(tmp_path)
    again = TeacherTable(teacher(), tmp_path, "toys", ["0", "1", "2"], ["plain", "flip"], "embedding")
    assert again.seconds == table.seconds > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["9"]}, "9 is not in the teacher's table of 3 items"),
        ({"views": ["left"]}, r"view 'left' was not computed by the teacher; its table has \['plain', 'flip'\]"),
    ],
)
def test_an_unknown_item_or_view_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        filled(tmp_path).observe({**batch(["1"], "plain"), **change}, SEEN, [])


def test_a_gap_an_empty_table_and_an_unkept_tap_are_told(tmp_path):
    table = TeacherTable(teacher(), tmp_path, "toys", ["0", "1"], ["plain", "flip"], "embedding")
    with pytest.raises(InputError, match="table is empty; call fill"):
        table.observe(batch(["0"], "plain"), SEEN, [])
    with pytest.raises(InputError, match="0 in view 'flip' was not in the batches"):
        table.fill([batch(["0", "1"], "plain")])
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="taps .'logits'. are not in the teacher's table"):
        filled(tmp_path).observe(batch(["0"], "plain"), SEEN, ["logits"])
