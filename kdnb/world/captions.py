"""Five captions of a street image: its things with their colours, sides and relations."""

from dataclasses import dataclass

import numpy as np

from kdnb.world.phrases import colour_of, describe, relation, side_of, size_word, with_article, with_side
from kdnb.world.scene import SPLITS, Thing

MOST_NAMED = 4  # things named in an image at most
LEAST_AREA = 0.0015  # least share of the image for a thing to be named
PLACES = {
    "lane": "on the road",
    "oncoming": "coming the other way",
    "parked": "parked at the kerb",
    "side street": "in the side street",
    "crossing": "crossing the road",
    "pavement": "on the pavement",
}
EMPTY = (
    "An empty street.",
    "A street with nothing on it.",
    "A quiet street between houses.",
    "A road, and no traffic on it.",
    "A picture of a street where nothing moves.",
)


@dataclass
class VisibleThing:
    """A thing in an image: ``box`` (x1, y1, x2, y2) around its visible pixels, ``area`` the number of them."""

    thing: Thing
    box: tuple[int, int, int, int]
    area: int

    @property
    def distance(self) -> float:
        """Metres from the camera, along the ground."""
        return float(np.hypot(*self.thing.centre[:2]))


def captions(things: list[VisibleThing], width: int, height: int, seed: tuple) -> list[str]:
    """Five different sentences about the largest things; ``seed`` is (seed, split, index)."""
    main = sorted(things, key=lambda s: -s.area)[:MOST_NAMED]
    main = [s for s in main if s.area >= LEAST_AREA * width * height]
    if not main:
        return list(EMPTY)
    number, split, index = seed
    rng = np.random.Generator(np.random.PCG64([number, 88, SPLITS.index(split), index]))
    sentences = [
        _where(rng, main[0], width),
        _pair(rng, main, width),
        _list(rng, main),
        _doing(rng, main),
        _size(rng, main[-1], width, height),
    ]
    return [text[0].upper() + text[1:] for text in sentences]


def _pick(rng, *forms: str) -> str:
    return forms[int(rng.integers(len(forms)))]


def _sided(s: VisibleThing, width: int) -> str:
    return with_side(with_article(describe(s.thing)), side_of(s.box, width))


def _where(rng, s: VisibleThing, width: int) -> str:
    where = _sided(s, width)
    return _pick(rng, f"{where} of a street.", f"there is {where}.", f"a street with {where}.")


def _pair(rng, main: list[VisibleThing], width: int) -> str:
    """Two things in their relation if one is clear, else each with its side; the largest thing is one of them."""
    for other in main[1:]:
        a, b = (main[0], other) if rng.uniform() < 0.5 else (other, main[0])
        word = relation(a.box, a.distance, b.box, b.distance)
        if word and a.thing.partner != b.thing.instance:
            a, b = (with_article(describe(s.thing)) for s in (a, b))
            return _pick(rng, f"{a} {word} {b}.", f"{a} can be seen {word} {b}.", f"{word} {b} there is {a}.")
    if len(main) > 1:
        a, b = (_sided(s, width) for s in main[:2])
        return _pick(rng, f"{a} and {b}.", f"{a}, {b}.", f"{b} and {a}.")
    alone = with_article(describe(main[0].thing))
    return _pick(rng, f"{alone} and little else.", f"{alone} by itself.")


def _list(rng, main: list[VisibleThing]) -> str:
    words = list(dict.fromkeys(with_article(describe(s.thing)) for s in main))
    order = [words[k] for k in rng.permutation(len(words))]
    listed = order[0] if len(order) == 1 else f"{', '.join(order[:-1])} and {order[-1]}"
    return _pick(rng, f"a street scene with {listed}.", f"{listed} in town.", f"one can see {listed}.")


def _doing(rng, main: list[VisibleThing]) -> str:
    """What one of the things is doing; a car is named by its body, a rider with the bicycle or motorbike."""
    s = main[int(rng.integers(len(main)))]
    colour, body = colour_of(s.thing), s.thing.attributes.get("body")
    words = with_article(f"{colour} {body}" if body else describe(s.thing))
    ridden = [o for o in main if s.thing.category == "rider" and o.thing.instance == s.thing.partner]
    if ridden:
        return f"{words} on {with_article(describe(ridden[0].thing))}."
    where = PLACES.get(s.thing.place, "in the street")
    return _pick(rng, f"{words} {where}.", f"{words} is {where}.", f"{words} seen {where}.")


def _size(rng, s: VisibleThing, width: int, height: int) -> str:
    words = with_article(f"{size_word(s.area, width, height)} {describe(s.thing)}")
    words = with_side(words, side_of(s.box, width))
    return _pick(rng, f"a photo of {words}.", f"a street view with {words}.", f"look at {words}.")
