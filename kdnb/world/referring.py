"""Expressions that mean exactly one thing in a picture: "second car on the right", "van behind the white truck".

``matches`` says which things an expression fits, strictly or loosely. A command uses only expressions that fit one
thing either way: also when a silver car is taken for a white one, a van for a car, or a thing near the middle is said
to be on the left.
"""

from dataclasses import dataclass, replace

import numpy as np

from kdnb.world.annotate import Annotation
from kdnb.world.phrases import colour_of, coloured, noun, relation, side_of, with_side
from kdnb.world.scene import Thing

PRESENT = 5  # visible pixels from which a thing may be confused with another
TARGETS = ("car", "van", "truck", "bus", "tram", "person", "dog", "bicycle", "motorbike")
RIDDEN = ("bicycle", "motorbike")  # one referent with their rider
# Groups within which haze, shade or a low sun may turn one colour, or few pixels one type, into another.
COLOURS_ALIKE = (
    {"white", "silver", "grey", "cream"},
    {"black", "brown"},
    {"black", "blue", "purple"},
    {"black", "green"},
    {"red", "orange", "pink", "brown"},
    {"purple", "pink"},
    {"purple", "blue"},
    {"yellow", "orange", "golden", "cream"},
    {"brown", "golden", "orange"},
    {"green", "turquoise"},
    {"blue", "turquoise"},
    {"blue", "grey"},
    {"brown", "grey"},
)
NOUNS_ALIKE = ({"car", "van"}, {"van", "truck"}, {"bus", "tram"}, {"bus", "truck"}, {"rider", "person", *RIDDEN})
FAR_APART = 2.5  # nobody says "behind" of things of which one is that many times as far
ORDERS = {"closest": 0, "first": 0, "second": 1, "third": 2, "last": -1}


@dataclass(frozen=True, eq=False)
class Referent:
    """Something a command can mean, as one picture shows it.

    noun: "car", "person", ...; a bicycle or motorbike includes its rider. colour: of what one sees most of, a rider's
    clothes; None where it has none. box: x1, y1, x2, y2 in pixels around what is visible; width: of the picture.
    distance: metres from the camera. pixels: visible ones; visible: their share of the silhouette within the picture;
    cut: share of the silhouette outside it. thing: the vehicle, person or animal itself.
    """

    noun: str
    colour: str | None
    box: tuple
    width: int
    distance: float
    pixels: int
    visible: float
    cut: float
    thing: Thing


@dataclass(frozen=True)
class Expression:
    """What is said about one thing. ``relation`` is ("behind", Expression of the other thing) or None; ``order`` is one
    of ORDERS, counted from the camera among all that the rest fits."""

    noun: str
    colour: str | None = None
    side: str | None = None
    order: str | None = None
    relation: tuple | None = None

    @property
    def says(self) -> tuple:
        """What it names beside the type: some of "colour", "side", "order", "relation"."""
        return tuple(name for name in ("colour", "side", "order", "relation") if getattr(self, name) is not None)

    def __str__(self):
        """In words, without an article: "second red car on the right", "rider in red on the bicycle"."""
        if self.noun in RIDDEN and self.colour:
            words = f"{coloured('rider', self.colour)} on the {self.noun}"
        else:
            words = coloured(self.noun, self.colour)
        words = with_side(words, self.side) if self.side else words
        words = f"{self.order} {words}" if self.order else words
        return f"{words} {self.relation[0]} the {self.relation[1]}" if self.relation else words


def referents(annotations: list[Annotation], width: int) -> list[Referent]:
    """What can be meant, or confused with it, in a picture ``width`` pixels wide."""
    seen = {a.thing.instance: a for a in annotations}
    out = []
    for a in annotations:
        partner = seen.get(a.thing.partner)
        if a.thing.category == "rider" and partner:
            continue  # part of what is ridden
        parts = [a, partner] if partner else [a]
        pixels = [p.pixels for p in parts]
        if sum(pixels) < PRESENT:
            continue
        colour = None if a.thing.category in RIDDEN and not partner else colour_of(parts[-1].thing)
        silhouette = sum(n / max(1 - p.occlusion, 1e-6) for n, p in zip(pixels, parts, strict=True))
        boxes = np.array([p.visible_box for p in parts])
        box = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
        out.append(
            Referent(
                noun(a.thing),
                colour,
                box,
                width,
                float(np.hypot(*a.thing.centre[:2])),
                sum(pixels),
                sum(pixels) / silhouette,
                max(p.truncation for p in parts),
                a.thing,
            )
        )
    return out


# --- what an expression fits ------------------------------------------------------------------------------------


def alike(a: str | None, b: str | None, groups) -> bool:
    """Whether two words are the same or share one of the groups."""
    return a == b or any(a in group and b in group for group in groups)


