"""Figures of cars in five folds: classes, folds, soft labels, agreement, mix-ups; scores are in car_scores.

Everywhere here an image is uint8 (3, H, W), probabilities are (N, C) with rows that sum to 1, and labels are N class
numbers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from kdnb.viz.car_scores import accuracy_against_steps, arm_look, learning_curves, meta_gain, reliability_diagrams
from kdnb.viz.figures import new_figure
from kdnb.viz.hangul import drawable
from kdnb.viz.style import GREY, ORANGE, arm_label

__all__ = [
    "accuracy_against_steps",
    "agreement",
    "class_sheet",
    "closest_generations",
    "closest_pairs",
    "confusion",
    "fold_agreement",
    "fold_counts",
    "fold_split",
    "learning_curves",
    "meta_gain",
    "reliability_diagrams",
    "soft_labels",
]

RIGHT, WRONG = "#8CC5E8", "#E3E3E3"
LEGIBLE = 45  # classes whose names still fit along an axis


# --- data -------------------------------------------------------------------------------------------------------


def class_sheet(images: Mapping[str, np.ndarray], columns: int = 8, most: int = 48) -> Figure:
    """One image per class under its name, with its size in pixels; no image is stretched.

    Args:
        images: class → image; those after the first ``most`` are left out, and the title says so.
    """
    shown = list(images.items())[:most]
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(1.65 * columns, 1.6 * rows + 0.3, rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
        ax.set_anchor("N")
    for ax, (name, image) in zip(axes.flat, shown, strict=False):
        _, height, width = image.shape
        ax.imshow(_pixels(image))
        words = textwrap.wrap(drawable(name).replace("_", " "), 22, max_lines=2, placeholder=" …")
        ax.set_title("\n".join([*words, f"{width}×{height}"]), fontsize=8)
    if len(images) > most:
        figure.suptitle(f"the first {most} of {len(images)} classes", fontsize=10)
    return figure


def fold_split(splits: Mapping[str, Sequence[int]], labels: Sequence[int], classes: Sequence[str]) -> Figure:
    """How many images of each class each fold holds out: a stratified split makes the columns as level as can be.

    Args:
        splits: title → for each of N training images the fold that validates on it, 0 for the first.
        labels: N class numbers.
    """
    tables = {title: fold_counts(folds, labels, len(classes)) for title, folds in splits.items()}
    most, folds = max(counts.max() for counts in tables.values()), max(len(counts) for counts in tables.values())
    figure, axes = new_figure(
        min(11, 3 + 0.34 * len(classes)),
        1.1 + (0.5 + 0.34 * folds) * len(tables),
        len(tables),
        sharex=True,
        squeeze=False,
    )
    for ax, (title, counts) in zip(axes[:, 0], tables.items(), strict=True):
        image = ax.imshow(counts, cmap="cividis", aspect="auto", vmin=0, vmax=most, interpolation="nearest")
        if len(classes) <= LEGIBLE:
            for (row, column), count in np.ndenumerate(counts):
                ax.text(column, row, str(count), ha="center", va="center", fontsize=7, color=_ink(count / most))
        ax.set_yticks(range(len(counts)), [f"fold {k + 1} ({row.sum()})" for k, row in enumerate(counts)], fontsize=9)
        ax.set_title(title, fontsize=10)
    _class_ticks(axes[-1, 0].xaxis, classes, "class")
    figure.supylabel("validates on (images)", fontsize=10)
    figure.colorbar(image, ax=axes, label="images of a class", pad=0.01)
    return figure


def fold_counts(folds: Sequence[int], labels: Sequence[int], classes: int) -> np.ndarray:
    """(folds, classes) images of each class that each fold holds out."""
    counts = np.zeros((int(np.max(folds)) + 1, classes), int)
    np.add.at(counts, (np.asarray(folds), np.asarray(labels)), 1)
    return counts


# --- prediction--------------------------------------------------------------------------------------------------


def agreement(predictions: Mapping[str, Sequence]) -> tuple[np.ndarray, np.ndarray]:
    """(F, F) percent of the images that two folds name alike, and (N,) whether all of them agree on an image.

    Args:
        predictions: fold → N class numbers.
    """
    named = np.stack([np.asarray(of_fold) for of_fold in predictions.values()])
    return 100 * (named[:, None] == named[None]).mean(-1), (named == named[0]).all(0)


def fold_agreement(predictions: Mapping[str, Sequence], truth: Sequence[int] | None = None) -> Figure:
    """How often two folds predict the same class; the title says how often all do and, with a truth, how often rightly.

    Args:
        predictions: fold → N class numbers.
        truth: N class numbers, or None.
    """
    matrix, unanimous = agreement(predictions)
    apart = ~np.eye(len(matrix), dtype=bool)
    figure, axes = new_figure(5.4, 4.4)
    axes.set_facecolor(WRONG)
    low, high = matrix[apart].min(), matrix[apart].max()
    room = max(0, 10 - (high - low)) / 2  # a point or two is luck and should not look like a difference
    low, high = low - room, high + room
    image = axes.imshow(np.where(apart, matrix, np.nan), cmap="cividis", vmin=low, vmax=high)
    for row, column in np.argwhere(apart):
        value = matrix[row, column]
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=_ink((value - low) / (high - low)))
    names = [arm_label(name) for name in predictions]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    title = f"all {len(names)} agree on {100 * unanimous.mean():.0f} % of the images"
    if truth is not None:
        right = np.asarray(next(iter(predictions.values()))) == np.asarray(truth)
        mean = np.mean([np.asarray(one) == np.asarray(truth) for one in predictions.values()], axis=0)
        title += f"\nright there: {_rate(right[unanimous])}; elsewhere, mean fold: {_rate(mean[~unanimous])}"
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="images named alike, %")
    return figure


def soft_labels(
    items: Sequence[Mapping], probabilities: Mapping[str, np.ndarray], classes: Sequence[str], most: int = 5
) -> Figure:
    """One row per image: the image, then the likeliest classes in each column's opinion, the true one ticked.

    Args:
        items: N dicts with "image" and "label" (a class number, or None).
        probabilities: column, such as an arm or "T = 2" → (N, C).
    """
    widths = [2.0, *[2.7] * len(probabilities)]
    figure, axes = new_figure(
        sum(widths), 0.8 + 1.35 * len(items), len(items), len(widths), squeeze=False, width_ratios=widths
    )
    for row, (item, ax) in enumerate(zip(items, axes, strict=True)):
        ax[0].imshow(_pixels(item["image"]))
        ax[0].set_axis_off()
        if item["label"] is not None:
            ax[0].set_title(_short(classes[item["label"]], 26), fontsize=9)
        for cell, (title, rows) in zip(ax[1:], probabilities.items(), strict=True):
            _bars(cell, np.asarray(rows[row], float), item["label"], classes, most)
            cell.set_title(arm_label(title) if row == 0 else "", fontsize=10, fontweight="bold")
            cell.set_xlabel("probability" if row == len(items) - 1 else "", fontsize=9)
    handles = [Patch(color=RIGHT, label="✓ the true class"), Patch(color=WRONG, label="another class")]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


# --- mix-ups ----------------------------------------------------------------------------------------------------


def closest_pairs(matrix: np.ndarray, most: int = 10) -> list[tuple[int, int, float]]:
    """[(a, b, percent)], the pairs of classes that are taken for each other most often, the worst first.

    The percentage is of the images of both classes together, in either direction.

    Args:
        matrix: (C, C) counts, rows are the truth.
    """
    matrix = np.asarray(matrix, float)
    mixed, images = matrix + matrix.T, matrix.sum(1)[:, None] + matrix.sum(1)[None]
    share = 100 * mixed / np.maximum(images, 1)
    a, b = np.triu_indices(len(matrix), 1)
    order = np.argsort(-share[a, b], kind="stable")[:most]
    return [(int(a[k]), int(b[k]), float(share[a[k], b[k]])) for k in order]


def confusion(matrix: np.ndarray, classes: Sequence[str], groups: Sequence[str] | None = None) -> Figure:
    """What each class is mistaken for. Neighbours of one group are framed: do the mistakes stay within it?

    Args:
        matrix: (C, C) counts, rows are the truth.
        groups: C names such as body types; the title says how many mistakes stay within one.
    """
    counts = np.asarray(matrix, float)
    wrong = np.where(np.eye(len(counts), dtype=bool), np.nan, counts)  # the diagonal would outshine all mistakes
    side = min(9, 2.6 + 0.26 * len(classes))
    figure, axes = new_figure(side + 0.9, side)
    axes.set_facecolor(WRONG)
    image = axes.imshow(
        100 * wrong / np.maximum(counts.sum(1, keepdims=True), 1), cmap="cividis", vmin=0, interpolation="nearest"
    )
    if groups is not None:
        same = np.asarray(groups)[:, None] == np.asarray(groups)[None]
        within = 100 * np.nansum(wrong[same]) / max(1, np.nansum(wrong))
        axes.set_title(f"{within:.0f} % of the mistakes stay within a frame", fontsize=10)
        starts = [k for k in range(len(groups)) if k == 0 or groups[k] != groups[k - 1]]
        for start, stop in zip(starts, [*starts[1:], len(groups)], strict=True):
            axes.add_patch(
                Rectangle((start - 0.5, start - 0.5), stop - start, stop - start, fill=False, ec=ORANGE, lw=1.6)
            )
    _class_ticks(axes.xaxis, classes, "named class")
    _class_ticks(axes.yaxis, classes, "true class")
    figure.colorbar(image, ax=axes, label="of a class's images, %", shrink=0.7)
    return figure


def closest_generations(matrices: Mapping[str, np.ndarray], classes: Sequence[str], most: int = 10) -> Figure:
    """The pairs of classes that the first arm mixes up most, and how often the other arms do.

    Args:
        matrices: arm → (C, C) counts, rows are the truth.
    """
    pairs = closest_pairs(next(iter(matrices.values())), most)[::-1]
    figure, axes = new_figure(7.5, 1.1 + 0.36 * len(pairs))
    mixed = {
        arm: {(a, b): share for a, b, share in closest_pairs(matrix, len(classes) ** 2)}
        for arm, matrix in matrices.items()
    }
    for row, (a, b, _) in enumerate(pairs):
        values = [of_pair[a, b] for of_pair in mixed.values()]
        axes.plot([min(values), max(values)], [row, row], color="#DDDDDD", lw=3, zorder=1)
    for arm, of_pair in mixed.items():
        look = {**arm_look(arm), "ls": ""}
        axes.plot(
            [of_pair[a, b] for a, b, _ in pairs],
            range(len(pairs)),
            ms=8,
            label=arm_label(arm),
            clip_on=False,
            zorder=2,
            **look,
        )
    axes.set_yticks(
        range(len(pairs)), [f"{_short(classes[a], 24)} / {_short(classes[b], 24)}" for a, b, _ in pairs], fontsize=9
    )
    axes.set_xlabel("taken for each other, % of the images of both classes")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, axis="x")
    axes.legend(frameon=False, ncols=len(matrices), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


# --- parts ------------------------------------------------------------------------------------------------------


def _pixels(image: np.ndarray) -> np.ndarray:
    return np.asarray(image).transpose(1, 2, 0)


def _short(name: str, characters: int = 20) -> str:
    name = drawable(name)
    return name if len(name) <= characters else name[: characters - 1] + "…"


def _rate(right) -> str:
    return f"{100 * np.mean(right):.0f} %" if len(right) else "no image"


def _ink(brightness: float) -> str:
    """Of a number on a cell: cividis runs from dark to bright."""
    return "black" if brightness > 0.55 else "white"


def _class_ticks(axis, classes: Sequence[str], label: str) -> None:
    """The names of the classes along an axis, their numbers when there are too many."""
    axis.set_label_text(label)
    if len(classes) > LEGIBLE:
        axis.set_label_text(f"{label}, its number")
        return
    axis.set_ticks(range(len(classes)), [_short(name, 26) for name in classes], fontsize=8)
    if axis.axis_name == "x":
        axis.set_tick_params(rotation=90)


def _bars(ax, probabilities: np.ndarray, label: int | None, classes: Sequence[str], most: int) -> None:
    """The likeliest classes as bars with their names on them; the true one's place if it comes later."""
    order = np.argsort(-probabilities, kind="stable")
    for k, c in enumerate(order[:most]):
        ax.barh(k, probabilities[c], 0.86, color=RIGHT if c == label else WRONG)
        ax.text(0.01, k, f"{'✓ ' if c == label else ''}{_short(classes[c], 24)}", va="center", fontsize=8)
        ax.text(1.17, k, f"{probabilities[c]:.2f}", va="center", ha="right", fontsize=8)
    place = None if label is None else int(np.flatnonzero(order == label)[0]) + 1
    if place is not None and place > most:
        ax.text(0.01, most, f"✓ at place {place}: {probabilities[label]:.3f}", va="center", fontsize=8, color=GREY)
    ax.set(xlim=(0, 1.18), ylim=(most + 0.4, -0.6), yticks=[], xticks=[0, 0.5, 1])
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
