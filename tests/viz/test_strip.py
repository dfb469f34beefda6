"""The README's strip of covers: one height, in rows, small, and made of the covers beside it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdnb.publish import cover_pieces
from kdnb.viz.strip import GAP, LABEL, WIDTH, cut, strip, write_strip

PIECES = cover_pieces()
IMAGES = Path(__file__).parents[2] / "notebooks" / "images"
COLOURS = ["red", "lime", "blue", "yellow", "fuchsia"]


@pytest.fixture
def covers(tmp_path):
    """Three covers of one colour each."""
    for name, colour in zip(list(PIECES)[1:4], COLOURS, strict=False):
        Image.new("RGB", (300, 200), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_piece_is_cut_by_shares():
    cover = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20))
    assert np.array_equal(cut(cover, (0.5, 0.2, 1.0, 0.4)), np.asarray(cover)[2:4, 10:])


def test_tiles_have_one_height_and_the_widest_row_fills_the_strip():
    tiles = [Image.new("RGB", (10 * k, 10), colour) for k, colour in zip((1, 2, 3, 4, 2), COLOURS, strict=True)]
    paper = np.asarray(strip(tiles, ["one"] * 5)).astype(int)
    height = (WIDTH - 3 * GAP) // 10  # ten times as wide as high, all four together
    assert paper.shape == (2 * (height + LABEL), WIDTH, 3)
    masks = [(np.abs(paper - rgb).sum(-1) < 30) for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))]
    assert all(abs(mask.any(1).sum() - height) <= 2 for mask in masks)
    assert [round(mask.any(0).sum() / height) for mask in masks] == [1, 2, 3, 4]
    last = np.flatnonzero((np.abs(paper - (255, 0, 255)).sum(-1) < 30).any(0))  # alone in its row: in the middle
    assert abs((last[0] + last[-1]) / 2 - WIDTH / 2) < 2


def test_missing_covers_are_skipped(covers):
    image = np.asarray(Image.open(write_strip(covers, PIECES)).convert("RGB")).astype(int)
    apart = [np.abs(image - rgb).sum(-1).min() for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255))]
    assert max(apart[:3]) < 20 < apart[3]
    assert (image[-1] == 255).all()


def test_the_committed_strip_is_small_and_of_the_covers_beside_it(tmp_path):
    for cover in IMAGES.glob("[0-9][0-9]_*.png"):
        (tmp_path / cover.name).symlink_to(cover)
    ours, anew = (Image.open(path).convert("RGB") for path in (IMAGES / "strip.png", write_strip(tmp_path, PIECES)))
    assert (IMAGES / "strip.png").stat().st_size < 300_000
    assert ours.size == anew.size, "renew it: publish a notebook that has a cover"
    apart = np.abs(np.asarray(ours).astype(int) - np.asarray(anew)).mean()
    assert apart < 2, "the covers have changed; renew it: publish a notebook that has a cover"
