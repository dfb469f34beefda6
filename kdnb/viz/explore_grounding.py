"""Say what you like to any image and see which box each arm takes for it, and where it looked."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kdnb.errors import InputError
from kdnb.metrics.grounding import iou
from kdnb.viz.grounding import TRUTH, weight_map
from kdnb.viz.guard import arm_boxes, guarded, screen, take_upload
from kdnb.viz.style import arm_colour, arm_label

WIDTH, HEIGHT, BESIDE, TITLE, GAP = 420, 236, 150, 24, 8  # pixels of a panel's image, of what stands around it
MOST = 12  # candidates that fit beside an image
SHOW = {"box": "chosen box", "scores": "scores of the proposals", "attention": "attention"}
HEAT = colormaps["Reds"]
ROOM = "#F2F2F2"  # around an image that is not 16 to 9


class GroundingExplorer:
    """Pick an image, change the command, see each arm's box, scores or attention; or upload an image of your own.

    Args:
        items: dicts with "id", "image" uint8 (3, H, W), "command", "box" (4,) or None, "proposals" (P, 4). Boxes are
            (x1, y1, x2, y2) in the image's pixels, here and below.
        predict: arm → ``f(image, proposals, command)`` → {"box" (4,), "scores" (P,) and "attention" (P,), each with a
            sum of 1}.
        propose: ``f(image)`` → proposals (P, 4), for an uploaded image.
    """

    def __init__(
        self,
        items: list[dict],
        predict: dict[str, Callable[[Tensor, Tensor, str], dict]],
        propose: Callable[[Tensor], Tensor],
    ):
        self.items = {item["id"]: item for item in items}
        self.predict, self.propose, self._known = predict, propose, {}
        wide = {"style": {"description_width": "80px"}}
        half = widgets.Layout(width="380px")
        options = [(f"{k}: {item['command']}", name) for k, (name, item) in enumerate(self.items.items(), start=1)]
        self.image = widgets.Dropdown(options=options, description="image", layout=half, **wide)
        self.command = widgets.Text(
            items[0]["command"],
            description="command",
            continuous_update=False,
            placeholder="type a command, press Enter",
            layout=widgets.Layout(width="560px"),
            **wide,
        )
        self.show = widgets.Dropdown(
            options=[(text, name) for name, text in SHOW.items()],
            description="show",
            layout=widgets.Layout(width="280px"),
            **wide,
        )
        self.count = widgets.IntSlider(
            5,
            min=1,
            max=MOST,
            description="candidates",
            continuous_update=False,
            layout=widgets.Layout(width="320px"),
            **wide,
        )
        self.arms = arm_boxes(predict)
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your image")
        self.screen = screen()
        self.message = widgets.HTML()
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.image, self.command], layout=row),
                widgets.HBox([self.show, self.count, self.upload], layout=row),
                widgets.HBox(list(self.arms.values()), layout=row),
                self.message,
                self.screen,
            ]
        )
        for control in (self.command, self.show, self.count, *self.arms.values()):
            control.observe(guarded(self.message, self._redraw), "value")
        self.image.observe(guarded(self.message, self._picked), "value")
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        guarded(self.message, self._redraw)(None)

    def render(self) -> np.ndarray:
        """The screen as (H, W, 3) uint8: the question, then one panel for each chosen arm. Raises InputError for an
        empty command."""
        item, command = self.items[self.image.value], self.command.value.strip()
        if not command:
            raise InputError("the command is empty, expected words such as 'park behind the white van'")
        truth = item["box"] if command == item["command"] else None
        panels = [question_panel(item, command, truth, self.show.value)]
        for name, box in self.arms.items():
            if box.value:
                output = self._output(name, item, command)
                panels.append(answer_panel(name, item, output, truth, self.show.value, self.count.value))
        return in_rows(panels)

    def _output(self, arm: str, item: dict, command: str) -> dict:
        """The arm's output, computed once for an image and a command."""
        key = arm, item["id"], command
        if key not in self._known:
            output = self.predict[arm](item["image"], item["proposals"], command)
            self._known[key] = {name: np.asarray(values, dtype=np.float64) for name, values in output.items()}
        return self._known[key]

    def _redraw(self) -> None:
        buffer = io.BytesIO()
        Image.fromarray(self.render()).save(buffer, "png")
        self.screen.value = buffer.getvalue()

    def _picked(self) -> None:
        own = self.items[self.image.value]["command"]
        if own is None or own == self.command.value:
            self._redraw()
        else:
            self.command.value = own  # which redraws

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file, image = take_upload(self.upload)
        proposals = self.propose(image)
        if not len(proposals):
            raise InputError(f"{file}: no proposals found in it, expected an image with objects in it")
        name = f"your {file}"
        self._known = {key: output for key, output in self._known.items() if key[1] != name}
        self.items[name] = {"id": name, "image": image, "command": None, "box": None, "proposals": proposals}
        self.image.options = [(name, name), *(option for option in self.image.options if option[1] != name)]
        self.image.value = name
        self._redraw()


