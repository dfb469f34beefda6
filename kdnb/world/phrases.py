"""Everyday words for the things in the street: nouns, colours, sizes, sides and relations, for captions and commands.

Boxes are (x1, y1, x2, y2) in pixel edges, 0-based; distances are metres from the camera.
"""

from collections.abc import Sequence

import numpy as np

from kdnb.errors import InputError
from kdnb.world.scene import Thing

NOUNS = {
    "car": "car",
    "van": "van",
    "truck": "truck",
    "bus": "bus",
    "tram": "tram",
    "person": "person",
    "rider": "rider",
    "bicycle": "bicycle",
    "motorbike": "motorbike",
    "dog": "dog",
    "potted plant": "plant",
    "bench": "bench",
}
DRESSED, POTTED = ("person", "rider"), ("plant", "potted plant")
SMALL_AREA = 32**2  # COCO's bound between small and medium, in an image of its usual size
USUAL_SIDE = 640  # longer side of nearly all COCO images
SIDES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}


def noun(thing: Thing) -> str:
    """Its everyday noun."""
    return NOUNS[thing.category]


def colour_of(thing: Thing) -> str | None:
    """Name of its main colour: paint, a person's top, a plant's pot; None for a thing without one.

    A truck has two: that of its cab when it comes head on, else that of the box behind the cab.
    """
    if thing.category == "truck" and not _head_on(thing):
        return thing.attributes.get("cargo")
    return thing.attributes.get("colour")


def _head_on(thing: Thing) -> bool:
    """Whether the camera looks at its front, within 40 degrees."""
    to_camera = np.arctan2(-thing.centre[1], -thing.centre[0])
    return bool(np.cos(thing.yaw - to_camera) > 0.77)


def describe(thing: Thing) -> str:
    """Noun and colour, without an article: "red car", "person in red", "plant in a blue pot", "dog"."""
    return coloured(noun(thing), colour_of(thing))


def coloured(word: str, colour: str | None) -> str:
    """A noun with its colour: that of a person's clothes, of a plant's pot, of anything else itself."""
    if colour is None:
        return word
    if word in DRESSED:
        return f"{word} in {colour}"
    if word in POTTED:
        return f"{word} in {with_article(colour)} pot"
    return f"{colour} {word}"


def with_article(phrase: str) -> str:
    """ "red car" → "a red car", "orange car" → "an orange car"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def size_word(area: float, width: int, height: int) -> str:
    """ "small" or "large" by COCO's bound of 32² pixels, whatever the size of the image.

    ``area`` is that of the object's mask in pixels of a ``width`` x ``height`` image. It is scaled to an image whose
    longer side is 640 pixels, as nearly all of COCO's are: there the rule is COCO's own, area < 32²; in a 192x144
    image it is area < 92. COCO's medium and large are both "large".
    """
    scaled = area * (USUAL_SIDE / max(width, height)) ** 2
    return "small" if scaled < SMALL_AREA else "large"


def side_of(box: Sequence[float], width: float) -> str:
    """ "left", "middle" or "right": the box's centre lies below 0.4 of the image's width, above 0.6, or between."""
    centre = (box[0] + box[2]) / 2 / width
    return "left" if centre < 0.4 else "right" if centre > 0.6 else "middle"


def with_side(phrase: str, side: str) -> str:
    """ "red car", "left" → "red car on the left". Raises InputError for a side that is not left, middle or right."""
    if side not in SIDES:
        raise InputError(f"side is {side!r}, expected one of {', '.join(SIDES)}")
    return f"{phrase} {SIDES[side]}"


def relation(box_a: Sequence[float], distance_a: float, box_b: Sequence[float], distance_b: float) -> str | None:
    """Where a is relative to b for the camera: "behind", "in front of", "next to", or None when no word is clear.

    behind, in front of: they share at least half of the narrower one's width, and one is at least 25 % and 1 m farther.
    next to: neither is that much farther, they share less than a quarter of the narrower one's width, their heights
    overlap, and the gap is at most the wider one's width.
    """
    widths = box_a[2] - box_a[0], box_b[2] - box_b[0]
    shared = min(box_a[2], box_b[2]) - max(box_a[0], box_b[0])  # negative: a gap
    near, far = sorted((distance_a, distance_b))
    apart = far > 1.25 * near and far > near + 1
    if apart and shared >= 0.5 * min(widths):
        return "behind" if distance_a > distance_b else "in front of"
    level = min(box_a[3], box_b[3]) > max(box_a[1], box_b[1])
    if not apart and level and -max(widths) <= shared < 0.25 * min(widths):
        return "next to"
    return None
