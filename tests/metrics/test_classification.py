"""Classification scores against scikit-learn and torchmetrics, classes that count as one, and kdnb eval cars."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassCalibrationError

from kdnb.cli import main
from kdnb.datasets.car_submissions import write_submission
from kdnb.errors import InputError
from kdnb.metrics.classification import (
    calibration_error,
    confusion,
    log_loss,
    log_losses,
    reliability,
    scores,
)


@pytest.fixture(scope="module")
def answers():
    """Probabilities (300, 12) of a classifier that is right in about half of the rows, and labels (300,)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(12, size=300)
    logits = rng.normal(size=(300, 12)) + 2.0 * np.eye(12)[labels]
    p = np.exp(1.7 * logits)
    return p / p.sum(1, keepdims=True), labels


def test_scores_are_those_of_sklearn(answers):
    p, y = answers
    found, names = scores(p, y), list(range(12))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=names), rel=1e-12)
    assert found["accuracy"] == pytest.approx(100 * sk.accuracy_score(y, p.argmax(1)))
    assert 40 < found["accuracy"] < 90
    assert found["top5"] == pytest.approx(100 * sk.top_k_accuracy_score(y, p, k=5, labels=names))
    assert found["macro_f1"] == pytest.approx(100 * sk.f1_score(y, p.argmax(1), average="macro"))
    assert (confusion(p, y) == sk.confusion_matrix(y, p.argmax(1), labels=names)).all()
    assert log_losses(p, y).mean() == found["log_loss"] == log_loss(p, y)


def test_classes_that_never_occur_are_left_out_of_macro_f1(answers):
    p, y = answers
    keep = np.isin(y, (1, 2)) & np.isin(p.argmax(1), (1, 2, 3))
    found = scores(p[keep], y[keep])["macro_f1"]
    assert found == pytest.approx(100 * sk.f1_score(y[keep], p[keep].argmax(1), average="macro", zero_division=0))


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_is_torchmetrics(answers, bins):
    p, y = answers
    other = MulticlassCalibrationError(12, n_bins=bins)(torch.tensor(p), torch.tensor(y))
    assert calibration_error(p, y, bins) == pytest.approx(100 * float(other), abs=1e-4)


def test_reliability_by_hand():
    p = [[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [0.5, 0.5]]
    table = reliability(p, [0, 1, 1, 0], bins=4)
    assert table["count"].tolist() == [0, 1, 1, 2]
    assert table["confidence"][1:] == pytest.approx([0.5, 0.55, 0.85])
    assert table["accuracy"][1:] == pytest.approx([1, 1, 0.5]) and np.isnan(table["accuracy"][0])
    assert calibration_error(p, [0, 1, 1, 0], bins=4) == pytest.approx(100 * (0.5 + 0.45 + 2 * 0.35) / 4)


def test_log_loss_clips_and_divides_rows_by_their_sum():
    assert log_loss([[0.0, 1.0]], [0]) == pytest.approx(-np.log(1e-15))
    assert log_loss([[0.0, 1.0]], [1]) == pytest.approx(1e-15, rel=0.2)
    assert log_loss([[2.0, 6.0]], [0]) == pytest.approx(np.log(4))


def test_classes_that_count_as_one_add_up():
    p, y = np.array([[0.2, 0.5, 0.3], [0.4, 0.35, 0.25], [0.1, 0.8, 0.1]]), [2, 1, 1]
    merged = [0, 1, 0]  # class 2 counts as class 0
    together = np.array([[0.5, 0.5], [0.65, 0.35], [0.2, 0.8]])
    assert log_loss(p, y, merged) == pytest.approx(sk.log_loss([0, 1, 1], together, labels=[0, 1]))
    assert scores(p, y, merged)["accuracy"] == pytest.approx(100 * 2 / 3)
    assert scores(p, y)["accuracy"] == pytest.approx(100 / 3)
    assert confusion(p, y, merged).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("row, message", [([np.nan, 1], "row 1"), ([-0.1, 1], "row 1"), ([0, 0], "row 1")])
def test_what_is_no_probability_is_refused(row, message):
    with pytest.raises(InputError, match=message):
        log_loss([[0.5, 0.5], row], [0, 1])


def test_labels_and_shapes_are_checked():
    with pytest.raises(InputError, match="labels from 0 to 2, expected 0 to 1"):
        scores([[0.5, 0.5], [0.5, 0.5]], [0, 2])
    with pytest.raises(InputError, match="expected .N, C. and .N,."):
        scores([[0.5, 0.5]], [0, 1])


# --- kdnb eval cars ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(answers, tmp_path):
    """A solution and a submission of 300 rows; class 3 and class 7 are one of the competition's pairs of names."""
    p, y = answers
    classes = [f"model_{k}" for k in range(12)]
    classes[3], classes[7] = "RAV4_2016_2018", "라브4_4세대_2013_2018"
    ids = [f"TEST_{n:05d}" for n in range(300)]
    write_submission(tmp_path / "submission.csv", ids, classes, p)
    lines = [f"{name},{classes[k]}" for name, k in zip(ids, y, strict=True)]
    (tmp_path / "solution.csv").write_text("\n".join(["ID,label", *reversed(lines)]) + "\n", encoding="utf-8")
    return tmp_path


def evaluate(folder, *more):
    return CliRunner().invoke(
        main,
        [
            "eval",
            "cars",
            "--solution",
            str(folder / "solution.csv"),
            "--submission",
            str(folder / "submission.csv"),
            *more,
        ],
    )


def test_eval_cars_merges_and_takes_rows_in_any_order(answers, files):
    p, y = answers
    done = evaluate(files, "--json", str(files / "scores.json"))
    assert done.exit_code == 0, done.output
    written, merged = json.loads((files / "scores.json").read_text()), [3 if k == 7 else k for k in range(12)]
    expected = scores(p, y, merged)
    assert {name: written[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert written["log_loss"] < log_loss(p, y) and written["images"] == 300
    assert f"{expected['log_loss']:.3f}" in done.output


def test_eval_cars_lists_what_is_missing(files):
    def error(name, *changes):
        kept = (files / name).read_text(encoding="utf-8")
        text = kept
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (files / name).write_text(text, encoding="utf-8")
        done = evaluate(files)
        (files / name).write_text(kept, encoding="utf-8")
        assert done.exit_code == 1 and done.stderr.count("\n") == 1 and name in done.stderr
        return done.stderr

    assert "IDs TEST_00003 more than once" in error("submission.csv", ("TEST_00004", "TEST_00003"))
    assert "IDs TEST_00004 missing, expected 300" in error("submission.csv", ("TEST_00004", "TEST_x"))
    assert "columns model_2, model_5 missing" in error("submission.csv", ("model_2", "a"), ("model_5", "b"))
    assert "columns model_2 more than once" in error("submission.csv", ("model_5", "model_2"))
    assert "IDs TEST_00004 more than once" in error("solution.csv", ("TEST_00003", "TEST_00004"))
    (files / "solution.csv").unlink()
    assert "solution.csv: no such file" in evaluate(files).stderr
