import json
import re

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdnb import options
from kdnb.errors import InputError
from kdnb.evidence import mean_metric, paired_bootstrap
from kdnb.run import Run, Settings, check_parameters, load_settings, provenance, set_threads, to_json

TEXT = """
common: {steps: 100, lr: 1e-2, student: {width: 16}}
smoke: {steps: 4}
lite: {}
full: {steps: 9000, student: {depth: 50}}
"""


class Student(Settings):
    width: int
    depth: int = 18


class Toy(Settings):
    __module__ = "kdnb.projects.toy.data"

    steps: int
    lr: float
    student: Student


@pytest.fixture
def settings_file(monkeypatch):
    def use(text):
        monkeypatch.setattr(options, "settings_text", lambda model: text)

    use(TEXT)
    return use


def test_settings_lie_on_top_of_each_other(settings_file):
    assert load_settings(Toy, "smoke").steps == 4
    assert load_settings(Toy, "lite").lr == 0.01  # YAML reads 1e-2 as text
    full = load_settings(Toy, "full", lr=0.5)
    assert (full.steps, full.lr, full.student.width, full.student.depth) == (9000, 0.5, 16, 50)
    with pytest.raises(ValueError, match="frozen"):
        full.steps = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TEXT.replace("lite: {}", "lite: {stepz: 3}"),
            r"unknown setting 'stepz' in toy/settings.yaml \[lite\]; did you mean 'steps'\?",
        ),
        (
            TEXT.replace("lite: {}", "lite: {student: {widht: 3}}"),
            r"unknown setting 'student.widht' in toy/settings.yaml \[lite\]; did you mean 'width'\?",
        ),
        (
            TEXT.replace("lite: {}", "lite: {steps: many}"),
            r"setting 'steps' in toy/settings.yaml \[lite\] is 'many', "
            "expected a valid integer",
        ),
        (TEXT.replace("lite: {}", "lite: {steps: yes}"), r"'steps' .* is True, expected a number"),
        (TEXT.replace("steps: 100, ", ""), r"setting 'steps' is missing in toy/settings.yaml \[lite\]"),
        (TEXT.replace("lite: {}", "lite: 3"), r"toy/settings.yaml has no block 'lite'"),
        (TEXT + "  : [", r"toy/settings.yaml:6: not readable as YAML"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(settings_file, text, message):
    settings_file(text)
    with pytest.raises(InputError, match=message) as caught:
        load_settings(Toy, "lite")
    assert "\n" not in str(caught.value)


def test_unknown_profile_and_override(settings_file):
    with pytest.raises(InputError, match="unknown profile 'light'; expected one of smoke, lite, photo, full"):
        load_settings(Toy, "light")
    with pytest.raises(InputError, match="did you mean 'lr'"):
        load_settings(Toy, "lite", lrr=1.0)


def test_missing_settings_file():
    class Homeless(Settings):
        __module__ = "kdnb.world.scene"

    with pytest.raises(InputError, match=r"world/settings.yaml does not exist"):
        load_settings(Homeless, "lite")


GOOD = {"PROFILE": "lite", "SEED": 0, "DATA": None, "RESULTS": "results", "ABLATIONS": False}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PROFILE", "light", "one of 'smoke', 'lite', 'photo', 'full'"),
        ("PROFILE", 3, "one of"),
        ("PROFILE", ["lite"], "one of"),
        ("SEED", "1", "int"),
        ("SEED", 1.0, "int"),
        ("SEED", True, "int"),
        ("SEED", -1, ">= 0"),
        ("DATA", 3, "path"),
        ("DATA", "/no/such/folder", "which does not exist"),
        ("ENCODER_DATA", 3, "path"),
        ("MY_OWN_DATA", "/no/such/folder", "which does not exist"),
        ("RESULTS", None, "folder"),
        ("RESULTS", "", "folder"),
        ("ABLATIONS", 1, "bool"),
        ("ABLATIONS", "False", "bool"),
    ],
)
def test_parameters_of_a_wrong_type_are_refused(name, value, expected):
    check_parameters(**GOOD)
    with pytest.raises(InputError) as caught:
        check_parameters(**{**GOOD, name: value})
    message = str(caught.value)
    assert name in message and repr(value) in message and expected in message and "\n" not in message


def test_unknown_parameter_names_its_neighbour():
    with pytest.raises(InputError, match="unknown parameter 'SEEDS'; did you mean 'SEED'"):
        check_parameters(SEEDS=0)


