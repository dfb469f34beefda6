"""Copies of runs in data/evidence, and what is made of them: the README's table and the notebooks' three seeds."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from kdnb import evidence_files, files
from kdnb.cli import main
from kdnb.errors import InputError
from kdnb.evidence import Comparison, over_seeds, verdict
from kdnb.evidence_files import END, PROVENANCE, START, commands, evidence, keep, photographs, without_paths
from kdnb.options import load_settings
from kdnb.report import EVIDENCE, group_runs, published, read_run, report, three_seeds
from kdnb.run import Run, provenance
from kdnb.tables import photo_table

ROOT = Path(__file__).parents[1]
PAIRS = (
    ("distilled", "baseline"),
    ("distilled", "baseline_matched"),
    ("few_labels_distilled", "few_labels_baseline"),
)
MORE = (("distilled_kept", "kept_matched"), ("elsewhere_distilled", "elsewhere_baseline"))


def constant(delta, higher=True):
    """A difference that is the same for every item, so that its interval is a point."""
    return Comparison(delta, (delta, delta), verdict(delta, delta, higher), np.full(20, float(delta)), higher, (delta,))


def make_run(results, seed=0, gain=10.0, project="03_toy", profile="photo", pairs=PAIRS, **others):
    """A finished run whose arms without a teacher have 60 + seed, and those with one ``gain`` more."""
    settings, data = others.get("settings", {"steps": 3}), others.get("data", "/somewhere/VOCdevkit")
    run = Run.start(project, profile, seed, results, settings, data)
    cost = {"params": 540_000, "flops": 2.5e8, "latency_ms": 6.5, "train_s": 12.5, "steps": 3}
    arms = {"teacher": {"mAP50": 90.0, **cost, "params": 7_470_000, "flops": 1.2e9, "latency_ms": 61.25}}
    for taught, alone in pairs:
        arms |= {alone: {"mAP50": 60.0 + seed, **cost}, taught: {"mAP50": 60.0 + seed + gain, **cost}}
    run.save_metrics("mAP50", True, arms, {f"{b}_vs_{a}": constant(gain) for b, a in pairs}, about={"roles": {}})
    return run.folder


def make_loss_run(results, seed=0):
    """A run like 06's, whose loss should be low, of fewer arms, taught by an ensemble."""
    run = Run.start("06_loss", "photo", seed, results, {"arms": ["baseline", "distilled"]}, "cars")
    arms = {"ensemble": {"log_loss": 0.4}, "teacher": {"log_loss": 0.6}, "baseline": {"log_loss": 0.9}}
    arms["distilled"] = {"log_loss": 0.655}
    gain = {"distilled_vs_baseline": constant(-0.245, higher=False)}
    run.save_metrics("log_loss", False, arms, gain, about={"teacher": "ensemble"})
    return run.folder


def edit(folder, change):
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course's folder with a README and no evidence, as the current folder."""
    root = tmp_path / "course"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "kdnb"\n')
    (root / "README.md").write_text(f"# Course\n\n{START}\n{END}\n\nThe end.\n")
    monkeypatch.chdir(root)
    return root


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- copies -----------------------------------------------------------------------------------------------------


def test_a_copy_holds_the_numbers_and_nothing_of_the_machine(course, tmp_path):
    run = make_run(tmp_path / "results", settings={"steps": 3, "teachers_from": str(tmp_path / "results" / "other")})
    edit(run, lambda metrics: metrics["provenance"].update(host="a", user="b", cwd=str(tmp_path)))
    edit(run, lambda metrics: metrics["arms"]["teacher"].update(of=f"see {tmp_path}/weights, 3/4 of n/a"))
    (copy,) = keep([run], course)
    assert copy == course / "data" / "evidence" / "03_toy_photo_s0"
    assert {path.name for path in copy.iterdir()} == {"metrics.json", "replicates.npz", "config.yaml"}
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (run, copy))
    assert after["arms"]["distilled"] == before["arms"]["distilled"]  # steps and CPU seconds among them
    assert after["comparisons"] == before["comparisons"] and after["seed"] == 0
    assert after["arms"]["teacher"]["of"] == "see weights, 3/4 of n/a"
    kept = ("commit", "settings_sha256", "torch", "python")
    assert {name: after["provenance"][name] for name in kept} == {name: before["provenance"][name] for name in kept}
    assert after["provenance"]["data"] == "VOCdevkit"
    assert yaml.safe_load((copy / "config.yaml").read_text())["settings"] == {"steps": 3, "teachers_from": "other"}
    text = "".join((copy / name).read_text() for name in ("metrics.json", "config.yaml"))
    assert str(tmp_path) not in text and str(Path.home()) + "/" not in text
    assert not {"host", "user", "cwd"} & set(re.findall(r"\w+", text))


