import io

import numpy as np
import pytest
from PIL import Image

from kdnb.errors import InputError
from kdnb.viz.guard import read_upload

RED, BLUE = (230, 20, 20), (20, 20, 230)


def stored(kind="jpeg", size=(96, 32), orientation=1) -> bytes:
    """A picture whose left half is red as its pixels are stored."""
    image, exif, buffer = Image.new("RGB", size, BLUE), Image.Exif(), io.BytesIO()
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


# EXIF 2.3, 4.6.4 A: where the stored picture's left side is when it is shown
@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize(("orientation", "red"), [(1, "left"), (3, "right"), (6, "top"), (8, "bottom")])
def test_a_telephone_s_picture_comes_upright(kind, orientation, red):
    shown = read_upload("photo", stored(kind, orientation=orientation)).permute(1, 2, 0).numpy().astype(int)
    lying = red in ("left", "right")
    assert shown.shape == ((32, 96, 3) if lying else (96, 32, 3))
    middle = shown.shape[1] // 2 if lying else shown.shape[0] // 2
    halves = np.split(shown, [middle], axis=1 if lying else 0)
    first, second = (half.reshape(-1, 3).mean(0) for half in halves)
    expected = (RED, BLUE) if red in ("left", "top") else (BLUE, RED)
    assert abs(first - expected[0]).max() < 8 and abs(second - expected[1]).max() < 8


def test_the_longer_side_is_measured_on_the_upright_picture():
    assert read_upload("photo", stored(size=(1500, 500), orientation=6), 300).shape == (3, 300, 100)


def broken_chunk() -> bytes:
    content = bytearray(stored("png"))
    content[content.index(b"IDAT")] = 0xFF  # Pillow raises a SyntaxError here
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", stored()[:400], stored("png")[:60], broken_chunk()],
    ids=["empty", "text", "cut JPEG", "cut PNG", "broken PNG"],
)
def test_what_is_no_picture_is_told_in_one_line_with_its_name(content):
    with pytest.raises(InputError) as error:
        read_upload("notes.png", content)
    said = str(error.value)
    assert said.startswith("notes.png: not a readable image") and said.endswith("expected a JPEG or PNG")
    assert "\n" not in said and "BytesIO" not in said and " at 0x" not in said
