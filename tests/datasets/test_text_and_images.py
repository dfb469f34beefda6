"""The one reader of text and the one of images, against what people save and against noise."""

import codecs
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdnb.datasets import images as images_module
from kdnb.datasets.camvid import check_camvid
from kdnb.datasets.images import as_rgb, image_size, orientation, read_image, rotated
from kdnb.datasets.text import decode_text, read_text
from kdnb.errors import InputError
from kdnb.viz.guard import read_upload

FEW = settings(max_examples=25, deadline=None, derandomize=True)
RGB = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_the_same_in_every_encoding_that_names_itself(tmp_path, encoding, end):
    text = end.join(["군차로", "b", ""])
    mark = encoding == "utf-16-be-mark"
    content = codecs.BOM_UTF16_BE + text.encode("utf-16-be") if mark else text.encode(encoding)
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == "군차로\nb\n" == decode_text(content, "a.zip/a.txt")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("가\n나\n".encode("cp949"), "a.txt:1: byte 0xb0 is not UTF-8, expected a list of ids, saved as UTF-8"),
        ("a\nb\n나".encode("cp949"), "a.txt:3: byte 0xb3 is not UTF-8"),
        ("a\nb\n".encode("utf-16-le"), "a.txt:1: found a NUL byte, expected a list of ids, saved as UTF-8"),
        (b"a\nb\0\n", "a.txt:2: found a NUL byte"),
        (codecs.BOM_UTF16_LE + b"a", "a.txt: begins as UTF-16 but is not (truncated data)"),
    ],
)
def test_bytes_that_are_no_text_are_named_by_line(tmp_path, content, what):
    (tmp_path / "a.txt").write_bytes(content)
    assert what in error_of(lambda: read_text(tmp_path / "a.txt", "a list of ids"))


def test_files_that_cannot_be_read(tmp_path):
    assert error_of(lambda: read_text(tmp_path / "none", "a list")).endswith("none: no such file, expected a list")
    assert "is a folder, expected a list" in error_of(lambda: read_text(tmp_path, "a list"))
    assert "File name too long" in error_of(lambda: read_text(tmp_path / ("x" * 400)))
    assert "is no file name" in error_of(lambda: read_text(f"{tmp_path}/a\0b"))
    (tmp_path / "shut").touch(mode=0)
    if not os.access(tmp_path / "shut", os.R_OK):  # root may read everything
        assert "Permission denied" in error_of(lambda: read_text(tmp_path / "shut"))


@FEW
@given(st.binary(max_size=200))
def test_random_bytes_are_text_or_an_error(content):
    try:
        text = decode_text(content, "a.txt")
    except InputError as error:
        assert str(error).startswith("a.txt") and "\n" not in str(error)
    else:
        assert "\0" not in text and "\r" not in text


# ---------------------------------------------------------------- images


def save(path, image, **more):
    image.save(path, **more)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_become_the_upper_eight(tmp_path, name):
    values = np.array([[0, 255, 256, 40000, 65535]], np.uint16)
    path = save(tmp_path / name, Image.fromarray(values))
    assert read_image(path).tolist() == [[[v >> 8] * 3 for v in (0, 255, 256, 40000, 65535)]]


