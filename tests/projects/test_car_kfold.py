import dataclasses
import json
import re
import shutil
import signal
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TORCHRUN, carry_out, python, run_folder, stages, start, wait_for
from photographs import few_of_cars
from PIL import Image
from safetensors.torch import load_file

from kdnb.datasets.car_submissions import check_submission, read_submission
from kdnb.errors import InputError
from kdnb.experiment import Experiment
from kdnb.experiment.command import check_batch
from kdnb.metrics.classification import log_loss
from kdnb.models.classifier import build_classifier, mean_probabilities, predict_logits
from kdnb.options import load_settings
from kdnb.projects import car_kfold as project
from kdnb.projects.car_kfold.__main__ import main
from kdnb.projects.car_kfold.cost import cost_table, saved_step_times
from kdnb.run import Run

MODULE = ("-m", "kdnb.projects.car_kfold")
FOLDS = [f"fold_{number}" for number in range(1, 6)]
STUDENTS = {
    *("teacher", "ensemble", "baseline", "baseline_matched", "distilled", "distilled_cached", "distilled_best_fold"),
    *("distilled_oof", "long_baseline", "long_distilled", "few_labels_baseline", "few_labels_distilled"),
}


def settings_of(profile="smoke", **changes):
    return load_settings(project.CarKfoldSettings, profile, **changes)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture(scope="module")
def data(rendered):
    return project.open_data(settings_of(), root=rendered)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, data, rendered):
    """Arms that it trains are finished for the tests that come after."""
    settings = settings_of()
    run = Run.start(project.CarKfold.project, "smoke", 0, tmp_path_factory.mktemp("runs"), settings)
    made = project.CarKfold(run, settings, data, rendered)
    made.train("ensemble")
    made.train("teacher")
    return made


def another(tmp_path, data, rendered, start=None, seed=0, **changes):
    """A run of its own with other settings; with ``start``, it has the folds of that one."""
    settings = settings_of(**changes)
    run = Run.start(project.CarKfold.project, "smoke", seed, tmp_path, settings)
    other = project.CarKfold(run, settings, data, rendered)
    if start:
        for folder in ("cache", "predictions"):
            shutil.copytree(start.run.folder / folder, other.run.folder / folder)
        for name in (*FOLDS, "teacher", "ensemble"):
            other.store.write(name, start.train(name))
        other.results.clear()
    return other


def same_weights(one, other):
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


# --- settings and data ------------------------------------------------------------------------------------------


def test_all_profiles_are_valid_settings():
    for profile in ("smoke", "lite", "full"):
        settings = settings_of(profile)
    assert settings.teacher.backbone == "efficientnet_b5" and settings.size == (384, 384)
    assert settings.offline().teacher.pretrained is False


def test_each_image_is_validated_by_one_fold_and_each_class_by_all(experiment):
    counts = np.zeros((24, 6), int)
    np.add.at(counts, (experiment.labels, experiment.fold_of), 1)
    assert counts[:, 0].sum() == 0 and counts.sum() == 24 * 8
    assert counts[:, 1:].min() == 1 and counts[:, 1:].max() == 2  # eight images a class, shared by five folds


def test_folds_depend_on_the_seed_alone():
    labels = np.repeat(np.arange(6), 10).tolist()
    first, again, other = (project.split_folds(labels, 5, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_without_a_solution_a_part_of_training_is_held_out(tmp_path, data):
    root = Path(shutil.copytree(data.cars.root, tmp_path / "copy"))
    (root / "solution.csv").unlink()
    opened = project.open_data(settings_of(held_out=0.25), root)
    assert not opened.on_test and len(opened.scored) == 48 and len(opened.train) == 144
    assert not {path for path, _ in opened.scored} & {path for path, _ in opened.train}
    assert np.bincount([label for _, label in opened.scored]).tolist() == [2] * 24


def test_a_share_that_holds_out_too_few_is_one_line(tmp_path, data):
    root = Path(shutil.copytree(data.cars.root, tmp_path / "copy"))
    (root / "solution.csv").unlink()
    with pytest.raises(InputError, match="'held_out' is 0.1, of 192 training images fewer .* expected 0.13 or more"):
        project.open_data(settings_of(held_out=0.1), root)


def test_the_transductive_pool_warns_and_is_the_test_set(data, rendered):
    with pytest.warns(UserWarning, match="transductive: students learn from the test images"):
        opened = project.open_data(settings_of(transductive=True), root=rendered)
    assert opened.pool == list(data.cars.test_paths)


def test_an_empty_pool_is_one_line(tmp_path, rendered):
    with pytest.raises(InputError, match="setting 'unlabelled': no image below .*, expected"):
        project.open_data(settings_of(unlabelled=str(tmp_path)), root=rendered)


# --- what folds predict together --------------------------------------------------------------------------------


def test_folds_together_average_probabilities():
    logits = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mean_probabilities(logits).exp(), logits.softmax(-1).mean(0), atol=1e-6)


def test_out_of_fold_takes_the_fold_that_left_an_image_out():
    logits = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)  # folds, views, images, classes
    chosen = project.out_of_fold(logits, np.array([1, 2, 2, 1]))
    assert torch.equal(chosen[:, 0], logits[0, :, 0]) and torch.equal(chosen[:, 1], logits[1, :, 1])
    assert torch.equal(chosen[:, 3], logits[0, :, 3]) and chosen.shape == (3, 4, 5)


