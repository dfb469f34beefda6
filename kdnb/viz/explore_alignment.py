"""Which sentences does each arm read into a crop, and which crops for a sentence of yours?"""

from __future__ import annotations

import functools
import textwrap
from bisect import bisect
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from kdnb.errors import InputError
from kdnb.viz.guard import arm_boxes, guarded, png, screen, take_upload
from kdnb.viz.style import VERMILION, arm_colour, arm_label

MOST, BEST, ACROSS = 10, 8, 4  # sentences listed, crops listed, crops in a row
LINE, TITLE, TILE, GAP = 20, 30, 84, 10  # pixels
LEFT, LIST, BAR = 180, 400, 70  # pixels across: the chosen crop, an arm's list, its bars
HEIGHT = TITLE + (MOST + 1) * LINE + GAP  # of an arm; the line more is for your sentence


class AlignmentExplorer:
    """Pick a crop or upload one, see how each arm ranks the sentences; type a sentence, see the arm's best crops.

    A sentence that was typed joins the ranked ones. An uploaded crop is ranked but not searched.

    Args:
        crops: uint8 (N, 3, h, w).
        names: N words for the dropdown.
        sentences: what is ranked from the start; not empty.
        image_embeddings: arm → (N, D) unit vectors.
        encode_image: arm → ``f(uint8 (3, H, W) of any size)`` → (D,).
        encode_texts: ``f(M sentences)`` → (M, D).
    """

    def __init__(
        self,
        crops: Tensor,
        names: list[str],
        sentences: list[str],
        image_embeddings: dict[str, Tensor],
        encode_image: dict[str, Callable[[Tensor], Tensor]],
        encode_texts: Callable[[list[str]], Tensor],
    ):
        self.crops, self.encode_image, self.encode_texts = crops, encode_image, encode_texts
        self.embeddings = {arm: _unit(vectors) for arm, vectors in image_embeddings.items()}
        self.sentences = list(dict.fromkeys(sentences))
        self.texts = _unit(encode_texts(self.sentences))
        self.uploads = {}  # name -> (image, arm -> (D,))
        wide = {"style": {"description_width": "80px"}}
        self.crop = widgets.Dropdown(
            options=[(name, k) for k, name in enumerate(names)],
            description="crop",
            layout=widgets.Layout(width="380px"),
            **wide,
        )
        self.count = widgets.IntSlider(
            5,
            min=1,
            max=MOST,
            description="sentences",
            continuous_update=False,
            layout=widgets.Layout(width="320px"),
            **wide,
        )
        self.sentence = widgets.Text(
            self.sentences[0],
            description="find",
            continuous_update=False,
            placeholder="type a sentence, press Enter",
            layout=widgets.Layout(width="560px"),
            **wide,
        )
        self.arms = arm_boxes(self.embeddings)
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your crop")
        self.screen = screen()
        self.message = widgets.HTML()
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.crop, self.count, self.upload], layout=row),
                widgets.HBox([self.sentence], layout=row),
                widgets.HBox(list(self.arms.values()), layout=row),
                self.message,
                self.screen,
            ]
        )
        for control in (self.crop, self.count, self.sentence, *self.arms.values()):
            control.observe(guarded(self.message, self._redraw), "value")
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        guarded(self.message, self._redraw)(None)

    def ranked(self, arm: str) -> list[tuple[str, float]]:
        """All sentences with their cosines to the chosen crop, nearest first; empty for an upload nobody encoded."""
        key = self.crop.value
        vector = self.uploads[key][1].get(arm) if key in self.uploads else self.embeddings[arm][key]
        if vector is None:
            return []
        cosines = (self.texts @ vector).numpy()
        return [(self.sentences[k], float(cosines[k])) for k in np.argsort(-cosines, kind="stable")]

    def nearest(self, arm: str) -> list[tuple[int, float]]:
        """The eight crops nearest to the sentence in the text box, (index, cosine), nearest first."""
        cosines = (self.embeddings[arm] @ self.texts[self.sentences.index(self._learned())]).numpy()
        return [(int(k), float(cosines[k])) for k in np.argsort(-cosines, kind="stable")[:BEST]]

    def render(self) -> np.ndarray:
        """The screen as (H, W, 3) uint8: the crop at the left, for each chosen arm its sentences and its crops.

        Raises InputError for an empty sentence.
        """
        words, arms = self._learned(), [name for name, box in self.arms.items() if box.value]
        sheet = Image.new("RGB", (LEFT + LIST + ACROSS * TILE + 2 * GAP, TITLE + max(1, len(arms)) * HEIGHT), "white")
        draw = ImageDraw.Draw(sheet)
        image = self.uploads[self.crop.value][0] if self.crop.value in self.uploads else self.crops[self.crop.value]
        _text(draw, (0, 4), "chosen crop", 14)
        _text(draw, (LEFT, 4), f"its nearest of {len(self.sentences)} sentences, with cosines; orange: yours", 14)
        _text(draw, (LEFT + LIST + GAP, 4), f"nearest crops to “{words}”", 14, ACROSS * TILE)
        sheet.paste(_fitted(image, LEFT - 2 * GAP), (0, TITLE))
        for k, line in enumerate(textwrap.wrap(self.crop.label, 23)[:4]):
            _text(draw, (0, TITLE + LEFT - GAP + 18 * k), line, 13, LEFT - GAP)
        for k, arm in enumerate(arms):
            top = TITLE + k * HEIGHT
            draw.rectangle([LEFT, top + 5, LEFT + 12, top + 17], fill=arm_colour(arm))
            _text(draw, (LEFT + 18, top + 2), arm_label(arm), 15)
            _list(draw, LEFT, top + TITLE, self.ranked(arm), self.count.value, words, arm_colour(arm))
            for place, (index, cosine) in enumerate(self.nearest(arm)):
                x = LEFT + LIST + GAP + place % ACROSS * TILE
                y = top + TITLE + place // ACROSS * (TILE + LINE)
                sheet.paste(_fitted(self.crops[index], TILE - 6), (x, y))
                _text(draw, (x, y + TILE - 6), f"{place + 1}: {cosine:.2f}", 13)
        if not arms:
            _text(draw, (LEFT, TITLE), "choose at least one arm", 15)
        return np.asarray(sheet)

    def _words(self) -> str:
        words = " ".join(self.sentence.value.split())
        if not words:
            raise InputError("the sentence is empty, expected words such as 'a photo of a red car'")
        return words

    def _learned(self) -> str:
        """The sentence in the text box, which joins the ranked ones; its embedding is computed once."""
        words = self._words()
        if words not in self.sentences:
            self.texts = torch.cat([self.texts, _unit(self.encode_texts([words]))])
            self.sentences.append(words)
        return words

    def _redraw(self) -> None:
        self.screen.value = png(self.render())

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file, image = take_upload(self.upload)
        vectors = {arm: _unit(encode(image)) for arm, encode in self.encode_image.items()}
        name = f"your {file}"
        self.uploads[name] = image, vectors
        self.crop.options = [(name, name), *(option for option in self.crop.options if option[1] != name)]
        self.crop.value = name
        self._redraw()


