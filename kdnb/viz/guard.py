"""What the explorers share: callbacks that show their own errors, uploaded images, titled panels side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from html import escape

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from kdnb.datasets.images import as_rgb
from kdnb.errors import InputError
from kdnb.viz.style import arm_label

PANEL = 420  # pixels across one panel


def guarded(message: widgets.HTML, action: Callable[[], None]) -> Callable:
    """A callback that shows its own error in ``message``: the browser console is no place for it."""

    def callback(change: dict | None) -> None:
        message.value = ""
        try:
            action()
        except Exception as error:
            message.value = f"<b style='color:#b00020'>{escape(f'{type(error).__name__}: {error}')}</b>"

    return callback


def screen(format: str = "png") -> widgets.Image:
    """Where an explorer shows its image: at the image's own size, smaller where the page is narrower."""
    return widgets.Image(format=format, layout=widgets.Layout(max_width="100%", align_self="flex-start"))


def arm_boxes(arms: Iterable[str], width: int = 160) -> dict[str, widgets.Checkbox]:
    """A ticked box for each arm, ``width`` pixels across."""
    layout = {"indent": False, "layout": {"width": f"{width}px"}}
    return {arm: widgets.Checkbox(True, description=arm_label(arm), **layout) for arm in arms}


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as the bytes of a PNG, for ``widgets.Image``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def read_upload(name: str, content: bytes, longest: int = 640) -> Tensor:
    """An uploaded image as (3, H, W) uint8, upright, at most ``longest`` pixels on its longer side.

    Raises InputError with the upload's ``name`` for a file that is no image, or a damaged one.
    """
    try:
        # a phone stores the image as its sensor lies, and the rotation in the EXIF part
        image = Image.fromarray(as_rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))))
    except UnidentifiedImageError:  # its message knows no name, only where in memory the upload lies
        raise InputError(f"{name}: not a readable image, expected a JPEG or PNG") from None
    except Exception as error:  # of a damaged file Pillow raises almost anything
        raise InputError(f"{name}: not a readable image ({error}), expected a JPEG or PNG") from None
    image.thumbnail((longest, longest))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def take_upload(upload: widgets.FileUpload, longest: int = 640) -> tuple[str, Tensor]:
    """File name and image of an upload, see ``read_upload``; the widget is emptied, so that it takes a file again."""
    file = upload.value[0]
    name, content = file["name"], bytes(file["content"])
    upload.value = ()
    return name, read_upload(name, content, longest)


def side_by_side_titled(panels: list[tuple[str, np.ndarray]], columns: int = 3, gap: int = 6) -> np.ndarray:
    """Equally large panels in rows of ``columns``, each under its title, on white: (H, W, 3) uint8."""
    if not panels:
        panels = [("choose at least one arm", np.full((60, PANEL, 3), 255, np.uint8))]
    font = ImageFont.load_default(size=15)
    height, width = panels[0][1].shape[:2]
    rows, across = -(-len(panels) // columns), min(columns, len(panels))
    sheet = Image.new("RGB", (across * (width + gap), rows * (height + 24 + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, image) in enumerate(panels):
        x, y = i % columns * (width + gap), i // columns * (height + 24 + gap)
        draw.text((x + 2, y + 2), title, fill="black", font=font)
        sheet.paste(Image.fromarray(image), (x, y + 24))
    return np.asarray(sheet)


def fov_slider(value: int) -> widgets.IntSlider:
    """The horizontal field of view of an uploaded image's camera, in degrees."""
    style, layout = {"description_width": "110px"}, widgets.Layout(width="360px")
    options = {"continuous_update": False, "style": style, "layout": layout}
    return widgets.IntSlider(value, min=30, max=130, description="field of view, °", **options)