def test_stored_outputs_are_read_by_index_and_view(experiment):
    stored, logits = experiment.teacher_outputs("fold_1"), project.stored_logits(experiment, "fold_1")
    batch = {"views": ["aug0", "plain"], "ids": [2, 0]}
    outputs = stored.observe(batch, {"loss": torch.zeros(())}, [])
    assert torch.equal(outputs["logits"], torch.stack([logits[1, 2], logits[0, 0]]))
    with pytest.raises(InputError, match="view 'flip' is not among"):
        stored.observe({**batch, "views": ["flip", "plain"]}, {"loss": torch.zeros(())}, [])
    with pytest.raises(InputError, match="id 192 is not among the 192 items"):
        stored.observe({**batch, "ids": [2, 192]}, {"loss": torch.zeros(())}, [])


# --- folds ------------------------------------------------------------------------------------------------------


def test_a_fold_never_trains_on_its_validation_part(experiment, monkeypatch):
    indices = set()
    views = type(experiment.data.images["train"])
    read = views.read
    monkeypatch.setattr(views, "read", lambda self, index: indices.add(index) or read(self, index))
    monkeypatch.setattr(project.CarKfold, "validation_score", lambda *_: 0.0)
    monkeypatch.setattr(project.CarKfold, "result", lambda *_: None)
    for number in (1, 4):
        validation = np.flatnonzero(experiment.fold_of == number)
        indices.clear()
        experiment.train_arm(f"fold_{number}")
        assert indices and not indices & set(validation.tolist())


def test_the_teacher_is_the_mean_fold_and_the_ensemble_their_mean_probability(experiment):
    folds = [experiment.train(name) for name in FOLDS]
    teacher, ensemble = experiment.train("teacher"), experiment.train("ensemble")
    assert teacher.numbers["log_loss"] == pytest.approx(np.mean([one.numbers["log_loss"] for one in folds]))
    assert experiment.losses("teacher").mean() == pytest.approx(teacher.numbers["log_loss"])
    best = max(FOLDS, key=lambda name: experiment.train(name).validation)
    assert teacher.numbers["of"] == best and same_weights(teacher, experiment.train(best))
    mean = torch.stack([experiment.logits(name).softmax(1) for name in FOLDS]).mean(0)
    assert torch.allclose(experiment.logits("ensemble").exp(), mean, atol=1e-6)
    assert ensemble.numbers["params"] == 5 * teacher.numbers["params"]
    image = torch.from_numpy(np.array(Image.open(experiment.data.scored[3][0]))).permute(2, 0, 1)
    assert torch.allclose(experiment.predict_image(ensemble.model, image).exp(), mean[3], atol=1e-5)


def test_folds_are_not_alike(experiment):
    assert not any(same_weights(experiment.train("fold_1"), experiment.train(name)) for name in FOLDS[1:])


def test_stored_outputs_are_those_of_the_live_folds(experiment):
    views = experiment.data.views("D")
    live = predict_logits(experiment.train("ensemble").model, views, [(i, "aug1") for i in range(20)])
    stored = project.stored_logits(experiment, "ensemble")
    assert torch.allclose(stored[2, :20], live, atol=5e-3)  # kept as float16
    fold = int(experiment.fold_of[7])
    left_out = predict_logits(experiment.train(f"fold_{fold}").model, views, [(7, "plain")])
    logits = project.stored_logits(experiment, "ensemble", "out_of_fold")[0, 7]
    assert torch.allclose(logits.log_softmax(0), left_out[0].log_softmax(0), atol=5e-3)


