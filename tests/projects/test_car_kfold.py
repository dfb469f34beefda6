import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kdnb.datasets.car_submissions import check_submission, read_submission
from kdnb.errors import InputError
from kdnb.metrics.classification import log_loss
from kdnb.models.classifier import CarClassifier, mean_probabilities
from kdnb.projects import car_kfold as project
from kdnb.projects.car_answers import StoredAnswers, answers, out_of_fold
from kdnb.projects.car_experiment import Experiment, main
from kdnb.projects.car_outcome import cost_table, step_times
from kdnb.projects.headless import check_shares
from kdnb.run import Run, load_settings

FOLDS = [f"fold_{number}" for number in range(1, 6)]


def settings_of(profile="smoke", **changes):
    return load_settings(project.CarKfoldSettings, "car_kfold", profile, **changes)


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
    made = Experiment(run, settings, data, drawn)
    made.train("ensemble")
    made.train("teacher")
    return made


def another(tmp_path, data, drawn, start=None, seed=0, **changes):
    """A run of its own with other settings; with ``start``, it has the folds of that one."""
    settings = settings_of(**changes)
    other = Experiment(Run.start(project.PROJECT, "smoke", seed, tmp_path, settings), settings, data, drawn)
    if start:
        for folder in ("cache", "predictions"):
            shutil.copytree(start.run.folder / folder, other.run.folder / folder)
        for name in (*FOLDS, "teacher", "ensemble"):
            other.arms.keep(name, start.train(name))
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


def test_every_picture_is_validated_by_one_fold_and_every_class_by_all(experiment):
    counts = np.zeros((24, 6), int)
    np.add.at(counts, (experiment.labels, experiment.fold_of), 1)
    assert counts[:, 0].sum() == 0 and counts.sum() == 24 * 8
    assert counts[:, 1:].min() == 1 and counts[:, 1:].max() == 2  # eight pictures a class, shared by five folds


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
    with pytest.raises(InputError, match="'held_out' is 0.1, of 192 training pictures fewer .* expected 0.13 or more"):
        project.open_data(settings_of(held_out=0.1), root)


def test_the_transductive_pool_warns_and_is_the_test_set(data, drawn):
    with pytest.warns(UserWarning, match="transductive: students learn from the test pictures"):
        opened = project.open_data(settings_of(transductive=True), root=drawn)
    assert opened.pool == list(data.cars.test_paths)


def test_an_empty_pool_is_one_line(tmp_path, drawn):
    with pytest.raises(InputError, match="setting 'unlabelled': no picture below .*, expected"):
        project.open_data(settings_of(unlabelled=str(tmp_path)), root=drawn)


# --- answers ----------------------------------------------------------------------------------------------------


def test_folds_together_average_probabilities():
    logits = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mean_probabilities(logits).exp(), logits.softmax(-1).mean(0), atol=1e-6)


def test_out_of_fold_takes_the_fold_that_left_a_picture_out():
    logits = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)  # folds, views, pictures, classes
    found = out_of_fold(logits, np.array([1, 2, 2, 1]))
    assert torch.equal(found[:, 0], logits[0, :, 0]) and torch.equal(found[:, 1], logits[1, :, 1])
    assert torch.equal(found[:, 3], logits[0, :, 3]) and found.shape == (3, 4, 5)


def test_stored_answers_refuse_what_they_do_not_hold():
    stored = StoredAnswers(torch.arange(12.0).reshape(2, 3, 2), ["plain", "aug0"])
    batch = {"views": ["aug0", "plain"], "indices": torch.tensor([2, 0])}
    seen = stored.observe(batch, {"loss": torch.zeros(())}, [])
    assert seen["logits"].tolist() == [[10, 11], [0, 1]]
    with pytest.raises(InputError, match="view 'flip' was not answered"):
        stored.observe({**batch, "views": ["flip", "plain"]}, {"loss": torch.zeros(())}, [])
    with pytest.raises(InputError, match="picture 3 was not answered"):
        stored.observe({**batch, "indices": torch.tensor([2, 3])}, {"loss": torch.zeros(())}, [])


