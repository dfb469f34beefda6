"""Cars, vans, trucks, buses and trams as kits of solids. Each builder samples what its arguments leave open."""

import numpy as np

from kdnb.world import palette
from kdnb.world.solids import BUS_BODY, CABIN, CAR_BODY, CARGO, CYLINDER_Y, TRAM_BODY, VAN_BODY, WHEEL, Kit, Vector

# length, width, height, cabin from/to (share of the length, from the back), windscreen rake, rear rake, sill, belt line
BODIES = {
    "hatchback": (3.9, 1.72, 1.50, 0.02, 0.72, 0.75, 0.35, 0.22, 0.86),
    "sedan": (4.6, 1.80, 1.44, 0.14, 0.72, 0.75, 0.60, 0.22, 0.86),
    "estate": (4.7, 1.80, 1.48, 0.01, 0.72, 0.72, 0.22, 0.22, 0.86),
    "suv": (4.6, 1.92, 1.78, 0.02, 0.74, 0.60, 0.25, 0.32, 1.06),
    "pickup": (5.2, 1.94, 1.78, 0.36, 0.74, 0.55, 0.12, 0.34, 1.04),
    "coupe": (4.4, 1.84, 1.28, 0.08, 0.66, 0.95, 1.05, 0.18, 0.78),
}
TRIMS = ("plain", "roof rack", "stripe", "spoiler")
FIRMS = {
    "white": (0.88, 0.88, 0.86),
    "blue": (0.12, 0.28, 0.60),
    "red": (0.68, 0.10, 0.10),
    "green": (0.12, 0.42, 0.24),
    "yellow": (0.90, 0.70, 0.10),
    "grey": (0.50, 0.52, 0.55),
    "orange": (0.86, 0.40, 0.08),
}
BUSES = {
    "red": (0.74, 0.10, 0.10),
    "yellow": (0.92, 0.70, 0.08),
    "blue": (0.12, 0.32, 0.66),
    "green": (0.15, 0.50, 0.28),
    "white": (0.88, 0.88, 0.86),
}
TRAMS = {
    "cream": (0.88, 0.82, 0.64),
    "white": (0.86, 0.88, 0.90),
    "red": (0.72, 0.12, 0.12),
    "turquoise": (0.12, 0.55, 0.55),
}


def wheels(kit: Kit, xs: Vector, width: float, radius: float, thick: float = 0.22) -> None:
    """Pairs of wheels at the places ``xs`` along a vehicle of this width."""
    for x in xs:
        for side in (-1, 1):
            kit.add(
                (x, side * (width / 2 - thick / 2 + 0.02), radius),
                (2 * radius, thick, 2 * radius),
                palette.TYRE,
                WHEEL,
                CYLINDER_Y,
                accent=palette.CHROME,
            )


