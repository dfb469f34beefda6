"""Car models for fine-grained classification: six bodies in four generations each, which differ in details.

A generation has its own proportions (a few per cent) and roof, most often its own trim, and keeps either the lamps or
the grille and rims of the one before. Any one of these may be hidden or a pixel wide, so neighbouring generations are
easy to mix up. Each model is sold in some colours more often than in others. The table is the same for all seeds: a
seed samples cars, not models.
"""

from dataclasses import dataclass

import numpy as np

from kdnb.world import palette
from kdnb.world.solids import CYLINDER_Y, MODEL_BODY, MODEL_CABIN, RIM, Kit
from kdnb.world.vehicles import BODIES, TRIMS

# as in vehicles.BODIES, but a boot to tell a sedan by, and a coupe that is one slope from roof to tail
SHAPES = {
    **BODIES,
    "sedan": (4.75, 1.80, 1.47, 0.18, 0.70, 0.70, 0.50, 0.22, 0.88),
    "coupe": (4.2, 1.84, 1.27, 0.03, 0.62, 0.95, 0.95, 0.18, 0.78),
}
# lamps, grille, rims (as car_paint numbers them) and trim of a body's first generation
FIRST_LOOK = {
    "hatchback": (0, 0, 0, 0),
    "sedan": (1, 1, 1, 1),
    "estate": (2, 2, 2, 2),
    "suv": (3, 3, 3, 3),
    "pickup": (0, 1, 2, 1),
    "coupe": (2, 3, 1, 0),
}
FIRST_YEAR = {"hatchback": 2008, "sedan": 2007, "estate": 2009, "suv": 2010, "pickup": 2006, "coupe": 2011}
GENERATIONS = 4
TYPICAL = 0.6  # share of cars with the trim of their generation, the others have any
# shares of the cars painted in each of palette.CAR_COLOURS when nobody prefers one
SOLD = {"white": 5, "black": 5, "silver": 5, "blue": 3, "red": 3, "green": 1.5, "brown": 1.5, "yellow": 1, "orange": 1}
FAVOURED = 4.0  # how many times more often a model is sold in each of its two favourite colours


@dataclass(frozen=True)
class Model:
    """One class. Lengths in metres; ``start``, ``end`` of the cabin are shares of the length, from the back."""

    name: str
    body: str
    generation: int
    length: float
    width: float
    height: float
    start: float
    end: float
    rake: float
    rear: float
    sill: float
    belt: float
    nose: float
    wheel: float
    lamps: int
    grille: int
    rims: int
    trim: str
    colours: tuple[float, ...]


