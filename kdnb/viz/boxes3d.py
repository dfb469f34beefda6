"""3D boxes over an image, and a cloud from above, straight into pixels: in milliseconds; matplotlib needs a second.

Velodyne frame: x forward, y left, z up, metres. From above, forward is up and left is left. Detections are a
dict of "boxes" (K, 7) LiDAR boxes, "scores" (K,) and "labels" (K,), indices into CLASSES; the truth needs no scores.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from kdnb.datasets.kitti_boxes import EDGES, NEAR, corners
from kdnb.datasets.kitti_calib import Calibration
from kdnb.datasets.kitti_labels import CLASSES
from kdnb.viz.detection import free_row
from kdnb.viz.points import COLOURS, DEPTHS
from kdnb.viz.style import arm_colour, arm_label

TRUTH = "ground truth"
AHEAD, ASIDE = 50.0, 20.0  # metres that the view from above shows
HEIGHTS = (-2.0, 1.0)  # metres above the sensor at which the colours of points end
RAMP = (colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
OUTLINE, CROSS = np.array(EDGES), np.array([(0, 5), (1, 4)])  # pairs of corners; the cross is on the front


def sure(detections: dict, threshold: float) -> dict:
    """The detections whose score is at least ``threshold``."""
    kept = np.asarray(detections["scores"]) >= threshold
    return {key: np.asarray(detections[key])[kept] for key in ("boxes", "scores", "labels")}


def fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image (H, W, 3) as large as ``width`` x ``height`` pixels allow, its shape kept."""
    zoom = min(width / image.shape[1], height / image.shape[0])
    size = tuple(max(1, round(zoom * side)) for side in image.shape[1::-1])
    return image if size == image.shape[1::-1] else np.asarray(Image.fromarray(image).resize(size))


# --- over the image ---------------------------------------------------------------------------------------------


def draw_over(
    image: np.ndarray, detections: dict[str, dict], calibration: Calibration, zoom: float = 1.0
) -> np.ndarray:
    """The boxes of all arms over an image, with a cross on the front side, class and score beside it.

    Args:
        image: uint8 (H, W, 3), ``zoom`` times as large as the one that the calibration is for.
        detections: arm, or "ground truth" → its boxes, as above.
    """
    canvas = Image.fromarray(image)
    draw, names = ImageDraw.Draw(canvas), []
    for arm, one in detections.items():
        colour = arm_colour(arm)
        lines, crosses = (lines_of(one["boxes"], pairs, calibration, zoom) for pairs in (OUTLINE, CROSS))
        for k, (outline, cross) in enumerate(zip(lines, crosses, strict=True)):
            if arm == TRUTH:  # black alone is lost in shadows
                _draw_lines(draw, outline, "white", 4)
            _draw_lines(draw, cross, colour, 1)
            _draw_lines(draw, outline, colour, 2)
            if arm != TRUTH and len(outline):
                names.append((one["scores"][k], CLASSES[int(one["labels"][k])], outline, colour))
    taken = []  # names come after all boxes, so that no line crosses a word; the surest have the first choice of places
    for score, name, outline, colour in sorted(names, key=lambda n: -n[0]):
        _write_above(draw, outline, f"{name} {score:.2f}", colour, taken)
    return np.asarray(canvas)


def lines_of(boxes: np.ndarray, pairs: np.ndarray, calibration: Calibration, zoom: float = 1.0) -> list[np.ndarray]:
    """For each box (K, 7) the lines between pairs (P, 2) of its corners, ends (at most P, 2, 2) in pixels. Lines
    behind the camera are left out; a line that starts there is cut at the plane NEAR before the camera."""
    each = calibration.lidar_to_rect(corners(boxes).reshape(-1, 3)).reshape(-1, 8, 3)[:, pairs]  # K, P, 2, 3
    depth = each[..., 2]
    ahead = depth >= NEAR
    crosses = ahead != ahead[..., ::-1]
    share = (NEAR - depth) / np.where(crosses, depth[..., ::-1] - depth, 1)
    ends = np.where((crosses & ~ahead)[..., None], each + share[..., None] * (each[:, :, ::-1] - each), each)
    uv = calibration.rect_to_image(ends.reshape(-1, 3)).reshape(*ends.shape[:-1], 2)
    return [((of_box + 0.5) * zoom - 0.5)[visible.any(1)] for of_box, visible in zip(uv, ahead, strict=True)]


def _draw_lines(draw: ImageDraw.ImageDraw, lines: np.ndarray, colour: str, width: int) -> None:
    for (x1, y1), (x2, y2) in lines.tolist():
        draw.line([x1, y1, x2, y2], fill=colour, width=width)


def _write_above(draw, outline, text, colour, taken):
    """Text above a box, or up to three lines higher where others stand; none without room, or out of the image."""
    wide, (width, height) = round(draw.textlength(text, font(11))) + 4, draw.im.size
    (left, top), (right, bottom) = outline.min((0, 1)), outline.max((0, 1))
    if right < 0 or left >= width or bottom < 0 or top >= height:
        return
    x, lowest = int(np.clip(left, 0, max(0, width - wide))), int(np.clip(top - 13, 0, height - 13))
    y = free_row(taken, x, wide, lowest, 13)
    if y is not None:
        draw.rectangle([x, y, x + wide, y + 12], fill="white")
        draw.rectangle([x, y, x + 2, y + 12], fill=colour)
        draw.text((x + 4, y), text, fill="black", font=font(11))


