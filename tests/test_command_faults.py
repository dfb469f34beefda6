"""What people stumble over on the command line: paths that look like numbers, folders of others, disks that refuse."""

import errno
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import read, write
from nbformat.v4 import new_code_cell, new_notebook

from kdnb.cli import main
from kdnb.errors import InputError, os_error_line
from kdnb.evidence import mean_metric, paired_bootstrap
from kdnb.experiment.command import parse_change
from kdnb.files import data_id
from kdnb.notebooks import execute, find_notebooks, notebooks_folder, parse_parameter
from kdnb.options import Settings, parse_setting
from kdnb.report import evidence_folder, group_runs, read_run, report
from kdnb.run import NOTED, Run

few = settings(max_examples=25, deadline=None, derandomize=True)


def kdnb(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def line_of(result):
    """The one line with which a command ended."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("kdnb: ") and result.stderr.count("\n") == 1
    return result.stderr.strip()


# --- values that are paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["kitti #2", "2011_09_26", "1e3", "yes", "a: b", "[x]", "2026-01-01", "007", "'q'", "~x"]
)
@pytest.mark.parametrize("name", ["DATA", "ENCODER_DATA", "RESULTS"])
def test_a_path_is_taken_as_it_stands(tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    assert parse_parameter(name, text) == str(tmp_path / text)
    assert parse_parameter(name, "null") is None


class Chosen(Settings):
    steps: int = 1
    folder: str = ""
    prompts: str | None = None
    place: Path | None = None
    mode: Literal["no", "yes"] = "no"
    names: list[str] = []


class Project:
    settings_class = Chosen


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("folder=runs #2", "runs #2"),
        ("folder=2011_09_26", "2011_09_26"),
        ("folder=null", "null"),
        ("prompts=1e3", "1e3"),
        ("prompts=null", None),
        ("place=007", "007"),
        ("mode=no", "no"),
        ("steps=12", 12),
        ("names=[a, b]", ["a", "b"]),
        ("unknown=3", 3),
        ("folder=a=b", "a=b"),
    ],
)
def test_a_setting_that_is_a_text_is_taken_as_it_stands(change, value):
    name, parsed = parse_change(Project, change)
    assert parsed == value and name == change.partition("=")[0]


@few
@given(
    st.text(max_size=30) | st.sampled_from(["!!bool x", "2011-99-26", "!!timestamp x", "[" * 500, "{a: b", "&a [*a]"])
)
def test_no_value_gives_a_traceback(text):
    parse_parameter("SEED", text)
    assert isinstance(parse_parameter("DATA", text), (str, type(None)))
    try:
        parse_setting(Chosen, "steps", text)
    except InputError as error:
        assert "\n" not in str(error) and "--set" in str(error)


# --- whose folders ----------------------------------------------------------------------------------------------


def own_notebook(folder, *sources):
    (folder / "notebooks").mkdir()
    write(new_notebook(cells=[new_code_cell(one) for one in sources]), folder / "notebooks" / "03_mine.ipynb")
    return folder / "notebooks" / "03_mine.ipynb"


def test_the_courses_notebooks_come_from_the_course(tmp_path, monkeypatch):
    own_notebook(tmp_path, "1 / 0")
    (tmp_path / "data" / "evidence").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    root = Path(__file__).resolve().parents[1]
    for place in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(place)
        assert notebooks_folder() == root / "notebooks"
        assert [path.stem for path in find_notebooks(["3"])] == ["03_voc_defeat"]
        assert not (root / "data" / "evidence").is_dir() or evidence_folder() == root / "data" / "evidence"


TWO_AT_ONCE = """\
from pathlib import Path
from kdnb.run import Run
run = Run.start("03_mine", "lite", 0, {results!r})
Path({results!r}, "result_29990101_000000_03_mine_lite_s0").mkdir()  # another run, started meanwhile"""


def test_a_notebook_lands_in_the_folder_of_its_own_run(tmp_path, capsys):
    results = tmp_path / "results"
    done = execute(own_notebook(tmp_path, TWO_AT_ONCE.format(results=str(results))), {}, results)
    assert done.error is None and not done.run_folder.name.startswith("result_2999")
    assert read(done.run_folder / "notebook.ipynb", as_version=4).cells[0].execution_count == 1
    assert not any((results / "result_29990101_000000_03_mine_lite_s0").iterdir())
    assert f"its run folder is {done.run_folder}" in capsys.readouterr().out


def test_a_run_notes_its_folder_for_who_started_it(tmp_path, monkeypatch):
    monkeypatch.setenv(NOTED, str(tmp_path / "noted.txt"))
    runs = [Run.start("03_toy", "smoke", seed, tmp_path) for seed in (0, 1)]
    assert (tmp_path / "noted.txt").read_text().splitlines() == [str(run.folder) for run in runs]
    monkeypatch.setenv(NOTED, str(tmp_path / "gone" / "noted.txt"))
    assert Run.start("03_toy", "smoke", 2, tmp_path).folder.is_dir()


# --- data sets of one name --------------------------------------------------------------------------------------


def data_set(place, *names, size=3):
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x" * size)
    return place


def finished(results, data, seed=0, gain=10.0):
    run = Run.start("03_toy", "lite", seed, results, {"steps": 3}, data)
    better = paired_bootstrap(mean_metric(np.zeros(9)), mean_metric(np.full(9, gain)), 9, 20)
    arms = {"teacher": {"mAP": 90.0}, "baseline": {"mAP": 60.0}, "distilled": {"mAP": 60.0 + gain}}
    run.save_metrics("mAP", True, arms, {"distilled_vs_baseline": better})
    return run.folder


def test_data_sets_whose_folders_share_a_name_stay_apart(tmp_path):
    one, two = data_set(tmp_path / "a" / "kitti", "x/1.txt"), data_set(tmp_path / "b" / "kitti", "x/1.txt", size=4)
    folders = [finished(tmp_path / "r", one, gain=10), finished(tmp_path / "r", two, gain=20)]
    names = [f"kitti ({data_id(place)[:8]})" for place in (one, two)]
    assert sorted(data for _, _, data in group_runs(folders)) == sorted(names)
    text = report(folders, tmp_path / "out")[0].read_text()
    assert "+10.00" in text and "+20.00" in text and all(f"data {name}" in text for name in names)
    # one data set, wherever it lies, and seeds of before the digits were kept
    same = data_set(tmp_path / "c" / "kitti", "x/1.txt", "x/.hidden", "README.md")
    folders = [folders[0], finished(tmp_path / "r", same, 1), finished(tmp_path / "r", one, 2)]
    metrics = json.loads((folders[2] / "metrics.json").read_text())
    del metrics["provenance"]["data_id"]
    (folders[2] / "metrics.json").write_text(json.dumps(metrics))
    assert {key[2]: [run.seed for run in runs] for key, runs in group_runs(folders).items()} == {"kitti": [0, 1, 2]}


def test_a_run_is_resumed_on_its_own_data_only(tmp_path):
    one, two = data_set(tmp_path / "a" / "kitti", "x/1.txt"), data_set(tmp_path / "b" / "kitti", "x/2.txt")
    run = Run.start("03_toy", "smoke", 0, tmp_path / "r", {}, one)
    assert Run.resume(run.folder, "03_toy", one).seed == 0
    with pytest.raises(InputError, match="trained on 'kitti', expected the same --data"):
        Run.resume(run.folder, "03_toy", two)


def test_a_data_set_that_links_in_a_circle_has_an_id(tmp_path):
    data_set(tmp_path / "d", "x/1.txt")
    (tmp_path / "d" / "x" / "up").symlink_to(tmp_path / "d")
    assert len(data_id(tmp_path / "d")) == 12 and data_id(None) is None
    (tmp_path / "empty").mkdir()
    assert len(data_id(tmp_path / "empty")) == 12 and len(data_id(tmp_path / "d" / "x" / "1.txt")) == 12


# --- what the system refuses ------------------------------------------------------------------------------------


@pytest.fixture
def cars(tmp_path):
    (tmp_path / "solution.csv").write_text("ID,label\nx,a\n")
    (tmp_path / "submission.csv").write_text("ID,a\nx,1\n")
    return ["eval", "cars", "--solution", tmp_path / "solution.csv", "--submission", tmp_path / "submission.csv"]


def test_where_nothing_can_be_written_is_one_line(tmp_path, cars):
    file, missing = tmp_path / "solution.csv", tmp_path / "missing"
    folder = finished(tmp_path / "r", None)
    assert f"{missing} is no folder, expected an existing one" in line_of(kdnb(*cars, "--json", missing / "s.json"))
    assert f"--json {tmp_path}: is a folder, expected a file" in line_of(kdnb(*cars, "--json", tmp_path))
    assert f"{file}: exists already" in line_of(kdnb("report", folder, "--out", file / "r"))
    assert "solution.csv" in line_of(kdnb("data", "make", "voc", "--out", file / "x", "--train", "8", "--test", "1"))
    assert "is a file, expected a folder" in line_of(kdnb("run", "03", "--profile", "smoke", "--out", file / "x"))
    (tmp_path / "photos").mkdir()
    predict = ["predict", "voc", "--images", tmp_path / "photos", "--out"]
    assert f"{file} is a file, expected a folder" in line_of(kdnb(*predict, file / "x"))
    predict[1] = "cars"
    assert f"{missing} is no folder" in line_of(kdnb(*predict, missing / "x.csv"))


REFUSED = [
    (errno.EROFS, "lies on a read-only disk"),
    (errno.EACCES, "may not be read or written, expected permission"),
    (errno.ENOSPC, "cannot be written, the disk is full"),
    (errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize(("number", "words"), REFUSED)
@pytest.mark.parametrize("command", ["eval", "report", "run", "data make", "publish"])
def test_a_disk_that_refuses_is_one_line(tmp_path, monkeypatch, cars, command, number, words):
    def refuse(*arguments, **more):
        raise OSError(number, "Input/output error", str(tmp_path / ".x.json.0123456789ab.part"))

    for place in ("kdnb.metrics.cars_read.atomic_write", "kdnb.report.atomic_write", "kdnb.notebooks._make_folder",
                  "kdnb.world.export_voc.export_voc", "kdnb.publish.atomic_write", "kdnb.publish.publish"):  # fmt: skip
        monkeypatch.setattr(place, refuse)
    arguments = {
        "eval": [*cars, "--json", tmp_path / "x.json"],
        "report": ["report", finished(tmp_path / "r", None), "--out", tmp_path / "x"],
        "run": ["run", "03", "--profile", "smoke", "--out", tmp_path / "x"],
        "data make": ["data", "make", "voc", "--out", tmp_path / "x"],
        "publish": ["publish", "03"],
    }
    line = line_of(kdnb(*arguments[command]))
    assert words in line and f"{tmp_path / 'x.json'}: " in line


def test_a_refusal_without_a_file_is_told_too():
    assert os_error_line(OSError("cannot\nsay")) == "cannot"
    assert os_error_line(OSError()) == "OSError"
    assert os_error_line(FileNotFoundError(2, "x", "/a/.r.md.0123456789ab.part")).startswith(
        "/a/r.md: cannot be written"
    )
    assert "\n" not in str(InputError("a\nb"))


# --- damaged runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_files(tmp_path_factory):
    folder = finished(tmp_path_factory.mktemp("r"), None)
    return folder, {name: (folder / name).read_bytes() for name in ("metrics.json", "replicates.npz", "config.yaml")}


@st.composite
def damage(draw):
    """What becomes of some bytes: overwritten here and there, and cut off."""
    places = draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
    return places, draw(st.just(1.0) | st.floats(0, 1))


def damaged(content, places, kept):
    content = bytearray(content)
    for place, byte in places:
        content[int(place * len(content))] = byte
    return bytes(content[: round(kept * len(content))])


@few
@given(st.sampled_from(["metrics.json", "replicates.npz", "config.yaml"]), damage(), st.binary(max_size=60) | st.none())
def test_a_damaged_run_is_one_line(run_files, name, how, instead):
    folder, files = run_files
    (folder / name).write_bytes(damaged(files[name], *how) if instead is None else instead)
    try:
        read_run(folder)
        Run.resume(folder, "03_toy")
    except InputError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    finally:
        (folder / name).write_bytes(files[name])