def matches(expression: Expression, found: list[Referent], loose: bool = False) -> list[Referent]:
    """The referents an expression fits; with ``loose`` also all that somebody might think it fits."""
    fit = [r for r in found if (_may_fit if loose else _fits)(expression, r)]
    if expression.relation:
        word, other = expression.relation
        anchors = matches(other, found, loose)
        fit = [r for r in fit if any(a is not r and _related(word, r, a, loose) for a in anchors)]
    if expression.order is None:
        return fit
    if loose and len(fit) > len(matches(replace(expression, order=None), found)):
        return fit  # it is not clear what to count
    return _counted(expression.order, fit, loose)


def _fits(said, r):
    side = side_of(r.box, r.width)
    return said.noun == r.noun and said.colour in (None, r.colour) and said.side in (None, side)


def _may_fit(said, r):
    return (
        alike(said.noun, r.noun, NOUNS_ALIKE)
        and (said.side is None or said.side in _sides(r))
        and (said.colour is None or r.colour is None or alike(said.colour, r.colour, COLOURS_ALIKE))
    )


def _sides(r) -> list[str]:
    """The sides somebody may say it is on: two of them near the bounds, 0.4 and 0.6 of the width."""
    centre = (r.box[0] + r.box[2]) / 2 / r.width
    ranges = {"left": (0, 0.45), "middle": (0.35, 0.65), "right": (0.55, 1)}
    return [side for side, (low, high) in ranges.items() if low <= centre <= high]


def clear_side(r: Referent) -> str | None:
    """The side it is on, None where people could disagree."""
    sides = _sides(r)
    return sides[0] if len(sides) == 1 else None


def _related(word, r, other, loose):
    if not loose:
        return relation(r.box, r.distance, other.box, other.distance) == word
    shared = min(r.box[2], other.box[2]) - max(r.box[0], other.box[0])
    if word == "next to":
        widest = max(b[2] - b[0] for b in (r.box, other.box))
        return shared >= -1.5 * widest and 1 / 1.8 < r.distance / other.distance < 1.8
    return shared > 0  # seen from here or along the street: either of two in line may be called the one behind


def _counted(order, fit, loose):
    """Those at the place ``order`` counted from the camera; with ``loose`` also those that are about as far."""
    place = ORDERS[order]
    if len(fit) < max(2, place + 1):
        return []
    row = sorted(fit, key=lambda r: r.distance)
    return [r for r in row if r is row[place] or (loose and _level(r, row[place]))]


def _level(a, b):
    """Whether it is hard to see which of two things is farther: about as far, or the farther one stands no higher."""
    near, far = sorted((a, b), key=lambda r: r.distance)
    return far.distance < 1.2 * near.distance + 0.5 or far.box[3] > near.box[3]


def singles_out(expression: Expression, target: Referent, found: list[Referent]) -> bool:
    """Whether the expression fits the target and nothing else, however it is read."""
    fit = (matches(expression, found, loose) for loose in (False, True))
    return all(len(some) == 1 and some[0] is target for some in fit)


# --- which expressions there are --------------------------------------------------------------------------------


def expressions(target: Referent, found: list[Referent]) -> list[Expression]:
    """All expressions that single out the target."""
    options = _looks(target)
    for said in tuple(options):
        first = "first" if said.side else "closest"
        options += [replace(said, order=order) for order in (first, "second", "third", "last")]
    for other in found:
        word = relation(target.box, target.distance, other.box, other.distance) if other is not target else None
        if word and other.noun in TARGETS and 1 / FAR_APART < target.distance / other.distance < FAR_APART:
            plain = [said for said in _looks(other) if other.noun not in RIDDEN or not said.colour]
            anchor = next((said for said in plain if singles_out(said, other, found)), None)
            options += [replace(said, relation=(word, anchor)) for said in _looks(target)[:2] if anchor]
    return [said for said in options if singles_out(said, target, found)]


def _looks(r):
    """Expressions of type, colour and side, shortest first."""
    said = [Expression(r.noun)]
    if r.colour:
        said.append(Expression(r.noun, r.colour))
    side = clear_side(r)
    return said + [replace(s, side=side) for s in said] if side else said


def twin_of(expression: Expression, target: Referent, found: list[Referent]) -> tuple:
    """(what, Referent): another thing of its type that differs from the target in one attribute alone, the very one
    the expression names, "colour" or "side"; (None, None) where there is none."""
    for other in found:
        if other is target or other.noun != target.noun or None in (clear_side(other), clear_side(target)):
            continue
        same_side = clear_side(other) == clear_side(target)
        if expression.says == ("colour",) and same_side and other.colour != target.colour:
            return "colour", other
        if expression.says == ("side",) and not same_side and other.colour == target.colour:
            return "side", other
    return None, None