def test_all_that_provenance_says_is_kept():
    assert set(provenance({})) == set(PROVENANCE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/b/c.txt", "c.txt"),
        ("/data", "data"),
        ("~/runs/one", "one"),
        (r"C:\runs\one", "one"),
        ("mAP at 3/4, n/a, 1/2/3", "mAP at 3/4, n/a, 1/2/3"),
        ("results/one", "results/one"),
        ("--set 'from=\"/a/b\"' more", "--set 'from=\"b\"' more"),
    ],
)
def test_of_absolute_paths_the_last_part_is_left(text, expected):
    assert without_paths({"a": [text, 1, None]}) == {"a": [expected, 1, None]}


def test_the_intervals_of_a_copy_are_those_of_the_run_and_its_files_are_small(course, tmp_path):
    names = [f"few_labels_from_something_{k}_vs_few_labels_baseline" for k in range(25)]
    runs = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        run = Run.start("03_toy", "photo", seed, tmp_path, {"arms": ["teacher"]}, "VOC")
        rows = {name: rng.normal(k, 12, 1000) for k, name in enumerate(names)}
        rows[names[0]][rng.random(1000) < 0.1] = np.nan
        gains = {name: Comparison(float(k), (0.0, 1.0), "BEATS", rows[name]) for k, name in enumerate(names)}
        run.save_metrics("mAP50", True, {"teacher": {"mAP50": 1.0}}, gains)
        runs.append(run.folder)
    copies = keep(runs, course)
    for folder in copies:
        assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
    for name in names:
        full, copied = (over_seeds([read_run(one).comparison(name) for one in some]) for some in (runs, copies))
        assert np.abs(np.subtract(full.ci95, copied.ci95)).max() < 1e-4 < 0.01
        assert full.verdict == copied.verdict


def test_a_run_too_large_for_git_is_refused(course, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_files, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"would take \d+ KB in git, expected at most 1$"):
        keep([make_run(tmp_path)], course)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: (run / "metrics.json").unlink(), "has no metrics.json: the run is not finished; go on with --run"),
        (lambda run: (run / "config.yaml").unlink(), "has no config.yaml; expected the results folder of a run"),
        (lambda run: edit(run, lambda m: m["arms"].pop("teacher")), "is not finished: it lacks the arm 'teacher'"),
        (lambda run: edit(run, lambda m: m.update(profile="smoke")), "is a run in profile smoke"),
        (lambda run: (run / "replicates.npz").unlink(), "does not hold the replicates"),
    ],
)
def test_what_is_refused_changes_nothing(course, tmp_path, harm, message):
    good, bad = make_run(tmp_path / "results"), make_run(tmp_path / "results", seed=1)
    harm(bad)
    before = contents(course)
    done = CliRunner().invoke(main, ["publish", "--evidence", str(good), str(bad)])
    assert done.exit_code == 1 and message in done.stderr and str(bad) in done.stderr
    assert done.stderr.count("\n") == 1 and contents(course) == before


def test_an_arm_without_the_main_score_counts_as_finished(course, tmp_path):
    run = Run.start("05_toy", "photo", 0, tmp_path, {"arms": ["body", "baseline"]}, "CamVid")
    run.save_metrics("mIoU", True, {"baseline": {"mIoU": 1.0}}, {})
    with pytest.raises(InputError, match="lacks the arm 'body'"):
        keep([run.folder], course)
    assert keep([run.folder], course, unfinished=True)
    (run.folder / "arms").mkdir()
    (run.folder / "arms" / "body.json").write_text("{}")
    assert keep([run.folder], course)


