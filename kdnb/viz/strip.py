"""A strip of images for the README: a piece of each notebook's cover, side by side at one height.

``kdnb publish`` copies the covers from the runs and calls this.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kdnb.files import atomic_write

WIDTH, COLUMNS, GAP, LABEL = 1800, 4, 16, 44  # pixels, except COLUMNS; a page shows the strip at half its size
SIZE = 26  # of the labels
DEJAVU = "DejaVuSans.ttf"  # comes with Matplotlib
Piece = tuple[float, float, float, float]


def write_strip(images: Path, pieces: Mapping[str, tuple[str, Piece]]) -> Path:
    """Write ``strip.png`` beside the covers in ``images``; returns its path.

    Args:
        images: folder with ``<name>.png``, the covers; missing ones are skipped.
        pieces: name → (label below the tile, piece of the cover); for the piece see ``cut``.
    """
    labels, tiles = [], []
    for name, (label, piece) in pieces.items():
        if (images / f"{name}.png").exists():
            labels.append(label)
            tiles.append(cut(Image.open(images / f"{name}.png").convert("RGB"), piece))
    image, data = strip(tiles, labels), io.BytesIO()
    colours = image.resize((WIDTH // 4, image.height // 4), Image.Resampling.NEAREST).quantize(256, kmeans=1)
    colours.putpalette([255 if value > 247 else value for value in colours.getpalette()])  # white stays white
    image.quantize(palette=colours, dither=Image.Dither.NONE).save(data, "png", optimize=True)
    path = images / "strip.png"
    atomic_write(path, data.getvalue())
    return path


def cut(cover: Image.Image, piece: Piece) -> Image.Image:
    """The piece of a cover between left, top, right and bottom, given as shares (0 to 1) of its size."""
    return cover.crop(tuple(np.round(np.array(piece) * (*cover.size, *cover.size)).astype(int).tolist()))


def strip(tiles: list[Image.Image], labels: list[str]) -> Image.Image:
    """Tiles in rows of COLUMNS, all of one height, so that the widest row fills the strip; a label below each."""
    rows = [range(start, min(start + COLUMNS, len(tiles))) for start in range(0, len(tiles), COLUMNS)]
    height = min((WIDTH - GAP * (len(row) - 1)) / sum(tiles[k].width / tiles[k].height for k in row) for row in rows)
    height = int(height)
    paper = Image.new("RGB", (WIDTH, len(rows) * (height + LABEL)), "white")
    draw, font = ImageDraw.Draw(paper), _font()
    for y, row in zip(range(0, paper.height, height + LABEL), rows, strict=True):
        widths = [int(tiles[k].width / tiles[k].height * height) for k in row]
        x = (WIDTH - sum(widths) - GAP * (len(row) - 1)) // 2
        for k, width in zip(row, widths, strict=True):
            paper.paste(tiles[k].resize((width, height), Image.Resampling.LANCZOS), (x, y))
            draw.rectangle([x, y, x + width - 1, y + height - 1], outline="#666666")
            draw.text((x + width / 2, y + height + LABEL / 2), labels[k], "black", font, anchor="mm")
            x += width + GAP
    return paper


def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / DEJAVU, SIZE)
