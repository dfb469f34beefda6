import json
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

from kdnb.cli import main
from kdnb.cli.run import summary_table
from kdnb.errors import InputError
from kdnb.evidence import mean_metric, paired_bootstrap
from kdnb.notebooks import Execution
from kdnb.report import read_run, report
from kdnb.run import Run
from kdnb.tables import gap_closed, times_as_much


def make_run(results, seed, gain, profile="lite", project="03_toy", data=None, student=None, **baseline):
    """A finished run in which the distilled arm beats the baseline by `gain` on every test item."""
    run = Run.start(project, profile, seed, results, {"steps": 3}, data)
    better = paired_bootstrap(mean_metric(np.full(9, 60.0)), mean_metric(np.full(9, 60.0 + gain)), 9, 20)
    arms = {
        "teacher": {
            "mAP50": 90.0,
            "params": 1_760_000,
            "flops": 2.5e9,
            "latency_ms": 7.25,
            "size_mb": 7.1,
            "train_s": 84,
            "steps": 300,
        },
        "baseline": {"mAP50": 60.0 + seed, "mAP75": float("nan"), **baseline},
        "distilled": {
            "mAP50": 60.0 + gain,
            "mAP75": 50.0,
            "params": 540_000,
            "per_class": {"car": 1.0},
            **(student or {}),
        },
    }
    run.save_metrics("mAP50", True, arms, {"distilled_vs_baseline": better})
    return run.folder


