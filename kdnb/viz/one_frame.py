"""One frame as two stacks of networks see it, teachers beside students: what is where, how far it is, and what it is.

A frame has "image" uint8 (H, W, 3), "calibration", "points" (N, 4) or None, "truth", "cars", "command" and "target";
a stack's outputs are {"objects", "road", "boxes", "target", "model"}, of which any may be missing or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from kdnb.datasets.kitti_calib import Calibration
from kdnb.viz.boxes3d import TRUTH, below, beside, draw_above, draw_over, font, sure
from kdnb.viz.detection import class_colour
from kdnb.viz.style import YELLOW, arm_colour

WIDE, LOW, GAP = 600, 232, 6  # pixels: of a stack, height of its lowest row, between images
MOST_HIGH = 420  # pixels of the upper image
TITLE = 22
ARMS = {"teachers": "teacher", "students": "distilled", "photo students": "distilled"}
LAYERS = ("objects", "road", "command")
ROAD, MEANT, TRUE, CHOSEN = (0, 190, 255), "#FF4FC3", YELLOW, "#FFFFFF"
OPACITY = 0.38
MODELS = 5  # of a car, the likeliest
TASKS = {
    "objects": "03 objects",
    "road": "05 road",
    "boxes": "04 boxes in space",
    "target": "02 command",
    "model": "06 model",
}


def sheet(
    frame: Any,
    outputs: dict[str, dict],
    milliseconds: dict[str, dict[str, float]],
    classes: Sequence[str],
    car: tuple | None = None,
    threshold: float = 0.4,
    layers: Sequence[str] = LAYERS,
    command: str | None = None,
) -> np.ndarray:
    """Both stacks side by side: uint8 (H, W, 3).

    Args:
        outputs: "teachers", "students" or "photo students" → what ``Stack.look`` gives.
        milliseconds: the same → task → latency.
        classes: names of the objects, label 1 is the first.
        car: box (4,) and true model or "" of the chosen car.
        threshold: of the objects' scores; of boxes in space three quarters of it.
        layers: which of LAYERS are shown over the image.
        command: the driver's words; the frame's own if None.
    """
    spoken = frame.command if command is None else command
    target = frame.target if spoken == frame.command else None
    columns = []
    for side, one in outputs.items():
        latencies = milliseconds.get(side, {})
        title = f"{side}: {sum(latencies.values()):.1f} ms in all" if latencies else side
        columns.append(
            below(
                [
                    _line(title, WIDE, 15),
                    _upper(frame, one, classes, car, threshold, layers, target),
                    _in_space(frame, one, side, 0.75 * threshold),
                    _lowest(frame, one, side, car, latencies, 0.75 * threshold),
                ],
                GAP,
            )
        )
    both = beside(columns, 2 * GAP)
    return below([_line(f"“{spoken}”", both.shape[1], 15), both, _legend(both.shape[1])], GAP)


# --- what is where ----------------------------------------------------------------------------------------------


def _upper(frame, outputs, classes, car, threshold, layers, target) -> np.ndarray:
    """The image with the road tinted, boxes around objects, what the command means and the chosen car."""
    pixels = frame.image
    if "road" in layers and outputs.get("road"):
        mask = outputs["road"]["mask"][..., None]
        pixels = np.where(mask, pixels * (1 - OPACITY) + np.array(ROAD) * OPACITY, pixels).astype(np.uint8)
    canvas, zoom = _fitted(pixels, WIDE, MOST_HIGH)
    draw = ImageDraw.Draw(canvas)
    if "objects" in layers and outputs.get("objects"):
        _objects(draw, canvas, outputs["objects"], classes, threshold, zoom)
    if "command" in layers:
        for box, colour in ((target, TRUE), (outputs.get("target"), MEANT)):
            if box is not None:
                _frame_around(draw, box, colour, zoom)
    if car is not None:
        _corners(draw, car[0], zoom)
    return _centred(canvas, WIDE)


def _objects(draw, canvas, objects, classes, threshold, zoom) -> None:
    kept = objects["scores"] >= threshold
    boxes, labels, scores = (objects[key][kept] for key in ("boxes", "labels", "scores"))
    for box, label in zip(boxes, labels, strict=True):
        draw.rectangle([float(v) * zoom for v in box], outline=class_colour(label), width=2)
    for box, label, score in zip(boxes, labels, scores, strict=True):  # after all boxes: no line crosses a word
        text = f"{classes[int(label) - 1]} {100 * score:.0f}"
        wide = round(draw.textlength(text, font=font(11))) + 4
        x = min(max(0, box[0] * zoom), canvas.width - wide)
        y = max(0, box[1] * zoom - 13)
        draw.rectangle([x, y, x + wide, y + 12], fill=class_colour(label))
        draw.text((x + 2, y), text, fill="black", font=font(11))


def _frame_around(draw, box, colour, zoom) -> None:
    x1, y1, x2, y2 = (float(v) * zoom for v in box)
    draw.rectangle([x1 - 3, y1 - 3, x2 + 3, y2 + 3], outline="black", width=5)
    draw.rectangle([x1 - 2, y1 - 2, x2 + 2, y2 + 2], outline=colour, width=3)


def _corners(draw, box, zoom) -> None:
    """Four corners around the chosen car: a frame would look like a prediction."""
    x1, y1, x2, y2 = (float(v) * zoom for v in box)
    for x, y, right, down in ((x1, y1, 1, 1), (x2, y1, -1, 1), (x1, y2, 1, -1), (x2, y2, -1, -1)):
        for colour, width in (("black", 5), (CHOSEN, 3)):
            draw.line([x + 10 * right, y, x, y, x, y + 10 * down], fill=colour, width=width)


# --- how far it is ----------------------------------------------------------------------------------------------


def _shown(frame, outputs, side, threshold) -> dict[str, dict]:
    truth = {} if frame.truth is None else {TRUTH: frame.truth}
    return {**truth, ARMS[side]: sure(outputs["boxes"], threshold)}


def _in_space(frame, outputs, side, threshold) -> np.ndarray:
    """Boxes in space over the middle of the image, as broad as KITTI's."""
    height, width = frame.image.shape[:2]
    high = min(height, round(width * 0.30))
    top = int(np.clip(round(frame.calibration.P2[1, 2] - 0.45 * high), 0, height - high))
    part, zoom = _fitted(frame.image[top : top + high], WIDE, 200)
    if not outputs.get("boxes"):
        why = "04 is not there" if "boxes" not in outputs else "this teacher needs a LiDAR, and a photograph has none"
        return _words(why, WIDE, part.height)
    shown = _shown(frame, outputs, side, threshold)
    return _centred(Image.fromarray(draw_over(np.asarray(part), shown, _lower(frame.calibration, top), zoom)), WIDE)