def test_a_fold_without_advantage_is_refused(tmp_path, data, rendered, experiment):
    other = another(tmp_path, data, rendered, experiment, allow_weaker_teacher=False)
    other.train("fold_1").validation, other.train("baseline").validation = -3.0, -2.0
    with pytest.raises(InputError, match="teacher's validation -log_loss -3.00 is not above the student's own -2.00"):
        other.check_teacher()


# --- students ---------------------------------------------------------------------------------------------------


def batches(experiment, name, steps=6):
    _, plan, _ = experiment.batches(experiment.arm(name))
    return [plan.batch(step) for step in range(steps)]


def test_arms_differ_in_nothing_but_what_they_say(experiment):
    assert batches(experiment, "baseline") == batches(experiment, "distilled")
    indices = [[index for index, _ in batch] for batch in batches(experiment, "distilled_cached")]
    assert indices == [[index for index, _ in batch] for batch in batches(experiment, "distilled")]
    for name in ("distilled_best_fold", "distilled_oof"):
        assert batches(experiment, name) == batches(experiment, "distilled_cached")
    steps = {experiment.train(name).numbers["steps"] for name in ("baseline", "distilled", "distilled_oof")}
    assert len(steps) == 1
    inside = set(np.flatnonzero(experiment.fold_of != 1).tolist())
    assert {index for batch in indices for index in batch} <= inside


def test_few_labels_arms_see_so_many_labels(experiment):
    few = experiment.labelled(1)
    assert np.bincount(experiment.labels[few]).tolist() == [2] * 24 and (experiment.fold_of[few] != 1).all()
    assert {index for batch in batches(experiment, "few_labels_baseline", 20) for index, _ in batch} == set(few)
    for batch in batches(experiment, "few_labels_distilled"):
        assert len(batch) == 32 and sum(index in few for index, _ in batch) == 16


def test_a_pool_fills_half_of_the_batches_of_who_has_a_teacher(tmp_path, data, rendered, experiment):
    pool, first = tmp_path / "pool", len(data.train)
    pool.mkdir()
    for path in data.cars.test_paths[:5]:
        shutil.copy(path, pool)
    opened = project.open_data(settings_of(unlabelled=str(pool)), root=rendered)
    other = another(tmp_path, opened, rendered, experiment, unlabelled=str(pool))
    assert batches(other, "baseline") == batches(experiment, "baseline")
    for batch in batches(other, "distilled"):
        assert len(batch) == 32 and sum(first <= index < first + 5 for index, _ in batch) == 16
    assert not same_weights(other.train("distilled"), experiment.train("distilled"))


def test_arms_learn_from_the_network_that_they_name(experiment):
    ablation = dataclasses.replace(experiment.known["distilled_fold_1"], outputs="live")
    assert experiment.teacher_of(ablation).model is experiment.train("fold_1").model
    assert experiment.teacher_of(experiment.known["distilled"]).model is experiment.train("ensemble").model


def test_the_temperature_falls_with_each_epoch_down_to_one():
    at = project.cooling(settings_of("full"), 50)
    assert [at(epoch / 50) for epoch in (0, 0.9, 1, 2)] == pytest.approx([2, 2, 1.9, 1.805]) and at(1.0) == 1


def test_labels_that_may_not_be_used_change_nothing(tmp_path, data, rendered, experiment):
    """Labels of all training images but the few, those of validation apart, are changed: the arm stays as it is."""
    other = another(tmp_path, project.open_data(settings_of(), root=rendered), rendered, experiment)
    few, inside = set(experiment.labelled(1)), set(np.flatnonzero(experiment.fold_of != 1).tolist())
    items = [(path, (label + 1) % 24 if i in inside - few else label) for i, (path, label) in enumerate(data.train)]
    other.data.images["train"].items[: len(items)] = items
    assert same_weights(experiment.train("few_labels_distilled"), other.train_arm("few_labels_distilled"))
    assert not same_weights(experiment.train("baseline"), other.train_arm("baseline"))  # the control: here they count


def test_weight_zero_trains_the_baseline_bit_for_bit(tmp_path, data, rendered, experiment):
    other = another(tmp_path, data, rendered, experiment, kd_weight=0.0)
    assert same_weights(experiment.train("baseline"), other.train("distilled"))


def test_a_constant_temperature_trains_another_student(tmp_path, data, rendered, experiment):
    other = another(tmp_path, data, rendered, experiment, temperature_start=1.0)
    assert not same_weights(experiment.train("distilled"), other.train("distilled"))
    first, again = (one.train("distilled").training.history[0]["kd_kl"] for one in (experiment, other))
    assert first != again