def test_the_newest_run_of_a_seed_counts(course, tmp_path):
    runs = [make_run(tmp_path, gain=gain) for gain in (1.0, 2.0, 3.0)]
    for hour, run in enumerate(runs):
        edit(run, lambda m, hour=hour: m["provenance"].update(date=f"2026-01-01T0{hour}:00:00+00:00"))

    def gain():
        return read_run(course / EVIDENCE / "03_toy_photo_s0").comparisons["distilled_vs_baseline"].delta

    keep([runs[1], runs[0]], course)
    assert gain() == 2
    with pytest.raises(InputError, match="is older than the published"):
        keep([runs[0]], course)
    assert gain() == 2
    keep([runs[2]], course)
    assert gain() == 3 and len(list((course / EVIDENCE).iterdir())) == 1
    before = contents(course)
    keep([runs[2]], course)
    assert contents(course) == before


def test_an_error_leaves_the_older_copy(course, tmp_path, monkeypatch):
    keep([make_run(tmp_path, gain=1.0)], course)
    before, newer = contents(course), make_run(tmp_path, gain=2.0)

    def full_disk(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "atomic_write", full_disk)
    with pytest.raises(OSError, match="No space"):
        keep([newer], course)
    assert contents(course) == before and len(list((course / EVIDENCE).iterdir())) == 1