def table(text, first_cell):
    """Rows of the Markdown table whose header starts with `first_cell`, as lists of cells."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell} "))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[0], rows[2:]


def test_three_seeds_by_hand(tmp_path):
    folders = [make_run(tmp_path / "results", seed, gain) for seed, gain in ((2, 14), (0, 10), (1, 12))]
    markdown, page = report(folders, tmp_path / "out" / "voc")
    text = markdown.read_text()
    assert (markdown.name, page.name) == ("voc.md", "voc.html")
    header, rows = table(text, "arm")
    assert header == [
        "arm",
        "mAP50",
        "mAP75",
        "parameters",
        "FLOPs",
        "latency, ms",
        "file, MB",
        "training, CPU s",
        "steps",
    ]
    assert rows == [
        ["teacher", "90.00 (90.00 to 90.00)", "–", "1.76 M", "2.5 G", "7.25", "7.1", "84", "300"],
        ["baseline", "61.00 (60.00 to 62.00)", *"–––––––"],
        ["distilled", "72.00 (70.00 to 74.00)", "50.00 (50.00 to 50.00)", "540 k", *"–––––"],
    ]
    header, rows = table(text, "comparison")
    # no noise between items, so the interval is that of three draws from 10, 12, 14: all three alike in 1 of 27
    assert rows == [
        ["distilled vs baseline", "+12.00", "+10.00 to +14.00", "+10.00 to +14.00", "BEATS", "+10.00, +12.00, +14.00"]
    ]
    assert "## 03_toy, lite, rendered data" in text and "Seeds: 0, 1, 2." in text and "higher is better" in text
    assert "Careful" not in text


def test_projects_profiles_and_data_stay_apart(tmp_path):
    make_run(tmp_path, 0, 10)
    make_run(tmp_path, 1, 20, profile="smoke")
    make_run(tmp_path, 2, 30, project="05_toy")
    make_run(tmp_path, 3, 40, data=tmp_path / "VOCdevkit")
    text = report([tmp_path], tmp_path / "all")[0].read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## All projects",
        "## 03_toy, lite, data VOCdevkit",
        "## 03_toy, lite, rendered data",
        "## 03_toy, smoke, rendered data",
        "## 05_toy, lite, rendered data",
    ]
    assert text.count("one seed says nothing about others") == 4


def test_the_newer_run_of_a_seed_counts(tmp_path):
    old, new = make_run(tmp_path, 0, 10), make_run(tmp_path, 0, 20)
    text = report([new, old], tmp_path / "r")[0].read_text()
    assert table(text, "comparison")[1][0][-1] == "+20.00"


def test_seeds_of_different_settings_carry_a_warning(tmp_path):
    folders = [make_run(tmp_path, seed, 10) for seed in (0, 1)]
    metrics = json.loads((folders[0] / "metrics.json").read_text())
    metrics["provenance"]["settings_sha256"] = "other"
    (folders[0] / "metrics.json").write_text(json.dumps(metrics))
    assert "not run with the same settings" in report(folders, tmp_path / "r")[0].read_text()


def test_one_table_over_projects_by_hand(tmp_path):
    """Two seeds of a project whose rates should be high, one of a project whose loss should be low."""
    for seed, gain in ((0, 10), (1, 14)):
        make_run(tmp_path, seed, gain, student={"latency_ms": 4.0, "latency_ms_depth": 2.5})
    make_loss_run(tmp_path)
    markdown, page = report([tmp_path], tmp_path / "r")
    header, rows = table(markdown.read_text(), "")
    assert header == ["", "03 toy", "06 car 5fold kd"]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["profile"] == ["lite, seeds 0, 1", "smoke, seed 0"]
    assert cells["score"] == ["mAP50, %", "log_loss, nats, lower is better"]
    assert cells["teacher"] == ["90.00 (90.00 to 90.00)", "0.40"]  # of the cars it is the ensemble that teaches
    assert cells["student alone"] == ["60.50 (60.00 to 61.00)", "0.90"]
    assert cells["few labels, alone"] == ["–", "–"]
    # two draws from 10 and 14: both alike in one of four, so the interval is the whole range
    assert cells["distilled − alone"] == ["+12.00 [+10.00, +14.00] BEATS", "-0.25 [-0.25, -0.25] BEATS"]
    assert cells["parameters, teacher → student"] == ["1.76 M → 540 k", "5 M → 1 M"]
    assert cells["latency, ms, teacher → student"] == ["7.25 → 6.5", "– → –"]
    text = markdown.read_text()
    assert "Nothing was learned in profile smoke (06_car_5fold_kd)" in text and "include the depth network" in text
    assert "All projects" in page.read_text() and "log_loss, nats, lower is better" in page.read_text()


def test_one_project_needs_no_table_over_projects(tmp_path):
    make_run(tmp_path, 0, 10)
    assert "All projects" not in report([tmp_path], tmp_path / "r")[0].read_text()


def test_the_gap_closed_is_a_share_of_the_way_and_nothing_where_there_is_no_way(tmp_path):
    rates, losses = read_run(make_run(tmp_path, 0, 10)), read_run(make_loss_run(tmp_path))
    assert gap_closed([rates]) == pytest.approx(100 / 3)  # 60 to 70 on the way to 90
    assert gap_closed([losses]) == pytest.approx(50)  # 0.9 to 0.65 on the way to 0.4
    assert times_as_much([losses], "params") == 5
    assert np.isnan(times_as_much([losses], "flops"))
    losses.arms["ensemble"]["log_loss"] = 0.95
    assert np.isnan(gap_closed([losses]))


def make_loss_run(results):
    """A smoke run of 06 in which distilling lowers the loss of every item by a quarter."""
    run = Run.start("06_car_5fold_kd", "smoke", 0, results, {"steps": 3})
    lower = paired_bootstrap(mean_metric(np.full(9, 0.9)), mean_metric(np.full(9, 0.65)), 9, 20, higher_is_better=False)
    arms = {
        "teacher": {"log_loss": 0.6, "params": 1_000_000},
        "ensemble": {"log_loss": 0.4, "params": 5_000_000},
        "baseline": {"log_loss": 0.9},
        "distilled": {"log_loss": 0.65, "params": 1_000_000},
    }
    about = {"teacher": "ensemble", "roles": {"ensemble": "ensemble"}}
    run.save_metrics("log_loss", False, arms, {"distilled_vs_baseline": lower}, about=about)
    return run.folder


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_complete_and_accessible(tmp_path):
    page = Page()
    text = report([make_run(tmp_path, 0, 10, **{"a<b": 1.0})], tmp_path / "r")[1].read_text()
    page.feed(text)
    assert page.open == [] and ("html", {"lang": "en"}) in page.tags and "<title>" in text
    assert "a&lt;b" in text and "BEATS" in text
    assert not any("src" in attributes or "href" in attributes for _, attributes in page.tags)  # no outside assets
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption") == 2
    headers = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert headers.count("row") == 4 and headers.count("col") == 10 + 6


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "metrics.json").unlink(), "has no metrics.json; expected the results folder"),
        (
            lambda folder: (folder / "metrics.json").write_text("{"),
            "metrics.json is malformed: Expecting property name",
        ),
        (lambda folder: (folder / "metrics.json").write_text("[]"), "metrics.json is malformed"),
        (lambda folder: edit(folder, lambda m: m.pop("primary")), "metrics.json is malformed: primary: Field required"),
        (lambda folder: edit(folder, lambda m: m.update(arms=3)), "metrics.json is malformed: arms: "),
        (lambda folder: edit(folder, lambda m: m["arms"]["teacher"].clear()), "arm 'teacher' lacks the primary metric"),
        (
            lambda folder: edit(folder, lambda m: m["comparisons"]["distilled_vs_baseline"].update(verdict="WINS")),
            "comparisons.distilled_vs_baseline.verdict",
        ),
        (lambda folder: (folder / "replicates.npz").unlink(), "replicates.npz does not hold the replicates"),
        (lambda folder: (folder / "replicates.npz").write_bytes(b"PK"), "replicates.npz does not hold the replicates"),
        (
            lambda folder: edit(folder, lambda m: m["comparisons"].update(x=m["comparisons"]["distilled_vs_baseline"])),
            "replicates.npz does not hold the replicates",
        ),
    ],
)
def test_a_broken_folder_is_named(tmp_path, harm, message):
    folder = make_run(tmp_path, 0, 10)
    harm(folder)
    with pytest.raises(InputError) as caught:
        report([folder], tmp_path / "r")
    assert message in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "r.md").exists()


def edit(folder, change):
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_an_unfinished_run_among_others_is_passed_over(tmp_path):
    make_run(tmp_path, 0, 10)
    (make_run(tmp_path, 1, 10) / "metrics.json").unlink()
    assert "Seeds: 0." in report([tmp_path], tmp_path / "r")[0].read_text()


def test_a_folder_of_the_scoreboard_is_passed_over(tmp_path):
    one = make_run(tmp_path, 0, 10)
    scoreboard = tmp_path / "result_20260101_000000_07_scoreboard_lite_s0"
    scoreboard.mkdir()
    (scoreboard / "scoreboard.md").touch()
    report([one], tmp_path / "alone")
    report([one, scoreboard], tmp_path / "both")
    assert (tmp_path / "both.md").read_text() == (tmp_path / "alone.md").read_text()


def test_the_command(tmp_path):
    folder = make_run(tmp_path, 0, 10)
    result = CliRunner().invoke(main, ["report", str(folder), "--out", str(tmp_path / "r")])
    assert result.exit_code == 0 and "| distilled vs baseline | +10.00 |" in result.output
    broken = CliRunner().invoke(main, ["report", str(tmp_path / "nothing")])
    assert broken.exit_code == 1 and broken.stderr.startswith("kdnb: ") and broken.stderr.count("\n") == 1


def test_what_was_written_is_read_back(tmp_path):
    run = read_run(make_run(tmp_path, 0, 10))
    comparison = run.comparison("distilled_vs_baseline")
    assert (comparison.delta, comparison.ci95, comparison.verdict) == (10, (10, 10), "BEATS")
    assert comparison.replicates.shape == (20,)


def test_summary_lines(tmp_path):
    folder = make_run(tmp_path, 0, 10)
    executions = [
        Execution("03_toy", "lite", 0, 61.7, folder / "notebook.ipynb", folder),
        Execution("07_board", "lite", 0, 2.2, tmp_path / "executed.ipynb"),
        Execution("09_bad", "lite", 0, 1.0, tmp_path / "failed.ipynb", folder, "ValueError: x"),
    ]
    rows = [line.split() for line in summary_table(executions).splitlines()[2:]]
    assert rows[0][:8] == ["03_toy", "0", "mAP50", "90.00", "60.00", "70.00", "BEATS", "62"]
    assert rows[1][:8] == ["07_board", "0", "–", "–", "–", "–", "–", "2"]
    assert rows[2][:8] == ["09_bad", "0", "–", "–", "–", "–", "FAILED", "1"]
