"""Figures of grounding: commands and what they mean, each arm's box, where it looked, scores by kind of command.

Everywhere here an image is uint8 (3, H, W) and a box is (x1, y1, x2, y2) in the pixels of that image. The true box
is yellow with a black rim in all of them, so that it stands out from all arms and images.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor

from kdnb.metrics.grounding import NAMES
from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREY, SKY, YELLOW, arm_colour, arm_hatch, arm_label, arm_line, arm_marker

TRUTH, TWIN, PROPOSAL = YELLOW, SKY, "#C8C8C8"
SLICES = {
    "all": "all\ncommands",
    "colour": "name a\ncolour",
    "side": "name a\nside",
    "neither": "neither",
    "small": "small\nbox",
    "twin": "with\na twin",
    "twin_colour": "twin: other\ncolour",
    "twin_side": "twin: other\nside",
}
CHARACTERS = 10.5  # of a row's title that fit an inch


# --- images ---------------------------------------------------------------------------------------------------


def commands_sheet(items: list[dict], columns: int = 3) -> Figure:
    """Images with the object that a command means, its twin if it has one, and the proposals; the command below.

    Args:
        items: dicts with "image", "command", "box" (4,) or None, "twin_box" (4,) or None, "proposals" (P, 4) or None;
            the last two may be left out.
    """
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    figure, axes = _sheet(items, rows, columns, 3.6, 0.5 * rows)
    for ax, item in zip(axes.flat, items, strict=False):
        show_image(ax, item["image"])
        for proposal in _boxes(item.get("proposals")):
            draw_box(ax, proposal, PROPOSAL, width=0.8, rim=False)
        if item.get("twin_box") is not None:
            draw_box(ax, item["twin_box"], TWIN, 2.0, dashed=True)
        if item.get("box") is not None:
            draw_box(ax, item["box"], TRUTH, width=2.5)
        ax.set_xlabel(textwrap.fill(item["command"], 46), fontsize=10)
    for ax in axes.flat[len(items) :]:
        ax.set_axis_off()
    entries = [_entry("what the command means", TRUTH, 2.5), _entry("region proposals", PROPOSAL, 0.8, rim=False)]
    if any(item.get("twin_box") is not None for item in items):
        entries.insert(1, _entry("its twin, which differs in one thing only", TWIN, 2.0, dashed=True))
    _legend_above(figure, entries)
    return figure


def predictions_sheet(items: list[dict], boxes: dict[str, list], ious: dict[str, list]) -> Figure:
    """One row per command, one column per arm: its box, its overlap with the true one, right (above 0.5) or wrong.

    Args:
        items: dicts with "image", "command", "box" (4,) or None.
        boxes: arm → a box (4,) per item, None where the arm has none.
        ious: arm → an IoU 0..1 per item; a missing arm gets no number.
    """
    figure, axes = _command_rows(items, list(boxes))
    for (r, item), (c, arm) in _cells(items, boxes):
        ax = axes[r, c]
        if item.get("box") is not None:
            draw_box(ax, item["box"], TRUTH, dashed=True)
        if boxes[arm][r] is not None:
            draw_box(ax, boxes[arm][r], arm_colour(arm), width=2.6, rim_colour="white")
        overlap = ious[arm][r] if arm in ious else None
        verdict = "no answer" if boxes[arm][r] is None else ""
        if overlap is not None:
            verdict = f"IoU {float(overlap):.2f} {'✓' if overlap > 0.5 else '✗'}"
        _cell_title(ax, f"{arm_label(arm)}{': ' if verdict else ''}{verdict}")
    entries = [_entry(f"box of {arm_label(arm)}", arm_colour(arm), 2.6, rim_colour="white") for arm in boxes]
    _legend_above(figure, [*entries, _entry("true box", TRUTH, dashed=True)])
    return figure


def attention_sheet(items: list[dict], weights: dict[str, list]) -> Figure:
    """One row per command, one column per arm: each proposal tinted by how much the arm looked at it.

    Where proposals overlap, the larger weight shows. One colour scale for the whole sheet.

    Args:
        items: dicts with "image", "command", "proposals" (P, 4), "box" (4,) or None.
        weights: arm → per item (P,) that sum to 1, or None.
    """
    known = [float(np.max(np.asarray(w))) for of_arm in weights.values() for w in of_arm if w is not None and len(w)]
    scale = ScalarMappable(Normalize(0, max(known, default=1.0)), "Reds")
    figure, axes = _command_rows(items, list(weights), grey=True, beside=0.9)
    for (r, item), (c, arm) in _cells(items, weights):
        ax, looked = axes[r, c], weights[arm][r]
        if looked is not None:
            tint = weight_map(item["image"].shape[1:], _boxes(item["proposals"]), np.asarray(looked))
            strength = np.where(np.isnan(tint), 0, 0.2 + 0.6 * scale.norm(tint))  # what nobody looked at stays visible
            ax.imshow(
                np.nan_to_num(tint),
                cmap=scale.cmap,
                norm=scale.norm,
                alpha=strength,
                interpolation="nearest",
                extent=(0, *tint.shape[::-1], 0),
            )
        if item.get("box") is not None:
            draw_box(ax, item["box"], TRUTH, dashed=True)
        most = "" if looked is None else f": at most {float(np.max(np.asarray(looked))):.2f}"
        _cell_title(ax, arm_label(arm) + most)
    figure.colorbar(
        scale,
        ax=axes,
        label="attention to a proposal, share of the image's total",
        shrink=0.95 if len(items) < 3 else 2.4 / len(items),
        aspect=22,
        pad=0.015,
    )
    _legend_above(figure, [_entry("true box", TRUTH, dashed=True)])
    return figure


def weight_map(size: tuple[int, int], proposals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(H, W): the largest weight of the proposals (P, 4) that cover a pixel, NaN where none does."""
    tint = np.full(size, np.nan)
    for k in np.argsort(weights, kind="stable"):
        x1, y1, x2, y2 = (max(0, round(float(v))) for v in proposals[k])
        tint[y1:y2, x1:x2] = weights[k]
    return tint