# --- folds ------------------------------------------------------------------------------------------------------


def test_a_fold_never_trains_on_its_validation_part(experiment, monkeypatch):
    seen = set()
    views = experiment._pictures["learned"].__class__
    read = views.read
    monkeypatch.setattr(views, "read", lambda self, index: seen.add(index) or read(self, index))
    monkeypatch.setattr(Experiment, "_keep", lambda self, name, result: result)
    monkeypatch.setattr(Experiment, "_keep_answers", lambda self, name, answered: None)
    monkeypatch.setattr(Experiment, "_answers_to", lambda self, what, model, letter: torch.zeros(len(self.truth), 24))
    monkeypatch.setattr(Experiment, "_store_views", lambda self, name, result: None)
    monkeypatch.setattr("kdnb.projects.car_experiment.answers", lambda *_: torch.zeros(len(validation), 24))
    for number in (1, 4):
        validation = np.flatnonzero(experiment.fold_of == number)
        seen.clear()
        experiment._fit_fold(f"fold_{number}")
        assert seen and not seen & set(validation.tolist())


def test_the_teacher_is_the_mean_fold_and_the_ensemble_their_mean_probability(experiment):
    folds = [experiment.train(name) for name in FOLDS]
    teacher, ensemble = experiment.train("teacher"), experiment.train("ensemble")
    assert teacher.numbers["log_loss"] == pytest.approx(np.mean([one.numbers["log_loss"] for one in folds]))
    assert experiment.losses("teacher").mean() == pytest.approx(teacher.numbers["log_loss"])
    best = max(FOLDS, key=lambda name: experiment.train(name).validation)
    assert teacher.numbers["of"] == best and same_weights(teacher, experiment.train(best))
    said = torch.stack([experiment.answered(name)["scored"].softmax(1) for name in FOLDS]).mean(0)
    assert torch.allclose(experiment.answered("ensemble")["scored"].exp(), said, atol=1e-6)
    assert ensemble.numbers["params"] == 5 * teacher.numbers["params"]
    picture = experiment._pictures["scored"].items[3][0]
    asked = experiment.ask(ensemble.model, torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1))
    assert torch.allclose(asked.exp(), said[3], atol=1e-5)


def test_folds_are_not_alike(experiment):
    assert not any(same_weights(experiment.train("fold_1"), experiment.train(name)) for name in FOLDS[1:])


def test_stored_answers_are_those_of_the_live_folds(experiment):
    views = experiment.learned()
    live = answers(experiment.train("ensemble").model, views, [(i, "aug1") for i in range(20)])
    assert torch.allclose(experiment.stored_answers("ensemble")[2, :20], live, atol=5e-3)  # kept as float16
    fold = int(experiment.fold_of[7])
    left_out = answers(experiment.train(f"fold_{fold}").model, views, [(7, "plain")])
    said = experiment.stored_answers("out_of_fold")[0, 7]
    assert torch.allclose(said.log_softmax(0), left_out[0].log_softmax(0), atol=5e-3)


def test_a_fold_without_advantage_is_refused(tmp_path, data, drawn, experiment):
    other = another(tmp_path, data, drawn, experiment, allow_weaker_teacher=False)
    other.train("fold_1").validation, other.train("baseline").validation = -3.0, -2.0
    with pytest.raises(InputError, match="teacher's -log_loss .* -3.00 is not above the student's own -2.00"):
        other.check_teacher()


# --- students ---------------------------------------------------------------------------------------------------


def batches(experiment, name, steps=6):
    plan = experiment.plan(experiment.arm(name))
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
    few = experiment.few
    assert np.bincount(experiment.labels[few]).tolist() == [2] * 24 and (experiment.fold_of[few] != 1).all()
    assert {index for batch in batches(experiment, "few_labels_baseline", 20) for index, _ in batch} == set(few)
    for batch in batches(experiment, "few_labels_distilled"):
        assert len(batch) == 32 and sum(index in few for index, _ in batch) == 16