def _lower(calibration: Calibration, top: int) -> Calibration:
    """The calibration of an image without its first ``top`` rows."""
    matrix = calibration.P2.copy()
    matrix[1] -= top * matrix[2]
    return Calibration(matrix, matrix, matrix, matrix, calibration.R0, calibration.velo_to_cam, calibration.imu_to_velo)


def _lowest(frame, outputs, side, car, latencies, threshold) -> np.ndarray:
    """From above; the chosen car and what it is; how long everything took."""
    if outputs.get("boxes"):
        above = draw_above(outputs["boxes"]["points"], _shown(frame, outputs, side, threshold), LOW)
    else:
        above = _words("nothing from above", 186, LOW)
    return beside([above, _car_and_time(frame, outputs, side, car, latencies, WIDE - above.shape[1] - GAP)], GAP)


# --- what it is, and how long it took ---------------------------------------------------------------------------


def _car_and_time(frame, outputs, side, car, latencies, width) -> np.ndarray:
    canvas = Image.new("RGB", (width, LOW), "white")
    draw = ImageDraw.Draw(canvas)
    if car is not None and outputs.get("model"):
        x1, y1, x2, y2 = (max(0, round(float(v))) for v in car[0])
        crop, _ = _fitted(frame.image[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)], 150, 104)
        canvas.paste(crop, (0, 2))
        draw.text((0, 108), f"true: {car[1]}" if car[1] else "nobody knows", fill="black", font=font(11))
        for k, (name, share) in enumerate(outputs["model"][:MODELS]):
            y = 2 + 21 * k
            mark = ", true" if name == car[1] else ""
            draw.rectangle([160, y + 13, 160 + round(110 * share), y + 18], fill=arm_colour(ARMS[side]))
            draw.text((160, y - 1), f"{name}{mark}", fill="black", font=font(11))
            draw.text((276, y + 4), f"{100 * share:.0f} %", fill="black", font=font(11))
    else:
        draw.text((0, 4), "no car chosen" if "model" in outputs else "06 is not there", fill="black", font=font(13))
    for k, (task, milliseconds) in enumerate(latencies.items()):
        y = 134 + 18 * k
        draw.text((0, y), TASKS[task], fill="black", font=font(12))
        draw.text((190, y), f"{milliseconds:.1f} ms", fill="black", font=font(12), anchor="ra")
        draw.rectangle([200, y + 3, 200 + min(width - 210, round(4 * milliseconds)), y + 11], fill="#999999")
    return np.asarray(canvas)


