import dataclasses
import inspect
import json
import re
import shutil

import numpy as np
import pytest
import torch
from commands import carry_out, stages

from kdnb.datasets.depth_views import DepthViews
from kdnb.datasets.kitti import KittiObject
from kdnb.datasets.kitti_boxes import corners, points_in_boxes
from kdnb.datasets.kitti_labels import counts_as
from kdnb.datasets.kitti_views import PreparedFrames, collate
from kdnb.datasets.pseudo_lidar import pseudo_points
from kdnb.errors import InputError
from kdnb.experiment import ArmResult
from kdnb.metrics.kitti_scores import kitti_scores
from kdnb.options import load_settings
from kdnb.projects import kitti_pseudo_lidar as project
from kdnb.projects.kitti_pseudo_lidar import KittiPseudoLidar
from kdnb.projects.kitti_pseudo_lidar.__main__ import main
from kdnb.projects.kitti_pseudo_lidar.experiment import VIEWS
from kdnb.run import Run

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
    return load_settings(project.KittiPseudoLidarSettings, "smoke", **changes)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture(scope="module")
def data(rendered):
    return project.open_data(settings_of(), root=rendered)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, data, rendered):
    """Arms that it trains are there for the tests that come after."""
    return start(tmp_path_factory.mktemp("runs"), data, rendered)


def start(folder, data, root, **changes):
    settings = settings_of(**changes)
    return KittiPseudoLidar(Run.start(KittiPseudoLidar.project, "smoke", 0, folder, settings), settings, data, root)


def test_all_profiles_are_valid_settings():
    for profile in ("smoke", "lite", "full"):
        settings = load_settings(project.KittiPseudoLidarSettings, profile)
    assert settings.depth == "hf:vinvino02/glpn-kitti" and settings.network == "full"
    assert not settings.cache_teacher  # the kept outputs of 18 views of a frame would take a terabyte
    defaults = inspect.signature(pseudo_points).parameters
    assert (defaults["share"].default, defaults["intensity"].default) == (0.1, "constant")  # the original's


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
    for arm in experiment.known.values():
        if arm.network == "depth":
            continue
        views, plan, _ = experiment.batches(arm)
        assert paths(views.prepared.frames) == paths(data.train)
        assert all(0 <= index < len(data.train) for step in range(20) for index, _ in plan.batch(step))


def test_where_test_labels_are_secret_val_is_tested_on(tmp_path, data):
    root = shutil.copytree(data.root, tmp_path / "real")
    shutil.rmtree(root / "testing_label_2")
    opened = project.open_data(settings_of(validation=0.2), root)
    assert [frame.name for frame in opened.test] == KittiObject(root, "val").names
    assert (len(opened.train), len(opened.validation)) == (8, 2) and not opened.in_memory
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
    views, _, _ = experiment.batches(experiment.known["teacher"])
    assert views.color_jitter
    views.color_jitter, index = False, experiment.can_be_labelled()[0]
    plain, width = views[index, "plain"], experiment.prepared["train"].annotated_image(index)["image"].shape[1]
    before, inside = on_image(corners(plain["boxes"].numpy()), plain), in_boxes(plain)
    for name, view in VIEWS.items():
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
    views, _, _ = experiment.batches(experiment.known["teacher"])
    index, names = experiment.can_be_labelled()[0], list(VIEWS)
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
        views, plan, _ = experiment.batches(experiment.known[name])
        batch = collate([views[key] for key in plan.batch(0)])
        assert ("teacher_points" in batch) == bool(experiment.known[name].terms)
        assert all((points[:, 3] == 0.5).all() for points in batch["points"])  # pseudo-LiDAR's constant intensity
        assert batch["images"].any() == (name != "without_image")
        half = name == "few_labels_distilled"
        assert batch["labelled"] == [True, True, not half, not half]
        assert len(batch["boxes"][0]) and (not half or len(batch["boxes"][3]) == 0)
    assert not torch.equal(batch["points"][0], some["points"][0])


def _first(experiment, name):
    return experiment.batches(experiment.known[name])[0]


def test_every_cloud_has_its_labels(experiment):
    experiment.write_clouds()
    for split in ("train", "val"):
        frames = KittiObject(experiment.clouds, split, points="pseudo")
        assert all(frame.labels is not None and len(frame.points()) for frame in frames)
    assert all(project.cloud_path(experiment.clouds, frame).exists() for frame in experiment.data.test)


def test_weights_zero_train_the_baseline_bit_for_bit(tmp_path, data, rendered, experiment):
    other = start(tmp_path, data, rendered, bev_scale=0.0, logit_scale=0.0, box_scale=0.0)
    for name in ("depth", "teacher", "baseline"):
        other.store.write(name, experiment.train(name))
    baseline, distilled = experiment.train("baseline"), other.train("distilled")
    assert (experiment.clouds / "pseudo_lidar.json").read_text() == (other.clouds / "pseudo_lidar.json").read_text()
    for key, value in baseline.model.state_dict().items():
        assert torch.equal(value, distilled.model.state_dict()[key])
    assert [step["loss"] for step in baseline.training.history] == [step["loss"] for step in distilled.training.history]


