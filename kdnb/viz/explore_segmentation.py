"""Look through a segmenter's eyes at any frame, and tell its teacher in your own words what the classes are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kdnb.errors import InputError
from kdnb.viz.guard import arm_boxes, guarded, png, screen, take_upload
from kdnb.viz.segmentation import colour, share_right
from kdnb.viz.style import arm_label

WIDTH, HEIGHT, TITLE, GAP, ACROSS = 400, 300, 24, 8, 3  # pixels of a panel's image, of what stands around it
KEY = 28  # pixels of the row that says which colour is which class
ROOM = "#F2F2F2"  # around an image that is not 4 to 3
CHANGED, CLEAR = (213, 94, 0), 0.7  # vermilion, and how much of it covers the image
SEPARATOR = ";"  # between the words of a prompt: a sentence may have commas

Labels = np.ndarray | Tensor


class SegmentationExplorer:
    """Pick a frame, fade the classes in and out, switch arms; edit a class's prompt and see the teacher segment anew.

    Args:
        items: dicts with "name", "image" uint8 (3, H, W), "label" (H, W) with ``len(classes)`` for void.
        predictions: arm → ``f(image)`` → labels (H, W), or name → labels; only the former works for an upload.
        classes: K names.
        palette: RGB uint8 (K + 1, 3), void's last.
        prompts: class → its texts (a list, or one text), shown for editing.
        resegment: ``f(image, {class: [texts]})`` → labels (H, W), the teacher under these prompts.
    """

    def __init__(
        self,
        items: Sequence[dict],
        predictions: Mapping[str, Callable[[Tensor], Labels] | Mapping],
        classes: Sequence[str],
        palette: np.ndarray,
        prompts: Mapping[str, str | Sequence[str]],
        resegment: Callable[[Tensor, dict[str, list[str]]], Labels],
    ):
        self.items = {item["name"]: {**item, "known": {}} for item in items}  # known: predicted labels
        self.longest = max(items[0]["image"].shape[1:])  # an uploaded image is as large as the others
        self.predictions, self.classes, self.palette, self.resegment = predictions, list(classes), palette, resegment
        self.original = {
            name: [prompts[name]] if isinstance(prompts[name], str) else list(prompts[name]) for name in classes
        }
        self.resting = False  # while several boxes change at once
        self._controls()
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.frame, self.opacity, self.upload], layout=row),
                widgets.HBox(list(self.arms.values()), layout=row),
                widgets.HTML(
                    "What the teacher is told: words or sentences with <code>;</code> between them, then Enter. "
                    "It segments anew at once."
                ),
                widgets.HBox(
                    [widgets.HBox([self._swatch(name), box]) for name, box in self.prompts.items()], layout=row
                ),
                self.reset,
                self.message,
                self.screen,
            ]
        )
        for control in (self.frame, self.opacity, *self.arms.values(), *self.prompts.values()):
            control.observe(guarded(self.message, self._redraw), "value")
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        self.reset.on_click(guarded(self.message, self._restore))
        guarded(self.message, self._redraw)(None)

    def _controls(self) -> None:
        wide = {"style": {"description_width": "80px"}, "layout": widgets.Layout(width="340px")}
        self.frame = widgets.Dropdown(options=list(self.items), description="frame", **wide)
        self.opacity = widgets.FloatSlider(0.6, min=0, max=1, step=0.05, description="classes", **wide)
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your image")
        self.arms = arm_boxes(self.predictions)
        self.prompts = {
            name: widgets.Text(
                written(texts),
                description=name,
                continuous_update=False,
                placeholder="what is it called?",
                style={"description_width": "75px"},
                layout=widgets.Layout(width="390px"),
            )
            for name, texts in self.original.items()
        }
        self.reset = widgets.Button(description="the prompts as they were", layout=widgets.Layout(width="200px"))
        self.screen = screen()
        self.message = widgets.HTML()

    def texts(self) -> dict[str, list[str]]:
        """{class: texts} as they stand in the boxes. Raises InputError for a class that is told nothing."""
        told = {
            name: [text.strip() for text in box.value.split(SEPARATOR) if text.strip()]
            for name, box in self.prompts.items()
        }
        for name, texts in told.items():
            if not texts:
                raise InputError(f"the prompt of {name} is empty, expected words such as '{self.original[name][0]}'")
        return told

    def render(self) -> np.ndarray:
        """The screen as (H, W, 3) uint8: the truth if there is one, the chosen arms, the teacher under your prompts."""
        item, told, opacity = self.items[self.frame.value], self.texts(), self.opacity.value
        shown = {"ground truth": item["label"]}
        shown |= {arm_label(name): self._predicted(name, item) for name, box in self.arms.items() if box.value}
        shown["teacher, your prompts"] = resegmented = self._resegmented(item, told)
        panels = [
            panel(title + self._right(labels, item["label"]), item["image"], colour(labels, self.palette), opacity)
            for title, labels in shown.items()
            if labels is not None
        ]
        changed = (resegmented != self._resegmented(item, self.original))[..., None]
        title = f"what your words changed: {100 * changed.mean():.1f} %"
        panels.append(panel(title, item["image"], np.where(changed, CHANGED, 255).astype(np.uint8), CLEAR))
        return with_key(in_rows(panels), self.classes, self.palette)

    def _predicted(self, arm: str, item: dict) -> np.ndarray | None:
        """The arm's labels of a frame, predicted once; None for an upload when the arm has stored labels only."""
        if arm not in item["known"]:
            of_arm = self.predictions[arm]
            labels = of_arm(item["image"]) if callable(of_arm) else of_arm.get(item["name"])
            item["known"][arm] = None if labels is None else np.asarray(labels)
        return item["known"][arm]

    def _resegmented(self, item: dict, told: dict[str, list[str]]) -> np.ndarray:
        """The teacher's labels of a frame under these prompts, predicted once."""
        key = tuple(map(tuple, told.values()))
        if key not in item["known"]:
            item["known"][key] = np.asarray(self.resegment(item["image"], told))
        return item["known"][key]

    def _right(self, labels, label) -> str:
        if label is None or labels is label:
            return ""
        return f": {share_right(labels, label, len(self.classes)):.1f} % right"

    def _swatch(self, name: str) -> widgets.HTML:
        rgb = ", ".join(str(int(v)) for v in np.asarray(self.palette)[self.classes.index(name)])
        return widgets.HTML(f"<div style='width:18px;height:18px;margin:6px 0;background:rgb({rgb})'></div>")

    def _restore(self) -> None:
        self.resting = True
        for name, box in self.prompts.items():
            box.value = written(self.original[name])
        self.resting = False
        self._redraw()

    def _redraw(self) -> None:
        if not self.resting:
            self.screen.value = png(self.render())

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file, image = take_upload(self.upload, self.longest)
        item = {"name": f"your {file}", "image": image, "label": None, "known": {}}
        for arm in self.arms:  # what fails here leaves everything as it was
            self._predicted(arm, item)
        self._resegmented(item, self.texts())
        name = item["name"]
        self.items[name] = item
        self.frame.options = [name, *(option for option in self.frame.options if option != name)]
        self.frame.value = name
        self._redraw()