# --- panels -----------------------------------------------------------------------------------------------------


def question_panel(item: dict, command: str, truth: np.ndarray | None, show: str) -> Image.Image:
    """The image with what the command means, or with all proposals when nobody knows; the command beside it."""
    panel, draw, place = _panel("ground truth" if truth is not None else "no ground truth for this command", item)
    if truth is None:
        for proposal in _boxes(item["proposals"]):
            _box(draw, place(proposal), "#DDDDDD", 1)
    else:
        _box(draw, place(truth), TRUTH, 3, "black")
    lines = textwrap.wrap(f"“{command}”", 20)
    lines = lines[:7] + ["..."] if len(lines) > 8 else lines
    lines += [
        "",
        "yellow: true box" if truth is not None else f"grey: {len(item['proposals'])} proposals",
        "thick: chosen box",
        *([] if show == "box" else [f"red: {SHOW[show].split()[0]}"]),
    ]
    for k, line in enumerate(lines):
        draw.text((WIDTH + 10, TITLE + 2 + 18 * k), line, fill="black", font=_font(14))
    return panel


def answer_panel(arm: str, item: dict, output: dict, truth: np.ndarray | None, show: str, count: int) -> Image.Image:
    """An arm's box, scores or attention on the image, and its best ``count`` proposals listed beside it.

    Args:
        output: "box" (4,), "scores" (P,), "attention" (P,), numpy.
        truth: (4,) or None.
        show: "box", "scores" or "attention". The list is by attention when that is shown, else by score.
    """
    colour, proposals = arm_colour(arm), _boxes(item["proposals"])
    weights = output["attention" if show == "attention" else "scores"]
    title = arm_label(arm)
    if truth is not None:
        overlap = float(iou(output["box"], np.asarray(truth, dtype=np.float64)))
        title += f": IoU {overlap:.2f}, {'right' if overlap > 0.5 else 'wrong'}"
    best = np.argsort(-weights, kind="stable")[:count]
    heat = None if show == "box" else weight_map(tuple(item["image"].shape[1:]), proposals, weights)
    panel, draw, place = _panel(title, item, heat)
    if show != "box":
        for k in best[::-1]:
            _box(draw, place(proposals[k]), "#7A0010", 1, "white")
    if truth is not None:
        _box(draw, place(truth), TRUTH, 2, "black")
    if show == "box":
        for k in best[::-1]:
            _box(draw, place(proposals[k]), "#DDDDDD", 1)
    _box(draw, place(output["box"]), colour, 3, "white")
    _numbers(draw, [place(proposals[k]) for k in best])
    _candidates(draw, weights[best], "most attention" if show == "attention" else "best scores", colour)
    return panel