def test_an_error_between_the_two_renames_leaves_the_older_copy(course, tmp_path, monkeypatch):
    keep([make_run(tmp_path, gain=1.0)], course)
    before, newer, rename = contents(course), make_run(tmp_path, gain=2.0), Path.rename
    calls = []

    def second_fails(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"):
        keep([newer], course)
    assert contents(course) == before and len(list((course / EVIDENCE).iterdir())) == 1


def test_report_reads_copies_as_it_reads_runs(course, tmp_path):
    runs = [make_run(tmp_path / "results", seed, gain) for seed, gain in ((0, 10.0), (1, 12.0), (2, 14.0))]
    keep(runs, course)
    (course / EVIDENCE / ".03_toy_photo_s3.part").mkdir()  # a killed command's
    shutil.copy(course / EVIDENCE / "03_toy_photo_s0" / "metrics.json", course / EVIDENCE / ".03_toy_photo_s3.part")
    texts = [report([where], tmp_path / "r")[0].read_text() for where in (tmp_path / "results", course / EVIDENCE)]
    assert texts[0] == texts[1] and "Seeds: 0, 1, 2." in texts[0] and "+10.00 to +14.00" in texts[0]


def test_git_takes_copies_and_students():
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout")
    paths = ["data/evidence/03_voc_defeat_photo_s0/replicates.npz", "data/students/a.safetensors", "data/a/b"]
    done = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["data/a/b"]


# --- the command of a run ---------------------------------------------------------------------------------------


def test_a_project_s_command_has_its_changed_settings_and_its_ablations(course, tmp_path):
    from kdnb.projects import find_projects

    values = load_settings(find_projects()["03_voc_defeat"].settings_class, "lite").model_dump(mode="json")
    changed = {**values, "student_steps": 231, "processes": 9, "size": [64, 64]}
    longer = (*PAIRS, ("long_distilled", "long_baseline"))
    for seed, (settings, pairs) in enumerate([(values, PAIRS), (values, PAIRS), (changed, longer)]):
        keep([make_run(tmp_path, seed, 1.0, "03_voc_defeat", "lite", pairs, settings=settings)], course)
    command = "python -m kdnb.projects.voc_defeat --profile lite --data VOCdevkit"
    changes = "--set student_steps=231 --set 'size=[64, 64]' --stage all --stage long_baseline --stage long_distilled"
    assert commands(evidence(course)) == [f"{command} --seed 0 --seed 1", f"{command} {changes} --seed 2"]


def test_the_arms_that_a_run_s_settings_name_need_no_stage(course, tmp_path):
    settings = {"arms": ["baseline", "distilled", "long_distilled"]}
    pairs = (*PAIRS, ("long_distilled", "baseline"))
    keep([make_run(tmp_path, 0, 1.0, "03_voc_defeat", "lite", pairs, settings=settings)], course)
    assert "--stage" not in commands(evidence(course))[0]


def test_another_s_project_is_run_by_its_notebook(course, tmp_path):
    keep([make_run(tmp_path, seed) for seed in (0, 2)], course)
    assert commands(evidence(course)) == ["kdnb run 03 --profile photo -p DATA VOCdevkit --seeds 0,2"]


# --- the README's table -----------------------------------------------------------------------------------------


def cells(groups, row=0):
    header, rows = photo_table(groups)
    return dict(zip(header, rows[row], strict=True))


def test_three_seeds_by_hand(tmp_path):
    folders = [
        make_run(tmp_path, seed, gain, pairs=(*PAIRS, *MORE)) for seed, gain in ((0, 10.0), (1, 11.0), (2, 15.0))
    ]
    row = cells(group_runs(folders))
    assert row["photographs"] == "[03](notebooks/03_toy.ipynb)&nbsp;VOCdevkit<br><sub>seeds 0, 1, 2</sub>"
    assert row["score"] == "mAP50, %"
    assert row["teacher"] == "90.0<br><sub>90.0 to 90.0</sub>"
    assert row["student alone"] == row["few labels, alone"] == "61.0<br><sub>60.0 to 62.0</sub>"
    assert row["distilled"] == row["few labels, distilled"] == "73.0<br><sub>70.0 to 77.0</sub>"
    gain = "+12.0<br><sub>+10.0 to +15.0<br>BEATS</sub>"  # three alike are drawn in 1 of 27
    assert row["distilled − alone"] == row["few labels: distilled − alone"] == gain
    assert row["at equal seconds"] == f"{gain}<br><sub>with the teacher's outputs kept</sub><br>{gain}"
    assert row["few labels, a teacher that never saw the student's images: distilled − alone"] == gain
    lines = ["7.47 M → 540 k parameters", "1.2 G → 250 M FLOPs", "61.2 → 6.5 ms"]
    assert row["cost, teacher → student"] == "<br>".join(lines).replace(" ", "&nbsp;")


def test_one_seed_has_no_range_and_missing_arms_are_a_dash(tmp_path):
    row = cells(group_runs([make_loss_run(tmp_path, seed=4)]))
    assert row["photographs"].endswith("<sub>seed 4</sub>")
    assert row["score"] == "log loss, nats<br><sub>lower is better</sub>"
    assert (row["teacher"], row["student alone"]) == ("0.40", "0.90")  # the ensemble teaches
    assert row["distilled − alone"] == "−0.24<br><sub>−0.24 to −0.24<br>BEATS</sub>"
    missing = [title for title, cell in row.items() if cell == "–"]
    assert missing == [
        "few labels, alone",
        "few labels, distilled",
        "at equal seconds",
        "few labels: distilled − alone",
        "few labels, a teacher that never saw the student's images: distilled − alone",
        "cost, teacher → student",
    ]


def test_a_cell_of_fewer_seeds_names_them(tmp_path):
    folders = [make_run(tmp_path, 0, 10.0), make_run(tmp_path, 1, 10.0, pairs=(*PAIRS, MORE[1]))]
    row = cells(group_runs(folders))
    assert row["photographs"].endswith("seeds 0, 1</sub>")
    last = row["few labels, a teacher that never saw the student's images: distilled − alone"]
    assert last == "+10.0<br><sub>+10.0 to +10.0<br>BEATS<br>seed 1 only</sub>"


def test_a_row_for_each_project(tmp_path):
    groups = group_runs([make_loss_run(tmp_path), make_run(tmp_path)])
    header, rows = photo_table(groups)
    assert [row[0][1:3] for row in rows] == ["03", "06"] and {len(row) for row in rows} == {len(header)}


def test_the_command_writes_the_table_between_the_markers(course, tmp_path):
    runs = [str(make_run(tmp_path, seed)) for seed in (0, 1)] + [str(make_run(tmp_path, profile="lite"))]
    done = CliRunner().invoke(main, ["publish", "--evidence", *runs])
    assert done.exit_code == 0, done.output
    assert done.output.count("published: ") == 3 and done.output.count("written: ") == 2
    text = (course / "README.md").read_text()
    block = text.split(START)[1].split(END)[0]
    assert text.startswith(f"# Course\n\n{START}\n") and text.endswith(f"{END}\n\nThe end.\n")
    assert block.strip() == photographs(evidence(course))
    assert "\n\n| photographs | score | teacher |" in block and block.count("\n| [03]") == 1
    assert "kdnb run 03 --profile photo -p DATA VOCdevkit --seeds 0,1\n" in block and "one seed" not in block
    longer = (course / EVIDENCE / "README.md").read_text()
    assert "## 03_toy, photo, data VOCdevkit" in longer and "## 03_toy, lite, data VOCdevkit" in longer
    before = contents(course)
    assert CliRunner().invoke(main, ["publish", "--evidence"]).exit_code == 0  # renews the tables alone
    assert contents(course) == before


def test_seeds_of_different_code_are_told_apart(tmp_path):
    folders = [make_run(tmp_path, seed) for seed in (0, 1)]
    edit(folders[0], lambda metrics: metrics["provenance"].update(commit="other"))
    block = photographs(group_runs(folders))
    assert "\n\n03: Careful: the seeds were not run with the same code.\n\n" in block
    assert "one seed says nothing" in photographs(group_runs(folders[:1]))


def test_nothing_is_visible_without_photographs(course, tmp_path):
    before = contents(course)
    assert CliRunner().invoke(main, ["publish", "--evidence"]).exit_code == 0
    assert contents(course) == before
    assert photographs(group_runs([make_run(tmp_path, profile="lite")])) == ""


def test_a_readme_without_markers_is_refused(course):
    (course / "README.md").write_text(f"{END}\n{START}\n")
    done = CliRunner().invoke(main, ["publish", "--evidence"])
    assert done.exit_code == 1 and "README.md lacks the lines" in done.stderr and done.stderr.count("\n") == 1


def test_several_notebooks_are_no_evidence(course):
    done = CliRunner().invoke(main, ["publish", "03", "05"])
    assert done.exit_code == 1 and "2 notebooks to publish, expected one" in done.stderr


# --- for notebooks ----------------------------------------------------------------------------------------------


def test_a_notebook_finds_the_published_runs(course, tmp_path, monkeypatch):
    keep([make_run(tmp_path, seed) for seed in (2, 0, 10)], course)
    keep([make_run(tmp_path, project="05_toy"), make_run(tmp_path, profile="lite")], course)
    for place in (course, course / "notebooks"):
        monkeypatch.chdir(place)
        for name in ("03", "3", "03_toy"):
            assert [(run.project, run.profile, run.seed) for run in published(name)] == [
                ("03_toy", "photo", seed) for seed in (0, 2, 10)
            ]
    assert [run.profile for run in published("03", "lite")] == ["lite"]
    with pytest.raises(InputError, match="holds no run of 04 in profile photo; expected one for each seed"):
        published("04")


def test_runs_on_several_data_sets_are_no_three_seeds(course, tmp_path):
    keep([make_run(tmp_path), make_run(tmp_path, 1, data="other")], course)
    with pytest.raises(InputError, match="on VOCdevkit, other; expected one data set"):
        published("03")


def test_a_course_without_evidence_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdnb.report.__file__", str(tmp_path / "site" / "kdnb" / "report.py"))
    with pytest.raises(InputError, match="no folder data.evidence in .*; expected the published runs") as caught:
        published("03")
    assert "\n" not in str(caught.value)


def test_the_table_of_three_seeds_by_hand(course, tmp_path):
    folders = [make_run(tmp_path, 0, 10.0), make_run(tmp_path, 1, 12.0, pairs=(*PAIRS, MORE[1]))]
    keep(folders, course)
    table = three_seeds("03")
    assert list(table.columns) == ["seed 0", "seed 1", "mean", "95 % interval", "verdict"]
    assert table.loc["teacher"].tolist() == ["90.00", "90.00", "90.00", "", ""]
    assert table.loc["student alone"].tolist() == ["60.00", "61.00", "60.50", "", ""]
    assert table.loc["distilled"].tolist() == ["70.00", "73.00", "71.50", "", ""]
    assert table.loc["distilled − alone"].tolist() == ["+10.00", "+12.00", "+11.00", "+10.00 to +12.00", "BEATS"]
    assert table.iloc[-1].tolist() == ["–", "+12.00", "+12.00", "+12.00 to +12.00", "BEATS"]
    assert table.index[-1] == "few labels, a teacher that never saw the student's images: distilled − alone"