def test_ablations_train_as_long_and_on_what_they_say(experiment):
    plain = experiment.train("baseline").numbers["steps"]
    for name, arm in experiment.ablations.items():
        numbers = experiment.train(name).numbers
        assert np.isfinite(numbers["log_loss"])
        assert numbers["steps"] == pytest.approx(arm.longer * plain, abs=1)
    scored = len(experiment.labels)  # the first of them, as there is no pool
    rows = {index for batch in batches(experiment, "transductive_half", 40) for index, _ in batch if index >= scored}
    assert rows == set(range(scored, scored + 20))  # every other one of the 40
    assert {"transductive_half_vs_distilled", "long_distilled_live_vs_long_baseline"} <= {
        f"{b}_vs_{a}" for b, a in experiment.comparisons
    }


def test_patience_ends_a_fold(tmp_path, data, rendered):
    other = another(tmp_path, data, rendered, teacher_epochs=6, curve_points=30, teacher_lr=1e-12, patience=2)
    training = other.train("fold_1").training
    assert len(training.scores) < 30 and training.steps < 6 * (other.fold_of != 1).sum() / 32


def test_the_matched_student_gets_the_steps_that_distilling_costs(experiment):
    times = saved_step_times(experiment)
    steps = experiment.train("baseline").numbers["steps"]
    longer = max(1.0, times["KD step, live"] / times["plain step"])
    expected = max(1, round(experiment.settings.student_epochs * longer * (experiment.fold_of != 1).sum() / 32))
    assert experiment.train("baseline_matched").numbers["steps"] == expected >= steps
    assert "live / stored: " in cost_table(experiment)