def in_rows(panels: list[Image.Image], columns: int = 2) -> np.ndarray:
    """Panels of one size in rows, on white: (H, W, 3) uint8."""
    width, height = panels[0].size
    sheet = Image.new("RGB", (columns * (width + GAP), -(-len(panels) // columns) * (height + GAP)), "white")
    for k, panel in enumerate(panels):
        sheet.paste(panel, (k % columns * (width + GAP), k // columns * (height + GAP)))
    return np.asarray(sheet)


def _panel(title: str, item: dict, heat: np.ndarray | None = None):
    """(panel, its pen, function from a box in the image's pixels to one in the panel's), the image pasted in.

    Every image is fitted into the same frame, so that nothing moves when another one is chosen.
    """
    pixels = item["image"].permute(1, 2, 0).numpy()
    if heat is not None:
        pixels = _tinted(pixels, heat)
    height, width = pixels.shape[:2]
    zoom = min(WIDTH / width, HEIGHT / height)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    left, top = (WIDTH - size[0]) // 2, TITLE + (HEIGHT - size[1]) // 2
    panel = Image.new("RGB", (WIDTH + BESIDE, TITLE + HEIGHT), "white")
    draw = ImageDraw.Draw(panel)
    draw.rectangle([0, TITLE, WIDTH - 1, TITLE + HEIGHT - 1], fill=ROOM)
    panel.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), (left, top))
    draw.text((2, 2), title, fill="black", font=_font(15))

    def place(box: np.ndarray) -> list[float]:
        x1, y1, x2, y2 = (float(v) * zoom for v in box)
        x1, x2 = (min(max(x, 0), size[0] - 1) + left for x in (x1, x2))
        y1, y2 = (min(max(y, 0), size[1] - 1) + top for y in (y1, y2))
        return [x1, y1, max(x1, x2), max(y1, y2)]

    return panel, draw, place


def _tinted(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Washed-out grey, red where the weight is; a weight of 1 is the darkest red, so that arms compare."""
    grey = np.repeat(pixels.mean(-1, keepdims=True) * 0.75 + 64, 3, axis=-1)
    weight = np.nan_to_num(heat).clip(0, 1)
    strength = np.where(np.isnan(heat), 0, 0.1 + 0.7 * np.sqrt(weight))[..., None]
    return (grey * (1 - strength) + 255 * HEAT(np.sqrt(weight))[..., :3] * strength).astype(np.uint8)


def _box(draw, box, colour, width: int, rim: str | None = None) -> None:
    if rim:
        draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline=rim, width=width + 2)
    draw.rectangle(box, outline=colour, width=width)


def _numbers(draw, boxes) -> None:
    """1, 2, ... on the left upper corners, off what is in the box; one that would cover an earlier one moves down."""
    font, taken = _font(11), []
    for k, (x1, y1, _, _) in enumerate(boxes, 1):
        across = 8 + 6 * (k > 9)
        x, y = min(x1, WIDTH - across), max(y1 - 12, TITLE)
        while any(abs(x - a) < 12 and abs(y - b) < 12 for a, b in taken) and y < TITLE + HEIGHT - 24:
            y += 12
        taken.append((x, y))
        draw.rectangle([x, y, x + across, y + 12], fill="black")
        draw.text((x + 1, y - 1), str(k), fill="white", font=font)


def _candidates(draw, weights, what: str, colour: str) -> None:
    """The list beside the image: number, bar, percent."""
    x, y, bar = WIDTH + 10, TITLE, 70
    draw.text((x, y), what, fill="black", font=_font(13))
    for k, weight in enumerate(weights, 1):
        y += 17
        draw.text((x, y), str(k), fill="black", font=_font(13))
        draw.rectangle([x + 20, y + 3, x + 20 + bar, y + 13], outline="#BBBBBB")
        if weight > 0:
            draw.rectangle([x + 20, y + 3, x + 20 + round(bar * min(1.0, float(weight))), y + 13], fill=colour)
        draw.text((x + 24 + bar, y), f"{100 * weight:.0f} %", fill="black", font=_font(13))


def _boxes(boxes) -> np.ndarray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _font(size: int):
    return ImageFont.load_default(size=size)
