"""Where do teacher and student disagree about a car, and what does the temperature make of their soft labels?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kdnb.errors import InputError
from kdnb.viz.car_scores import arm_look
from kdnb.viz.guard import arm_boxes, guarded, png, screen, take_upload
from kdnb.viz.hangul import drawable
from kdnb.viz.style import arm_label

MOST, ACROSS = 5, 3  # classes listed per arm, arms in a row
CAR, PANEL, BAR, GAP = 300, 290, 190, 14  # pixels across: the image, an arm's panel, its longest bar, between them
LINE, TITLE = 34, 46  # pixels down: a class, what stands above them
HEIGHT = TITLE + (MOST + 1) * LINE + GAP  # of an arm; the line more is for a true class that is not among the first
FLOOR = np.log(1e-15)  # of a log-probability, so that a distance stays finite
TRUE = "#00664A"


class CarsExplorer:
    """Pick a car, or upload one; see each arm's five likeliest classes; reshape the soft labels with a temperature.

    Cars are sorted by how far the student, the last arm, is from the teacher, which is "ensemble", else "teacher",
    else the first arm. A student is trained on what the teacher's bars look like at its temperature.

    Args:
        items: N dicts with "name" and "image" uint8 (3, H, W).
        outputs: arm → logits (N, C).
        classes: C names.
        truth: N class numbers, or None.
        predict: arm → ``f(image uint8 (3, H, W))`` → logits (C,), for an upload; other arms have none, and some arms
            may answer for these only.
        classes_of: arm → names of its classes, where they are others.

    Raises InputError when an arm's outputs are not one row per car and one column per class.
    """

    def __init__(
        self,
        items: Sequence[dict],
        outputs: Mapping[str, np.ndarray | Tensor],
        classes: Sequence[str],
        truth: Sequence[int] | None = None,
        predict: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        classes_of: Mapping[str, Sequence[str]] | None = None,
    ):
        self.classes, self.predict = [drawable(name) for name in classes], dict(predict or {})
        self.classes_of = {arm: [drawable(name) for name in names] for arm, names in (classes_of or {}).items()}
        outputs = {arm: np.asarray(logits, float) for arm, logits in outputs.items()}
        for arm, logits in outputs.items():
            if logits.shape != (len(items), len(classes)):
                raise InputError(f"outputs of {arm} are {logits.shape}, expected ({len(items)}, {len(classes)})")
        self.teacher = next((arm for arm in ("ensemble", "teacher") if arm in outputs), next(iter(outputs)))
        self.student = list(outputs)[-1]
        apart = divergence(outputs[self.teacher], outputs[self.student])
        self.cars = {}  # name -> (image, true class or None, arm -> logits (C,))
        options = []
        for k in np.argsort(-apart, kind="stable"):
            name = items[k]["name"]
            self.cars[name] = (
                items[k]["image"],
                None if truth is None else int(truth[k]),
                {arm: logits[k] for arm, logits in outputs.items()},
            )
            options.append((f"{name}: {apart[k]:.2f} nats apart", name))
        self._controls(options, {**outputs, **self.predict})
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.car, self.temperature, self.upload], layout=row),
                widgets.HBox(list(self.arms.values()), layout=row),
                self.message,
                self.screen,
            ]
        )
        for control in (self.car, self.temperature, *self.arms.values()):
            control.observe(guarded(self.message, self._redraw), "value")
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        guarded(self.message, self._redraw)(None)

    def _controls(self, options: list[tuple[str, str]], arms) -> None:
        wide = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="380px")}
        self.car = widgets.Dropdown(options=options, description="car", **wide)
        self.temperature = widgets.FloatSlider(
            1.0, min=0.5, max=8, step=0.1, description="temperature", readout_format=".1f", **wide
        )
        self.arms = arm_boxes(arms)
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your car")
        self.screen = screen()
        self.message = widgets.HTML()

    def soft(self, arm: str) -> np.ndarray | None:
        """The arm's soft labels (C,) of the chosen car at the chosen temperature; None when it has no output."""
        logits = self.cars[self.car.value][2].get(arm)
        return None if logits is None else np.exp(log_softmax(logits / self.temperature.value))

    def render(self) -> np.ndarray:
        """The screen as (H, W, 3) uint8: the car at the left, each chosen arm's likeliest classes beside it."""
        image, label, outputs = self.cars[self.car.value]
        arms = [name for name, box in self.arms.items() if box.value]
        rows = max(1, -(-len(arms) // ACROSS))
        sheet = Image.new("RGB", (CAR + GAP + ACROSS * (PANEL + GAP), rows * HEIGHT), "white")
        draw = ImageDraw.Draw(sheet)
        sheet.paste(fitted(image, CAR, HEIGHT - TITLE - LINE), (0, TITLE))
        _text(draw, (0, 2), f"{image.shape[2]} by {image.shape[1]} pixels; T = {self.temperature.value:.1f}", 13)
        known = "nobody knows its class" if label is None else f"truth: {self.classes[label]}"
        _text(draw, (0, 20), known, 14, CAR, "black" if label is None else TRUE)
        for k, arm in enumerate(arms):
            corner = CAR + GAP + k % ACROSS * (PANEL + GAP), k // ACROSS * HEIGHT
            self._panel(draw, corner, arm, label)
        if not arms:
            _text(draw, (CAR + GAP, TITLE), "choose at least one arm", 15)
        return np.asarray(sheet)

    def _panel(self, draw, corner: tuple[int, int], arm: str, label: int | None) -> None:
        """One arm: its name, how far it is from the teacher, a bar per class, the truth ticked."""
        (x, y), soft, colour = corner, self.soft(arm), arm_look(arm)["color"]
        draw.rectangle([x, y + 5, x + 12, y + 17], fill=colour)
        _text(draw, (x + 18, y + 2), arm_label(arm), 15)
        if soft is None:
            _text(draw, (x, y + TITLE), "no answer for this car", 13)
            return
        _text(draw, (x, y + 22), self._summary(arm), 12, PANEL)
        classes, label = self.classes_of.get(arm, self.classes), None if arm in self.classes_of else label
        order = np.argsort(-soft, kind="stable")
        lines = [(place, int(c)) for place, c in enumerate(order, 1) if place <= MOST or c == label]
        for k, (place, c) in enumerate(lines):
            top, right = y + TITLE + k * LINE, c == label
            text = f"{place}  {'true: ' if right else ''}{classes[c]}"
            _text(draw, (x, top), text, 13, PANEL, TRUE if right else "black")
            draw.rectangle([x, top + 17, x + BAR, top + 27], outline="#BBBBBB")
            draw.rectangle([x, top + 17, x + round(BAR * soft[c]), top + 27], fill=colour)
            _text(draw, (x + BAR + 8, top + 13), f"{100 * soft[c]:.1f} %", 13)

    def _summary(self, arm: str) -> str:
        """How many classes its soft label is spread over, and how far it is from the teacher's."""
        outputs, temperature = self.cars[self.car.value][2], self.temperature.value
        logs = log_softmax(outputs[arm] / temperature)
        text = f"spread over {np.exp(-(np.exp(logs) * np.maximum(logs, FLOOR)).sum()):.1f} classes"
        if arm == self.teacher or self.teacher not in outputs or arm in self.classes_of:
            return text
        apart = divergence(outputs[self.teacher] / temperature, outputs[arm] / temperature)
        return f"{text}, {apart:.2f} nats from {arm_label(self.teacher)}"

    def _redraw(self) -> None:
        self.screen.value = png(self.render())

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file, image = take_upload(self.upload)
        outputs = {arm: np.asarray(f(image), float).reshape(-1) for arm, f in self.predict.items()}
        for arm, logits in outputs.items():
            if logits.shape != (len(self.classes_of.get(arm, self.classes)),):
                raise InputError(f"output of {arm} has {len(logits)} numbers, expected one per class")
        name = f"your {file}"
        self.cars[name] = image, None, outputs
        self.car.options = [(name, name), *(option for option in self.car.options if option[1] != name)]
        self.car.value = name
        self._redraw()


# --- numbers ----------------------------------------------------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis."""
    logits = np.asarray(logits, float)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """KL(teacher ‖ student) in nats of logits (..., C); log-probabilities are cut at that of 1e-15."""
    first, second = log_softmax(teacher), log_softmax(student)
    return (np.exp(first) * (np.maximum(first, FLOOR) - np.maximum(second, FLOOR))).sum(-1)


# --- drawing ----------------------------------------------------------------------------------------------------


def fitted(image: Tensor, width: int, height: int) -> Image.Image:
    """An image (3, H, W) as large as fits, not stretched, on grey."""
    shown = Image.fromarray(np.ascontiguousarray(np.asarray(image).transpose(1, 2, 0)))
    zoom = min(width / shown.width, height / shown.height)
    size = max(1, round(shown.width * zoom)), max(1, round(shown.height * zoom))
    shown = shown.resize(size, Image.Resampling.BICUBIC if zoom > 1 else Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (width, height), "#F2F2F2")
    sheet.paste(shown, ((width - size[0]) // 2, (height - size[1]) // 2))
    return sheet


def _text(draw, corner, text: str, size: int, width: int | None = None, ink: str = "black") -> None:
    """A line of text, shortened to ``width`` pixels."""
    font = _font(size)
    while width is not None and draw.textlength(text, font=font) > width:
        text = text.removesuffix("...")[:-1] + "..."
    draw.text(corner, text, fill=ink, font=font)


@functools.cache
def _font(size: int):
    return ImageFont.load_default(size=size)
