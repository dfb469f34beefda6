"""Figures of segmentation scores: IoU by class, and mIoU against the number of labelled frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREY, arm_colour, arm_label, arm_marker


def iou_by_class(ious: dict[str, dict[str, float]], shares: dict[str, float]) -> Figure:
    """One row per class, one marker per arm, the class that covers most at the top.

    Args:
        ious: arm → class → IoU in percent; NaN, where a class does not occur, gets no marker.
        shares: class → percent of the test pixels.
    """
    classes = sorted(shares, key=lambda name: shares[name])
    figure, axes = new_figure(7.5, 0.9 + 0.4 * len(classes))
    for row, name in enumerate(classes):
        values = [of_arm.get(name, np.nan) for of_arm in ious.values()]
        if np.isfinite(values).any():
            axes.plot([np.nanmin(values), np.nanmax(values)], [row, row], color="#DDDDDD", lw=3, zorder=1)
        else:
            axes.text(1, row, "not in the test frames", va="center", fontsize=8, color=GREY)
    for arm, of_arm in ious.items():
        axes.plot(
            [of_arm.get(name, np.nan) for name in classes],
            range(len(classes)),
            ls="",
            ms=8,
            zorder=2,
            marker=arm_marker(arm),
            color=arm_colour(arm),
            label=arm_label(arm),
            alpha=0.9,
        )
    axes.set_yticks(range(len(classes)), [f"{name} ({shares[name]:.2g} %)" for name in classes])
    axes.set_xlabel("IoU, % (in brackets: share of the test pixels)")
    axes.set_xlim(-2, 102)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, ncols=len(ious), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def labels_curve(scores: dict[str, dict[int, list[float]]], reference: dict[str, float] | None = None) -> Figure:
    """mIoU against the number of labelled frames: a dot per seed, a line through the means.

    Args:
        scores: arm → number of labels → mIoU of each seed; the arm with the teacher last. How many labels its first
            point is worth without the teacher is read off the first arm's line.
        reference: arm → mIoU, plotted as a level line.
    """
    figure, axes = new_figure(7.5, 4.4)
    for arm, of_arm in scores.items():
        look = {"color": arm_colour(arm), "marker": arm_marker(arm), "ms": 5}
        counts = sorted(of_arm)
        axes.plot(counts, [np.mean(of_arm[n]) for n in counts], color=arm_colour(arm), lw=1.8)
        axes.plot([n for n in counts for _ in of_arm[n]], [score for n in counts for score in of_arm[n]], ls="", **look)
        axes.plot([], [], lw=1.8, label=arm_label(arm), **look)  # for the legend
    alone, taught = (scores[arm] for arm in (list(scores)[0], list(scores)[-1]))
    fewest, most = min(taught), max(alone)
    score = float(np.mean(taught[fewest]))
    worth = labels_worth(alone, score)
    reaches = most if worth is None else worth
    if reaches > fewest:
        axes.annotate("", (reaches, score), (fewest, score), arrowprops={"arrowstyle": "->", "color": GREY, "ls": "--"})
        without = f"about {worth:.0f}" if worth else f"more than {most}"
        axes.annotate(
            f"{fewest} labels with the teacher are worth {without} without",
            (fewest, score),
            (10, -6),  # below the arrow, where no line runs: the taught arm's rises from here
            textcoords="offset points",
            fontsize=9,
            va="top",
        )
    _level_lines(axes, reference or {})
    axes.set_xscale("log")
    ticks = sorted({n for of_arm in scores.values() for n in of_arm})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="labelled frames (log scale)", ylabel="test mIoU, %")
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _level_lines(axes: Axes, levels: dict[str, float]) -> None:
    for arm, level in levels.items():
        axes.axhline(level, color=arm_colour(arm), lw=1, ls=":")
        axes.annotate(
            arm_label(arm),
            (1, level),
            (-3, 2),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            ha="right",
            textcoords="offset points",
            color=arm_colour(arm),
        )


def labels_worth(scores: dict[int, list[float]], target: float) -> float | None:
    """How many labels it takes to reach a score, None when the most do not suffice.

    Read off straight lines between the means, over the logarithm of the number of labels.

    Args:
        scores: number of labels → mIoU of each seed.
    """
    points = [(n, float(np.mean(scores[n]))) for n in sorted(scores)]
    if target <= points[0][1]:
        return float(points[0][0])
    for (fewer, low), (more, high) in pairwise(points):
        if low < target <= high:
            return float(fewer * (more / fewer) ** ((target - low) / (high - low)))
    return None
