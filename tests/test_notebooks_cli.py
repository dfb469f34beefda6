import json
import os
import signal
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from commands import python, start, wait_for
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kdnb import notebooks
from kdnb.cli import main
from kdnb.errors import InputError
from kdnb.notebooks import execute, find_notebooks, own_kernel, parameter_names, parse_parameter, plan
from kdnb.publish import WIDGET, check_shape, code_hash, publish

PARAMETERS = 'PROFILE = "lite"\nSEED: int = 0\nDATA = None\nRESULTS = "results"\nABLATIONS = False'
START = """\
import sys
from pathlib import Path
from kdnb.run import Run, check_parameters
check_parameters(PROFILE=PROFILE, SEED=SEED, DATA=DATA, RESULTS=RESULTS, ABLATIONS=ABLATIONS)
run = Run.start("90_toy", PROFILE, SEED, RESULTS, {"steps": 3}, DATA)
run.log(f"{sys.executable} writes to {run.folder.absolute()} from {Path.cwd()}")"""
METRICS = """\
import numpy as np
from kdnb.evidence import mean_metric, paired_bootstrap
better = paired_bootstrap(mean_metric(np.zeros(9)), mean_metric(np.full(9, 10.0 + SEED)), 9, 20)
arms = {"teacher": {"mAP50": 90.0}, "baseline": {"mAP50": 60.0}, "distilled": {"mAP50": 70.0 + SEED, "steps": 3}}
run.save_metrics("mAP50", True, arms, {"distilled_vs_baseline": better});"""
NOISE = """\
import ipywidgets
from IPython.display import display
from tqdm.auto import tqdm
from tqdm import tqdm as plain
for _ in plain(range(3)): print("step", end="\\r")
for _ in tqdm(range(3)): pass
display(ipywidgets.IntSlider())
print("done")"""


def cells():
    return [
        new_markdown_cell("# Toy\n\nA lesson."),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(START),
        new_code_cell(METRICS),
        new_code_cell(NOISE),
    ]


def make_course(root):
    """A folder that is known as the course's."""
    (root / "pyproject.toml").write_text('[project]\nname = "kdnb"\n')


