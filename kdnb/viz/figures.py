"""Figures that the projects share: learning curves, scores by class, cost against score, gains with intervals."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from IPython.display import Image
from matplotlib.figure import Figure

from kdnb.viz.style import BLUE, GREEN, GREY, ORANGE, PINK, arm_colour, arm_label, arm_line, arm_marker

if TYPE_CHECKING:
    import pandas as pd

PARTS = ((ORANGE, "-"), (GREEN, "--"), (BLUE, ":"), (PINK, "-."))  # of a loss: its colour and its line


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **subplots: Any) -> tuple[Figure, Any]:
    """(figure, axes) outside pyplot's global state, so that nothing is shown twice or kept open."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **subplots)


def photo(figure: Figure, alt: str) -> Image:
    """A figure made of photographs for a notebook: as JPEG, a tenth of a PNG's size, with a text for who cannot see."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=85, pil_kwargs={"quality": 85})
    return Image(buffer.getvalue(), format="jpeg", alt=alt)


def learning_curves(scores: dict[str, list], final: dict[str, tuple[float, float]], metric: str) -> Figure:
    """Validation score against CPU seconds of training, one line per arm, its end marked with the test score.

    Args:
        scores: arm → [(CPU seconds, validation score), ...].
        final: arm → (CPU seconds, test score).
    """
    figure, axes = new_figure(7, 4.2)
    for name, points in scores.items():
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            color=arm_colour(name),
            marker=arm_marker(name),
            ms=5,
            lw=1.6,
            label=arm_label(name),
            ls=arm_line(name),
        )
    for name, (x, y) in final.items():
        axes.plot(x, y, marker=arm_marker(name), ms=11, mfc="none", mec=arm_colour(name), mew=1.8, ls="")
    axes.set_xlabel("CPU seconds of training (the teacher's passes included)")
    axes.set_ylabel(f"{metric}, %: validation (small), test (large, open)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def loss_parts(log: pd.DataFrame, names: list[str], over: int = 10) -> Figure:
    """Parts of the loss along training, each the mean of the last ``over`` steps.

    Args:
        log: one row a step, one column for each part, as ``TrainHistory.history`` has them.
        names: of at most four parts: more could not be told apart.
    """
    figure, axes = new_figure(7, 3.2)
    smooth = log[names].rolling(over, min_periods=1).mean()
    for name, (colour, line) in zip(names, PARTS[: len(names)], strict=True):
        axes.plot(smooth.index, smooth[name], color=colour, ls=line, lw=1.6, label=arm_label(name))
    axes.set_yscale("log")
    axes.set(
        xlabel="step",
        ylabel="part of the loss (log scale)",
        title=f"Every part is logged by name (mean of {over} steps)",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # four lines leave no room inside
    return figure


def scores_by_class(scores: dict[str, dict[str, float]], counts: dict[str, int], metric: str) -> Figure:
    """One row per class, one marker per arm; classes ordered by the gain of the last arm over the first but one."""
    names = list(scores)
    classes = sorted(counts, key=lambda c: scores[names[-1]][c] - scores[names[-2]][c])
    figure, axes = new_figure(7, 0.9 + 0.42 * len(classes))
    for row, of_class in enumerate(classes):
        values = [scores[name][of_class] for name in names]
        axes.plot([min(values), max(values)], [row, row], color="#dddddd", lw=3, zorder=1)
        for name, value in zip(names, values, strict=True):
            axes.plot(
                value,
                row,
                marker=arm_marker(name),
                color=arm_colour(name),
                ms=8,
                ls="",
                zorder=2,
                label=arm_label(name) if row == 0 else None,
            )
    axes.set_yticks(range(len(classes)), [f"{c} ({counts[c]})" for c in classes])
    axes.set_xlabel(f"{metric}, % (number of test objects in brackets)")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def cost_against_score(arms: dict[str, dict], metric: str) -> Figure:
    """Test score against CPU latency; the area of a marker is the number of parameters."""
    figure, axes = new_figure(7, 4)
    largest = max(numbers["params"] for numbers in arms.values())
    for name, numbers in arms.items():
        axes.scatter(
            numbers["latency_ms"],
            numbers[metric],
            s=60 + 500 * numbers["params"] / largest,
            facecolors="none",  # two students of one score are both seen
            linewidths=2.5,
            edgecolors=arm_colour(name),
            marker=arm_marker(name),
            label=f"{arm_label(name)}, {numbers['params'] / 1e6:.2f} M",
        )
    axes.set_xlabel("latency of one image on one CPU thread, ms")
    axes.set_ylabel(f"test {metric}, %")
    axes.margins(y=0.2)
    axes.set_xlim(0, 1.15 * max(numbers["latency_ms"] for numbers in arms.values()))
    axes.grid(alpha=0.3)
    legend = axes.legend(frameon=False, title="parameters")
    for handle in legend.legend_handles:
        handle.set_sizes([60])
    return figure


def forest(comparisons: dict, metric: str) -> Figure:
    """Every comparison's difference with its 95 % interval; the verdict in words beside it."""
    figure, axes = new_figure(7.5, 0.9 + 0.42 * len(comparisons))
    names = list(comparisons)[::-1]
    rates = all(c.higher_is_better for c in comparisons.values())  # in percent; what should be low is a loss
    unit, decimals = (", points", 1) if rates else ("", 2)
    for row, c in enumerate(comparisons[name] for name in names):
        colour = {"BEATS": arm_colour("distilled"), "LOSES": arm_colour("baseline_matched")}.get(c.verdict, GREY)
        axes.plot(c.ci95, [row, row], color=colour, lw=2.5, solid_capstyle="butt")
        axes.plot(c.delta, row, "o", color=colour)
        axes.annotate(
            f" {c.delta:+.{decimals}f}  {c.verdict}",
            (c.ci95[1], row),
            va="center",
            fontsize=9,
            xytext=(4, 0),
            textcoords="offset points",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # the line of zero runs behind it
        )
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(range(len(names)), [arm_label(name).replace(" vs ", "\nvs ") for name in names], fontsize=8)
    axes.set_xlabel(f"difference in test {metric}{unit}, with 95 % interval (paired bootstrap)")
    axes.margins(x=0.3)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(alpha=0.3, axis="x")
    return figure
