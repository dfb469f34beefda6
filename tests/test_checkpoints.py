"""Checkpoints and stores of teacher outputs as disks leave them: cut, damaged, of another network, of a full disk."""

import io
import json
import math
import os
import resource
import signal
import struct
import zipfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdnb import checkpoints
from kdnb.checkpoints import TrainHistory, load_checkpoint, record_validation, save_checkpoint
from kdnb.distill.output_files import flatten, read_store
from kdnb.errors import InputError
from kdnb.optimizers import TrainConfig, make_optimizer, make_schedule

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)


def training(width=4, optimizer="adamw"):
    """A network, an optimizer and a schedule after one step."""
    torch.manual_seed(0)
    module, config = nn.Linear(3, width), TrainConfig(4, 0.1, optimizer=optimizer)
    optimizer = make_optimizer(module.parameters(), config)
    schedule = make_schedule(optimizer, config)
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    return module, optimizer, schedule


def history(**changes):
    return TrainHistory(**{"steps": 1, "history": [{"step": 1, "loss": 0.5}], "scores": [(1, 2.0)], **changes})


def write(path, width=4, optimizer="adamw", **changes):
    module, *rest = training(width, optimizer)
    save_checkpoint(path, module, *rest, history(**changes), dict(module.state_dict()))
    return path


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a good checkpoint."""
    return write(tmp_path_factory.mktemp("good") / "c.pt").read_bytes()


target = cache(training)  # what checkpoints are read into, again and again


def load(path):
    return load_checkpoint(path, *target())


# --- numbers of numpy -------------------------------------------------------------------------------------------


def test_what_a_validation_returns_of_numpy_is_read_back(tmp_path):
    state = history()
    result = {
        "score": np.float64(0.5),
        "per class": np.array([0.25, np.nan], dtype=np.float32),
        "counts": {np.int64(3): np.bool_(True)},
        "names": (np.str_("car"), None),
        "map": torch.ones(2),
    }
    assert record_validation(state, result) == 0.5
    module, *rest = training()
    save_checkpoint(tmp_path / "c.pt", module, *rest, state, None)
    (kept,) = load(tmp_path / "c.pt")[0].validated
    assert {key: kept[key] for key in ("step", "score", "counts", "names")} == {
        "step": 1,
        "score": 0.5,
        "counts": {3: True},
        "names": ["car", None],
    }
    assert kept["per class"][0] == 0.25 and math.isnan(kept["per class"][1]) and torch.equal(kept["map"], torch.ones(2))
    assert [type(kept["score"]), type(kept["per class"][0])] == [float, float]


def test_what_no_checkpoint_keeps_is_told_when_it_is_validated():
    with pytest.raises(InputError, match=r"^validation\['runs'\]\[1\] is of type PosixPath, which no checkpoint keeps"):
        record_validation(history(), {"score": 1.0, "runs": [1, Path("a")]})
    with pytest.raises(InputError, match=r"^validation gives \['mAP'\], expected its score as 'score'$"):
        record_validation(history(), {"mAP": 1.0})


# --- files that cannot be read ----------------------------------------------------------------------------------


def flipped(content):
    """With one wrong bit in the weights."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        header = next(entry for entry in archive.infolist() if entry.filename.endswith("data/0")).header_offset
    name, extra = struct.unpack("<HH", content[header + 26 : header + 30])
    place = header + 30 + name + extra
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def changed(content, **changes):
    return saved({**torch.load(io.BytesIO(content), weights_only=True), **changes})


def without(content, name):
    values = torch.load(io.BytesIO(content), weights_only=True)
    return saved({key: value for key, value in values.items() if key != name})


class Foreign:
    pass


