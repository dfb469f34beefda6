"""Images of alignment: crops and their texts, what each arm ranks first.

A crop is uint8 (3, h, w) everywhere here. It is enlarged without smoothing: what is shown is what the models see.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdnb.viz.alignment_scores import recall_bars, size_bars, sweep
from kdnb.viz.embedding_map import embedding_map
from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREEN, GREY, arm_label

__all__ = ["crop_sheet", "embedding_map", "rankings", "recall_bars", "size_bars", "sweep", "text_to_crops"]

FIRST, CROPS = 5, 8  # sentences per crop and crops per sentence that a figure shows
RIGHT, WRONG = "#8CC5E8", "#E3E3E3"


def crop_sheet(crops: Sequence, titles: Sequence[str], columns: int = 8) -> Figure:
    """Crops in rows of ``columns``, each with its text above."""
    columns = min(columns, len(crops))
    rows = -(-len(crops) // columns)
    wrapped = [textwrap.fill(title, 17) for title in titles]
    lines = max((text.count("\n") + 1 for text in wrapped), default=1)
    figure, axes = new_figure(1.4 * columns, rows * (1.5 + 0.19 * lines), rows, columns, squeeze=False)
    for ax, crop, text in zip(axes.flat, crops, wrapped, strict=False):
        _show(ax, crop)
        ax.set_title(text, fontsize=9)
    for ax in axes.flat[len(crops) :]:
        ax.set_axis_off()
    return figure


def rankings(
    crops: Sequence, rows: Sequence[dict[str, list[tuple[str, float]]]], truths: Sequence[Collection[str]]
) -> Figure:
    """One row per crop: the crop, then for each arm the five sentences it finds nearest, true ones ticked.

    Args:
        rows: per crop, arm → [(sentence, cosine), ...], nearest first. A list longer than five tells where the first
            true sentence stands when it is not among the five. An arm may be missing.
        truths: per crop, the sentences that are true of it.
    """
    arms = list(dict.fromkeys(arm for row in rows for arm in row))
    figure, axes = new_figure(
        1.5 + 3.1 * len(arms),
        0.75 + 1.5 * len(crops),
        len(crops),
        1 + len(arms),
        squeeze=False,
        width_ratios=[1.35, *[3.1] * len(arms)],
    )
    longest = max((cosine for row in rows for ranked in row.values() for _, cosine in ranked), default=1.0)
    for r, (crop, row, true) in enumerate(zip(crops, rows, truths, strict=True)):
        _show(axes[r, 0], crop)
        for ax, arm in zip(axes[r, 1:], arms, strict=True):
            _ranking(ax, row.get(arm, []), {true} if isinstance(true, str) else set(true), max(longest, 1e-6))
            ax.set_xlabel("cosine of crop and sentence" if r == len(crops) - 1 else "", fontsize=9)
            if r == 0:
                ax.set_title(arm_label(arm), fontsize=11, fontweight="bold")
    figure.legend(
        handles=[Patch(color=RIGHT, label="✓ true of the crop"), Patch(color=WRONG, label="not true of it")],
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return figure


def _ranking(ax, ranked, true, longest) -> None:
    """The first sentences as bars with the words on them, the cosines at the right."""
    for k, (sentence, cosine) in enumerate(ranked[:FIRST]):
        right = sentence in true
        ax.barh(k, max(cosine, 0), 0.86, color=RIGHT if right else WRONG)
        words = textwrap.shorten(sentence, 42, placeholder=" ...")
        ax.text(0.01 * longest, k, f"✓ {words}" if right else words, va="center", fontsize=8.5)
        ax.text(1.17 * longest, k, f"{cosine:.2f}", va="center", ha="right", fontsize=8.5)
    place = next((k for k, (sentence, _) in enumerate(ranked, 1) if sentence in true), None)
    if place is not None and place > FIRST:
        ax.text(0.01 * longest, FIRST, f"first true sentence: place {place}", va="center", fontsize=8, color=GREY)
    if not ranked:
        ax.text(0.5, 0.5, "no answer", transform=ax.transAxes, ha="center", color=GREY)
    ax.set(xlim=(0, 1.18 * longest), ylim=(FIRST + 0.4, -0.6), yticks=[])
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)


def text_to_crops(sentence: str, nearest: dict[str, list[tuple]]) -> Figure:
    """The eight crops that each arm finds nearest to a sentence, the right ones framed and ticked.

    Args:
        nearest: arm → [(crop, whether it is right), ...], nearest first.
    """
    figure, axes = new_figure(1.15 * CROPS + 1.4, 1.45 * len(nearest) + 0.6, len(nearest), CROPS, squeeze=False)
    for row, (arm, crops) in zip(axes, nearest.items(), strict=True):
        for k, ax in enumerate(row):
            if k >= len(crops):
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
                continue
            crop, right = crops[k]
            _show(ax, crop)
            ax.set_title(
                f"{k + 1} ✓" if right else f"{k + 1}",
                fontsize=10,
                fontweight="bold" if right else "normal",
                color="#00664A" if right else GREY,
            )
            ax.spines[:].set(color=GREEN if right else "#CCCCCC", linewidth=4 if right else 1)
        count = sum(bool(right) for _, right in crops[:CROPS])
        row[0].set_ylabel(
            f"{textwrap.fill(arm_label(arm), 14)}\n{count} of {min(len(crops), CROPS)} right",
            rotation=0,
            ha="right",
            va="center",
            labelpad=10,
            fontsize=10,
        )
    figure.suptitle(f"“{sentence}”: nearest crops, right ones framed ✓", fontsize=11)
    return figure


def _show(ax, crop) -> None:
    ax.imshow(np.asarray(crop).transpose(1, 2, 0), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