def write(path, own_cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=own_cells), path)
    return path


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """An empty repository with one toy notebook, as the current folder."""
    make_course(tmp_path)
    write(tmp_path / "notebooks" / "90_toy.ipynb", cells())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The toy notebook executed once through `kdnb run`, with what the command printed."""
    root = tmp_path_factory.mktemp("repo")
    make_course(root)
    write(root / "notebooks" / "90_toy.ipynb", cells())
    (root / "devkit").mkdir()
    return root, python("-m", "kdnb.cli", "run", "90", "--seeds", "4", "-p", "DATA", "devkit", cwd=root)[0]


def kdnb(*arguments):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


# --- finding and parameters -------------------------------------------------------------------------------------


def test_find_notebooks(repo):
    write(repo / "notebooks" / "03_voc.ipynb", cells())
    write(repo / "notebooks" / "draft.ipynb", cells())
    assert [path.stem for path in find_notebooks()] == ["03_voc", "90_toy"]
    assert [path.stem for path in find_notebooks(["90", "3"])] == ["90_toy", "03_voc"]
    assert [path.stem for path in find_notebooks(["90_toy", "90_toy.ipynb"])] == ["90_toy", "90_toy"]
    with pytest.raises(InputError, match="no notebook '04' in .*; expected one of: 03_voc, 90_toy"):
        find_notebooks(["04"])


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}'])
def test_what_is_no_notebook(repo, content):
    (repo / "notebooks" / "90_toy.ipynb").write_text(content)
    result = kdnb("run", "90")
    assert result.exit_code == 1 and "90_toy.ipynb is not a notebook" in result.stderr
    assert result.stderr.count("\n") == 1


def test_parameters_are_read_as_papermill_reads_them(repo, monkeypatch):
    notebook = nbformat.read(repo / "notebooks" / "90_toy.ipynb", as_version=4)
    assert parameter_names(notebook) == ["PROFILE", "SEED", "DATA", "RESULTS", "ABLATIONS"]
    assert [parse_parameter("X", text) for text in ("3", "true", "1.5", "null", "a b", "[", "'3'")] == [
        3,
        True,
        1.5,
        None,
        "a b",
        "[",
        "3",
    ]
    monkeypatch.chdir(repo / "notebooks")
    assert parse_parameter("DATA", "../x") == str(repo / "notebooks" / "../x")
    assert parse_parameter("X", "../x") == "../x"
    assert parse_parameter("DATA", "null") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "ABLATION", "true"], "90_toy.ipynb has no parameter 'ABLATION'; did you mean 'ABLATIONS'?"),
        (["-p", "ABLATIONS", "3"], "parameter ABLATIONS is 3 (int), expected True or False (bool)"),
        (["-p", "SEED", "one"], "parameter SEED is 'one' (str), expected a whole number"),
        (["-p", "PROFILE", "light"], "parameter PROFILE is 'light' (str), expected one of"),
        (["-p", "DATA", "nowhere"], "nowhere', which does not exist"),
        (["--out", "notebooks/90_toy.ipynb"], "is a file, expected a folder"),
    ],
)
def test_a_wrong_parameter_stops_everything_before_it_starts(repo, arguments, message):
    result = kdnb("run", "90", *arguments)
    assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1
    assert "90_toy: profile" not in result.stdout and not (repo / "results").exists()


def test_bad_options():
    assert "expected whole numbers" in kdnb("run", "--seeds", "0,x").output
    assert "'light' is not one of 'smoke', 'lite', 'photo', 'full'" in kdnb("run", "--profile", "light").output
    assert "expected width x height" in kdnb("data", "make", "voc", "--out", "x", "--size", "160").output


def test_plan_asks_each_notebook_only_for_what_it_has(repo):
    board = write(
        repo / "notebooks" / "07_scoreboard.ipynb",
        [new_code_cell('RESULTS = "results"', metadata={"tags": ["parameters"]})],
    )
    toy = repo / "notebooks" / "90_toy.ipynb"
    steps = plan([board, toy], "smoke", [0, 1], "out", {})
    assert steps == [
        (board, {"RESULTS": str(repo / "out")}),
        (toy, {"PROFILE": "smoke", "SEED": 0, "RESULTS": str(repo / "out")}),
        (toy, {"PROFILE": "smoke", "SEED": 1, "RESULTS": str(repo / "out")}),
    ]


# --- executing --------------------------------------------------------------------------------------------------


def test_a_run_ends_in_its_own_folder(executed):
    root, printed = executed
    (folder,) = (root / "results").glob("result_*_90_toy_lite_s4")
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "run.log",
        "metrics.json",
        "replicates.npz",
        "figures",
        "weights",
        "notebook.ipynb",
    }
    assert [path.name for path in (root / "results").iterdir()] == [folder.name]
    log = (folder / "run.log").read_text()
    assert sys.executable in log and f"from {root / 'notebooks'}" in log  # this Python, beside the notebook
    assert json.loads((folder / "metrics.json").read_text())["provenance"]["data"] == "devkit"


def test_the_summary_at_the_end(executed):
    root, printed = executed
    header, _, row = printed.rstrip().splitlines()[-3:]
    assert header.split()[:7] == ["notebook", "seed", "metric", "teacher", "baseline", "distilled", "verdict"]
    assert row.split()[:7] == ["90_toy", "4", "mAP50", "90.00", "60.00", "74.00", "BEATS"]
    assert row.endswith("notebook.ipynb") and (root / row.split()[-1]).exists()


def test_a_foreign_python3_kernel_is_not_used(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager

    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/elsewhere/python"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == "/elsewhere/python"
    with own_kernel():
        assert KernelSpecManager().get_kernel_spec("python3").argv[0] == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(tmp_path)


def test_a_failing_notebook_is_kept_and_the_others_still_run(repo):
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    write(repo / "notebooks" / "90_toy.ipynb", [parameters, new_code_cell("print('before')\n1 / 0")])
    write(repo / "notebooks" / "91_fine.ipynb", [parameters, new_code_cell("print('after')")])
    result = kdnb("run", "--profile", "smoke", "--out", "a {b} c")  # papermill fills in {names}
    assert result.exit_code == 1
    assert result.stderr.rstrip().splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert result.output.rstrip().endswith("ZeroDivisionError: division by zero")  # nothing comes after it
    kept = repo / "a {b} c" / "failed_90_toy_smoke_s0.ipynb"
    assert str(kept) in result.stderr and "\x1b" not in result.stderr.split("failed; kept")[1]
    assert "before" in str(nbformat.read(kept, as_version=4).cells)
    assert (repo / "a {b} c" / "executed_91_fine_smoke_s0.ipynb").exists()
    assert [line.split()[6] for line in result.stdout.splitlines() if line.startswith("90_toy  ")] == ["FAILED"]
    assert not list((repo / "a {b} c").glob(".executing*"))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "from kdnb.errors import InputError\nraise InputError('a.xml:3: no box, expected one')",
            "InputError: a.xml:3: no box, expected one",
        ),
        ("import os\nos.kill(os.getpid(), 9)", "DeadKernelError: Kernel died"),
        (
            "import time\ntime.sleep(60)",
            "CellTimeoutError: A cell timed out while it was being executed, after 2 seconds.",
        ),
    ],
)
def test_errors_in_one_line(repo, code, error):
    path = write(repo / "notebooks" / "90_toy.ipynb", [new_code_cell(code)])
    done = execute(path, {}, repo / "results", timeout=2)
    assert done.error == error and done.run_folder is None
    assert done.notebook.name == "failed_90_toy_lite_s0.ipynb" and done.notebook.exists()


def test_interrupting_ends_cleanly(repo):
    code = "open('started', 'w').close()\nimport time\ntime.sleep(600)"
    write(repo / "notebooks" / "90_toy.ipynb", [new_code_cell(code)])
    process = start("-m", "kdnb.cli", "run")
    try:
        wait_for((repo / "notebooks" / "started").exists)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1 and "Aborted!" in printed and "Traceback" not in printed
    assert list((repo / "results").iterdir()) == []


def test_help_is_quick():
    code = (
        "import sys, time; from kdnb.cli import main\ntry: main(['--help'])\n"
        "finally: print(time.process_time(), {'torch', 'pandas'} & set(sys.modules))"
    )
    seconds, _, heavy = python("-c", code)[0].splitlines()[-1].partition(" ")
    assert heavy == "set()" and float(seconds) < 1


# --- publishing -------------------------------------------------------------------------------------------------


def test_publish_takes_outputs_and_nothing_else(executed, monkeypatch):
    root, _ = executed
    monkeypatch.chdir(root)
    path = publish("90")
    notebook = nbformat.read(path, as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in cells()]
    assert notebook.cells[1].metadata == {"tags": ["parameters"]}
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4]
    assert notebook.metadata["kdnb"] == {"code_sha256": code_hash(notebook), "profile": "lite", "seed": 4}
    assert "widgets" not in notebook.metadata and "papermill" not in notebook.metadata
    text = path.read_text()
    assert str(root) not in text and str(Path.home()) + "/" not in text and sys.prefix not in text
    (folder,) = (root / "results").iterdir()
    assert notebook.cells[2].outputs[0].text.endswith(f"writes to results/{folder.name} from ./notebooks\n")
    assert notebook.cells[3].outputs == []
    (stream,) = notebook.cells[4].outputs  # neither progress bars nor the slider are left
    assert (stream.name, stream.text) == ("stdout", "done\n")
    again = path.read_text()
    assert publish("90", folder).read_text() == again  # and publishing is repeatable


def fake_run(repo, cells_with_outputs, name="90_toy"):
    folder = repo / "results" / f"result_20300101_000000_{name}_lite_s0"
    folder.mkdir(parents=True)
    write(folder / "notebook.ipynb", cells_with_outputs)
    (folder / "config.yaml").write_text("{profile: lite, seed: 0}")
    return folder


def with_output(cell, *outputs):
    cell.outputs = list(outputs)
    cell.execution_count = 7
    return cell


def picture(n_bytes):
    return new_output("display_data", {"image/png": "A" * n_bytes})


def test_publish_refuses(repo):
    with pytest.raises(InputError, match=r"no lite run of 90_toy in results; .* kdnb run 90 --profile lite"):
        publish("90")
    source = (repo / "notebooks" / "90_toy.ipynb").read_bytes()
    folder = fake_run(repo, cells())
    for change, message in [
        (lambda c: c[2].update(source="other"), "cell 3 of .* is not the one in 90_toy.ipynb; expected the same code"),
        (lambda c: c.pop(), "has 4 cells, expected the 5"),
        (lambda c: with_output(c[3], new_output("error", ename="ValueError")), "cell 4 of .* ended with ValueError"),
        (lambda c: with_output(c[3], picture(1_500_000)), r"would have 1\.50 MB, .* the largest output is in cell 4"),
    ]:
        changed = cells()
        change(changed)
        write(folder / "notebook.ipynb", changed)
        with pytest.raises(InputError, match=message):
            publish("90")
    assert (repo / "notebooks" / "90_toy.ipynb").read_bytes() == source


def test_publish_takes_outputs_also_where_prose_was_mended_since(repo):
    changed = cells()
    changed[0].source = "older words"
    fake_run(repo, [with_output(cell, picture(9)) if cell.cell_type == "code" else cell for cell in changed])
    published = nbformat.read(publish("90"), as_version=4)
    assert published.cells[0].source == cells()[0].source and published.cells[2].outputs


def test_outputs_hang_on_the_settings_of_lite_too(repo, monkeypatch):
    import kdnb.publish as module

    text = "common: {lr: 0.1, net: {width: 4}}\nsmoke: {steps: 1}\nlite: {steps: 9}\nfull: {steps: 99}\n"
    monkeypatch.setattr(module, "project_settings", {"toy": text}.get)
    own = [*cells(), new_code_cell("from kdnb.projects import toy, scoreboard")]
    write(repo / "notebooks" / "90_toy.ipynb", own)
    folder = fake_run(repo, [with_output(cell) if cell.cell_type == "code" else cell for cell in own])
    ran = {"lr": 0.1, "net": {"width": 4, "depth": 2}, "steps": 9, "clip": 5}
    (folder / "config.yaml").write_text(str({"profile": "lite", "seed": 0, "settings": ran}))
    before = nbformat.read(publish("90"), as_version=4).metadata["kdnb"]["code_sha256"]
    for old, new, changes_lite in (
        ("99", "98", False),
        ("lr: 0.1", "lr: 0.2", True),
        ("width: 4", "width: 8", True),
        ("steps: 9}", "steps: 8}", True),
    ):
        monkeypatch.setattr(module, "project_settings", {"toy": text.replace(old, new)}.get)
        assert (code_hash(nbformat.read(repo / "notebooks" / "90_toy.ipynb", as_version=4)) != before) == changes_lite
        if changes_lite:
            with pytest.raises(InputError, match="was made with other settings than lite has now; run it again"):
                publish("90")


def test_publish_cleans_by_kind_of_output(repo):
    changed = cells()
    home = str(Path.home())
    bar = " 50%|##   | 1/2\rfit: 100%|####| 2/2 [00:01<00:00, 2.0it/s]\n"
    with_output(
        changed[3],
        new_output("stream", name="stderr", text=bar),
        new_output("stream", name="stdout", text="a\n"),
        new_output("stream", name="stdout", text="b\n"),
        new_output("display_data", {WIDGET: {"model_id": "x"}, "text/plain": "interactive(...)"}),
        new_output("display_data", {WIDGET: {"model_id": "x"}, "image/png": "AAAA", "text/plain": "<Figure>"}),
        new_output("execute_result", {"text/html": f'<a href="{home}/x.html">', "text/plain": f"{home}x"}),
        new_output("stream", name="stderr", text="/tmp/ipykernel_12/34.py:1: UserWarning: careful\n"),
        new_output("display_data", {"application/vnd.plotly.v1+json": {"data": [{"name": str(repo / "x")}]}}),
    )
    fake_run(repo, changed)
    assert kdnb("publish", "90").exit_code == 0
    outputs = nbformat.read(repo / "notebooks" / "90_toy.ipynb", as_version=4).cells[3].outputs
    assert outputs[0].text == "a\nb\n"
    assert outputs[1].data == {"image/png": "AAAA", "text/plain": "<Figure>"}
    assert outputs[2].data == {"text/html": '<a href="~/x.html">', "text/plain": f"{home}x"}
    assert outputs[2].execution_count == 3
    assert outputs[3].text == "<cell>:1: UserWarning: careful\n"
    assert outputs[4].data["application/vnd.plotly.v1+json"] == {"data": [{"name": "./x"}]}
    assert len(outputs) == 5


# --- shape ------------------------------------------------------------------------------------------------------


def lesson():
    """A notebook without a fault: 30 cells, half prose."""
    own = [with_output(new_code_cell("SEED = 0", metadata={"tags": ["parameters"]}))]
    for number in range(15):
        own += [
            new_markdown_cell("Words about it. " * 2),
            with_output(new_code_cell(f"print({number})\n" * 3), new_output("stream", text="1\n")),
        ]
    notebook = new_notebook(cells=own)
    notebook.metadata["kdnb"] = {"code_sha256": code_hash(notebook)}
    return notebook


def set_source(notebook, source):
    notebook.cells[2].source = source
    notebook.metadata["kdnb"]["code_sha256"] = code_hash(notebook)


def lengthen(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source += "x\n" * 6
        else:
            cell.source *= 2
    notebook.metadata["kdnb"]["code_sha256"] = code_hash(notebook)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda n: n.cells.pop(1) and n.cells.__delitem__(slice(10, None, 2)), "expected 25 to 45"),
        (lambda n: n.cells.extend([new_markdown_cell("x") for _ in range(20)]), "51 cells"),
        (lambda n: set_source(n, "x\n" * 21), "code cell 3 has 21 lines, expected at most 20"),
        (lengthen, "median of 9 lines"),
        (lambda n: n.cells[1].update(source="prose " * 1000), "% of the characters are prose"),
        (lambda n: set_source(n, "x" * 5000), "% of the characters are prose"),
        (lambda n: n.cells[0].metadata.clear(), "0 cells tagged 'parameters'"),
        (lambda n: n.cells[4].update(execution_count=None), "code cells without outputs"),
        (lambda n: n.cells[4].outputs.append(new_output("error")), "an output is an error"),
        (lambda n: n.metadata.update(widgets={}), "widget state"),
        (lambda n: n.cells[4].outputs.append(new_output("display_data", {WIDGET: {}})), "widget state"),
        (lambda n: n.cells[4].outputs.append(picture(1_600_000)), "1.61 MB, expected less than 1.5 MB"),
        (
            lambda n: n.cells[4].update(source="print(1)"),
            "not those of this code; renew them: kdnb run 03 --profile lite",
        ),
    ],
)
def test_shape(harm, complaint):
    notebook = lesson()
    assert check_shape(notebook, "03") == []
    harm(notebook)
    assert any(complaint in problem for problem in check_shape(notebook, "03")), check_shape(notebook, "03")


def test_the_hash_ignores_prose_and_injected_parameters():
    notebook = lesson()
    before = code_hash(notebook)
    notebook.cells[1].source = "other words"
    notebook.cells.insert(1, new_code_cell("SEED = 3", metadata={"tags": ["injected-parameters"]}))
    assert code_hash(notebook) == before
    notebook.cells[0].source = "SEED = 1"
    assert code_hash(notebook) != before


# --- the other commands -----------------------------------------------------------------------------------------


def test_commands_pass_on_what_they_are_given(monkeypatch):
    calls = []
    monkeypatch.setattr("kdnb.metrics.voc.voc_main", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("kdnb.datasets.voc.download_voc", lambda out: calls.append(out))
    assert kdnb("eval", "voc", "--devkit", "d", "--pred", "p", "--metric", "area", "--json", "j").exit_code == 0
    assert kdnb("data", "get", "voc", "--out", "o").exit_code == 0
    assert calls == [("d", "test", "p", "area", "j", None), "o"]


def test_data_check_on_photographs(real_data, tmp_path):
    result = kdnb("data", "check", "voc", str(real_data / "voc"))
    assert result.exit_code == 0 and "no faults" in result.output and "513" not in result.stderr
    nothing = kdnb("data", "check", "voc", str(tmp_path))
    assert nothing.exit_code == 1 and nothing.stderr.startswith("kdnb: ") and nothing.stderr.count("\n") == 1


def test_bench_knows_its_projects():
    result = kdnb("bench", "99")
    assert result.exit_code == 1 and "no bench for '99', expected one of 0" in result.stderr


def test_no_notebooks_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "site" / "kdnb" / "notebooks.py"))
    with pytest.raises(InputError, match="no folder 'notebooks'"):
        find_notebooks()


def test_numbers_in_summary_come_from_the_replicates_folder(executed):
    root, _ = executed
    (folder,) = (root / "results").iterdir()
    with np.load(folder / "replicates.npz") as file:
        assert np.array_equal(file["distilled_vs_baseline"], np.full(20, 14.0))