def car(
    rng: np.random.Generator, body: str | None = None, colour: str | None = None, trim: str | None = None
) -> tuple[Kit, dict]:
    """A car; ``body`` of BODIES, ``colour`` of palette.CAR_COLOURS, ``trim`` of TRIMS; what is None is sampled."""
    body = body or palette.choose(rng, BODIES)[0]
    colour = colour or palette.choose(rng, palette.CAR_COLOURS)[0]
    trim = trim or TRIMS[int(rng.integers(len(TRIMS)))]
    paint = np.clip(np.array(palette.CAR_COLOURS[colour]) * rng.uniform(0.9, 1.1), 0, 1)
    length, width, height, start, end, rake, rear, sill, belt = BODIES[body]
    scale = rng.uniform(0.96, 1.04)
    length, width = length * scale, width * scale
    stripe = (0.92, 0.92, 0.90) if paint.sum() < 1.6 else (0.12, 0.12, 0.14)
    has_stripe = int(trim == "stripe")
    kit = Kit("car")
    kit.add(
        (0, 0, (sill + belt) / 2),
        (length, width, belt - sill),
        paint,
        CAR_BODY,
        inset=(0.16, 0.08, 0.05),
        accent=stripe,
        variant=has_stripe,
    )
    front, back = (end - 0.5) * length, (start - 0.5) * length
    kit.add(
        ((front + back) / 2, 0, (belt + height) / 2),
        (front - back, width - 0.1, height - belt),
        paint,
        CABIN,
        inset=(rake, rear, 0.17),
        accent=stripe,
        variant=has_stripe,
    )
    if body == "pickup":
        middle, bed = (back - length / 2) / 2, back + length / 2
        kit.add((middle, 0, belt + 0.01), (bed - 0.3, width - 0.35, 0.03), (0.05, 0.05, 0.05))
    for side in (-1, 1):
        kit.add((front - 0.55 * rake, side * (width / 2 + 0.05), belt + 0.07), (0.10, 0.16, 0.13), paint)
    if trim == "roof rack":
        span = front - back - rake - rear
        middle = (front + back - rake + rear) / 2
        for side in (-1, 1):
            kit.add((middle, side * (width / 2 - 0.3), height + 0.05), (span * 0.95, 0.06, 0.10), (0.10, 0.10, 0.10))
    if trim == "spoiler":
        level = height - 0.06 if start < 0.05 else belt + 0.22
        at = back + 0.05 if start < 0.05 else -length / 2 + 0.2
        kit.add((at, 0, level), (0.34, width * 0.86, 0.06), paint * 0.7)
        for side in (-1, 1):
            kit.add((at, side * width * 0.33, level - 0.12), (0.12, 0.05, 0.22), paint * 0.6)
    radius = 0.37 if body in ("suv", "pickup") else 0.32
    wheels(kit, (length * 0.31, -length * 0.30), width, radius)
    return kit, {"colour": colour, "body": body, "trim": trim}