def test_the_student_is_a_plain_state_dict(experiment):
    experiment.train("distilled")
    saved = torch.load(experiment.run.folder / "Student_stage2_fold1_best.pth", weights_only=True)
    student = build_classifier(experiment.settings.student, 24, 4, seed=1)
    student.load_state_dict(saved)
    kept = load_file(experiment.run.folder / "weights" / "distilled.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in kept.items())


def test_a_finished_arm_is_read_back_not_trained_again(experiment, data, rendered):
    other = project.CarKfold(experiment.run, experiment.settings, data, rendered)
    for name in ("fold_2", "teacher", "ensemble", "distilled"):
        first, again = experiment.train(name), other.train(name)
        assert again.numbers == json.loads(json.dumps(first.numbers)) and same_weights(first, again)


# --- headless ---------------------------------------------------------------------------------------------------


def test_two_processes_train_score_and_hand_in_everything(tmp_path, rendered, data):
    """All stages under torchrun, down to the files that the competition wants. Scores are taken by the first process
    alone, after the other has left."""
    options = ("--profile", "smoke", "--root", rendered, "--out", tmp_path)
    printed, _ = python(*TORCHRUN, *MODULE, *options)
    assert printed.count("results: ") == 1
    folder = run_folder(printed)
    assert "live / stored" in (folder / "run.log").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["primary"] == "log_loss" and metrics["higher_is_better"] is False
    others = [f"fold_1_{letter}" for letter in "ABC"]
    assert set(metrics["arms"]) == {
        *FOLDS,
        *others,
        *STUDENTS,
        *(f"experiment_{letter}" for letter in "ABCD"),
    }
    keys = {
        "log_loss",
        "accuracy",
        "top5",
        "macro_f1",
        "calibration_error",
        "params",
        "flops",
        "latency_ms",
        "size_mb",
        "train_s",
        "steps",
    }
    assert all(keys <= set(numbers) for numbers in metrics["arms"].values())
    for name, comparison in metrics["comparisons"].items():
        b, a = name.split("_vs_")
        delta = metrics["arms"][b]["log_loss"] - metrics["arms"][a]["log_loss"]
        assert comparison["delta"] == pytest.approx(delta, abs=1e-6)
        assert (comparison["verdict"] == "BEATS") == (comparison["ci95"][1] < 0)
    sample = data.cars.root / "sample_submission.csv"
    for name in ("submission_fold5_ensemble_D.csv", "submission_fold1_ensemble_A.csv"):
        check_submission(folder / name, sample)
    ids, classes, probabilities = read_submission(folder / "submission_fold5_ensemble_D.csv")
    labels = [data.cars.solution[name] for name in ids]
    assert log_loss(probabilities, labels) == pytest.approx(metrics["arms"]["ensemble"]["log_loss"], abs=1e-5)


def test_a_run_of_another_version_is_one_line(tmp_path, rendered):
    run = Run.start(
        project.CarKfold.project, "smoke", 0, tmp_path, settings_of().model_dump(mode="json") | {"colour": 1}
    )
    with pytest.raises(SystemExit) as left:
        main(["--run", str(run.folder), "--root", str(rendered)])
    assert left.value.code.startswith(f"kdnb: unknown setting 'colour' in {run.folder}/config.yaml")


def test_a_batch_that_processes_cannot_share_is_refused_at_once():
    check_batch(settings_of(batch=5), 1)
    check_batch(settings_of(batch=16), 8)
    with pytest.raises(InputError, match="'batch' is 8, not divisible by twice the world size 8; .* multiple of 16"):
        check_batch(settings_of(batch=8), 8)


def test_all_projects_in_full_can_be_shared_by_eight_processes():
    for file in (Path(project.__file__).parents[1]).glob("*/settings.yaml"):
        values = vars(import_module(f"kdnb.projects.{file.parent.name}.experiment")).values()
        kinds = [
            one for one in values if isinstance(one, type) and issubclass(one, Experiment) and one is not Experiment
        ]
        check_batch(load_settings(kinds[0].settings_class, "full"), 8)


def test_sigkill_and_resume_end_at_the_same_weights(tmp_path, rendered, data, experiment, capsys):
    """Killed in its second fold: the first one is not trained again, the second goes on from its checkpoint."""
    whole = another(tmp_path / "whole", data, rendered, teacher_epochs=6, curve_points=12)
    change = ("--set", "teacher_epochs=6", "--set", "checkpoint_every=1", "--set", "curve_points=12")
    same = ("--root", rendered, *stages("fold_1", "fold_2"))
    killed = start(*MODULE, "--profile", "smoke", *same, "--out", tmp_path / "killed", *change)
    wait_for(lambda: list((tmp_path / "killed").glob("*/checkpoints/fold_2.pt")))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (folder,) = (tmp_path / "killed").iterdir()
    first = folder / "arms" / "fold_1.json"
    written = first.stat().st_mtime_ns
    assert not (folder / "arms" / "fold_2.json").exists()
    carry_out(main, capsys, "--run", folder, *same)
    assert first.stat().st_mtime_ns == written
    curve = json.loads((folder / "arms" / "fold_2.json").read_text())["training"]["validated"]
    assert len(curve) >= 10 and curve == json.loads(json.dumps(whole.train("fold_2").training.validated))
    again = load_file(folder / "weights" / "fold_2.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in whole.train("fold_2").model.state_dict().items())


def test_real_thumbnails_end_in_a_valid_submission(tmp_path, real_data, capsys):
    """Some of the training images, all of the test set; nothing says what those are, so a part is held out."""
    root = few_of_cars(real_data / "cars", tmp_path / "cars", test=None)
    options = ("--profile", "smoke", "--data", root, "--out", tmp_path)
    change = ("--set", "held_out=0.15", "--set", "stored_views=1")
    folder = carry_out(main, capsys, *options, *change, *stages("distilled_oof", "test"))
    submission = folder / "submission_fold5_ensemble_D.csv"
    check_submission(submission, real_data / "cars" / "sample_submission.csv")
    assert len(read_submission(submission)[0]) == 401
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["arms"]["distilled_oof"]["scored_on"].startswith("42 training images held out of all folds")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "few_labels=7"], "few_labels is 7, expected fewer than the 6 training images"),
        (["--set", "teacher={backbone: nowhere}", "--stage", "fold_1"], "backbone 'nowhere' is unknown to timm"),
        (["--set", "experiment=E"], "setting 'experiment'"),
        (["--set", "profile=lite"], "unknown setting 'profile'"),
        (["--set", "precision=half"], "setting 'precision' .* is 'half', expected 'auto', 'no', 'bf16' or 'fp16'"),
        (["--set", "batch=[1"], r"--set 'batch=\[1': not readable as YAML"),
        (["--data", "nowhere"], "parameter DATA is 'nowhere', which does not exist"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, rendered, data, options, message):
    with pytest.raises(SystemExit) as left:
        main(["--profile", "smoke", "--root", str(rendered), "--out", str(tmp_path), *options])
    assert re.match(f"kdnb: .*{message}", left.value.code) and "\n" not in left.value.code
