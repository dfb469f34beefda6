import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdnb.datasets.kitti import KittiObject
from kdnb.datasets.kitti_boxes import corners, points_in_boxes
from kdnb.datasets.kitti_views import PreparedFrames, collate
from kdnb.errors import InputError
from kdnb.projects import kitti_pseudo_lidar as project
from kdnb.projects.arms import Result
from kdnb.projects.kitti_clouds import DepthViews, cloud_path
from kdnb.projects.kitti_experiment import Experiment, main
from kdnb.run import Run, load_settings

FINISHED = (
    "teacher",
    "teacher_swapped",
    "baseline",
    "distilled",
    "few_labels_distilled",
    "distilled_from_scratch",
    "image_blanked",
    "baseline_matched",
)


MIRRORED = [1, 0, 3, 2, 5, 4, 7, 6]  # the right corners of a box for the left ones


def settings_of(**changes):
    return load_settings(project.KittiPseudoLidarSettings, "kitti_pseudo_lidar", "smoke", **changes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def data(drawn):
    return project.open_data(settings_of(), root=drawn)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, data, drawn):
    """Arms that it trains are there for the tests that come after."""
    settings = settings_of()
    run = Run.start(project.PROJECT, "smoke", 0, tmp_path_factory.mktemp("runs"), settings)
    return Experiment(run, settings, data, drawn)


def test_all_profiles_are_valid_settings():
    for profile in ("smoke", "lite", "full"):
        settings = load_settings(project.KittiPseudoLidarSettings, "kitti_pseudo_lidar", profile)
    assert settings.depth == "hf:vinvino02/glpn-kitti" and settings.network == "full"
    assert (settings.share, settings.intensity) == (0.1, "constant")  # the original's


def test_an_unknown_setting_names_its_neighbour():
    with pytest.raises(InputError, match="did you mean 'student_steps'"):
        settings_of(student_stepz=3)


# --- data -------------------------------------------------------------------------------------------------------


def paths(frames):
    return {str(frame.image_path) for frame in frames}


def disjoint(*parts):
    return sum(map(len, map(paths, parts))) == len(set().union(*map(paths, parts)))


def test_no_test_frame_is_trained_on(data, experiment):
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 3, 4)
    assert disjoint(data.train, data.validation, data.test)
    for arm in (project.ARMS | project.ABLATION_ARMS).values():
        views, plan = experiment._batches(arm)
        assert paths(views.prepared.frames) == paths(data.train)
        assert all(0 <= index < len(data.train) for step in range(20) for index, _ in plan.batch(step))


def test_where_test_labels_are_secret_val_is_tested_on(tmp_path, data):
    root = shutil.copytree(data.root, tmp_path / "real")
    shutil.rmtree(root / "testing_label_2")
    opened = project.open_data(settings_of(validation=0.2), root)
    assert [frame.name for frame in opened.test] == KittiObject(root, "val").names
    assert (len(opened.train), len(opened.validation)) == (8, 2) and not opened.drawn
    assert disjoint(opened.train, opened.validation, opened.test)
    shutil.rmtree(root / "ImageSets")
    opened = project.open_data(settings_of(), root)
    assert [len(part) for part in (opened.train, opened.validation, opened.test)] == [6, 1, 6]
    assert disjoint(opened.train, opened.validation, opened.test)


def test_sets_that_teach_nothing_are_refused(tmp_path, data):
    root = shutil.copytree(data.root, tmp_path / "real")
    for file in (root / "training" / "label_2").iterdir():
        file.write_text("DontCare -1 -1 -10 1 1 9 9 -1 -1 -1 -1000 -1000 -1000 -10\n")
    with pytest.raises(InputError, match="not one Car, Pedestrian, Cyclist in the labels of 10 training frames"):
        project.open_data(settings_of(), root)
    shutil.rmtree(root / "training" / "label_2")
    with pytest.raises(InputError, match="no training frames with labels"):
        project.open_data(settings_of(), root)


