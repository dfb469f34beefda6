"""Figures of segmentation: classes in colour, arms beside the truth, cosines of prompts.

Everywhere here an image is uint8 (3, H, W), labels are integers (H, W) with the number of classes for void, and a
palette is RGB uint8 (classes + 1, 3), whose last row is void's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from kdnb.viz.figures import new_figure
from kdnb.viz.segmentation_scores import iou_by_class, labels_curve
from kdnb.viz.style import GREY, VERMILION, arm_colour, arm_label

__all__ = [
    "changes",
    "class_shares",
    "colour",
    "disagreement",
    "iou_by_class",
    "labels_curve",
    "palette_legend",
    "prompt_cosines",
    "samples",
    "share_right",
    "side_by_side",
]

# a pixel between two arms: neither right, only the first, only the second, both; void last
CHANGES = {
    "both wrong": "#3A3A3A",
    "only {before} right": arm_colour("baseline"),
    "only {after} right": arm_colour("distilled"),
    "both right": "#DCDCDC",
    "void": "#FFFFFF",
}


# --- pixels -----------------------------------------------------------------------------------------------------


def colour(labels: ArrayLike, palette: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: each pixel in the colour of its class."""
    return np.asarray(palette, dtype=np.uint8)[np.asarray(labels)]


def share_right(prediction: ArrayLike, label: ArrayLike, void: int) -> float:
    """Percent of the pixels with a label that are labelled so; NaN without such pixels."""
    prediction, label = np.asarray(prediction), np.asarray(label)
    known = label != void
    return 100 * float((prediction == label)[known].mean()) if known.any() else float("nan")


def disagreement(first: ArrayLike, second: ArrayLike, label: ArrayLike, void: int) -> float:
    """Percent of the pixels with a label in which two arms differ: to sort frames by."""
    differ = np.asarray(first) != np.asarray(second)
    known = np.asarray(label) != void
    return 100 * float(differ[known].mean()) if known.any() else 0.0


def changes(before: ArrayLike, after: ArrayLike, label: ArrayLike, void: int) -> np.ndarray:
    """(H, W) uint8 into ``CHANGES``: who is right in each pixel."""
    before, after, label = (np.asarray(labels) for labels in (before, after, label))
    return np.where(label == void, 4, (before == label) + 2 * (after == label)).astype(np.uint8)


# --- frames -----------------------------------------------------------------------------------------------------


def palette_legend(classes: Sequence[str], palette: np.ndarray) -> Figure:
    """The colours of the classes, and of void."""
    figure, axes = new_figure(11, 0.9)
    for k, (name, rgb) in enumerate(zip([*classes, "void"], _rgb(palette), strict=True)):
        axes.add_patch(Rectangle((k + 0.05, 0), 0.9, 1, facecolor=rgb, edgecolor=GREY, lw=0.6))
        axes.text(k + 0.5, -0.15, name, ha="center", va="top", fontsize=9)
    axes.set(xlim=(0, len(classes) + 1), ylim=(-0.9, 1.05))
    axes.set_axis_off()
    return figure


def class_shares(shares: dict[str, dict[str, float]], classes: Sequence[str], palette: np.ndarray) -> Figure:
    """How much of a split each class covers: bars for the first split, marks for the others.

    Args:
        shares: split → class → percent of the labelled pixels.
    """
    first, *others = shares
    order = sorted(range(len(classes)), key=lambda k: shares[first][classes[k]])
    figure, axes = new_figure(7, 4)
    axes.barh(
        range(len(order)),
        [shares[first][classes[k]] for k in order],
        color=[_rgb(palette)[k] for k in order],
        edgecolor=GREY,
        lw=0.6,
    )
    handles = [Patch(fc="#CCCCCC", ec=GREY, lw=0.6, label=first)]
    for other, marker in zip(others, "oD^s", strict=False):
        handles += axes.plot(
            [shares[other][classes[k]] for k in order],
            range(len(order)),
            ls="",
            marker=marker,
            mfc="white",
            mec="black",
            label=other,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.08)
    axes.set_yticks(range(len(order)), [f"{classes[k]} ({shares[first][classes[k]]:.2g} %)" for k in order])
    axes.set_xlabel(f"share of the labelled pixels, % (log scale; in brackets: {first})")
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.legend(handles=handles, frameon=False, loc="lower right")
    return figure


