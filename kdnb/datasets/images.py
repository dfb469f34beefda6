"""Photographs of any format and depth as uint8 RGB. Every image that is no label or depth map is read by this one
reader; it never turns one by its EXIF data, because boxes and masks are in stored pixels."""

import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from kdnb.errors import InputError

MOST_PIXELS = 89_478_485  # Pillow's own bound, above which it warns
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")  # none starts a program
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, MemoryError, ArithmeticError, LookupError, TypeError),
    *(AttributeError, AssertionError, RuntimeError, struct.error, zlib.error),
    *(Warning, UnidentifiedImageError, Image.DecompressionBombError),
)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such images are refused below


def read_image(path: str | Path, kind: str = "JPEG") -> np.ndarray:
    """Decode an image to a uint8 RGB array (H, W, 3), as stored; ``kind`` is the format that messages name.

    Raises InputError for a file that is missing, truncated or no image, and, before decoding, for one of more than
    ``MOST_PIXELS`` pixels.
    """
    with opened(path, kind) as image:
        return as_rgb(image)


def image_size(path: str | Path, kind: str = "JPEG") -> tuple[int, int]:
    """Width and height of an image, as stored, without decoding it. Raises InputError as ``read_image``."""
    with opened(path, kind) as image:
        return image.size


@contextmanager
def opened(path: str | Path, kind: str = "JPEG") -> Iterator[Image.Image]:
    """``with opened(path) as image``: Pillow's image; what its decoders raise in the block becomes an InputError."""
    # Some libraries switch this on globally; a truncated image would then be padded with grey, silently.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path) as image:
            _require_photograph(image)
            yield image
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such image, expected a {kind} file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image, expected a {kind} file") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: has more than {2 * MOST_PIXELS} pixels, expected at most {MOST_PIXELS}") from None
    except DECODER_ERRORS as error:
        raise InputError(f"{path}: cannot be decoded ({_reason(error)}), expected a whole {kind} file") from None


def as_rgb(image: Image.Image) -> np.ndarray:
    """A decoded image as uint8 (H, W, 3): of 16 bits the upper 8, of a palette its colours, without transparency.

    Raises InputError for values of 32 bits, whose range nobody knows; else whatever Pillow's decoders raise.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow clips at 255, which turns all but the darkest pixels white
        grey = (np.array(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"holds 32 bits a pixel (mode {image.mode}), expected 8 or 16")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # the way without a warning
    return np.array(image.convert("RGB"))


def orientation(path: str | Path) -> int:
    """EXIF's orientation of a photograph: 1 upright, 2 to 8 mirrored or turned. 1 where the file says nothing."""
    try:
        with Image.open(path) as image:
            value = image.getexif().get(ORIENTATION, 1)
    except DECODER_ERRORS:
        return 1
    return value if value in range(2, 9) else 1


def size_hint(path: str | Path, listed: tuple[float, float], size: tuple[int, int]) -> str:
    """What to add to a message about a ``listed`` size (width, height) that is not the image's: its EXIF data."""
    if tuple(listed) == (size[1], size[0]) and orientation(path) > 4:
        return "; its EXIF data turn it, but sizes and boxes must be in stored pixels"
    return ""


def rotated(paths: Iterable[str | Path]) -> list[str]:
    """A note for each folder with photographs that EXIF data say to turn: their names, 8 at most, and their number."""
    found = defaultdict(list)
    for path in map(Path, paths):
        turn = orientation(path)
        if turn != 1:
            found[path.parent].append(f"{path.name} ({turn})")
    notes = []
    for folder, names in found.items():
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        notes.append(
            f"{folder}: EXIF orientation other than 1 in {', '.join(names[:8])}{more}; read as stored, not turned: "
            "labels are of stored pixels"
        )
    return notes


def _require_photograph(image: Image.Image) -> None:
    """Raise InputError, before decoding, for other formats and for too many pixels."""
    if image.format not in FORMATS:
        raise InputError(f"is of the format {image.format}, expected one of {', '.join(FORMATS)}")
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(f"has {width} x {height} pixels, expected at most {MOST_PIXELS} in all")


def _reason(error: BaseException) -> str:
    """The first line of an exception; its name where it says nothing."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().split("\n")[0] or type(error).__name__