def van(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A delivery van in a firm's colour, with a stripe or a logo."""
    colour, paint = palette.choose(rng, FIRMS)
    _, logo = palette.choose(rng, FIRMS)
    length, width, height = rng.uniform(4.8, 5.8), 2.0, rng.uniform(2.1, 2.6)
    kit = Kit("van")
    kit.add(
        (-0.10, 0, (height + 0.3) / 2),
        (length - 0.2, width, height - 0.3),
        paint,
        VAN_BODY,
        inset=(1.05, 0.08, 0.08),
        accent=logo,
        variant=int(rng.integers(3)),
    )
    kit.add((length / 2 - 0.45, 0, 0.68), (0.9, width * 0.97, 0.76), paint, CAR_BODY, inset=(0.12, 0, 0.05))
    for side in (-1, 1):
        kit.add((length / 2 - 1.0, side * (width / 2 + 0.08), 1.35), (0.10, 0.16, 0.30), (0.08, 0.08, 0.08))
    wheels(kit, (length * 0.32, -length * 0.30), width, 0.34)
    return kit, {"colour": colour}


def truck(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A truck with a box behind its cab; ``colour`` is the cab's, ``cargo`` the box's."""
    colour, paint = palette.choose(rng, FIRMS)
    cargo_colour, cargo = palette.choose(rng, FIRMS)
    length, width, height = rng.uniform(7.0, 9.0), 2.45, rng.uniform(3.0, 3.6)
    kit = Kit("truck")
    front = length / 2
    kit.add(
        (front - 0.95, 0, 1.55),
        (1.9, width - 0.1, 2.1),
        paint,
        VAN_BODY,
        inset=(0.22, 0, 0.06),
        accent=paint,
        variant=3,
    )
    kit.add(
        (-1.1, 0, (1.0 + height) / 2),
        (length - 2.2, width, height - 1.0),
        cargo,
        CARGO,
        accent=paint,
        variant=int(rng.integers(3)),
    )
    kit.add((0, 0, 0.78), (length - 0.3, width * 0.75, 0.44), (0.10, 0.10, 0.11))
    kit.add((-front + 0.1, 0, 0.62), (0.12, width * 0.95, 0.16), (0.75, 0.12, 0.10))
    wheels(kit, (front - 1.1, -front + 1.4, -front + 2.5), width, 0.48, 0.3)
    return kit, {"colour": colour, "cargo": cargo_colour}


def bus(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A single-decker bus."""
    colour, paint = palette.choose(rng, BUSES)
    length, width, height = rng.uniform(8.5, 11.0), 2.5, rng.uniform(2.95, 3.2)
    kit = Kit("bus")
    trim = (0.9, 0.9, 0.88) if colour != "white" else (0.12, 0.32, 0.66)
    kit.add(
        (0, 0, (0.3 + height) / 2),
        (length, width, height - 0.3),
        paint,
        BUS_BODY,
        inset=(0.10, 0.04, 0.06),
        accent=trim,
        variant=int(rng.integers(4)),
    )
    kit.add((-length * 0.2, 0, height + 0.1), (2.2, width * 0.7, 0.2), trim)
    for side in (-1, 1):
        kit.add((length / 2 + 0.08, side * (width / 2 + 0.02), height - 0.75), (0.14, 0.16, 0.42), (0.06, 0.06, 0.06))
    wheels(kit, (length * 0.30, -length * 0.27), width, 0.46, 0.28)
    return kit, {"colour": colour}


def tram(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A tram of two cars with a bellows between them and a pantograph on the roof; VOC calls it a train."""
    colour, paint = palette.choose(rng, TRAMS)
    _, accent = palette.choose(rng, {k: v for k, v in TRAMS.items() if k != colour})
    length, width, height = rng.uniform(12.0, 15.0), 2.4, rng.uniform(3.25, 3.45)
    kit = Kit("tram")
    half = length / 2
    for end in (1, -1):
        size = (half - 0.3, width, height - 0.22)
        inset = (0.55, 0.0, 0.14) if end > 0 else (0.0, 0.55, 0.14)
        kit.add(
            (end * (half + 0.3) / 2, 0, (0.22 + height) / 2),
            size,
            paint,
            TRAM_BODY,
            inset=inset,
            accent=accent,
            variant=0 if end > 0 else 1,
        )
        kit.add((end * half * 0.5, 0, 0.2), (half * 0.5, width * 0.8, 0.36), (0.08, 0.08, 0.09))
        kit.add((end * half * 0.5, 0, height + 0.12), (half * 0.45, width * 0.55, 0.24), (0.60, 0.62, 0.64))
    kit.add((0, 0, (0.4 + height) / 2), (0.6, width * 0.88, height - 0.6), (0.12, 0.12, 0.13))
    kit.add((half * 0.12, 0, height + 0.45), (0.06, 0.06, 0.9), palette.STEEL, inset=(-0.5, 0.5, 0))
    kit.add((half * 0.12 + 0.5, 0, height + 0.92), (0.12, 1.6, 0.06), palette.STEEL)
    return kit, {"colour": colour}


def trailer(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A trailer left at the roadside: a caravan, a box or an open one, with its drawbar ahead."""
    colour, paint = palette.choose(rng, FIRMS)
    kind = ("caravan", "box", "open")[int(rng.integers(3))]
    length, width = rng.uniform(2.4, 3.6) + (kind == "caravan"), rng.uniform(1.6, 2.0)
    height = {"caravan": 2.3, "box": 1.9, "open": 1.1}[kind] * rng.uniform(0.92, 1.08)
    kit = Kit("van")
    kit.add(
        (0, 0, (0.45 + height) / 2),
        (length, width, height - 0.45),
        paint,
        VAN_BODY if kind == "caravan" else CARGO if kind == "box" else 0,
        inset=(0.2, 0.1, 0.08) if kind == "caravan" else (0, 0, 0),
        accent=paint * np.array(0.7),
        variant=3,
    )
    kit.add((length / 2 + 0.45, 0, 0.5), (0.9, 0.10, 0.10), palette.STEEL)
    kit.add((length / 2 + 0.75, 0, 0.25), (0.10, 0.10, 0.5), palette.STEEL)
    wheels(kit, (-0.15 * length,), width, 0.30)
    return kit, {"colour": colour, "kind": kind}