def test_a_pool_fills_half_of_the_batches_of_who_has_a_teacher(tmp_path, data, drawn, experiment):
    pool, first = tmp_path / "pool", len(data.train)
    pool.mkdir()
    for path in data.cars.test_paths[:5]:
        shutil.copy(path, pool)
    opened = project.open_data(settings_of(unlabelled=str(pool)), root=drawn)
    other = another(tmp_path, opened, drawn, experiment, unlabelled=str(pool))
    assert batches(other, "baseline") == batches(experiment, "baseline")
    for batch in batches(other, "distilled"):
        assert len(batch) == 32 and sum(first <= index < first + 5 for index, _ in batch) == 16
    assert not same_weights(other.train("distilled"), experiment.train("distilled"))


def test_only_stored_answers_come_from_another_fold_for_each_picture(experiment):
    with pytest.raises(InputError, match="a live teacher 'out_of_fold', expected one of ensemble, best_fold, fold_1"):
        experiment.teacher_of(project.Arm("out_of_fold"))
    assert experiment.teacher_of(project.Arm("fold_1")).model is experiment.train("fold_1").model


def test_the_temperature_falls_with_each_epoch_down_to_one():
    at = project.cooling(settings_of("full"), 50)
    assert [at(epoch / 50) for epoch in (0, 0.9, 1, 2)] == pytest.approx([2, 2, 1.9, 1.805]) and at(1.0) == 1


def test_labels_that_may_not_be_used_change_nothing(tmp_path, data, drawn, experiment):
    """Labels of all training pictures but the few, those of validation apart, are turned: the arm stays as it is."""
    other = another(tmp_path, data, drawn, experiment)
    few, inside = set(experiment.few), set(np.flatnonzero(experiment.fold_of != 1).tolist())
    items = [(path, (label + 1) % 24 if i in inside - few else label) for i, (path, label) in enumerate(data.train)]
    other._pictures["learned"].items[: len(items)] = items
    assert same_weights(experiment.train("few_labels_distilled"), other._fit("few_labels_distilled"))
    assert not same_weights(experiment.train("baseline"), other._fit("baseline"))  # the control: here they count


def test_weight_zero_trains_the_baseline_bit_for_bit(tmp_path, data, drawn, experiment):
    other = another(tmp_path, data, drawn, experiment, kd_weight=0.0)
    assert same_weights(experiment.train("baseline"), other.train("distilled"))


def test_a_constant_temperature_trains_another_student(tmp_path, data, drawn, experiment):
    other = another(tmp_path, data, drawn, experiment, temperature_start=1.0)
    assert not same_weights(experiment.train("distilled"), other.train("distilled"))
    first, again = (one.train("distilled").fitted.history[0]["kd_kl"] for one in (experiment, other))
    assert first != again


def test_ablations_train_as_long_and_on_what_they_say(experiment):
    plain = experiment.train("baseline").numbers["steps"]
    for name, arm in project.ABLATION_ARMS.items():
        numbers = experiment.train(name).numbers
        assert np.isfinite(numbers["log_loss"])
        assert numbers["steps"] == pytest.approx((arm.longer or experiment.settings.long) * plain, abs=1)
    scored = len(experiment.labels)  # the first of them, as there is no pool
    rows = {index for batch in batches(experiment, "transductive_half", 40) for index, _ in batch if index >= scored}
    assert rows == set(range(scored, scored + 20))  # every other one of the 40
    assert {"transductive_half_vs_distilled", "long_distilled_live_vs_long_baseline"} <= {
        f"{b}_vs_{a}" for b, a in project.COMPARISONS
    }


def test_patience_ends_a_fold(tmp_path, data, drawn):
    other = another(tmp_path, data, drawn, teacher_epochs=6, curve_points=30, teacher_lr=1e-12, patience=2)
    fitted = other.train("fold_1").fitted
    assert len(fitted.scores) < 30 and fitted.steps < 6 * (other.fold_of != 1).sum() / 32


