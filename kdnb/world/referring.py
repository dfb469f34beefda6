"""Expressions that fit exactly one thing in an image: "second car on the right", "van behind the white truck".

``matches`` lists the things an expression fits, strictly or loosely. A command uses only expressions that fit one
thing either way: also when a silver car passes for a white one, a van for a car, or a thing near the middle for one on
the left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdnb.world.annotate import Annotation
from kdnb.world.phrases import colour_of, coloured, noun, relation, side_of, with_side
from kdnb.world.scene import Thing

PRESENT = 5  # visible pixels from which a thing may be confused with another
TARGETS = ("car", "van", "truck", "bus", "tram", "person", "dog", "bicycle", "motorbike")
RIDDEN = ("bicycle", "motorbike")  # one referent together with the rider
# Within a group, haze, shade or a low sun may turn one colour, or few pixels one type, into another.
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
FAR_APART = 2.5  # ratio of distances from which "behind" is not used
ORDERS = {"closest": 0, "first": 0, "second": 1, "third": 2, "last": -1}


@dataclass(frozen=True, eq=False)
class Referent:
    """Something a command can refer to, as one image shows it.

    noun: "car", "person", ...; a bicycle or motorbike includes its rider. colour: its main colour, for a rider
    that of the clothes; None where it has none. box: x1, y1, x2, y2 in pixels around its visible part; width: of the
    image. distance: metres from the camera. pixels: visible ones; visible: their share of the silhouette within the
    image; cut: share of the silhouette outside it. thing: the vehicle, person or animal itself.
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
    """A description of one thing. ``relation`` is ("behind", Expression of the other thing) or None; ``order`` is one
    of ORDERS, counted from the camera among all things that the rest fits."""

    noun: str
    colour: str | None = None
    side: str | None = None
    order: str | None = None
    relation: tuple | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """What it names beside the type: some of "colour", "side", "order", "relation"."""
        return tuple(name for name in ("colour", "side", "order", "relation") if getattr(self, name) is not None)

    def __str__(self) -> str:
        """In words, without an article: "second red car on the right", "rider in red on the bicycle"."""
        if self.noun in RIDDEN and self.colour:
            words = f"{coloured('rider', self.colour)} on the {self.noun}"
        else:
            words = coloured(self.noun, self.colour)
        words = with_side(words, self.side) if self.side else words
        words = f"{self.order} {words}" if self.order else words
        return f"{words} {self.relation[0]} the {self.relation[1]}" if self.relation else words


def referents(annotations: list[Annotation], width: int) -> list[Referent]:
    """What commands can refer to, or confuse with it, in an image ``width`` pixels wide."""
    by_instance = {a.thing.instance: a for a in annotations}
    out = []
    for a in annotations:
        partner = by_instance.get(a.thing.partner)
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


def alike(a: str | None, b: str | None, groups: Sequence[set[str]]) -> bool:
    """Whether two words are the same or share one of the groups."""
    return a == b or any(a in group and b in group for group in groups)


def matches(expression: Expression, candidates: list[Referent], loose: bool = False) -> list[Referent]:
    """The referents an expression fits; with ``loose`` also those a listener might think it fits."""
    fit = [r for r in candidates if (_may_fit if loose else _fits)(expression, r)]
    if expression.relation:
        word, other = expression.relation
        anchors = matches(other, candidates, loose)
        fit = [r for r in fit if any(a is not r and _related(word, r, a, loose) for a in anchors)]
    if expression.order is None:
        return fit
    if loose and len(fit) > len(matches(replace(expression, order=None), candidates)):
        return fit  # unclear what to count
    return _counted(expression.order, fit, loose)


def _fits(expression, r):
    side = side_of(r.box, r.width)
    return expression.noun == r.noun and expression.colour in (None, r.colour) and expression.side in (None, side)


