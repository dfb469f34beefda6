"""Figures of alignment scores: recall in both directions, by size of the objects, and over the weights of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREY, arm_colour, arm_hatch, arm_label

METRICS = {"text_to_image": "text → image", "image_to_text": "image → text"}
HALO = [Stroke(linewidth=2.2, foreground="white"), Normal()]


def recall_bars(numbers: dict[str, dict[str, float]]) -> Figure:
    """Recall at 1, 5 and 10 in both directions.

    Args:
        numbers: arm → metrics in percent, such as "text_to_image_R@1"; other keys are passed over, so that an arm's
            whole result can be given.
    """
    figure, axes = new_figure(_bars_width(numbers, 6), 4.1)
    _bars(axes, numbers, "")
    _legend(figure, numbers)
    return figure


def size_bars(numbers: dict[str, dict[str, float]]) -> Figure:
    """Recall among small objects and among large ones, keys as in ``recall_bars`` with "_small" and "_large" behind."""
    figure, axes = new_figure(_bars_width(numbers, 6), 6.2, 2, 1, sharey=True)
    for ax, size in zip(axes, ("small", "large"), strict=True):
        _bars(ax, numbers, f"_{size}")
        ax.set_title(f"{size} objects", fontsize=11)
    _legend(figure, numbers)
    return figure


def _bars_width(numbers, groups: int) -> float:
    return max(8.0, 1 + groups * (0.35 + 0.19 * len(numbers)))


def _bars(ax, numbers, ending: str) -> None:
    """One group per metric that any arm has, one bar per arm; NaN and missing leave a gap."""
    present = {key for of_arm in numbers.values() for key in of_arm}
    names = [(f"{way}_R@{k}{ending}", f"{words}\nR@{k}") for way, words in METRICS.items() for k in (1, 5, 10)]
    names = [(key, words) for key, words in names if key in present]
    width = 0.84 / max(1, len(numbers))
    for a, (arm, of_arm) in enumerate(numbers.items()):
        values = np.array([np.nan if of_arm.get(key) is None else of_arm[key] for key, _ in names], dtype=float)
        at = np.arange(len(names)) + (a - (len(numbers) - 1) / 2) * width
        colour, hatch = arm_colour(arm), arm_hatch(arm)
        ax.bar(at, np.nan_to_num(values), width * 0.94, color=colour, hatch=hatch, edgecolor="white", lw=0.5)
        for x, value in zip(at, values, strict=True):
            if np.isfinite(value):
                ax.text(x, value + 0.8, f"{value:.0f}", ha="center", va="bottom", fontsize=7.5, path_effects=HALO)
    if not names:
        ax.text(0.5, 0.5, "no such objects", transform=ax.transAxes, ha="center", color=GREY)
    ax.set_xticks(range(len(names)), [words for _, words in names], fontsize=9)
    ax.set(ylabel="recall, % of queries", ylim=(0, 108), yticks=range(0, 101, 20))
    ax.set_xlim(-0.6, max(0.6, len(names) - 0.4))
    ax.set_axisbelow(True)
    ax.grid(alpha=0.3, axis="y")


def _legend(figure, arms) -> None:
    handles = [
        Patch(facecolor=arm_colour(arm), hatch=arm_hatch(arm), edgecolor="white", label=arm_label(arm))
        for arm in dict.fromkeys(arms)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles) or 1), frameon=False)


def sweep(rows: Sequence[tuple[float, float, float]]) -> Figure:
    """Validation score over the two weights, the best in bold.

    Args:
        rows: (similarity weight, cosine weight, validation score in percent); NaN or absent: not run.
    """
    down, across = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    scores = np.full((len(down), len(across)), np.nan)
    for similarity, cosine, score in rows:
        scores[down.index(similarity), across.index(cosine)] = score
    known = scores[np.isfinite(scores)]
    scale = Normalize(known.min(), max(known.max(), known.min() + 1e-6)) if len(known) else Normalize(0, 1)
    figure, axes = new_figure(2.6 + 0.95 * len(across), 1.5 + 0.75 * len(down))
    axes.set_facecolor("#F0F0F0")
    shown = axes.imshow(scores, cmap="cividis", norm=scale, aspect="auto", origin="lower")
    for (r, c), score in np.ndenumerate(scores):
        best = np.isfinite(score) and score == known.max()
        colour = GREY if np.isnan(score) else "white" if scale(score) < 0.55 else "black"
        axes.text(
            c,
            r,
            "not run" if np.isnan(score) else f"{score:.1f}" + ("\nbest" if best else ""),
            ha="center",
            va="center",
            color=colour,
            fontsize=10,
            fontweight="bold" if best else "normal",
        )
    axes.set_xticks(range(len(across)), [f"{value:g}" for value in across])
    axes.set_yticks(range(len(down)), [f"{value:g}" for value in down])
    axes.set(xlabel="weight of the cosine term", ylabel="weight of the similarity term")
    axes.set_xticks(np.arange(len(across) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(down) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(shown, ax=axes, label="validation text → image R@1, %")
    return figure
