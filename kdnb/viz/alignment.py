"""Pictures of alignment: crops and their texts, what each arm ranks first, recall, the shared space, the weight sweep.

A crop is uint8 (3, h, w) everywhere here. It is enlarged without smoothing: what is shown is what the models see.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from kdnb.viz.figures import new_figure
from kdnb.viz.style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION, YELLOW, arm_colour, arm_hatch, arm_label

FIRST, CROPS = 5, 8  # sentences per crop and crops per sentence that a picture shows
RIGHT, WRONG = "#8CC5E8", "#E3E3E3"
LABEL_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PINK, YELLOW, "#333333")
# what is called red should not be drawn green
OWN_COLOURS = {
    "blue": "#0072B2",
    "red": "#D55E00",
    "white": "#E8E8E8",
    "yellow": "#F0E442",
    "green": "#009E73",
    "orange": "#E69F00",
    "black": "#222222",
}
LABEL_MARKERS = "os^Dv"  # the next shape when the colours are used up
METRICS = {"text_to_image": "text → image", "image_to_text": "image → text"}
HALO = [Stroke(linewidth=2.2, foreground="white"), Normal()]


# --- crops and sentences ----------------------------------------------------------------------------------------


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


def text_to_crops(sentence: str, found: dict[str, list[tuple]]) -> Figure:
    """The eight crops that each arm finds nearest to a sentence, the right ones framed and ticked.

    Args:
        found: arm → [(crop, is it right), ...], nearest first.
    """
    figure, axes = new_figure(1.15 * CROPS + 1.4, 1.45 * len(found) + 0.6, len(found), CROPS, squeeze=False)
    for row, (arm, crops) in zip(axes, found.items(), strict=True):
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


# --- numbers ----------------------------------------------------------------------------------------------------


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
    there = {key for of_arm in numbers.values() for key in of_arm}
    names = [(f"{way}_R@{k}{ending}", f"{words}\nR@{k}") for way, words in METRICS.items() for k in (1, 5, 10)]
    names = [(key, words) for key, words in names if key in there]
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


# --- the shared space -------------------------------------------------------------------------------------------


def embedding_map(maps: dict[str, tuple]) -> Figure:
    """The image and text embeddings of each arm in a plane, one panel per arm.

    Args:
        maps: arm → (images (N, 2), N labels, texts (M, 2), M labels). A text with the label of images has their
            colour, another is white.
    """
    labels = sorted({str(label) for _, of_images, _, _ in maps.values() for label in of_images})
    looks = _label_looks(labels)
    figure, axes = new_figure(4.3 * max(1, len(maps)), 4.9, 1, max(1, len(maps)), squeeze=False)
    for ax, (arm, (images, of_images, texts, of_texts)) in zip(axes[0], maps.items(), strict=False):
        images, texts = (np.asarray(points, dtype=float).reshape(-1, 2) for points in (images, texts))
        of_images = np.array([str(label) for label in of_images])
        for label, (colour, marker) in looks.items():
            chosen = images[of_images == label]
            ax.scatter(*chosen.T, s=20, color=colour, marker=marker, alpha=0.8, ec="#444444", lw=0.3)
        for point, label in zip(texts, of_texts, strict=True):
            colour = looks.get(str(label), ("white",))[0]
            ax.scatter(*point, s=190, marker="*", color=colour, ec="black", lw=1, zorder=3)
        ax.margins(0.15, 0.1)
        ax.set(xticks=[], yticks=[], xlabel="first direction (no unit)", ylabel="second direction (no unit)")
        ax.set_title(arm_label(arm), fontsize=11, fontweight="bold")
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, ms=6, label=label)
        for label, (colour, marker) in looks.items()
    ]
    handles.append(Line2D([], [], ls="", marker="*", mfc="white", mec="black", ms=12, label="text"))
    figure.legend(
        handles=handles, loc="outside lower center", frameon=False, ncols=min(1 + 3 * len(maps), len(handles))
    )
    figure.draw_without_rendering()  # lays the axes out, so that the words know where their stars are
    for ax, (_, _, texts, of_texts) in zip(axes[0], maps.values(), strict=False):
        _words(ax, np.asarray(texts, dtype=float).reshape(-1, 2), of_texts)
    return figure


def _label_looks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """label → (colour, marker): names of colours have their own, the others share out what is left."""
    named = {label: (OWN_COLOURS[label], "o") for label in labels if label in OWN_COLOURS}
    taken = {colour for colour, _ in named.values()}
    left = [colour for colour in LABEL_COLOURS if colour not in taken]
    others = [label for label in labels if label not in named]
    return {
        label: named.get(label)
        or (left[others.index(label) % len(left)], LABEL_MARKERS[others.index(label) // len(left) % 5])
        for label in labels
    }


def _words(ax, points, words) -> None:
    """Each word beside its star, where it covers least of the other words and stars; in typographic points."""
    scale = 72 / ax.figure.dpi
    stars = ax.transData.transform(points) * scale if len(points) else points
    left, low, right, high = ax.bbox.extents * scale
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in stars]
    for star, point, word in zip(stars, points, words, strict=True):
        across = 5.2 * len(str(word))
        places = [(dx, dy) for dy in (-4, 7, -15) for dx in (8, -8 - across)] + [(-across / 2, 9), (-across / 2, -18)]
        boxes = [(x, y, x + across, y + 11) for x, y in star + np.array(places)]
        cost = [
            sum(_overlap(box, other) for other in taken) + 11 * across - _overlap(box, (left, low, right, high))
            for box in boxes
        ]
        best = int(np.argmin(cost))
        taken.append(boxes[best])
        ax.annotate(
            str(word), point, places[best], textcoords="offset points", fontsize=9, zorder=4, path_effects=HALO
        ).set_in_layout(False)


def _overlap(a, b) -> float:
    """Common area of two boxes (x1, y1, x2, y2)."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _show(ax, crop) -> None:
    ax.imshow(np.asarray(crop).transpose(1, 2, 0), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