# --- from above -------------------------------------------------------------------------------------------------


def draw_above(points: np.ndarray, detections: dict[str, dict], height: int = 450) -> np.ndarray:
    """A cloud (N, 3 or more) from above, coloured by height, with outlines of boxes and a line to their front.

    Returns:
        uint8 (height, 2 ASIDE / AHEAD · height, 3).
    """
    scale = height / AHEAD
    sheet = np.full((height, round(2 * ASIDE * scale), 3), 255, np.uint8)
    x, y, z = np.asarray(points, np.float32)[:, :3].T
    row, column = (height - x * scale).astype(int), ((ASIDE - y) * scale).astype(int)
    inside = (x > 0) & (row >= 0) & (row < height - 1) & (column >= 0) & (column < sheet.shape[1] - 1)
    row, column = row[inside], column[inside]
    low, high = HEIGHTS
    colour = RAMP[np.clip((z[inside] - low) / (high - low) * 255, 0, 255).astype(int)]
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a point is two pixels wide
        sheet[row + down, column + right] = colour
    canvas = Image.fromarray(sheet)
    draw = ImageDraw.Draw(canvas)
    for metres in range(10, round(AHEAD), 10):
        draw.line([0, height - metres * scale, 6, height - metres * scale], fill="#666666")
        draw.text(
            (9, height - metres * scale - 7),
            f"{metres} m",
            fill="#444444",
            font=font(11),
            stroke_width=2,
            stroke_fill="white",
        )
    for arm, one in detections.items():
        _draw_outlines(draw, np.asarray(one["boxes"], float).reshape(-1, 7), arm_colour(arm), scale, height)
    draw.rectangle([0, 0, canvas.width - 1, height - 1], outline="#999999")
    return np.asarray(canvas)


def _draw_outlines(draw, boxes, colour, scale, height):
    for ground, box in zip(corners(boxes)[:, :4, :2], boxes, strict=True):
        stops = [*ground, ground[0], box[:2], ground[:2].mean(0)]
        place = [((ASIDE - y) * scale, height - x * scale) for x, y in stops]
        draw.line(place[:5], fill=colour, width=2, joint="curve")
        draw.line(place[5:], fill=colour, width=2)


def beside(images: list[np.ndarray], gap: int = 6) -> np.ndarray:
    """Images (H, W, 3) from left to right, on white."""
    high = max(image.shape[0] for image in images)
    return np.concatenate(
        [
            np.pad(image, ((0, high - image.shape[0]), (0, gap * (k < len(images) - 1)), (0, 0)), constant_values=255)
            for k, image in enumerate(images)
        ],
        1,
    )


def below(images: list[np.ndarray], gap: int = 6) -> np.ndarray:
    """Images (H, W, 3) from top to bottom, on white."""
    return beside([image.transpose(1, 0, 2) for image in images], gap).transpose(1, 0, 2)


# --- depth and legend -------------------------------------------------------------------------------------------


def draw_depth(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """A depth map (H, W), metres, in colours, logarithmic; as large as ``fitted`` makes an image."""
    low, high = np.log(DEPTHS.vmin), np.log(DEPTHS.vmax)
    share = (np.log(np.maximum(depth, 0.1)) - low) / (high - low)
    return fitted(RAMP[np.clip(share * 255, 0, 255).astype(int)], width, height)


def legend(rows: list[tuple[str, str]], width: int, depth: bool = False) -> np.ndarray:
    """Arms with their colours and a text for each; below, what the points' colours mean.

    Args:
        rows: (arm, text behind its name).
        depth: explain the colours of a depth map too.
    """
    canvas = Image.new("RGB", (width, 66 + 22 * len(rows) + 52 * depth), "white")
    draw, y = ImageDraw.Draw(canvas), 6
    for arm, text in rows:
        draw.rectangle([8, y + 2, 26, y + 12], fill=arm_colour(arm))
        draw.text((34, y - 1), f"{arm_label(arm)}: {text}", fill="black", font=font(14))
        y += 22
    y += 6
    low, high = HEIGHTS
    _ramp(draw, y, "points: height above the sensor, m", [(f"{m}", (m - low) / (high - low)) for m in (-2, -1, 0, 1)])
    if depth:
        low, high = np.log(DEPTHS.vmin), np.log(DEPTHS.vmax)
        _ramp(draw, y + 52, "depth, m", [(f"{m}", (np.log(m) - low) / (high - low)) for m in (5, 10, 20, 40)])
    return np.asarray(canvas)


def _ramp(draw, y, title, ticks, wide=200):
    draw.text((8, y), title, fill="black", font=font(12))
    for k, colour in enumerate(RAMP[np.linspace(0, 255, wide).astype(int)].tolist()):
        draw.line([8 + k, y + 18, 8 + k, y + 28], fill=tuple(colour))
    for text, share in ticks:
        draw.text((8 + share * wide, y + 30), text, fill="black", font=font(11), anchor="ma")


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
