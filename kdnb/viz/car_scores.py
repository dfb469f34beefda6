"""Figures of scores of cars in five folds: learning, what longer training leaves of a gain, meta data, reliability.

Log loss is in nats, all other scores in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREY, VERMILION, arm_colour, arm_label, arm_line, arm_marker

META = {"A": "nothing", "B": "aspect ratio", "C": "mean colour", "D": "both"}  # beside the image, by experiment


def arm_look(name: str) -> dict:
    """Colour, marker and line of an arm's curve; folds are teachers, so they are all blue."""
    return {"color": arm_colour(name), "marker": arm_marker(name), "ls": arm_line(name)}


def learning_curves(
    scores: Mapping[str, Sequence], metric: str = "log loss", x: str = "epoch", higher_is_better: bool = False
) -> Figure:
    """Validation score along training, one line per arm; the large open marker is the state that was kept.

    Args:
        scores: arm → [(epoch, step or second, validation score), ...].
    """
    figure, axes = new_figure(7, 4.2)
    for name, points in scores.items():
        along, score = np.asarray(points, float).T
        look, best = arm_look(name), (np.argmax if higher_is_better else np.argmin)(score)
        axes.plot(along, score, ms=4, lw=1.5, label=arm_label(name), **look)
        axes.plot(along[best], score[best], marker=look["marker"], ms=11, mfc="none", mec=look["color"], mew=1.8)
    axes.set_xlabel(x)
    axes.set_ylabel(f"validation {_measure(metric)} ({'higher' if higher_is_better else 'lower'} is better)")
    axes.grid(alpha=0.3)
    kept = Line2D([], [], ls="", marker="o", ms=11, mfc="none", mec=GREY, mew=1.8, label="state that was kept")
    axes.legend(handles=[*axes.get_legend_handles_labels()[0], kept], frameon=False)
    return figure


def accuracy_against_steps(
    scores: Mapping[str, Sequence], pairs: Sequence[tuple[str, str]], metric: str = "accuracy"
) -> Figure:
    """Does the gain outlive longer training? Students with and without a teacher by steps, and below, the gain.

    Args:
        scores: arm → [(step, validation score), ...].
        pairs: (without a teacher, with it); the gain is plotted at the steps that both have.
    """
    figure, (above, below) = new_figure(7, 5.4, 2, sharex=True, height_ratios=[2.4, 1])
    for arm in dict.fromkeys(arm for pair in pairs for arm in pair):
        steps, score = np.asarray(scores[arm], float).T
        above.plot(steps, score, ms=5, lw=1.7, label=arm_label(arm), **arm_look(arm))
    for alone, taught in pairs:
        first, second = dict(scores[alone]), dict(scores[taught])
        steps = [step for step in first if step in second]
        look = {**arm_look(taught), "color": GREY}
        below.plot(
            steps,
            [second[step] - first[step] for step in steps],
            ms=5,
            lw=1.7,
            label=f"{arm_label(taught)} − {arm_label(alone)}",
            **look,
        )
    below.axhline(0, color="black", lw=1)
    above.set_ylabel(f"validation {_measure(metric)}")
    below.set(xlabel="training steps", ylabel="gain, points" if metric != "log loss" else "difference, nats")
    for ax in (above, below):
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=9)
    return figure


def meta_gain(scores: Mapping[str, Mapping[int, float]], metric: str = "log loss") -> Figure:
    """What aspect ratio and mean colour add: a dot per fold, a bar at the mean of the folds that all experiments have.

    Open dots are folds that some experiment lacks; a mean over them would compare other images.
    A fold is the same images in every experiment, so a grey line joins its dots: it is the slope that counts.

    Args:
        scores: experiment "A".."D" → fold → its score on its validation images.
    """
    shared = sorted(set.intersection(*(set(of_fold) for of_fold in scores.values())))
    figure, axes = new_figure(6, 3.8)
    for fold in shared:
        axes.plot(range(len(scores)), [of_fold[fold] for of_fold in scores.values()], color="#C8C8C8", lw=1, zorder=1)
    for k, of_fold in enumerate(scores.values()):
        for fold, score in of_fold.items():
            axes.plot(k, score, **_dot(fold, fold in shared))
        if shared:
            mean = float(np.mean([of_fold[fold] for fold in shared]))
            axes.plot([k - 0.17, k + 0.17], [mean, mean], color=VERMILION, lw=2.5)
            axes.annotate(
                f"{mean:.3f}" if metric == "log loss" else f"{mean:.1f}",
                (k + 0.2, mean),
                va="center",
                color=VERMILION,
                fontsize=9,
            )
    axes.set_xticks(range(len(scores)), [f"{name}\n{META.get(name, '')}" for name in scores])
    axes.set(xlabel="what the network is told beside the image", ylabel=f"validation {_measure(metric)}")
    axes.set_xlim(-0.5, len(scores) - 0.3)
    axes.grid(alpha=0.3, axis="y")
    folds = sorted(set().union(*scores.values()))
    handles = [Line2D([], [], label=f"fold {fold}", **_dot(fold, fold in shared)) for fold in folds]
    mean_of = f"mean of {'folds' if len(shared) > 1 else 'fold'} {', '.join(map(str, shared))}"
    handles += [Line2D([], [], color=VERMILION, lw=2.5, label=mean_of)] if shared else []
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


def _dot(fold: int, filled: bool) -> dict:
    look = arm_look(f"fold_{fold}")
    return {**look, "ls": "", "ms": 7, "mew": 1.4, "mfc": look["color"] if filled else "none"}


def reliability_diagrams(tables: Mapping[str, Mapping[str, Sequence]]) -> Figure:
    """Are the arms as often right as they are sure? A bar below the diagonal is too sure; below: how often that sure.

    Args:
        tables: arm → {"confidence": mean of each bin, "accuracy": share that is right, "count": images}, 0..1, NaN
            where a bin is empty. Bins are equally wide and run from 0 to 1.
    """
    figure, axes = new_figure(
        max(4, 2.6 * len(tables)), 3.7, 2, len(tables), sharex=True, sharey="row", height_ratios=[3, 1], squeeze=False
    )
    for column, (arm, table) in enumerate(tables.items()):
        sure, right, count = (np.asarray(table[key], float) for key in ("confidence", "accuracy", "count"))
        edges, share = np.linspace(0, 1, len(count) + 1), count / count.sum()
        above, below = axes[:, column]
        look = {"width": edges[1], "align": "edge", "edgecolor": "white", "color": arm_look(arm)["color"]}
        above.bar(edges[:-1], np.nan_to_num(right), **look)
        above.plot([0, 1], [0, 1], color="black", lw=1, ls="--")
        above.plot(sure, right, "o", ms=3, color="black")
        below.bar(edges[:-1], 100 * share, **look)
        error = 100 * np.nansum(share * np.abs(sure - right))
        above.set_title(f"{arm_label(arm)}\ncalibration error {error:.1f} %", fontsize=9)
        above.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1])
    axes[0, 0].set_ylabel("share that is right")
    axes[1, 0].set_ylabel("images, %")
    figure.supxlabel("confidence: probability of the class that was named", fontsize=10)
    return figure


def _measure(metric: str) -> str:
    return "log loss, nats" if metric == "log loss" else f"{metric}, %"