def test_the_matched_student_gets_the_steps_that_distilling_costs(experiment):
    times = step_times(experiment)
    steps = experiment.train("baseline").numbers["steps"]
    longer = max(1.0, times["KD step, live"] / times["plain step"])
    expected = max(1, round(experiment.settings.student_epochs * longer * (experiment.fold_of != 1).sum() / 32))
    assert experiment.train("baseline_matched").numbers["steps"] == expected >= steps
    assert "KD step, cached" in cost_table(experiment)


def test_the_student_is_a_plain_state_dict(experiment):
    experiment.train("distilled")
    saved = torch.load(experiment.run.folder / "Student_stage2_fold1_best.pth", weights_only=True)
    network = experiment.settings.student
    student = CarClassifier(network.backbone, 24, 4, network.hidden, network.dropout, **network.options)
    student.load_state_dict(saved)
    kept = load_file(experiment.run.folder / "weights" / "distilled.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in kept.items())


def test_a_finished_arm_is_read_back_not_trained_again(experiment, data, drawn):
    other = Experiment(experiment.run, experiment.settings, data, drawn)
    for name in ("fold_2", "teacher", "ensemble", "distilled"):
        first, again = experiment.train(name), other.train(name)
        assert again.numbers == json.loads(json.dumps(first.numbers)) and same_weights(first, again)


# --- headless ---------------------------------------------------------------------------------------------------


def stages(*names):
    return [option for name in names for option in ("--stage", name)]


def carried_out(capsys, *options):
    """The folder of a run that ended well."""
    with pytest.raises(SystemExit) as left:
        main(options)
    assert left.value.code == 0
    return Path(re.search(r"results: (.+)", capsys.readouterr().out)[1])


def test_headless_smoke(tmp_path, drawn, data, capsys):
    """Everything, down to the files that the competition wants."""
    folder = carried_out(capsys, "--profile", "smoke", "--root", str(drawn), "--out", str(tmp_path))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["primary"] == "log_loss" and metrics["higher_is_better"] is False
    others = [f"fold_1_{letter}" for letter in "ABC"]
    assert set(metrics["arms"]) == {
        *FOLDS,
        *others,
        "teacher",
        "ensemble",
        *project.ARMS,
        "baseline_matched",
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
    ids, classes, said = read_submission(folder / "submission_fold5_ensemble_D.csv")
    labels = [data.cars.solution[name] for name in ids]
    assert log_loss(said, labels) == pytest.approx(metrics["arms"]["ensemble"]["log_loss"], abs=1e-5)


def test_a_run_of_another_version_is_one_line(tmp_path, drawn):
    run = Run.start(project.PROJECT, "smoke", 0, tmp_path, settings_of().model_dump(mode="json") | {"colour": 1})
    with pytest.raises(SystemExit) as left:
        main(["--run", str(run.folder), "--root", str(drawn)])
    assert left.value.code.startswith(f"kdnb: unknown setting 'colour' in {run.folder}/config.yaml")


def test_a_batch_that_processes_cannot_share_is_refused_at_once():
    check_shares(settings_of(batch=5), 1)
    check_shares(settings_of(batch=16), 8)
    with pytest.raises(InputError, match="setting 'batch' is 8, halves of which 8 processes cannot share; .* of 16"):
        check_shares(settings_of(batch=8), 8)


def test_every_project_in_full_can_be_shared_by_eight_processes():
    for path in (Path(project.__file__).parents[1] / "settings").glob("[!p]*.yaml"):
        found = [
            value
            for name, value in vars(import_module(f"kdnb.projects.{path.stem}")).items()
            if name.endswith("Settings") and name != "Settings"
        ]
        check_shares(load_settings(found[0], path.stem, "full"), 8)


def test_two_processes_score_and_hand_in_what_they_have_trained(tmp_path, drawn):
    """Scores are taken by the first process alone, after the other has left."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "kdnb.projects.car_kfold",
        "--profile",
        "smoke",
        "--root",
        str(drawn),
        "--out",
        str(tmp_path),
        *stages("all"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "KDNB_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = next(tmp_path.glob("result_*"))
    assert set(project.ARMS) < set(json.loads((folder / "metrics.json").read_text())["arms"])
    assert "live / cached" in (folder / "run.log").read_text()


def test_sigkill_and_resume_end_at_the_same_weights(tmp_path, drawn, data, experiment, capsys):
    """Killed in its second fold: the first one is not trained again, the second goes on from its checkpoint."""
    command = [
        sys.executable,
        "-m",
        "kdnb.projects.car_kfold",
        "--profile",
        "smoke",
        "--root",
        str(drawn),
        "--out",
        str(tmp_path / "killed"),
        *stages("fold_1", "fold_2"),
        "--set",
        "teacher_epochs=6",
        "--set",
        "checkpoint_every=1",
        "--set",
        "curve_points=12",
    ]
    whole = another(tmp_path / "whole", data, drawn, teacher_epochs=6, curve_points=12)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KDNB_THREADS": "1"}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("*/checkpoints/fold_2.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (folder,) = (tmp_path / "killed").iterdir()
    first = folder / "arms" / "fold_1.json"
    written = first.stat().st_mtime_ns
    assert not (folder / "arms" / "fold_2.json").exists()
    carried_out(capsys, "--run", str(folder), "--root", str(drawn), *stages("fold_1", "fold_2"))
    assert first.stat().st_mtime_ns == written
    curve = json.loads((folder / "arms" / "fold_2.json").read_text())["answers"]["curve"]
    assert len(curve) >= 10 and curve == json.loads(json.dumps(whole.train("fold_2").answers["curve"]))
    again = load_file(folder / "weights" / "fold_2.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in whole.train("fold_2").model.state_dict().items())


def test_real_thumbnails_end_in_a_valid_submission(tmp_path, real_data, capsys):
    """Some of the training pictures, all of the test set; nothing says what those are, so a part is held out."""
    real, root = real_data / "cars", tmp_path / "cars"
    for folder in sorted((real / "train").iterdir()):
        (root / "train" / folder.name).mkdir(parents=True)
        for picture in sorted(folder.iterdir())[:7]:
            (root / "train" / folder.name / picture.name).symlink_to(picture)
    for name in ("test", "test.csv", "sample_submission.csv"):
        (root / name).symlink_to(real / name)
    folder = carried_out(
        capsys,
        "--profile",
        "smoke",
        "--data",
        str(root),
        "--out",
        str(tmp_path),
        "--set",
        "held_out=0.15",
        "--set",
        "stored_views=1",
        *stages("distilled_oof", "test"),
    )
    submission = folder / "submission_fold5_ensemble_D.csv"
    check_submission(submission, real / "sample_submission.csv")
    assert len(read_submission(submission)[0]) == 401
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["arms"]["distilled_oof"]["scored_on"].startswith("42 training pictures held out of all folds")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "few_labels=7"], "few_labels is 7, expected fewer than the 6 training pictures"),
        (["--set", "teacher={backbone: nowhere}", "--stage", "fold_1"], "backbone 'nowhere' is unknown to timm"),
        (["--set", "experiment=E"], "setting 'experiment'"),
        (["--set", "profile=lite"], "unknown setting 'profile'"),
        (["--set", "precision=half"], "setting 'precision' .* is 'half', expected 'auto', 'no', 'bf16' or 'fp16'"),
        (["--set", "batch=[1"], r"--set 'batch=\[1': not readable as YAML"),
        (["--data", "nowhere"], "parameter DATA is 'nowhere', which does not exist"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, drawn, data, options, message):
    with pytest.raises(SystemExit) as left:
        main(["--profile", "smoke", "--root", str(drawn), "--out", str(tmp_path), *options])
    assert re.match(f"kdnb: .*{message}", left.value.code) and "\n" not in left.value.code
