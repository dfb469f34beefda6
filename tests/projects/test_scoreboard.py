"""Which runs the scoreboard takes, what it says about those it cannot, and networks read back from a run's folder."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdnb.errors import InputError
from kdnb.evidence import mean_metric, paired_bootstrap
from kdnb.options import load_settings
from kdnb.projects import scoreboard
from kdnb.projects.talk2car_grounding import Talk2CarGrounding, Talk2CarGroundingSettings
from kdnb.projects.voc_defeat import VocDefeat
from kdnb.report import read_run
from kdnb.run import Run


def make_run(results, project, profile="lite", seed=0, data=None):
    run = Run.start(project, profile, seed, results, {"steps": 3}, data)
    better = paired_bootstrap(mean_metric(np.full(9, 60.0)), mean_metric(np.full(9, 70.0)), 9, 20)
    arms = {name: {"mAP50": 60.0} for name in ("teacher", "baseline", "distilled")}
    run.save_metrics("mAP50", True, arms, {"distilled_vs_baseline": better})
    return run.folder


def test_the_profile_asked_for_counts_else_the_newest(tmp_path):
    make_run(tmp_path, "03_voc_defeat", "lite")
    make_run(tmp_path, "03_voc_defeat", "smoke")
    make_run(tmp_path, "01_coco_alignment", "lite")
    newest = make_run(tmp_path, "01_coco_alignment", "full")
    newest.rename(tmp_path / "result_99990101_000000_01_coco_alignment_full_s0")
    make_run(tmp_path, "00_distillation_primer", "lite")
    runs, faults = scoreboard.find_runs(tmp_path, "lite")
    assert [key[:2] for key in runs] == [("01_coco_alignment", "lite"), ("03_voc_defeat", "lite")] and faults == []
    runs, _ = scoreboard.find_runs(tmp_path, "smoke")
    assert [key[:2] for key in runs] == [("01_coco_alignment", "full"), ("03_voc_defeat", "smoke")]
    assert scoreboard.missing(runs) == [
        "02_talk2car_grounding",
        "04_kitti_pseudo_lidar",
        "05_camvid_prompt_kd",
        "06_car_5fold_kd",
    ]


def test_seeds_are_merged_and_the_newer_run_of_a_seed_counts(tmp_path):
    make_run(tmp_path, "03_voc_defeat", seed=0)
    newer = make_run(tmp_path, "03_voc_defeat", seed=0)
    make_run(tmp_path, "03_voc_defeat", seed=1)
    (runs,) = scoreboard.find_runs(tmp_path, "lite")[0].values()
    assert [run.seed for run in runs] == [0, 1] and runs[0].folder == newer


def test_a_broken_run_is_named_and_passed_over(tmp_path):
    broken = make_run(tmp_path, "03_voc_defeat")
    (broken / "metrics.json").write_text("{")
    make_run(tmp_path, "03_voc_defeat", seed=1)
    runs, faults = scoreboard.find_runs(tmp_path, "lite")
    assert [run.seed for run in runs["03_voc_defeat", "lite", "drawn"]] == [1]
    assert len(faults) == 1 and str(broken) in faults[0]


def test_nothing_is_found_where_nothing_is(tmp_path):
    runs, faults = scoreboard.find_runs(tmp_path / "none", "lite")
    assert runs == {} and faults == [] and len(scoreboard.missing(runs)) == 6


def test_a_run_that_fails_says_why(tmp_path, monkeypatch):
    kinds = {"03_voc_defeat": SimpleNamespace(__module__="nothing_at_all.experiment")}
    monkeypatch.setattr("kdnb.projects.scoreboard.scoreboard.projects", lambda: kinds)
    with pytest.raises(InputError, match="03_voc_defeat in smoke ended with status 1: .*No module named .*nothing"):
        scoreboard.run_in_smoke("03_voc_defeat", tmp_path, tmp_path)


def test_what_cannot_be_reopened_is_left_out_with_the_reason(tmp_path):
    make_run(tmp_path, "03_voc_defeat", data=tmp_path / "VOCdevkit")
    (make_run(tmp_path, "05_camvid_prompt_kd") / "config.yaml").unlink()
    make_run(tmp_path, "01_coco_alignment")
    opened, left_out = scoreboard.reopen_all(scoreboard.find_runs(tmp_path, "lite")[0], tmp_path)
    assert opened == {} and list(left_out) == ["03_voc_defeat", "05_camvid_prompt_kd"]  # 01 has no frame to look at
    assert "learned from VOCdevkit, expected a run on rendered data" in left_out["03_voc_defeat"]
    assert "config.yaml: no such file" in left_out["05_camvid_prompt_kd"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """(results, root) with one small run of 03, finished."""
    results, root = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("root")
    few = {"train_images": 12, "test_images": 3, "few_labels": 2}
    experiment = VocDefeat.start("smoke", 0, None, results, root, **few)
    for arm in ("teacher", "baseline", "distilled"):
        experiment.train(arm)
    experiment.save()
    return results, root


def test_reopened_networks_predict_what_they_did_in_the_run(smoke):
    results, root = smoke
    (runs,) = scoreboard.find_runs(results, "lite")[0].values()
    opened = scoreboard.reopen(runs[0], root)
    item = opened.data.test[0]
    kept = json.loads((runs[0].folder / "arms" / "distilled.json").read_text())["predictions"][item["id"]]
    with torch.no_grad():
        detections = opened.train("distilled").model.eval()([item["image"].float() / 255])[0]
    assert len(kept["scores"]) > 0 and np.allclose(detections["scores"], kept["scores"], atol=1e-4)
    assert set(opened.results) == {"teacher", "distilled"}  # nothing else was read, nothing trained


def test_a_run_without_an_arm_is_refused_and_not_trained_anew(smoke, tmp_path):
    results, root = smoke
    (runs,) = scoreboard.find_runs(results, "lite")[0].values()
    record = runs[0].folder / "arms" / "distilled.json"
    record.rename(tmp_path / "away.json")
    try:
        with pytest.raises(InputError, match="no arm 'distilled' in arms/"):
            scoreboard.reopen(read_run(runs[0].folder), root)
    finally:
        (tmp_path / "away.json").rename(record)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("config.yaml", lambda path: path.write_text(path.read_text().replace("curve_points", "kurve_points"))),
        ("weights/distilled.safetensors", lambda path: path.unlink()),
        ("weights/distilled.safetensors", lambda path: path.write_bytes(b"no tensors")),
    ],
)
def test_a_run_of_another_version_is_left_out(smoke, name, fault):
    results, root = smoke
    (runs,) = scoreboard.find_runs(results, "lite")[0].values()
    path = runs[0].folder / name
    before = path.read_bytes()
    fault(path)
    try:
        with pytest.raises(InputError, match="cannot be read back .*, expected a run of this version") as caught:
            scoreboard.reopen(runs[0], root)
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(before)


def test_02_is_left_out_where_the_networks_of_01_are_gone(tmp_path):
    project, settings = Talk2CarGrounding.project, load_settings(Talk2CarGroundingSettings, "smoke")
    folder = make_run(tmp_path, project, "smoke")
    other = Run.start(project, "smoke", 0, tmp_path / "other", settings)
    (other.folder / "config.yaml").rename(folder / "config.yaml")
    with pytest.raises(InputError, match="run 01 in profile smoke with seed 0 first"):
        scoreboard.reopen(read_run(folder), tmp_path / "data")
    assert not (tmp_path / "data").exists()  # nothing was rendered before that was known