# --- drawing ----------------------------------------------------------------------------------------------------


def _list(draw, x: int, y: int, ranked, count: int, words: str, colour: str) -> None:
    """The first ``count`` sentences: place, words, bar, cosine; yours in orange, with its place when it comes later."""
    lines = list(enumerate(ranked, 1))
    lines = lines[:count] + [line for line in lines[count:] if line[1][0] == words]
    for k, (place, (sentence, cosine)) in enumerate(lines):
        top, bar = y + k * LINE, x + LIST - BAR - 44
        ink = VERMILION if sentence == words else "black"
        _text(draw, (x, top), str(place), 13, 26, ink)
        _text(draw, (x + 28, top), sentence, 13, bar - x - 34, ink)
        draw.rectangle([bar, top + 2, bar + BAR, top + 14], outline="#BBBBBB")
        if cosine > 0:
            draw.rectangle([bar, top + 2, bar + round(BAR * min(1.0, cosine)), top + 14], fill=colour)
        _text(draw, (bar + BAR + 6, top), f"{cosine:.2f}", 13)


def _text(draw, corner, text: str, size: int, width: int | None = None, ink: str = "black") -> None:
    """A line of text, shortened to ``width`` pixels."""
    font = _font(size)
    if width is not None and draw.textlength(text, font=font) > width:
        fits = bisect(range(len(text)), width, key=lambda n: draw.textlength(f"{text[:n]}...", font=font))
        text = text[: max(0, fits - 1)] + "..."
    draw.text(corner, text, fill=ink, font=font)


@functools.cache
def _font(size: int):
    return ImageFont.load_default(size=size)


def _fitted(image: Tensor, side: int) -> Image.Image:
    """An image (3, H, W) in a square, enlarged without smoothing or made smaller with it, grey around it."""
    shown = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    zoom = side / max(shown.size)
    size = tuple(max(1, round(length * zoom)) for length in shown.size)
    shown = shown.resize(size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), "#F2F2F2")
    square.paste(shown, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def _unit(vectors) -> Tensor:
    """(..., D) of length 1, float32 on the CPU."""
    return F.normalize(torch.as_tensor(vectors).detach().float().cpu(), dim=-1)