def samples(items: list[dict], classes: Sequence[str], palette: np.ndarray, columns: int = 4) -> Figure:
    """A sheet of frames, each above its labels.

    Args:
        items: dicts with "image", "label" and "name".
    """
    columns = min(columns, len(items))
    figure, axes = _sheet(items, 2 * -(-len(items) // columns), columns, 11 / columns)
    for ax in axes.flat:
        ax.set_axis_off()
    for k, item in enumerate(items):
        row, column = 2 * (k // columns), k % columns
        axes[row, column].imshow(np.asarray(item["image"]).transpose(1, 2, 0))
        axes[row + 1, column].imshow(colour(item["label"], palette), interpolation="nearest")
    _class_legend(figure, classes, palette)
    return figure


def side_by_side(
    items: list[dict], predictions: dict[str, list], classes: Sequence[str], palette: np.ndarray
) -> Figure:
    """One row per frame: image, truth, each arm with its share of right pixels, and who of the last two is right.

    Args:
        items: dicts with "image", "label" and "name".
        predictions: at least two arms → labels (H, W) per item.
    """
    void, (before, after) = len(classes), list(predictions)[-2:]
    figure, axes = _sheet(items, len(items), len(predictions) + 3, 14 / (len(predictions) + 3), words=0.22)
    for row, (ax, item) in enumerate(zip(axes, items, strict=True)):
        label = item["label"]
        became = changes(predictions[before][row], predictions[after][row], label, void)
        shown = [
            np.asarray(item["image"]).transpose(1, 2, 0),
            colour(label, palette),
            *(colour(of_arm[row], palette) for of_arm in predictions.values()),
            colour(became, 255 * np.array(_hex(CHANGES.values()))),
        ]
        under = [
            "",
            "",
            *(f"{share_right(of_arm[row], label, void):.0f} % right" for of_arm in predictions.values()),
            f"won {_percent(became, 2)}, lost {_percent(became, 1)}",
        ]
        for cell, pixels, words in zip(ax, shown, under, strict=True):
            cell.imshow(pixels, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            cell.set_xlabel(words, fontsize=9)
        ax[0].set_ylabel(item["name"], fontsize=8)
    against = f"{arm_label(after)}\nagainst {arm_label(before)}"
    titles = ["image", "ground truth", *map(arm_label, predictions), against]
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=11)
    _class_legend(figure, classes, palette)
    names = {"before": arm_label(before), "after": arm_label(after)}
    handles = [Patch(fc=colour_, ec=GREY, lw=0.6, label=text.format(**names)) for text, colour_ in CHANGES.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=5, frameon=False, fontsize=9)
    return figure


# --- prompts ----------------------------------------------------------------------------------------------------


def prompt_cosines(reports: dict[str, dict], classes: Sequence[str]) -> Figure:
    """How alike the classes are in words, one matrix per kind of prompt on one scale; the closest pair is framed.

    Args:
        reports: kind → {"cosine" (K, K), "mean_off_diagonal", "max_off_diagonal", "effective_rank"}.
    """
    columns = min(2, len(reports))
    rows = -(-len(reports) // columns)
    figure, axes = new_figure(5.2 * columns, 4.7 * rows, rows, columns, squeeze=False)
    others = ~np.eye(len(classes), dtype=bool)
    matrices = {kind: np.where(others, np.asarray(report["cosine"], float), np.nan) for kind, report in reports.items()}
    values = np.stack(list(matrices.values()))[:, others]
    scale = Normalize(min(0.0, values.min()), max(values.max(), 1e-6))
    for ax in axes.flat[len(reports) :]:
        ax.set_axis_off()
    for ax, (kind, report) in zip(axes.flat, reports.items(), strict=False):
        matrix = matrices[kind]
        ax.set_facecolor("#E8E8E8")
        ax.imshow(matrix, cmap="cividis", norm=scale)
        r, c = sorted(np.unravel_index(np.nanargmax(matrix), matrix.shape))
        for row, column in ((r, c), (c, r)):
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=VERMILION, lw=2))
        ax.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
        ax.set_yticks(range(len(classes)), classes, fontsize=8)
        mean, closest = (round(report[key], 2) + 0.0 for key in ("mean_off_diagonal", "max_off_diagonal"))  # no -0.00
        ax.set_title(
            f"{arm_label(kind)}: effective rank {report['effective_rank']:.1f} of {len(classes)}\n"
            f"mean {mean:.2f}, closest {closest:.2f} ({classes[r]}, {classes[c]})",
            fontsize=10,
        )
    figure.colorbar(ScalarMappable(scale, "cividis"), ax=axes, label="cosine of two classes", shrink=0.6)
    return figure


# --- parts ------------------------------------------------------------------------------------------------------


def _rgb(palette) -> np.ndarray:
    return np.asarray(palette, dtype=float) / 255


def _hex(colours) -> list[list[float]]:
    return [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours]


def _percent(became: np.ndarray, what: int) -> str:
    """How many of the pixels with a label became this."""
    return f"{100 * (became == what).sum() / max(1, (became != 4).sum()):.0f} %"


def _sheet(items, rows, columns, width, words=0.0):
    """Axes (rows, columns) for frames ``width`` inches across, with ``words`` inches under each and two legends."""
    height, across = items[0]["image"].shape[1:]
    return new_figure(width * columns, rows * (width * height / across + words) + 0.9, rows, columns, squeeze=False)


def _class_legend(figure, classes, palette) -> None:
    handles = [
        Line2D([], [], ls="", marker="s", ms=9, mfc=rgb, mec=GREY, mew=0.6, label=name)
        for name, rgb in zip([*classes, "void"], _rgb(palette), strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handletextpad=0.1,
        columnspacing=1.0,
    )