def test_distilling_adds_three_parts_and_moves_the_student(experiment):
    baseline, distilled = experiment.train("baseline"), experiment.train("distilled")
    assert set(distilled.training.history[0]) - set(baseline.training.history[0]) == set(project.KD)
    assert all(np.isfinite(list(step.values())).all() for step in distilled.training.history)
    pairs = zip(baseline.model.parameters(), distilled.model.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_students_start_at_the_teachers_weights_but_for_those_from_scratch(tmp_path, data, rendered, experiment):
    other = start(tmp_path, data, rendered, lr=0.0)
    for name in ("depth", "teacher"):
        other.store.write(name, experiment.train(name))
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


def test_a_finished_arm_is_read_back_not_trained_again(experiment, data, rendered):
    first = experiment.train("baseline")
    other = KittiPseudoLidar(experiment.run, experiment.settings, data, rendered)
    assert other.train("baseline").numbers == json.loads(json.dumps(first.numbers).replace("NaN", "null"))
    detections = experiment.predict(first.model, "test", experiment.known["baseline"])
    again = other.detections("baseline")
    for frame, one in detections.items():
        assert all(np.array_equal(value.numpy(), again[frame][key]) for key, value in one.items())
    assert other.train("depth").numbers["steps"] == experiment.settings.depth_steps


def test_a_weak_teacher_is_refused(tmp_path, data, rendered):
    experiment = start(tmp_path, data, rendered, allow_weaker_teacher=False)
    for name, score in (("teacher", 10.0), ("baseline", 20.0)):
        experiment.results[name] = ArmResult(torch.nn.Module(), {}, {}, score)
    with pytest.raises(InputError, match="teacher's validation AP3D_R40_50 10.00 is not above the student's own 20.00"):
        experiment.check_teacher()


def test_a_step_on_kept_teacher_outputs_equals_a_live_one(tmp_path, data, rendered, experiment):
    """All views of all frames are kept: those that a batch shows with its colour jitter, in float16."""
    other = start(tmp_path, data, rendered, cache_teacher=True)
    for name in ("depth", "teacher", "baseline"):
        other.store.write(name, experiment.train(name))
    kept, arm, parts = other.teacher_outputs("teacher"), other.known["few_labels_distilled"], []
    views, plan, _ = other.batches(arm)
    batch = collate([views[key] for key in plan.batch(0)])
    assert kept.values["heatmap"].shape[0] == len(data.train) * len(VIEWS)
    assert len(set(batch["views"])) > 1 and not all(batch["labelled"])
    for outputs in (None, kept):
        teacher, student = other.train("teacher").model, project.build(other.settings, 0).train()
        parts.append(project.build_distiller(student, teacher, project.KD, other.settings, outputs)(batch))
    assert all(parts[0][name] > 0 for name in project.KD[:2])
    for name in parts[0]:
        assert parts[0][name].item() == pytest.approx(parts[1][name].item(), rel=5e-3)
    assert other.train("distilled").numbers["train_s"] > other.train("baseline").numbers["train_s"]  # with the filling


def test_any_image_is_predicted_like_a_test_frame(experiment):
    """On pseudo-LiDAR the points are sampled anew, so there only the kind of prediction is the same."""
    frame = experiment.data.test[0]
    student = experiment.predict_image("baseline", frame.image(), frame.calibration)
    assert student["depth"].shape == frame.image().shape[:2] and student["points"].shape[1] == 4
    assert len(student["boxes"]) == len(student["scores"]) == len(student["labels"])
    teacher = experiment.predict_image("teacher", frame.image(), frame.calibration, frame.points())
    assert teacher["depth"] is None
    assert np.allclose(teacher["scores"], experiment.detections("teacher")[frame.name]["scores"], atol=1e-4)


# --- scores -----------------------------------------------------------------------------------------------------


def test_a_perfect_detector_gets_what_so_few_objects_allow(data):
    truth = project.ground_truth(data.test)
    detections = {
        frame: [dataclasses.replace(label, score=0.9) for label in labels if label.type in project.CLASSES]
        for frame, labels in truth.items()
    }
    scores = kitti_scores(truth, detections, [(0, 20)])
    assert all(0 <= value <= 100 for value in scores.values())
    count = sum(label.type == "Car" and counts_as(label, "moderate") for ls in truth.values() for label in ls)
    assert (
        scores[KittiPseudoLidar.primary]
        == scores["AP3D_R40_70"]
        == pytest.approx(100 * max(0, min(count, 41) - 1) / 40)
    )
    assert {
        "APBEV_R11_50",
        "AP3D_R40_70_hard",
        "Pedestrian_AP3D_R40_25",
        "Cyclist_APBEV_R11_50",
        "AOS_R40",
        "AP3D_R40_50_0_20m",
    } <= set(scores)


# --- headless ---------------------------------------------------------------------------------------------------


def test_headless_smoke(tmp_path, rendered, data, capsys):
    options = ("--profile", "smoke", "--root", rendered, "--out", tmp_path)
    folder = carry_out(main, capsys, *options, *stages(*FINISHED, "test"))
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
    options = ("--profile", "smoke", "--data", real_data / "kitti", "--out", tmp_path)
    folder = carry_out(main, capsys, *options, *stages("teacher", "distilled", "few_labels_distilled"))
    assert len(list((folder / "pseudo" / "training" / "pseudo").glob("*.bin"))) == 6
    kept = {file.stem: json.loads(file.read_text()) for file in (folder / "arms").iterdir()}
    assert set(kept) == {"depth", "teacher", "baseline", "distilled", "few_labels_distilled"}
    assert kept["distilled"]["training"]["history"][0]["kd_bev"] > 0 and len(kept["teacher"]["predictions"]) == 2


def test_too_many_few_labels_are_one_line(tmp_path, rendered, data):
    with pytest.raises(SystemExit) as left:
        main(["--profile", "smoke", "--root", str(rendered), "--out", str(tmp_path), "--set", "few_labels=10"])
    assert re.fullmatch("kdnb: few_labels is 10, expected fewer than the 10 training items to label", left.value.code)
