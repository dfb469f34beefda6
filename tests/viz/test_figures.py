"""Figures that all projects share."""

import numpy as np
import pandas as pd
import pytest

from kdnb.viz.figures import loss_parts


def test_parts_of_a_loss_are_smoothed_and_told_apart_by_more_than_colour():
    log = pd.DataFrame({"step": range(1, 31), "task": np.linspace(3, 1, 30), "kd": 2.0, "other": 1.0}).set_index("step")
    (axes,) = loss_parts(log, ["task", "kd"], over=10).axes
    task, kd = axes.lines
    assert task.get_xdata().tolist() == list(range(1, 31)) and kd.get_ydata().tolist() == [2.0] * 30
    assert task.get_ydata()[0] == 3 and task.get_ydata()[-1] == pytest.approx(log["task"].iloc[-10:].mean())
    assert task.get_linestyle() != kd.get_linestyle() and task.get_color() != kd.get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["task", "kd"]
    assert axes.get_yscale() == "log" and "10 steps" in axes.get_title()