DAMAGE = "cut or damaged .*, expected a checkpoint; delete it to train anew$"
OTHER = "of another network or optimizer, or no checkpoint of a training "
FILES = {
    "empty": (lambda good: b"", DAMAGE),
    "cut": (lambda good: good[: len(good) // 2], DAMAGE),
    "the first bytes": (lambda good: b"PK\x03\x04abc", DAMAGE),
    "text": (lambda good: b"not a checkpoint\n" * 9, DAMAGE),
    "a wrong bit": (flipped, DAMAGE),
    "an object": (lambda good: saved({"module": Foreign()}), DAMAGE),
    "a tensor": (lambda good: saved(torch.ones(2)), "holds a Tensor, expected a checkpoint of a training$"),
    "weights alone": (lambda good: saved(training()[0].state_dict()), OTHER + r"\(KeyError 'fitted'\)"),
    "no random state": (lambda good: without(good, "rng"), OTHER + r"\(KeyError 'rng'\)"),
    "a wrong random state": (lambda good: changed(good, rng=torch.ones(3)), OTHER),
    "another history": (lambda good: changed(good, fitted={"epochs": 3}), OTHER + r"\(TypeError .*'epochs'"),
    "steps without history": (lambda good: changed(good, fitted={"steps": 3}), OTHER + r"\(ValueError a history of 0"),
    "best of another": (lambda good: changed(good, best={"a": torch.ones(1)}), OTHER + r"\(ValueError the best"),
}


@pytest.mark.parametrize(("damage", "line"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_checkpoint_is_named_in_one_line(damage, line, content, tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(damage(content))
    with pytest.raises(InputError, match=f"^{path}: {line}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_network_or_optimizer_is_named(tmp_path):
    with pytest.raises(InputError, match=r"c.pt: of another network .*size mismatch for weight"):
        load(write(tmp_path / "c.pt", width=5))
    with pytest.raises(InputError, match=r"c.pt: of another network or optimizer"):
        load_checkpoint(write(tmp_path / "c.pt"), training()[0], torch.optim.SGD([nn.Parameter(torch.ones(1))]), None)
    with pytest.raises(InputError, match="^/: cannot be read .*, expected a checkpoint$"):
        load(Path("/"))


# --- a disk that is full ----------------------------------------------------------------------------------------


@contextmanager
def largest_file(size):
    """Writing beyond ``size`` bytes fails, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(tmp_path):
    path = write(tmp_path / "c.pt")
    before = path.read_bytes()
    with largest_file(len(before) // 2), pytest.raises(OSError, match="c.pt: cannot be written, is the disk full") as e:
        write(path)
    assert "\n" not in str(e.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert load(path)[0] == history()


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError):
        write(tmp_path / "taken" / "c.pt")


def test_an_error_of_the_writer_that_is_not_torchs_stays_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.torch, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "c.pt")
    assert not list(tmp_path.iterdir())


# --- any bytes --------------------------------------------------------------------------------------------------

MUTATIONS = st.one_of(
    st.binary(max_size=300).map(lambda data: lambda good: data),
    st.binary(min_size=1, max_size=60).map(lambda data: lambda good: b"PK\x03\x04" + data),
    st.floats(0, 1).map(lambda share: lambda good: good[: int(share * len(good))]),
    st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=8)).map(
        lambda change: lambda good: overwritten(good, int(change[0] * len(good)), change[1])
    ),
)


def overwritten(good, place, data):
    return good[:place] + data + good[place + len(data) :]


@EXAMPLES
@given(change=MUTATIONS)
def test_any_bytes_are_a_checkpoint_or_one_line(change, content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    path.write_bytes(change(content))
    try:
        state, best = load(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert state == history() and torch.equal(best["weight"], target()[0].weight)


FIELDS = ["module", "optimizer", "schedule", "fitted", "best", "rng", "cuda_rng"]
VALUES = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=3), st.floats())
OTHERS = st.sampled_from(FIELDS) | st.tuples(VALUES) | st.dictionaries(st.text(max_size=3), VALUES)


@EXAMPLES
@given(name=st.sampled_from(FIELDS), other=OTHERS)
def test_swapped_fields_are_one_line(content, tmp_path_factory, name, other):
    values = torch.load(io.BytesIO(content), weights_only=True)
    values[name] = values[other] if isinstance(other, str) else other[0] if isinstance(other, tuple) else other
    path = tmp_path_factory.getbasetemp() / "swapped.pt"
    path.write_bytes(saved(values))
    try:
        state, _ = load(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert state.steps == len(state.history)


# --- the store of teacher outputs -------------------------------------------------------------------------------


def store(folder, rows=3):
    folder.mkdir(exist_ok=True)
    np.save(folder / "seconds.npy", np.full(rows, 0.5))
    np.save(folder / "output_0.npy", np.arange(rows * 2, dtype=np.float32).reshape(rows, 2))
    (folder / "outputs.json").write_text(json.dumps(["logits"]))
    return folder


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("seconds.npy", b""),
        ("seconds.npy", npy(np.full(2, 0.5))),
        ("seconds.npy", npy(np.full((3, 2), 0.5))),
        ("output_0.npy", npy(np.zeros((3, 2), np.float32))[:-4]),
        ("output_0.npy", npy(np.zeros((3, 2), np.float64))),
        ("output_0.npy", npy(np.array([{}, {}, {}]), allow_pickle=True)),
        ("output_0.npy", None),
        ("outputs.json", b"["),
        ("outputs.json", b"\xff\xfe"),
        ("outputs.json", b"[" * 100_000),
        ("outputs.json", b'["logits", "logits"]'),
        ("outputs.json", b'["logits", "maps"]'),
    ],
)
def test_a_damaged_store_names_its_file(tmp_path, name, content):
    folder = store(tmp_path / "store")
    assert read_store(folder, 3, np.float32, 1000)[1]["logits"][2].tolist() == [4, 5]
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    named = "output_1.npy" if b"maps" in (content or b"") else name
    with pytest.raises(InputError, match=f"^{folder / named}: cannot be read .*; delete its folder$") as caught:
        read_store(folder, 3, np.float32, 1000)
    assert "\n" not in str(caught.value)


@EXAMPLES
@given(change=MUTATIONS, name=st.sampled_from(["seconds.npy", "output_0.npy", "outputs.json"]))
def test_any_bytes_are_a_store_or_one_line(change, name, tmp_path_factory):
    folder = store(tmp_path_factory.getbasetemp() / "any store")
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    try:
        seconds, values = read_store(folder, 3, np.float32, 1000)
    except InputError as error:
        assert str(error).startswith(str(folder)) and "\n" not in str(error)
    else:
        assert seconds.shape == (3,) and all(len(value) == 3 for value in values.values())


def test_two_keys_of_one_name_are_refused():
    one = torch.ones(1)
    with pytest.raises(InputError, match="^teacher output 'maps/0' is .*, expected one tensor of this name$"):
        flatten({"maps": {0: one, "0": one}}, ["maps"])
    with pytest.raises(InputError, match="^teacher output 'maps' is a list of 1, expected one tensor"):
        flatten({"maps": [one]}, ["maps"])


if os.name == "nt":  # no limits of file sizes there
    del test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else
