"""Figures over projects: every project in its own unit, right and up better everywhere."""

from pathlib import Path

import numpy as np
import pytest

from kdnb.evidence import mean_metric, paired_bootstrap
from kdnb.report import Metrics
from kdnb.viz.scoreboard import gains, scores_against_latency


def one_run(project, primary, low, gains_of, arms, teacher="teacher"):
    """A run whose comparisons have these differences on every one of nine items."""
    made = {
        name: paired_bootstrap(
            mean_metric(np.full(9, 1.0)), mean_metric(np.full(9, 1.0 + gain)), 9, 20, higher_is_better=not low
        )
        for name, gain in gains_of.items()
    }
    return Metrics(
        project=project,
        profile="lite",
        seed=0,
        primary=primary,
        higher_is_better=not low,
        arms=arms,
        teacher=teacher,
        comparisons={name: one.as_json() for name, one in made.items()},
        folder=Path("x"),
        replicates={name: one.replicates for name, one in made.items()},
    )


@pytest.fixture
def found():
    arms = {"teacher": (9.0, 57.0), "baseline": (6.0, 32.0), "distilled": (6.1, 46.0)}
    rates = {name: {"latency_ms": ms, "mAP50": score} for name, (ms, score) in arms.items()}
    losses = {
        "ensemble": {"latency_ms": 10.0, "log_loss": 0.3},
        "teacher": {"latency_ms": 2.0, "log_loss": 0.5},
        "baseline": {"latency_ms": 1.0, "log_loss": 0.9},
        "distilled": {"latency_ms": 1.0, "log_loss": 0.7, "latency_ms_depth": 0.5},
    }
    first = one_run(
        "03_voc_defeat", "mAP50", False, {"distilled_vs_baseline": 14.0, "distilled_vs_baseline_matched": -3.0}, rates
    )
    second = one_run("06_car_5fold_kd", "log_loss", True, {"distilled_vs_baseline": -0.2}, losses, "ensemble")
    return {("03_voc_defeat", "lite", "drawn"): [first], ("06_car_5fold_kd", "lite", "drawn"): [second]}


def test_right_is_better_in_every_panel_and_each_has_its_unit(found):
    figure = gains(found)
    figure.canvas.draw()
    rates, losses = figure.axes
    assert "points" in rates.get_title("left") and "nats" in losses.get_title("left")
    said = [text.get_text() for text in rates.texts]
    assert sorted(said) == ["+14.0  BEATS", "−3.0  LOSES"]
    assert [text.get_text() for text in losses.texts] == ["−0.20  BEATS"]

    def right_of_zero(axes, value):
        at, zero = (axes.transData.transform((x, 0))[0] for x in (value, 0))
        return at > zero

    assert right_of_zero(rates, 14) and not right_of_zero(rates, -3) and right_of_zero(losses, -0.2)
    words = figure.get_tightbbox().width * figure.dpi
    assert words < figure.get_size_inches()[0] * figure.dpi * 1.02  # nothing is cut off


def test_up_is_better_and_what_distils_is_shown_as_the_teacher(found):
    figure = scores_against_latency(found)
    figure.canvas.draw()
    rates, losses = figure.axes[:2]
    points = {line.get_label(): line.get_xydata()[0].tolist() for line in losses.get_lines()}
    assert points["teacher"] == [10.0, 0.3]  # the ensemble
    assert points["distilled"] == [1.5, 0.7]  # with what it needs besides
    assert rates.get_ylim()[1] > rates.get_ylim()[0] and losses.get_ylim()[1] < losses.get_ylim()[0]
    assert not figure.axes[2].axison
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["teacher", "baseline", "distilled"]