def test_threads_from_the_environment(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("KDNB_THREADS", "1")
        assert set_threads() == torch.get_num_threads() == 1
        monkeypatch.setenv("KDNB_THREADS", "two")
        with pytest.raises(InputError, match="KDNB_THREADS is 'two'"):
            set_threads()
    finally:
        torch.set_num_threads(before)


def start(tmp_path, **changes):
    return Run.start(
        **{"project": "03_toy", "profile": "smoke", "seed": 7, "results": tmp_path, "settings": {"steps": 4}, **changes}
    )


def test_folder_names_are_unique_within_a_second(tmp_path):
    folders = [start(tmp_path).folder for _ in range(2)]
    assert folders[0] != folders[1]
    for folder in folders:
        assert re.fullmatch(r"result_\d{8}_\d{6}_03_toy_smoke_s7", folder.name)
        assert (folder / "figures").is_dir() and (folder / "weights").is_dir()
    config = yaml.safe_load((folders[0] / "config.yaml").read_text())
    assert config == {"project": "03_toy", "profile": "smoke", "seed": 7, "data": "drawn", "settings": {"steps": 4}}


def test_results_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        start(tmp_path, results=tmp_path / "taken")


def test_log_is_printed_and_on_disk_at_once(tmp_path, capsys):
    run, other = start(tmp_path), start(tmp_path)
    run.log("step 1 loss 0.5")
    other.log("another run")
    assert (run.folder / "run.log").read_text().endswith(" step 1 loss 0.5\n")
    assert "another" not in (run.folder / "run.log").read_text()
    assert capsys.readouterr().out == "step 1 loss 0.5\nanother run\n"


def test_weights_come_back_even_when_shared_or_not_contiguous(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    path = start(tmp_path).save_weights("student", {"a": shared, "b": shared, "c": shared.T, "d": shared[:, 1]})
    back = load_file(path)
    assert path.name == "student.safetensors" and path.parent.name == "weights"
    assert torch.equal(back["a"], shared) and torch.equal(back["b"], shared)
    assert torch.equal(back["c"], shared.T) and torch.equal(back["d"], shared[:, 1])


def test_figure(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([0, 1])
    path = start(tmp_path).save_figure("curve", figure)
    assert path.read_bytes().startswith(b"\x89PNG")


def save_toy_metrics(run, **changes):
    better = paired_bootstrap(mean_metric(np.zeros(20)), mean_metric(np.ones(20)), 20, 50)
    arms = {
        "teacher": {"mAP50": np.float32(90.5), "params": torch.tensor(7), "steps": 3, "loss": float("nan")},
        "baseline": {"mAP50": 60.0},
        "distilled": {"mAP50": 61.0},
    }
    return run.save_metrics(
        **{
            "primary": "mAP50",
            "higher_is_better": True,
            "arms": arms,
            "comparisons": {"distilled_vs_baseline": better},
            **changes,
        }
    )


def test_metrics_are_as_designed(tmp_path):
    run = start(tmp_path, data=tmp_path)
    text = save_toy_metrics(run).read_text()
    metrics = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert list(metrics) == [
        "project",
        "profile",
        "seed",
        "primary",
        "higher_is_better",
        "arms",
        "comparisons",
        "provenance",
    ]
    assert metrics["arms"]["teacher"] == {"mAP50": 90.5, "params": 7, "steps": 3, "loss": None}
    assert metrics["comparisons"] == {"distilled_vs_baseline": {"delta": 1.0, "ci95": [1.0, 1.0], "verdict": "BEATS"}}
    assert {
        "kdnb",
        "python",
        "torch",
        "torchvision",
        "cpus",
        "threads",
        "device",
        "date",
        "commit",
        "settings_sha256",
        "data",
        "data_id",
    } == set(metrics["provenance"])
    assert metrics["provenance"]["data"] == tmp_path.name
    with np.load(run.folder / "replicates.npz") as replicates:
        assert np.array_equal(replicates["distilled_vs_baseline"], np.ones(50))


def test_metrics_that_contradict_themselves_are_refused(tmp_path):
    run = start(tmp_path)
    with pytest.raises(InputError, match="arm 'baseline' has no 'mAP50'"):
        save_toy_metrics(run, arms={"baseline": {"mAP75": 3.0}})
    with pytest.raises(InputError, match="'distilled_vs_baseline' has higher_is_better=True, expected False"):
        save_toy_metrics(run, higher_is_better=False)
    assert not (run.folder / "metrics.json").exists()


def test_settings_hash_follows_the_settings():
    hashes = [provenance(s)["settings_sha256"] for s in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2})]
    assert hashes[0] == hashes[1] != hashes[2]


def test_to_json_refuses_what_it_does_not_know():
    assert to_json({1: (np.arange(2), float("inf"), np.bool_(True))}) == {"1": [[0, 1], None, True]}
    with pytest.raises(TypeError, match="object"):
        to_json(object())
