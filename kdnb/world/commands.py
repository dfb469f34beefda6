"""Commands to the driver about one thing in the image: "slow down, the person in red on the left is crossing"."""

from dataclasses import dataclass

import numpy as np

from kdnb.world.referring import TARGETS, Expression, Referent, expressions, twin_of

SMALLEST = (10, 6, 50)  # longer side, shorter side, visible pixels that a target must have
LEAST_VISIBLE = 0.5  # of its silhouette
MOST_CUT = 0.5  # by the image's edge
VEHICLE = (
    "stop behind {}",
    "pull up behind {}",
    "stop next to {}",
    "wait for {}",
    "let {} pass",
    "drive past {}",
    "slow down for {}",
    "keep an eye on {}",
    "watch out for {}",
    "park near {}",
    "drop me off next to {}",
    "overtake {} slowly",
    "keep your distance from {}",
    "do you see {}? stop there",
)
BY_PLACE = {
    "lane": ("follow {}", "stay behind {}", "get behind {}", "change lanes and overtake {}", "do not lose {}"),
    "oncoming": ("let {} pass before you turn", "wait until {} has passed", "give way to {}", "careful, {} is coming"),
    "parked": ("park behind {}", "park in front of {}", "pull over next to {}", "you can park close to {}"),
    "side street": (
        "turn left after {}",
        "turn right after {}",
        "turn left before {}",
        "turn right before {}",
        "give way to {}",
        "{} is coming out of the side street, brake",
    ),
    "crossing": ("slow down, {} is crossing", "let {} cross", "stop, {} is on the crossing", "wait for {} to cross"),
}
PERSON = (
    "pick up {}",
    "stop next to {}",
    "stop for {}",
    "slow down, {} may cross",
    "drop me off near {}",
    "watch out for {}",
    "ask {} for the way",
    "that is my friend, {}. stop there",
    "let {} cross",
    "wait for {}",
    "keep your distance from {}",
)
DOG = ("watch out for {}", "slow down, {} may run into the road", "stop for {}", "wait for {}", "mind {}")
BEFORE, AFTER = ("please {}", "ok, {}", "hey, {}", "now {}"), ("{}, please", "{}, thank you")
# Weights of the attributes that a command without a twin names.
WEIGHTS = {
    (): 3,
    ("colour",): 4,
    ("side",): 4,
    ("colour", "side"): 1.5,
    ("order",): 1.5,
    ("side", "order"): 2,
    ("relation",): 2.5,
    ("colour", "relation"): 1,
}


@dataclass(frozen=True, eq=False)
class Command:
    """A command: its text, target and expression, and the target's twin (``twin``: the attribute that differs)."""

    text: str
    target: Referent
    expression: Expression
    twin: str | None = None
    twin_referent: Referent | None = None


def templates(noun: str, place: str) -> tuple[str, ...]:
    """Templates, with {} for "the red car", that suit a type of thing and the place where it stands."""
    if noun == "dog":
        return DOG
    return (PERSON if noun == "person" else VEHICLE) + BY_PLACE.get(place, ()) * 2


def phrase(expression: Expression, place: str, rng: np.random.Generator) -> str:
    """A command around an expression. "park behind {}" is left out where the expression has a relation, "turn left
    after {}" where it has a side or only a colour: such a word must be about the target."""
    suits = templates(expression.noun, place)
    if expression.relation:
        suits = [f for f in suits if not any(w in f for w in ("behind", "in front of", "next to", "after", "before"))]
    if "side" in expression.attributes or expression.attributes == ("colour",):
        suits = [f for f in suits if not any(w in f for w in ("left", "right"))]
    text = suits[int(rng.integers(len(suits)))].format(f"the {expression}")
    chance, around = rng.uniform(), None
    if chance < 0.15:
        around = BEFORE[int(rng.integers(len(BEFORE)))]
    elif chance < 0.3 and "," not in text and "." not in text and "?" not in text:
        around = AFTER[int(rng.integers(len(AFTER)))]
    return around.format(text) if around else text


def is_referable(r: Referent) -> bool:
    """Whether it is large and visible enough for a command."""
    longer, shorter = sorted((r.box[2] - r.box[0], r.box[3] - r.box[1]), reverse=True)
    return (
        r.noun in TARGETS
        and longer >= SMALLEST[0]
        and shorter >= SMALLEST[1]
        and r.pixels >= SMALLEST[2]
        and r.visible >= LEAST_VISIBLE
        and r.cut <= MOST_CUT
    )


def commands(candidates: list[Referent], rng: np.random.Generator) -> list[Command]:
    """At most two commands for an image, about different things.

    Where two things differ only in colour or side, each mostly gets a command that names that attribute.
    """
    clear = [r for r in candidates if is_referable(r)]
    options = [
        (r, expression, *twin_of(expression, r, clear)) for r in clear for expression in expressions(r, candidates)
    ]
    pairs = [(a, b) for a in options for b in options if a[2] and a[3] is b[0] and b[3] is a[0] and a[2] == b[2]]
    if pairs:
        chosen = pairs[int(rng.integers(len(pairs)))]
    else:
        chosen = []
        for _ in range(1 + (rng.uniform() < 0.5)):
            rest = [o for o in options if all(o[0] is not c[0] for c in chosen)]
            if rest:
                chosen.append(_sample(rest, rng))
    return [Command(phrase(expression, r.thing.place, rng), r, expression, *twin) for r, expression, *twin in chosen]


def _sample(options, rng):
    """One of the options: first the attributes it names, by weight, then the thing, small ones more often."""
    kinds = sorted({expression.attributes for _, expression, *_ in options})
    weights = np.array([WEIGHTS.get(kind, 0.3) for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    some = [option for option in options if option[1].attributes == kind]
    weights = np.array([(r.box[2] - r.box[0]) * (r.box[3] - r.box[1]) for r, *_ in some]) ** -0.5
    return some[int(rng.choice(len(some), p=weights / weights.sum()))]
