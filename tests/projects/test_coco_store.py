"""The networks of 01 for other notebooks: what names them, that they never mix, what is trained, what is refused."""

import json
import shlex
import shutil

import pytest
import torch
from torch import nn

from kdnb.errors import InputError
from kdnb.options import load_settings
from kdnb.projects import coco_alignment as project
from kdnb.projects.coco_alignment import store
from kdnb.projects.coco_alignment.exports import EXPORTED, export_network, find_networks, folder_of
from kdnb.projects.coco_alignment.store import aligned
from kdnb.world.export_coco import rendered_coco


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def settings():
    return load_settings(project.CocoAlignmentSettings, "smoke")


@pytest.fixture(scope="module")
def photographs(drawn, settings):
    return rendered_coco(drawn, train=settings.train_images, val=settings.test_images, size=settings.size)


def test_data_is_known_by_what_it_holds(tmp_path, settings, photographs):
    moved = tmp_path / "elsewhere"
    shutil.copytree(photographs, moved)
    before = folder_of(settings, 0, photographs, tmp_path)
    assert before == folder_of(settings, 0, moved, tmp_path) != folder_of(settings, 0, None, tmp_path)
    file = moved / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "annotations": content["annotations"][:-1]}))
    assert before != folder_of(settings, 0, moved, tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        folder_of(settings, 0, tmp_path / "nowhere", tmp_path)


def network(seed):
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


def test_students_of_two_trainings_never_mix(tmp_path, settings):
    """A second training that is killed leaves the first in use; one that ends replaces it as a whole."""
    folder, (old, new) = folder_of(settings, 0, None, tmp_path), (network(1), network(2))
    assert find_networks(folder, EXPORTED) is None
    for name in EXPORTED:
        export_network(name, old, old, folder)
    first = find_networks(folder, EXPORTED)
    for name in EXPORTED[:-1]:
        export_network(name, new, new, folder)
        assert find_networks(folder, EXPORTED) == find_networks(folder, EXPORTED[:1]) == first
    export_network(EXPORTED[-1], new, new, folder)
    second = find_networks(folder, EXPORTED)
    assert second != first and len(list(second.iterdir())) == len(EXPORTED)


def test_the_teacher_alone_is_trained_and_then_gone_on_with(drawn, monkeypatch):
    alone = aligned("smoke", 3, drawn, students=())
    model, tokenizer = alone.teacher, alone.tokenizer
    (inner,) = drawn.glob("aligned_*/runs/*")
    assert [file.stem for file in (inner / "arms").iterdir()] == ["teacher"]
    assert tokenizer(["a car"]).shape[0] == 1 and not model.training
    both = aligned("smoke", 3, drawn, students=("baseline",))
    assert [one.name for one in inner.parent.iterdir()] == [inner.name]
    assert all(torch.equal(v, both.teacher.state_dict()[k]) for k, v in model.state_dict().items())
    monkeypatch.setattr(store, "_train", lambda *a: pytest.fail("trained again"))
    assert set(aligned("smoke", 3, drawn, students=("baseline",)).students) == {"baseline", "random"}


def test_full_names_the_command_that_trains_it(tmp_path, photographs):
    with pytest.raises(InputError, match="-p ENCODER_DATA DIR"):
        aligned("full", 0, tmp_path)
    with pytest.raises(InputError, match="train them first") as caught:
        aligned("full", 2, tmp_path, photographs)
    words = shlex.split(str(caught.value).partition("train them first: ")[2])
    assert words[:3] == ["python", "-m", "kdnb.projects.coco_alignment"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given == {
        "--profile": "full",
        "--seed": "2",
        "--data": str(photographs.resolve()),
        "--root": str(tmp_path.resolve()),
        "--stage": "baseline_matched",
    }
    assert [words[i + 1] for i, word in enumerate(words) if word == "--stage"] == list(EXPORTED)
    assert "\n" not in str(caught.value)


def test_under_torchrun_nothing_is_trained_while_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(InputError, match="train them first: python -m kdnb.projects.coco_alignment --profile smoke"):
        aligned("smoke", 0, tmp_path)
