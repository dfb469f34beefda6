"""Figures over all projects: all gains with their intervals, and scores against latency; each project in its own unit.

``groups`` is {(project, profile, data): [one run per seed]}, as ``kdnb.report.group_runs`` gives it.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from kdnb.tables import GAINS, UNITS, cost, merged, scores, teacher_of
from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREY, arm_colour, arm_label, arm_marker

VERDICTS = {"BEATS": arm_colour("distilled"), "LOSES": arm_colour("baseline_matched"), "INCONCLUSIVE": GREY}
MARKS = {"BEATS": "D", "LOSES": "v", "INCONCLUSIVE": "o"}  # so that no verdict is told by its colour alone
ARMS = ("teacher", "baseline", "baseline_matched", "distilled")


def gains(groups: dict) -> Figure:
    """What distilling gains in each project: one panel each, its own unit, right is always better.

    The axis of a loss runs backwards, so that what lowers it points to the right as well.
    """
    figure, axes = new_figure(8.5, 1.35 * len(groups) + 0.4, len(groups), 1, squeeze=False)
    for ax, ((project, profile, _), runs) in zip(axes[:, 0], groups.items(), strict=True):
        rows = {label: merged(runs, name) for label, name in GAINS.items()}
        rows = {label: gain for label, gain in rows.items() if gain is not None}
        _gains_of_one(ax, rows, runs[0].higher_is_better)
        unit = "points" if runs[0].higher_is_better else UNITS[False]
        count = f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
        ax.set_title(
            f"{arm_label(project)}: {arm_label(runs[0].primary)}, {unit} ({profile}, {count})", fontsize=10, loc="left"
        )
    axes[-1, 0].set_xlabel("difference with 95 % interval; right of the line distilling is better")
    return figure


def _gains_of_one(ax, rows: dict, higher_is_better: bool) -> None:
    decimals = 1 if higher_is_better else 2
    for row, gain in enumerate(reversed(rows.values())):
        low, high = gain.ci95
        ax.plot([low, high], [row, row], color=VERDICTS[gain.verdict], lw=2.5, solid_capstyle="butt")
        ax.plot(gain.delta, row, MARKS[gain.verdict], color=VERDICTS[gain.verdict], ms=7)
        better = high if higher_is_better else low
        delta = f"{gain.delta:+.{decimals}f}".replace("-", "−")
        ax.annotate(
            f"{delta}  {gain.verdict}",
            (better, row),
            va="center",
            fontsize=8,
            xytext=(6, 0),
            textcoords="offset points",
        )
    ax.axvline(0, color="black", lw=1)
    ax.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=8)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    known = [abs(x) for gain in rows.values() for x in gain.ci95 if np.isfinite(x)]
    reach = 1.1 * max(known, default=1.0) or 1.0
    room = 0.7 * reach  # for the words at the better end
    ax.set_xlim((-reach, reach + room) if higher_is_better else (reach, -reach - room))
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(alpha=0.3, axis="x")


def scores_against_latency(groups: dict, columns: int = 3) -> Figure:
    """Test score against the latency of one call, a panel for each project; up and left is always better."""
    rows = -(-len(groups) // columns)
    figure, axes = new_figure(3.6 * columns, 2.9 * rows + 0.5, rows, columns, squeeze=False)
    for ax in axes.flat[len(groups) :]:
        ax.set_axis_off()
    for ax, ((project, _, _), runs) in zip(axes.flat, groups.items(), strict=False):
        _latency_of_one(ax, runs)
        ax.set_title(arm_label(project), fontsize=10)
        ax.set_ylabel(f"{arm_label(runs[0].primary)}, {UNITS[runs[0].higher_is_better]}", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.3)
    for ax in axes.flat[: len(groups)][-columns:]:
        ax.set_xlabel("latency, ms", fontsize=8)
    handles = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), frameon=False, ncols=len(ARMS), loc="outside lower center")
    return figure


def _latency_of_one(ax, runs: list) -> None:
    places = {}
    for arm in ARMS:
        of = teacher_of(runs) if arm == "teacher" else arm
        milliseconds, values = cost(runs, of, "latency_ms"), scores(runs, of)
        known = [(x, y) for x, y in zip(milliseconds, values, strict=True) if None not in (x, y)]
        if known:
            places[arm] = np.mean(known, axis=0)
            ax.plot(*places[arm], arm_marker(arm), color=arm_colour(arm), ms=9, alpha=0.85, label=arm_label(arm))
    if {"baseline", "distilled"} <= set(places):
        ax.annotate("", places["distilled"], places["baseline"], arrowprops={"arrowstyle": "->", "color": GREY})
    ax.set_xlim(0, 1.25 * max((x for x, _ in places.values()), default=1.0))
    ax.margins(y=0.2)
    if not runs[0].higher_is_better:
        ax.invert_yaxis()