def _may_fit(expression, r):
    return (
        alike(expression.noun, r.noun, NOUNS_ALIKE)
        and (expression.side is None or expression.side in _sides(r))
        and (expression.colour is None or r.colour is None or alike(expression.colour, r.colour, COLOURS_ALIKE))
    )


def _sides(r) -> list[str]:
    """The sides it may be called on: two near the bounds, 0.4 and 0.6 of the width."""
    centre = (r.box[0] + r.box[2]) / 2 / r.width
    ranges = {"left": (0, 0.45), "middle": (0.35, 0.65), "right": (0.55, 1)}
    return [side for side, (low, high) in ranges.items() if low <= centre <= high]


def clear_side(r: Referent) -> str | None:
    """The side it is on, None where it is ambiguous."""
    sides = _sides(r)
    return sides[0] if len(sides) == 1 else None


def _related(word, r, other, loose):
    if not loose:
        return relation(r.box, r.distance, other.box, other.distance) == word
    shared = min(r.box[2], other.box[2]) - max(r.box[0], other.box[0])
    if word == "next to":
        widest = max(b[2] - b[0] for b in (r.box, other.box))
        return shared >= -1.5 * widest and 1 / 1.8 < r.distance / other.distance < 1.8
    return shared > 0  # from the camera or along the street: either of two in line may be "behind"


def _counted(order, fit, loose):
    """Those at the place ``order`` counted from the camera; with ``loose`` also those about as far away."""
    place = ORDERS[order]
    if len(fit) < max(2, place + 1):
        return []
    row = sorted(fit, key=lambda r: r.distance)
    return [r for r in row if r is row[place] or (loose and _level(r, row[place]))]


def _level(a, b):
    """Whether the order of two things is hard to see: about as far, or the farther one no higher in the image."""
    near, far = sorted((a, b), key=lambda r: r.distance)
    return far.distance < 1.2 * near.distance + 0.5 or far.box[3] > near.box[3]


def singles_out(expression: Expression, target: Referent, candidates: list[Referent]) -> bool:
    """Whether the expression fits the target alone, strictly and loosely."""
    fit = (matches(expression, candidates, loose) for loose in (False, True))
    return all(len(some) == 1 and some[0] is target for some in fit)


# --- the expressions of a thing ----------------------------------------------------------------------------------


def expressions(target: Referent, candidates: list[Referent]) -> list[Expression]:
    """All expressions that single out the target."""
    options = _simple_expressions(target)
    for expression in tuple(options):
        first = "first" if expression.side else "closest"
        options += [replace(expression, order=order) for order in (first, "second", "third", "last")]
    for other in candidates:
        word = relation(target.box, target.distance, other.box, other.distance) if other is not target else None
        if word and other.noun in TARGETS and 1 / FAR_APART < target.distance / other.distance < FAR_APART:
            plain = [e for e in _simple_expressions(other) if other.noun not in RIDDEN or not e.colour]
            anchor = next((e for e in plain if singles_out(e, other, candidates)), None)
            options += [replace(e, relation=(word, anchor)) for e in _simple_expressions(target)[:2] if anchor]
    return [e for e in options if singles_out(e, target, candidates)]


def _simple_expressions(r):
    """Expressions of type, colour and side, shortest first."""
    options = [Expression(r.noun)]
    if r.colour:
        options.append(Expression(r.noun, r.colour))
    side = clear_side(r)
    return options + [replace(option, side=side) for option in options] if side else options


def twin_of(expression: Expression, target: Referent, candidates: list[Referent]) -> tuple:
    """(attribute, Referent): another thing of its type that differs from the target only in the attribute that the
    expression names, "colour" or "side"; (None, None) where there is none."""
    for other in candidates:
        if other is target or other.noun != target.noun or None in (clear_side(other), clear_side(target)):
            continue
        same_side = clear_side(other) == clear_side(target)
        if expression.attributes == ("colour",) and same_side and other.colour != target.colour:
            return "colour", other
        if expression.attributes == ("side",) and not same_side and other.colour == target.colour:
            return "side", other
    return None, None