# --- scores -----------------------------------------------------------------------------------------------------


def slice_bars(scores: dict[str, dict], chance: dict[str, float] | None = None) -> Figure:
    """AP50 of each arm on each kind of command; a dashed line at a random choice among the candidates.

    Args:
        scores: arm → slice → percent, None or absent without such commands. Slices as in ``SLICES``.
        chance: slice → percent, for as many of them as known.
    """
    chance, arms = chance or {}, list(scores)
    present = {name for of_arm in scores.values() for name in of_arm}
    names = [name for name in SLICES if name in present] + sorted(present - set(SLICES))
    bar = 0.82 / len(arms)
    figure, axes = new_figure(max(7.5, 0.8 + len(names) * (0.45 + 0.17 * len(arms))), 4.2)
    for a, arm in enumerate(arms):
        colour, hatch = arm_colour(arm), arm_hatch(arm)
        at = np.arange(len(names)) + (a - (len(arms) - 1) / 2) * bar
        values = [scores[arm].get(name) for name in names]
        heights, look = [value or 0 for value in values], {"hatch": hatch, "edgecolor": "white", "lw": 0.5}
        axes.bar(at, heights, bar * 0.92, color=colour, label=arm_label(arm), **look)
        for x, value in zip(at, values, strict=True):
            if value is not None and len(arms) <= 5:
                text = axes.text(x, value + 0.8, f"{value:.0f}", ha="center", va="bottom", fontsize=7.5, zorder=4)
                text.set_path_effects([Stroke(linewidth=2, foreground="white"), Normal()])
    for k, name in enumerate(names):
        if all(scores[arm].get(name) is None for arm in arms):
            axes.text(k, 2, "no such\ncommand", ha="center", va="bottom", color=GREY, fontsize=8)
        if chance.get(name) is not None:
            axes.plot([k - 0.46, k + 0.46], [chance[name]] * 2, color="black", ls=(0, (3, 1.5)), lw=1.4)
    axes.set_xticks(range(len(names)), [SLICES.get(name, arm_label(name)) for name in names], fontsize=9)
    axes.set_ylabel("AP50, % of commands found (IoU > 0.5)")
    axes.set_ylim(0, 105)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3, axis="y")
    handles = axes.get_legend_handles_labels()[0]
    if any(chance.get(name) is not None for name in names):
        handles.extend(axes.plot([], [], color="black", ls=(0, (3, 1.5)), lw=1.4, label="chance"))
    axes.legend(
        handles=handles, frameon=False, ncols=min(6, len(handles)), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    return figure


def iou_curve(scores: dict[str, dict]) -> Figure:
    """AP of each arm over the IoU that a box must exceed.

    Args:
        scores: arm → {"AP50": percent, "AP55": ..., "AP95": ...}, see ``kdnb.metrics.grounding.evaluate_talk2car``.
    """
    figure, axes = new_figure(8.5, 4.2)
    thresholds = [int(name[2:]) / 100 for name in NAMES]
    for arm, numbers in scores.items():
        values = [np.nan if numbers.get(name) is None else numbers[name] for name in NAMES]
        colour, variant = arm_colour(arm), arm_hatch(arm)
        axes.plot(
            thresholds,
            values,
            color=colour,
            marker=arm_marker(arm),
            ms=5,
            lw=1.7,
            label=arm_label(arm),
            ls=arm_line(arm),
            mfc="white" if variant else colour,
        )
    axes.set_xticks(thresholds, [f"{t:.2f}" for t in thresholds])
    axes.set_xlabel("overlap (IoU) that a box must exceed")
    axes.set_ylabel("AP, % of commands found")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside right center")
    return figure


# --- parts ------------------------------------------------------------------------------------------------------


def show_image(ax: Axes, image: Tensor, grey: bool = False) -> None:
    """The image without ticks, one unit a pixel from the left upper corner; washed-out grey as a ground for tints."""
    pixels = np.asarray(image.permute(1, 2, 0))
    height, width = pixels.shape[:2]
    extent = (0, width, height, 0)
    if grey:
        ax.imshow(pixels.mean(-1), cmap="gray", vmin=-80, vmax=255, extent=extent)
    else:
        ax.imshow(pixels, extent=extent)
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


def draw_box(ax: Axes, box: Sequence[float], colour: str, width: float = 1.6, **line: Any) -> None:
    """A rectangle with a rim, which keeps it visible on any ground; cut at the image's edge but not hidden by it."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    x1, x2 = np.clip([float(box[0]), float(box[2])], left + 1, right - 1)
    y1, y2 = np.clip([float(box[1]), float(box[3])], top + 1, bottom - 1)
    ax.add_patch(_line(colour, width, corner=(x1, y1), across=x2 - x1, down=y2 - y1, **line))


def _line(colour, width, dashed=False, rim=True, rim_colour="black", corner=(0, 0), across=1.0, down=1.0) -> Rectangle:
    patch = Rectangle(corner, across, down, fill=False, ec=colour, lw=width, ls=(0, (4, 2)) if dashed else "-")
    if rim:
        patch.set_path_effects([Stroke(linewidth=width + 1.6, foreground=rim_colour), Normal()])
    return patch


def _entry(label, colour, width=1.6, dashed=False, rim=True, rim_colour="black") -> Patch:
    patch = _line(colour, width, dashed, rim, rim_colour)
    patch.set_label(label)
    return patch


def _legend_above(figure, entries) -> None:
    figure.legend(
        handles=entries,
        loc="outside upper center",
        ncols=min(6, len(entries)),
        frameon=False,
        fontsize=9,
        handlelength=2.2,
        handleheight=1.1,
    )


def _boxes(boxes) -> np.ndarray:
    return np.zeros((0, 4)) if boxes is None else np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _cells(items, of_arms):
    return (((r, item), (c, arm)) for r, item in enumerate(items) for c, arm in enumerate(of_arms))


def _sheet(items, rows, columns, width, above, beside=0.0):
    """Axes (rows, columns) for images ``width`` inches across, ``above`` inches of words in all, and a legend."""
    height, across = items[0]["image"].shape[1:]
    size = width * columns + beside, rows * width * height / across + above + 0.4
    return new_figure(*size, rows, columns, squeeze=False)


def _command_rows(items, arms, grey=False, beside=0.0):
    """A sheet with one row per item, whose command stands above it, and one column per arm."""
    width = 3.4
    wrapped = [textwrap.wrap(f"“{item['command']}”", int(width * len(arms) * CHARACTERS)) for item in items]
    above = sum(0.4 + 0.18 * len(words) for words in wrapped)
    figure, axes = _sheet(items, len(items), len(arms), width, above, beside)
    figure.get_layout_engine().set(h_pad=0.08)
    for row, item, words in zip(axes, items, wrapped, strict=True):
        for ax in row:
            show_image(ax, item["image"], grey)
            ax.set_title("\n" * len(words), fontsize=10)  # keeps room for the command, which spans the columns
        text = row[0].annotate(
            "\n".join(words),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 21),
            fontsize=10.5,
            textcoords="offset points",
            va="bottom",
            fontweight="bold",
        )
        text.set_in_layout(False)
    return figure, axes


def _cell_title(ax, text) -> None:
    ax.set_title(ax.get_title() + text, fontsize=10)
