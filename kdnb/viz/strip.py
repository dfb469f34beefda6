"""A strip of pictures for the README: a piece of every notebook's cover, side by side at one height.

Covers are what a run has drawn (``kdnb publish`` puts them there and calls this); nothing is drawn here but labels.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kdnb.run import atomic_write

# Cover → what stands below it, and the piece that is shown: left, top, right, bottom as shares of the cover.
PIECES = {
    "00_distillation_primer": ("00 few labels and a teacher", (0.0, 0.0, 1.0, 1.0)),
    "01_coco_alignment": ("01 a text finds its pictures", (0.0, 0.38, 0.545, 1.0)),
    "02_talk2car_grounding": ("02 what a command means", (0.503, 0.808, 0.748, 0.993)),
    "03_voc_defeat": ("03 what is where", (0.511, 0.515, 0.752, 0.75)),
    "04_kitti_pseudo_lidar": ("04 a camera, no laser", (0.337, 0.685, 0.918, 0.948)),
    "05_camvid_prompt_kd": ("05 alone and taught, eight labels", (0.509, 0.307, 0.832, 0.498)),
    "06_car_5fold_kd": ("06 which car is this", (0.0, 0.05, 0.465, 0.475)),
    "07_scoreboard": ("07 all students", (0.503, 0.075, 0.995, 0.67)),
}
WIDTH, COLUMNS, GAP, LABEL = 1800, 4, 16, 44  # pixels but for COLUMNS; a page shows the strip at half its size
SIZE = 26  # of the labels
DEJAVU = "DejaVuSans.ttf"  # Matplotlib brings it


def write_strip(images: Path) -> Path:
    """Write ``strip.png`` beside the covers in ``images``, from those that are there; returns its path."""
    labels, tiles = [], []
    for name, (label, piece) in PIECES.items():
        if (images / f"{name}.png").exists():
            labels.append(label)
            tiles.append(cut(Image.open(images / f"{name}.png").convert("RGB"), piece))
    picture, data = strip(tiles, labels), io.BytesIO()
    colours = picture.resize((WIDTH // 4, picture.height // 4), Image.Resampling.NEAREST).quantize(256, kmeans=1)
    colours.putpalette([255 if value > 247 else value for value in colours.getpalette()])  # white stays white
    picture.quantize(palette=colours, dither=Image.Dither.NONE).save(data, "png", optimize=True)
    path = images / "strip.png"
    atomic_write(path, data.getvalue())
    return path


def cut(cover: Image.Image, piece: tuple[float, float, float, float]) -> Image.Image:
    """The piece of a cover."""
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


if __name__ == "__main__":
    from kdnb.notebooks import notebooks_folder

    print(write_strip(notebooks_folder() / "images"))
