"""The shared space of images and texts in a plane: dots and stars in the colours of their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from kdnb.viz.figures import new_figure
from kdnb.viz.style import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, YELLOW, arm_label

LABEL_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PINK, YELLOW, "#333333")
# labels that name a colour have it
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
HALO = [Stroke(linewidth=2.2, foreground="white"), Normal()]


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