def png(color, depth, raw, width, height=1):
    """A PNG by hand, of one row: Pillow writes no 16-bit colours."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" + raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("color", [2, 6], ids=["rgb", "rgba"])
def test_sixteen_bits_a_colour(tmp_path, color):
    pixel = [40000, 300, 65535] + [65535] * (color == 6)
    (tmp_path / "a.png").write_bytes(png(color, 16, struct.pack(f">{len(pixel)}H", *pixel), 1))
    assert read_image(tmp_path / "a.png").tolist() == [[[156, 1, 255]]]


def test_palettes_transparency_grey_and_bilevel(tmp_path, recwarn):
    image = Image.fromarray(RGB)
    palette = image.quantize(16)
    colours = np.array(palette.convert("RGB"))
    assert np.array_equal(read_image(save(tmp_path / "p.png", palette)), colours)
    # hidden or not, a pixel's colour is the stored one
    hidden = save(tmp_path / "t.png", palette, transparency=bytes([0] * 8 + [255] * 8))
    assert np.array_equal(read_image(hidden), colours)
    clear = Image.fromarray(np.dstack([RGB, np.zeros((6, 9), np.uint8)]))
    assert np.array_equal(read_image(save(tmp_path / "a.png", clear)), RGB)
    grey = Image.fromarray(RGB[..., 0])
    assert np.array_equal(read_image(save(tmp_path / "g.png", grey)), np.repeat(RGB[..., :1], 3, axis=2))
    assert set(np.unique(read_image(save(tmp_path / "1.png", grey.convert("1"))))) == {0, 255}
    assert not recwarn.list


def test_cmyk_jpegs_have_their_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (200, 30, 30))
    path = save(tmp_path / "a.jpg", red.convert("CMYK"), quality=95)
    assert np.abs(read_image(path).astype(int) - [200, 30, 30]).max() <= 4


def test_32_bits_are_refused_by_name(tmp_path):
    for values in (np.ones((2, 2), np.float32), np.ones((2, 2), np.int32)):
        path = save(tmp_path / "a.tif", Image.fromarray(values))
        assert "a.tif: holds 32 bits a pixel" in error_of(lambda path=path: read_image(path))


def test_too_many_pixels_are_refused_before_decoding(tmp_path, recwarn):
    (tmp_path / "bomb.png").write_bytes(png(2, 8, b"", 30_000, 30_000))  # 2.5 GB, were they decoded
    assert "bomb.png: has more than" in error_of(lambda: read_image(tmp_path / "bomb.png"))
    (tmp_path / "large.png").write_bytes(png(2, 8, b"", 10_000, 10_000))
    message = error_of(lambda: read_image(tmp_path / "large.png"))
    assert "has 10000 x 10000 pixels, expected at most 89478485 in all" in message
    assert "more than" in error_of(lambda: image_size(tmp_path / "bomb.png"))


def test_files_that_are_no_photographs(tmp_path):
    assert "no such image, expected a PNG file" in error_of(lambda: read_image(tmp_path / "none.png", "PNG"))
    assert "Is a directory" in error_of(lambda: read_image(tmp_path))
    (tmp_path / "a.jpg").write_text("<html></html>")
    assert "not an image" in error_of(lambda: read_image(tmp_path / "a.jpg"))
    (tmp_path / "e.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert "is of the format EPS, expected one of" in error_of(lambda: read_image(tmp_path / "e.jpg"))
    whole = save(tmp_path / "t.png", Image.fromarray(RGB)).read_bytes()
    for length in (0, 20, 60, len(whole) // 2):
        (tmp_path / "t.png").write_bytes(whole[:length])
        assert "t.png" in error_of(lambda: read_image(tmp_path / "t.png"))


@pytest.mark.parametrize(
    "error", [TypeError("a\nb"), IndexError(), KeyError("x"), ZeroDivisionError("z"), MemoryError(), struct.error("s")]
)
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def fail(image):
        raise error

    path = save(tmp_path / "a.png", Image.fromarray(RGB))
    monkeypatch.setattr(images_module, "as_rgb", fail)
    assert "a.png: cannot be decoded (" in error_of(lambda: read_image(path))


def test_exif_data_turn_nothing_but_are_named(tmp_path):
    exif = Image.Exif()
    for turn in (1, 3, 6):
        exif[0x0112] = turn
        save(tmp_path / f"{turn}.jpg", Image.fromarray(RGB), exif=exif)
    save(tmp_path / "plain.png", Image.fromarray(RGB))
    (tmp_path / "broken.jpg").write_bytes(b"x")
    paths = sorted(tmp_path.iterdir())
    assert [orientation(path) for path in paths] == [1, 3, 6, 1, 1]
    assert read_image(tmp_path / "6.jpg").shape == (6, 9, 3) and image_size(tmp_path / "6.jpg") == (9, 6)
    (note,) = rotated(paths)
    assert note.startswith(f"{tmp_path}: EXIF orientation other than 1 in 3.jpg (3), 6.jpg (6); read as stored")


def test_uploads_of_16_bits_are_not_white():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(buffer, "png")
    assert read_upload("a.png", buffer.getvalue()).unique().tolist() == [156]
    assert as_rgb(Image.open(buffer)).max() == 156


def encoded(format):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format)
    return buffer.getvalue()


SEEDS = {format: encoded(format) for format in ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")}


@st.composite
def damaged(draw):
    """Bytes of an image with a few replaced, or cut off; or random bytes behind a format's first ones."""
    seed = bytearray(SEEDS[draw(st.sampled_from(sorted(SEEDS)))])
    if draw(st.booleans()):
        return bytes(seed[: draw(st.integers(0, 12))]) + draw(st.binary(max_size=60))
    for _ in range(draw(st.integers(0, 6))):
        seed[draw(st.integers(0, len(seed) - 1))] = draw(st.integers(0, 255))
    return bytes(seed[: draw(st.integers(0, len(seed)))]) if draw(st.booleans()) else bytes(seed)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd metadata
@FEW
@given(content=damaged())
def test_damaged_images_give_pixels_or_one_line(place: Path, content):
    path = place / "a.jpg"
    path.write_bytes(content)
    assert orientation(path) in range(1, 9)
    try:
        pixels = read_image(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_the_check_of_camvid_names_rotated_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        save(tmp_path / split / f"{split}.png", Image.fromarray(RGB), **({"exif": exif} if split == "val" else {}))
        save(tmp_path / f"{split}annot" / f"{split}.png", Image.fromarray(np.zeros((6, 9), np.uint8)))
        (tmp_path / f"{split}.txt").write_text(f"{split}/{split}.png {split}annot/{split}.png\n")
    report = check_camvid(tmp_path)
    assert report.faults == [] and len(report.notes) == 1 and "val.png (3); read as stored" in report.notes[0]
