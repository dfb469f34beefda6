"""Figures of the primer: second choices, what T² does to the gradient, equal models that get a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdnb.viz.figures import new_figure
from kdnb.viz.segmentation_scores import labels_curve
from kdnb.viz.style import BLUE, GREEN, GREY, ORANGE, VERMILION


def second_choices(table: np.ndarray, classes: Sequence[str], order: Sequence[int]) -> Figure:
    """What each class is taken for when it is not taken for itself, as percent of what is left, in the given order."""
    figure, axes = new_figure(6.6, 5.4)
    shown = table[np.ix_(order, order)]
    image = axes.imshow(np.where(np.eye(len(shown), dtype=bool), np.nan, shown), cmap="cividis", vmin=0)
    axes.set_facecolor("#E3E3E3")
    if len(classes) <= 15:
        bright = 0.55 * np.nanmax(shown)
        for (row, column), value in np.ndenumerate(shown):
            if row != column:
                axes.text(
                    column,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black" if value > bright else "white",
                )
    names = [classes[k] for k in order]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="the teacher's other thoughts", ylabel="what it really is")
    figure.colorbar(image, ax=axes, label="of the probability left for other classes, %", shrink=0.8)
    return figure


def pulls(table: pd.DataFrame) -> Figure:
    """``kdnb.projects.primer.lessons.pull`` as two lines over the temperature, both axes logarithmic."""
    figure, axes = new_figure(6.6, 3.8)
    for name, colour, marker in (("with T²", GREEN, "D"), ("without", ORANGE, "o")):
        axes.loglog(table.index, table[name], color=colour, marker=marker, label=name)
    first = table["without"].iloc[-1] * (table.index[-1] / table.index.to_numpy()) ** 2
    axes.loglog(table.index, first, color=GREY, ls=":", label="falls as 1/T²")
    axes.set_xticks(table.index, [f"{T:g}" for T in table.index])
    axes.minorticks_off()
    axes.set(xlabel="temperature T", ylabel="length of the gradient\non an image's logits")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def labels_worth(scores: Mapping, reference: Mapping, thing: str = "labelled objects") -> Figure:
    """``kdnb.viz.segmentation_scores.labels_curve`` with the words of classification."""
    figure = labels_curve(scores, reference)
    figure.axes[0].set(xlabel=f"{thing} (log scale)", ylabel="test accuracy, %")
    return figure


def false_verdicts(rates: Mapping[float, Mapping[int, float]], observed: float | None = None) -> Figure:
    """How often two equal models get a verdict, over the luck of a training, one line per number of seeds.

    Args:
        rates: spread in points → number of seeds → percent; see ``kdnb.projects.primer.lessons.false_verdicts``.
        observed: a difference between two trainings of one arm in points, marked on the axis.
    """
    figure, axes = new_figure(6.6, 3.8)
    looks = zip(next(iter(rates.values())), (VERMILION, BLUE, GREEN, GREY), ("^", "s", "D", "o"), strict=False)
    for count, colour, marker in looks:
        axes.plot(
            list(rates),
            [of_spread[count] for of_spread in rates.values()],
            color=colour,
            marker=marker,
            label=f"{count} seed{'s' if count > 1 else ''} each",
        )
    axes.axhline(5, color="black", lw=1, ls="--", label="promised: 5 %")
    if observed is not None:  # the difference of two has the standard deviation of one times the root of 2
        axes.axvline(observed / np.sqrt(2), color=GREY, ls=":", label="as two trainings of one arm\ndiffer in this run")
    axes.set(
        xlabel="luck of a training: standard deviation of its accuracy, points",
        ylim=(0, None),
        ylabel="two equal models get\nBEATS or LOSES, %",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