def _model(place: int, body: str, k: int) -> Model:
    """Generation ``k`` of a body, ``place`` its number: from one to the next it grows, and sits lower and sleeker."""
    length, width, height, start, end, rake, rear, sill, belt = SHAPES[body]
    lamps, grille, rims, first_trim = FIRST_LOOK[body]
    favourites = [(3 * place + 2 * k) % len(SOLD), (place + 5 * k + 4) % len(SOLD)]
    shares = np.array([share * (FAVOURED if n in favourites else 1) for n, share in enumerate(SOLD.values())])
    return Model(
        name=f"{body}_{FIRST_YEAR[body] + 4 * k + (k > 1)}",
        body=body,
        generation=k,
        length=length * (0.96 + 0.025 * k),
        width=width * (0.98 + 0.012 * k),
        height=height * (1.03 - 0.02 * k),
        start=start,
        end=end + (0.02, 0.0, -0.02, 0.01)[k],
        rake=rake * (0.80 + 0.14 * k),
        rear=rear * (0.85 + 0.1 * k),
        sill=sill,
        belt=belt + 0.025 * (k - 1.5),
        nose=0.08 + 0.08 * k,
        wheel=(0.37 if body in ("suv", "pickup") else 0.315) + 0.012 * (k - 1),
        lamps=(lamps + k // 2) % 4,
        grille=(grille + (k + 1) // 2) % 4,
        rims=(rims + (k + 1) // 2) % 4,
        trim=TRIMS[(first_trim + k) % len(TRIMS)],
        colours=tuple((shares / shares.sum()).tolist()),
    )


MODELS = tuple(_model(place, body, k) for place, body in enumerate(SHAPES) for k in range(GENERATIONS))


def model_car(rng: np.random.Generator, model: Model) -> tuple[Kit, dict]:
    """One car of a model and its attributes: paint and trim are sampled, the rest is the model's."""
    colour = list(SOLD)[int(rng.choice(len(SOLD), p=model.colours))]
    paint = np.clip(np.array(palette.CAR_COLOURS[colour]) * rng.uniform(0.85, 1.12) + rng.uniform(-0.02, 0.02, 3), 0, 1)
    trim = model.trim if rng.uniform() < TYPICAL else TRIMS[int(rng.integers(len(TRIMS)))]
    kit = Kit("car")
    _shell(kit, model, paint, trim == "stripe")
    _extras(kit, model, paint, trim)
    _wheels(kit, model)
    return kit, {"model": model.name, "body": model.body, "colour": colour, "trim": trim}


def _shell(kit, m, paint, stripe):
    k, light = m.generation, paint.sum() >= 1.6
    accent = (0.12, 0.12, 0.14) if light else (0.92, 0.92, 0.90)
    clad = m.body in ("suv", "pickup", "estate") and k in (1, 3)
    look = m.lamps | m.grille << 2 | (k < 2) << 4 | stripe << 5 | clad << 6
    kit.add(
        (0, 0, (m.sill + m.belt) / 2),
        (m.length, m.width, m.belt - m.sill),
        paint,
        MODEL_BODY,
        inset=(m.nose, 0.06 + 0.02 * k, 0.05),
        accent=accent,
        variant=look,
    )
    front, back = (m.end - 0.5) * m.length, (m.start - 0.5) * m.length
    roof = (0, 2, 3, 1)[k]
    kit.add(
        ((front + back) / 2, 0, (m.belt + m.height) / 2),
        (front - back, m.width - 0.1, m.height - m.belt),
        paint,
        MODEL_CABIN,
        inset=(m.rake, m.rear, 0.17),
        accent=accent,
        variant=roof | stripe << 2,
    )
    if m.body == "pickup":
        bed = back + m.length / 2
        kit.add(((back - m.length / 2) / 2, 0, m.belt + 0.01), (bed - 0.3, m.width - 0.35, 0.03), (0.05, 0.05, 0.05))
    for side in (-1, 1):
        kit.add(
            (front - 0.55 * m.rake, side * (m.width / 2 + 0.05), m.belt + 0.07),
            (0.10, 0.16, 0.13),
            paint if k else (0.08, 0.08, 0.09),
        )


def _extras(kit, m, paint, trim):
    front, back = (m.end - 0.5) * m.length, (m.start - 0.5) * m.length
    if trim == "roof rack":
        span, middle = front - back - m.rake - m.rear, (front + back - m.rake + m.rear) / 2
        for side in (-1, 1):
            kit.add((middle, side * (m.width / 2 - 0.3), m.height + 0.05), (span * 0.95, 0.06, 0.10), (0.1, 0.1, 0.1))
    if trim == "spoiler":
        high = m.start < 0.05  # at the end of the roof, otherwise on the boot
        level, at = (m.height - 0.06, back + 0.05) if high else (m.belt + 0.22, -m.length / 2 + 0.2)
        kit.add((at, 0, level), (0.34, m.width * 0.86, 0.06), paint * 0.7)
        for side in (-1, 1):
            kit.add((at, side * m.width * 0.33, level - 0.12), (0.12, 0.05, 0.22), paint * 0.6)


def _wheels(kit, m):
    for x in (0.31, -0.30):
        for side in (-1, 1):
            place = (x * m.length, side * (m.width / 2 - 0.09), m.wheel)
            arch = (x * m.length, side * (m.width / 2 - 0.02), m.wheel + 0.04)
            kit.add(arch, (2.45 * m.wheel, 0.05, 2.3 * m.wheel), (0.06, 0.06, 0.06), 0, CYLINDER_Y)
            kit.add(
                place,
                (2 * m.wheel, 0.22, 2 * m.wheel),
                palette.TYRE,
                RIM,
                CYLINDER_Y,
                accent=palette.CHROME,
                variant=m.rims,
            )