def as_figure(pixels: np.ndarray) -> Figure:
    """An image (H, W, 3) as a figure of its own size at 85 dots per inch, for ``photo`` and the run's folder."""
    pixels = np.asarray(pixels)
    figure = Figure((pixels.shape[1] / 85, pixels.shape[0] / 85))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()
    return figure


# --- paper ------------------------------------------------------------------------------------------------------


def _legend(width: int) -> np.ndarray:
    canvas = Image.new("RGB", (width, 20), "white")
    draw, x = ImageDraw.Draw(canvas), 2
    for colour, text in (
        (ROAD, "road (05)"),
        (MEANT, "meant by the command (02)"),
        (TRUE, "truly meant"),
        (arm_colour("teacher"), "teacher's box in space"),
        (arm_colour("distilled"), "student's"),
        (arm_colour("ground truth"), "truth"),
        (CHOSEN, "corners: the car asked about (06)"),
    ):
        draw.rectangle([x, 4, x + 14, 15], fill=colour, outline="black")
        draw.text((x + 20, 2), text, fill="black", font=font(12))
        x += 36 + round(draw.textlength(text, font=font(12)))
    return np.asarray(canvas)


def _line(text: str, width: int, size: int) -> np.ndarray:
    canvas = Image.new("RGB", (width, TITLE), "white")
    ImageDraw.Draw(canvas).text((2, 1), text, fill="black", font=font(size))
    return np.asarray(canvas)


def _words(text: str, width: int, height: int) -> np.ndarray:
    canvas = Image.new("RGB", (width, height), "#F2F2F2")
    ImageDraw.Draw(canvas).text((width / 2, height / 2), text, fill="black", font=font(14), anchor="mm")
    return np.asarray(canvas)


def _fitted(pixels: np.ndarray, width: int, height: int) -> tuple[Image.Image, float]:
    """The image as large as fits, and by what factor."""
    zoom = min(width / pixels.shape[1], height / pixels.shape[0])
    size = max(1, round(zoom * pixels.shape[1])), max(1, round(zoom * pixels.shape[0]))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), zoom


def _centred(canvas: Image.Image, width: int) -> np.ndarray:
    paper = Image.new("RGB", (width, canvas.height), "#F2F2F2")
    paper.paste(canvas, ((width - canvas.width) // 2, 0))
    return np.asarray(paper)
