"""Figures of detections: boxes on images, foreground masks per pyramid level, feature errors, arms side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kdnb.viz.figures import new_figure
from kdnb.viz.style import GREEN, ORANGE, PINK, SKY, VERMILION, YELLOW, arm_label

# eleven, so that no two of the VOC classes that the street shows share one
CLASS_COLOURS = ["#FFFFFF", YELLOW, GREEN, PINK, SKY, "#A6D854", ORANGE, VERMILION, "#B8B8FF", "#66C2A5", "#FFB3B3"]


def class_colour(label: int) -> str:
    return CLASS_COLOURS[int(label) % len(CLASS_COLOURS)]


def draw_boxes(
    image: Tensor, boxes: Tensor, labels: Tensor, classes: Sequence[str], scores: Tensor | None = None, zoom: int = 2
) -> np.ndarray:
    """A copy of the image, ``zoom`` times larger, with labelled boxes; a word that would cover others is left out.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) xyxy in pixels of the image.
        labels: (N,) 1-based into ``classes``.
        scores: (N,) 0..1, written behind the class.

    Returns:
        (zoom·H, zoom·W, 3) uint8.
    """
    canvas = Image.fromarray(image.permute(1, 2, 0).numpy())
    canvas = canvas.resize((canvas.width * zoom, canvas.height * zoom), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(11, 3 * zoom + 1))
    corners = [[corner * zoom for corner in box] for box in boxes.tolist()]
    for box, label in zip(corners, labels, strict=True):
        draw.rectangle(box, outline=class_colour(label), width=2)
    taken = []  # words come after all boxes, so that no line crosses one; the surest have the first choice of places
    for i in range(len(corners)) if scores is None else scores.argsort(descending=True).tolist():
        box = corners[i]
        text = classes[int(labels[i]) - 1] + (f" {100 * float(scores[i]):.0f}" if scores is not None else "")
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        x = min(max(box[0], 0), canvas.width - width)
        y = free_row(taken, int(x), int(width), int(box[1] - height if box[1] >= height else box[1]), int(height))
        if y is not None:
            draw.rectangle([x, y, x + width, y + height], fill=class_colour(labels[i]))
            draw.text((x + 2 - left, y + 2 - top), text, fill="black", font=font)
    return np.asarray(canvas)


def free_row(taken: list[tuple[int, int, int]], x: int, width: int, lowest: int, height: int) -> int | None:
    """The row from ``lowest`` up to 40 pixels higher at which a word covers none of those in ``taken``, as (x, y,
    width), which it then joins; None without room."""
    near = [b for a, b, w in taken if x < a + w and a < x + width]
    rows = range(lowest, max(-1, lowest - 40), -1)
    y = next((y for y in rows if all(abs(y - b) >= height for b in near)), None)
    if y is not None:
        taken.append((x, y, width))
    return y


def image_grid(
    images: list[list[np.ndarray]], titles: list[str], rows: list[str] | None = None, width: float = 3.0
) -> Figure:
    """Rows of equally large images; titles above the first row, row names at the left."""
    height, across = images[0][0].shape[:2]
    figure, axes = new_figure(
        width * len(images[0]),
        width * height / across * len(images) + 0.4,  # of the titles
        len(images),
        len(images[0]),
        squeeze=False,
    )
    for r, row in enumerate(images):
        for c, image in enumerate(row):
            axes[r, c].imshow(image)
            axes[r, c].set_xticks([])
            axes[r, c].set_yticks([])
            if r == 0 and c < len(titles):
                axes[r, c].set_title(titles[c], fontsize=11)
        if rows:
            axes[r, 0].set_ylabel(rows[r], fontsize=8)
    return figure


def draw_item(item: dict, classes: Sequence[str], zoom: int = 2) -> np.ndarray:
    """An image with its ground truth, difficult objects left out."""
    keep = ~item["difficult"]
    return draw_boxes(item["image"], item["boxes"][keep], item["labels"][keep], classes, zoom=zoom)


def draw_detections(
    item: dict, detections: dict, threshold: float, classes: Sequence[str], zoom: int = 2
) -> np.ndarray:
    """An image with the detections whose score is at least ``threshold``."""
    keep = detections["scores"] >= threshold
    boxes, labels, scores = (detections[key][keep] for key in ("boxes", "labels", "scores"))
    return draw_boxes(item["image"], boxes, labels, classes, scores, zoom)


def samples(items: list[dict], classes: Sequence[str], columns: int = 4) -> Figure:
    """A sheet of images with their ground truth."""
    images = [draw_item(item, classes) for item in items]
    return image_grid([images[i : i + columns] for i in range(0, len(images), columns)], [])


def side_by_side(items: list[dict], detections: dict[str, dict], threshold: float, classes: Sequence[str]) -> Figure:
    """One row per image: each arm's detections, then the ground truth.

    Args:
        detections: arm → image id → detections.
    """
    rows = [
        [draw_detections(item, of_arm[item["id"]], threshold, classes) for of_arm in detections.values()]
        + [draw_item(item, classes)]
        for item in items
    ]
    return image_grid(rows, [arm_label(name) for name in detections] + ["ground truth"], [i["id"] for i in items])


def mask_on_image(image: Tensor, mask: Tensor, zoom: int = 2) -> np.ndarray:
    """The image with the cells of a mask (H_l, W_l) tinted, each as the block of pixels that it stands for."""
    height, width = image.shape[1:]
    size = (height * zoom, width * zoom)
    canvas = torch.nn.functional.interpolate(image[None].float(), size=size, mode="bilinear")[0].permute(1, 2, 0)
    cells = torch.nn.functional.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0, :, :, None]
    tint = torch.tensor([0.0, 158.0, 115.0])
    return (canvas * (1 - 0.6 * cells) * 0.9 + tint * 0.6 * cells).clamp(0, 255).byte().numpy()


def masks_per_level(image: Tensor, masks: list[Tensor], first_level: int = 2) -> Figure:
    """The foreground cells of one image on every level of the pyramid, which begins at P<first_level>."""
    images = [mask_on_image(image, mask[0, 0]) for mask in masks]
    titles = [
        f"P{i}: {m.shape[-1]} x {m.shape[-2]} cells, {int(m.sum())} foreground"
        for i, m in enumerate(masks, first_level)
    ]
    return image_grid([images], titles, width=3.3)


def feature_errors(image: Tensor, errors: dict[str, Tensor], level: str) -> Figure:
    """How much of the teacher's feature map each student misses, cell by cell, on one colour scale.

    Args:
        errors: arm → (H_l, W_l), share of the teacher's variance, see ``kdnb.metrics.features.unexplained``.
    """
    figure, axes = new_figure(3.3 * (len(errors) + 1), 2.6, 1, len(errors) + 1)
    axes[0].imshow(image.permute(1, 2, 0))
    axes[0].set_title("image")
    top = max(float(np.quantile(error.numpy(), 0.99)) for error in errors.values())
    for ax, (name, error) in zip(axes[1:], errors.items(), strict=True):
        shown = ax.imshow(error, cmap="cividis", vmin=0, vmax=top)
        ax.set_title(f"{arm_label(name)}: mean {error.mean():.2f}")
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(shown, ax=axes[1:], label=f"share of the teacher's\nvariance missed on {level}", shrink=0.85)
    return figure


def disagreement(first: dict, second: dict, threshold: float = 0.5) -> float:
    """How much two models differ on one image: how many detections have no counterpart in the other's.

    A counterpart has the same label and an IoU of at least 0.5; both sides count only from the threshold on.
    """
    from torchvision.ops import box_iou

    a, b = ({k: v[one["scores"] >= threshold] for k, v in one.items()} for one in (first, second))
    if not len(a["boxes"]) or not len(b["boxes"]):
        return float(len(a["boxes"]) + len(b["boxes"]))
    pairs = (box_iou(a["boxes"], b["boxes"]) >= 0.5) & (a["labels"][:, None] == b["labels"][None])
    return float((~pairs.any(1)).sum() + (~pairs.any(0)).sum())