def written(texts: Sequence[str]) -> str:
    """Texts as they stand in a box."""
    return f"{SEPARATOR} ".join(texts)


# --- drawing ----------------------------------------------------------------------------------------------------


def panel(title: str, image: Tensor, colours: np.ndarray, opacity: float) -> Image.Image:
    """The image under colours (H, W, 3), in a frame of fixed size, so that nothing moves."""
    canvas = Image.fromarray(np.ascontiguousarray(np.asarray(image).transpose(1, 2, 0)))
    zoom = min(WIDTH / canvas.width, HEIGHT / canvas.height)
    size = max(1, round(canvas.width * zoom)), max(1, round(canvas.height * zoom))
    canvas = canvas.resize(size, Image.Resampling.LANCZOS)
    tint = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (WIDTH, TITLE + HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    draw.rectangle([0, TITLE, WIDTH - 1, TITLE + HEIGHT - 1], fill=ROOM)
    sheet.paste(Image.blend(canvas, tint, opacity), ((WIDTH - size[0]) // 2, TITLE + (HEIGHT - size[1]) // 2))
    draw.text((2, 2), title, fill="black", font=ImageFont.load_default(size=15))
    return sheet


def in_rows(panels: list[Image.Image]) -> Image.Image:
    """Panels of one size in rows, on white."""
    rows = -(-len(panels) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * (WIDTH + GAP), rows * (TITLE + HEIGHT + GAP)), "white")
    for k, one in enumerate(panels):
        sheet.paste(one, (k % ACROSS * (WIDTH + GAP), k // ACROSS * (TITLE + HEIGHT + GAP)))
    return sheet


def with_key(sheet: Image.Image, classes: Sequence[str], palette: np.ndarray) -> np.ndarray:
    """The sheet below a row that names the classes beside their colours: (H, W, 3) uint8."""
    canvas = Image.new("RGB", (sheet.width, sheet.height + KEY), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    step = sheet.width / (len(classes) + 1)
    for k, (name, rgb) in enumerate(zip([*classes, "void"], np.asarray(palette).tolist(), strict=True)):
        x = round(k * step)
        draw.rectangle([x, 6, x + 14, 20], fill=tuple(rgb), outline="#666666")
        draw.text((x + 19, 4), name, fill="black", font=font)
    canvas.paste(sheet, (0, KEY))
    return np.asarray(canvas)