def test_every_view_shows_the_same_street(experiment):
    """The corners of a frame's boxes stay on their pixels of the mirrored image, its points in their boxes."""
    views, _ = experiment._batches(project.Arm(points="velodyne"))
    assert views.color_jitter
    views.color_jitter, index = False, experiment.known[0]
    plain, width = views[index, "plain"], experiment.prepared["train"].annotated_image(index)["image"].shape[1]
    before, inside = on_image(corners(plain["boxes"].numpy()), plain), in_boxes(plain)
    for name, view in experiment.views.items():
        seen = views[index, name]
        ends = corners(seen["boxes"].numpy())
        after = on_image(ends[:, MIRRORED] if view.flip else ends, seen)
        assert np.allclose(after[:, 0], width - 1 - before[:, 0] if view.flip else before[:, 0], atol=0.05)
        assert np.allclose(after[:, 1], before[:, 1], atol=0.05)
        assert torch.equal(seen["image"].flip(-1) if view.flip else seen["image"], plain["image"])
        assert np.abs(in_boxes(seen) - inside).max() <= 1  # one on an edge may go astray
    with pytest.raises(InputError, match="unknown view 'crop'"):
        views[index, "crop"]


def test_every_view_has_a_light_of_its_own_but_for_the_first(experiment):
    views, _ = experiment._batches(project.Arm(points="velodyne"))
    index, names = experiment.known[0], list(experiment.views)
    assert torch.equal(
        views[index, "plain"]["image"],
        torch.from_numpy(views.prepared.annotated_image(index)["image"].copy()).permute(2, 0, 1),
    )
    first, other = (views[index, name]["image"] for name in names[:2])
    assert torch.equal(first, views[index, names[0]]["image"]) and not torch.equal(first, other)


def on_image(points, sample):
    u, v, w = sample["projection"].double().numpy() @ np.c_[points.reshape(-1, 3), np.ones(points.size // 3)].T
    return np.stack([u / w, v / w], 1)


def in_boxes(sample):
    return points_in_boxes(sample["points"].numpy(), sample["boxes"].numpy()).sum(0)


def test_points_and_boxes_fall_on_the_shrunk_image(data):
    """Everything that the camera sees keeps its place in the image when that is made smaller."""
    frame = data.train[0]
    whole, half = (PreparedFrames([frame], (0, -18, -3, 46, 18, 1), width) for width in (0, 207))
    before, after = whole.annotated_image(0), half.annotated_image(0)
    assert after["image"].shape == (62, 207, 3)
    sample = {"projection": torch.from_numpy(after["projection"])}
    u, v = on_image(half.cloud(0, "velodyne")[:, :3].astype(float), sample).T
    assert u.min() >= -0.5 and u.max() < 206.5 and v.min() >= -0.5 and v.max() < 61.5
    sample = {"projection": torch.from_numpy(before["projection"])}
    big = on_image(half.cloud(0, "velodyne")[:, :3].astype(float), sample)
    assert np.allclose((big[:, 0] + 0.5) / 2, u + 0.5) and np.allclose((big[:, 1] + 0.5) * 62 / 125, v + 0.5)


def test_an_empty_cloud_is_refused(tmp_path, data):
    empty = tmp_path / "000000.bin"
    empty.write_bytes(b"")
    frames = [dataclasses.replace(data.train[0], points_path=empty)]
    with pytest.raises(InputError, match=r"000000.bin: 0 points, none of them in the image"):
        PreparedFrames(frames, (0, -18, -3, 46, 18, 1)).cloud(0, "velodyne")
    with pytest.raises(InputError, match=r"000000.bin: no point of it lies in the image"):
        DepthViews(frames, (64, 208))[0, "plain"]


def test_depth_views_flip_image_and_depth_together(data):
    views = DepthViews(data.train, (64, 208))
    plain, flip = views[0, "plain"], views[0, "flip"]
    assert plain["image"].shape == (3, 64, 208) and 0 < (plain["depth"] > 0).float().mean() < 1
    assert all(torch.equal(plain[key].flip(-1), flip[key]) for key in ("image", "depth"))


def test_images_of_several_sizes_are_padded():
    samples = [
        {
            "image": torch.full((3, *size), 255, dtype=torch.uint8),
            "projection": torch.eye(3, 4),
            "points": torch.zeros(1, 4),
        }
        for size in ((4, 6), (5, 3))
    ]
    batch = collate(samples)
    assert batch["images"].shape == (2, 3, 5, 6) and batch["images"].sum() == 3 * (24 + 15)
    assert "ids" not in batch and "boxes" not in batch


# --- arms -------------------------------------------------------------------------------------------------------


def test_arms_are_fed_what_their_names_say(experiment):
    experiment.write_clouds()
    some = collate([_first(experiment, "teacher")[key] for key in ((0, "plain"), (1, "plain"))])
    assert "teacher_points" not in some and some["images"].any()
    for name in ("baseline", "distilled", "few_labels_distilled", "without_image"):
        views, plan = experiment._batches(experiment.arm(name))
        batch = collate([views[key] for key in plan.batch(0)])
        assert ("teacher_points" in batch) == bool(experiment.arm(name).terms)
        assert all((points[:, 3] == 0.5).all() for points in batch["points"])  # pseudo-LiDAR's constant intensity
        assert batch["images"].any() == (name != "without_image")
        half = name == "few_labels_distilled"
        assert batch["labelled"] == [True, True, not half, not half]
        assert len(batch["boxes"][0]) and (not half or len(batch["boxes"][3]) == 0)
    assert not torch.equal(batch["points"][0], some["points"][0])


def _first(experiment, name):
    return experiment._batches(experiment.arm(name))[0]


def test_every_cloud_has_its_labels(experiment):
    experiment.write_clouds()
    for split in ("train", "val"):
        frames = KittiObject(experiment.clouds, split, points="pseudo")
        assert all(frame.labels is not None and len(frame.points()) for frame in frames)
    assert all(cloud_path(experiment.clouds, frame).exists() for frame in experiment.data.test)


def test_weights_zero_train_the_baseline_bit_for_bit(tmp_path, data, drawn, experiment):
    settings = settings_of(bev_scale=0.0, logit_scale=0.0, box_scale=0.0)
    other = Experiment(Run.start(project.PROJECT, "smoke", 0, tmp_path, settings), settings, data, drawn)
    for name in ("depth", "teacher", "baseline"):
        other.arms.keep(name, experiment.train(name))
    baseline, distilled = experiment.train("baseline"), other.train("distilled")
    assert (experiment.clouds / "pseudo_lidar.json").read_text() == (other.clouds / "pseudo_lidar.json").read_text()
    for key, value in baseline.model.state_dict().items():
        assert torch.equal(value, distilled.model.state_dict()[key])
    assert [step["loss"] for step in baseline.fitted.history] == [step["loss"] for step in distilled.fitted.history]


def test_distilling_adds_three_parts_and_moves_the_student(experiment):
    baseline, distilled = experiment.train("baseline"), experiment.train("distilled")
    assert set(distilled.fitted.history[0]) - set(baseline.fitted.history[0]) == set(project.KD)
    assert all(np.isfinite(list(step.values())).all() for step in distilled.fitted.history)
    pairs = zip(baseline.model.parameters(), distilled.model.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_students_start_at_the_teachers_weights_but_for_those_from_scratch(tmp_path, data, drawn, experiment):
    settings = settings_of(lr=0.0)
    other = Experiment(Run.start(project.PROJECT, "smoke", 0, tmp_path, settings), settings, data, drawn)
    for name in ("depth", "teacher"):
        other.arms.keep(name, experiment.train(name))
    teacher = dict(experiment.train("teacher").model.named_parameters())
    for arm, same in (("baseline", True), ("distilled", True), ("baseline_from_scratch", False)):
        started = dict(other.train(arm).model.named_parameters())
        assert all(torch.equal(value, started[name]) for name, value in teacher.items()) == same


def test_swapped_and_blanked_arms_are_not_trained(experiment):
    for name, of in (("teacher_swapped", "teacher"), ("image_blanked", "baseline")):
        one, other = experiment.train(name), experiment.train(of)
        assert one.numbers["steps"] == 0 and one.numbers["train_s"] == 0
        for key, value in other.model.state_dict().items():
            assert torch.equal(value, one.model.state_dict()[key])


def test_a_finished_arm_is_read_back_not_trained_again(experiment, data, drawn):
    first = experiment.train("baseline")
    other = Experiment(experiment.run, experiment.settings, data, drawn)
    assert other.train("baseline").numbers == json.loads(json.dumps(first.numbers).replace("NaN", "null"))
    found, again = experiment.detect(first.model, "test", project.ARMS["baseline"]), other.detections("baseline")
    for frame, one in found.items():
        assert all(np.array_equal(value.numpy(), again[frame][key]) for key, value in one.items())
    assert other.train("depth").numbers["steps"] == experiment.settings.depth_steps


def test_a_weak_teacher_is_refused(tmp_path, data, drawn):
    settings = settings_of(allow_weaker_teacher=False)
    experiment = Experiment(Run.start(project.PROJECT, "smoke", 0, tmp_path, settings), settings, data, drawn)
    for name, score in (("teacher", 10.0), ("baseline", 20.0)):
        experiment.results[name] = project_result(score)
    with pytest.raises(InputError, match="teacher's validation AP3D_R40_50 10.00 is not above the student's own 20.00"):
        experiment.check_teacher()


def project_result(score):
    return Result(torch.nn.Module(), {}, {}, score)


def test_ask_finds_the_same_as_the_arm(experiment):
    """On pseudo-LiDAR the points are drawn anew, so there only the kind of answer is the same."""
    frame = experiment.data.test[0]
    answer = experiment.ask("baseline", frame.image(), frame.calibration)
    assert answer["depth"].shape == frame.image().shape[:2] and answer["points"].shape[1] == 4
    assert len(answer["boxes"]) == len(answer["scores"]) == len(answer["labels"])
    told = experiment.ask("teacher", frame.image(), frame.calibration, frame.points())
    assert told["depth"] is None
    assert np.allclose(told["scores"], experiment.detections("teacher")[frame.name]["scores"], atol=1e-4)


# --- scores -----------------------------------------------------------------------------------------------------


def test_a_perfect_detector_gets_what_so_few_objects_allow(data):
    truth = project.ground_truth(data.test)
    found = {
        frame: [dataclasses.replace(label, score=0.9) for label in labels if label.type in project.CLASSES]
        for frame, labels in truth.items()
    }
    scores = project.kitti_scores(truth, found, [(0, 20)])
    assert all(0 <= value <= 100 for value in scores.values())
    count = sum(label.type == "Car" and project.counts_as(label, "moderate") for ls in truth.values() for label in ls)
    assert scores[project.PRIMARY] == scores["AP3D_R40_70"] == pytest.approx(100 * max(0, min(count, 41) - 1) / 40)
    assert {
        "APBEV_R11_50",
        "AP3D_R40_70_hard",
        "Pedestrian_AP3D_R40_25",
        "Cyclist_APBEV_R11_50",
        "AOS_R40",
        "AP3D_R40_50_0_20m",
    } <= set(scores)


# --- headless ---------------------------------------------------------------------------------------------------


def stages(*names):
    return [option for name in names for option in ("--stage", name)]


def test_headless_smoke(tmp_path, drawn, data):
    command = [
        sys.executable,
        "-m",
        "kdnb.projects.kitti_pseudo_lidar",
        "--profile",
        "smoke",
        "--root",
        str(drawn),
        "--out",
        str(tmp_path),
        *stages(*FINISHED, "test"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "KDNB_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = Path(re.search(r"results: (.+)", done.stdout)[1])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["arms"]) == set(FINISHED) and metrics["primary"] == "AP3D_R40_50"
    assert set(metrics["comparisons"]) >= {
        "distilled_vs_baseline",
        "distilled_vs_baseline_matched",
        "distilled_vs_teacher_swapped",
        "image_blanked_vs_baseline",
    }
    teacher, student = metrics["arms"]["teacher"], metrics["arms"]["baseline"]
    assert teacher["params"] == student["params"] and student["params_depth"] > 0
    assert teacher["flops"] > 0 and student["latency_ms_depth"] > 0 and "flops_depth" not in teacher
    assert json.loads((folder / "depth.json").read_text())["RMSE"] > 0


def test_the_six_real_frames(tmp_path, real_data, capsys):
    """All three lists of a root without lists, clouds of photographs, a step of every kind."""
    with pytest.raises(SystemExit) as left:
        main(
            [
                "--profile",
                "smoke",
                "--data",
                str(real_data / "kitti"),
                "--out",
                str(tmp_path),
                *stages("teacher", "distilled", "few_labels_distilled"),
            ]
        )
    assert left.value.code == 0
    folder = Path(re.search(r"results: (.+)", capsys.readouterr().out)[1])
    assert len(list((folder / "pseudo" / "training" / "pseudo").glob("*.bin"))) == 6
    kept = {file.stem: json.loads(file.read_text()) for file in (folder / "arms").iterdir()}
    assert set(kept) == {"depth", "teacher", "baseline", "distilled", "few_labels_distilled"}
    assert kept["distilled"]["fitted"]["history"][0]["kd_bev"] > 0 and len(kept["teacher"]["answers"]) == 2


def test_too_many_few_labels_are_one_line(tmp_path, drawn, data):
    with pytest.raises(SystemExit) as left:
        main(["--profile", "smoke", "--root", str(drawn), "--out", str(tmp_path), "--set", "few_labels=10"])
    assert re.fullmatch("kdnb: few_labels is 10, expected fewer than the .* frames with objects", left.value.code)
