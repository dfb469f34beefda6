"""What stands beside the road: trees, lamp posts, signs, signals, fences, benches, plants and buildings, as kits."""

import numpy as np

from kdnb.world import palette
from kdnb.world import solids as s
from kdnb.world.solids import BOX, CYLINDER_Y, CYLINDER_Z, ELLIPSOID, Kit, Vector

FENCE_PAINTS = ((0.85, 0.85, 0.82), palette.WOOD_BROWN, (0.16, 0.22, 0.18))


def tree(rng: np.random.Generator, clear: float) -> tuple[Kit, dict]:
    """A tree whose crown starts at least ``clear`` metres above the ground."""
    kind = ("round", "round", "conifer", "poplar")[int(rng.integers(4))]
    green = np.array(palette.LEAVES[int(rng.integers(len(palette.LEAVES)))]) * rng.uniform(0.85, 1.15)
    kit = Kit("tree")
    if kind == "round":
        wide, trunk = rng.uniform(2.2, 3.2), clear + 0.3
        kit.add((0, 0, trunk / 2), (0.3, 0.3, trunk), palette.BARK, s.WOOD, CYLINDER_Z)
        high = wide * rng.uniform(0.8, 1.1)
        kit.add((0, 0, clear + high / 2), (wide, wide, high), green, s.LEAVES, ELLIPSOID)
        for k in range(4):
            angle = 1.57 * k + rng.uniform(0, 1.2)
            size = wide * rng.uniform(0.5, 0.68)
            reach = (wide - size) / 2 + 0.1
            at = (np.cos(angle) * reach, np.sin(angle) * reach, clear + high * rng.uniform(0.4, 0.95))
            kit.add(at, (size, size, size * 0.85), green * rng.uniform(0.85, 1.2), s.LEAVES, ELLIPSOID, variant=k + 1)
    elif kind == "conifer":
        kit.add((0, 0, clear / 2), (0.26, 0.26, clear), palette.BARK, s.WOOD, CYLINDER_Z)
        dark = green * (0.6, 0.8, 0.8)
        for k, size in enumerate((2.6, 2.1, 1.5)):
            kit.add(
                (0, 0, clear + 0.95 + 1.1 * k),
                (size, size, 1.9),
                dark * (1 + 0.1 * k),
                s.LEAVES,
                inset=(size / 2.2, size / 2.2, size / 2.2),
                yaw=0.5 * k,
                variant=k,
            )
    else:
        kit.add((0, 0, clear / 2 + 0.2), (0.24, 0.24, clear + 0.4), palette.BARK, s.WOOD, CYLINDER_Z)
        kit.add((0, 0, clear + 2.4), (1.7, 1.7, 4.8), green, s.LEAVES, ELLIPSOID)
        kit.add((0.15, 0.1, clear + 1.4), (1.75, 1.75, 2.6), green * 0.92, s.LEAVES, ELLIPSOID, variant=2)
    return kit, {"kind": kind}


def lamp_post(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A lamp post with its arm to the left (+y)."""
    high = rng.uniform(4.8, 6.5)
    kit = Kit("pole")
    kit.add((0, 0, high / 2), (0.14, 0.14, high), palette.STEEL, 0, CYLINDER_Z)
    kit.add((0, 0, 0.35), (0.24, 0.24, 0.7), palette.STEEL, 0, CYLINDER_Z)
    kit.add((0, 0.6, high), (0.08, 1.3, 0.08), palette.STEEL)
    kit.add((0, 1.1, high - 0.06), (0.24, 0.6, 0.12), (0.9, 0.88, 0.75), s.LAMP)
    return kit, {}


def sign(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A traffic sign that faces -x: a round ban, a triangle, a blue or a yellow square."""
    kind = ("ban", "warning", "parking", "priority")[int(rng.integers(4))]
    high = rng.uniform(2.1, 2.6)
    kit = Kit("traffic sign")
    kit.add((0, 0, high / 2), (0.07, 0.07, high), palette.STEEL, 0, CYLINDER_Z, semantic="pole")
    red, white, blue, yellow = (0.80, 0.08, 0.08), (0.92, 0.92, 0.9), (0.10, 0.25, 0.70), (0.95, 0.78, 0.10)
    if kind == "ban":
        kit.add((-0.06, 0, high), (0.7, 0.05, 0.7), white, s.SIGN, CYLINDER_Y, accent=red, yaw=np.pi / 2)
    elif kind == "warning":
        kit.add((-0.06, 0, high), (0.05, 0.8, 0.7), white, s.SIGN, BOX, (0, 0, 0.38), accent=red, variant=1)
    else:
        face, mark = (blue, white) if kind == "parking" else (yellow, white)
        kit.add((-0.06, 0, high), (0.05, 0.62, 0.62), face, s.SIGN, accent=mark, variant=2 if kind == "parking" else 3)
    return kit, {"kind": kind}


def signal(rng: np.random.Generator) -> tuple[Kit, dict]:
    """Traffic lights that face -x."""
    phase = int(rng.integers(3))
    kit = Kit("traffic sign")
    kit.add((0, 0, 1.5), (0.12, 0.12, 3.0), palette.STEEL, 0, CYLINDER_Z, semantic="pole")
    kit.add((-0.12, 0, 2.9), (0.24, 0.34, 0.95), (0.06, 0.07, 0.07), s.SIGNAL, variant=phase, semantic="traffic light")
    return kit, {"phase": ("red", "amber", "green")[phase]}


def fence(
    rng: np.random.Generator,
    length: float,
    kind: str | None = None,
    high: float | None = None,
    paint: Vector | None = None,
) -> tuple[Kit, dict]:
    """A fence or hedge along x; ``kind`` (also "boards"), ``high`` in metres and ``paint`` are sampled when None."""
    kind = kind or ("rails", "pickets", "hedge")[int(rng.integers(3))]
    kit, high = Kit("fence"), high or rng.uniform(0.9, 1.3)
    if kind == "hedge":
        green = np.array(palette.LEAVES[int(rng.integers(len(palette.LEAVES)))])
        kit.add(
            (0, 0, high / 2), (length, 0.6, high), green * 0.85, s.LEAVES, inset=(0.04, 0.04, 0.06), semantic="tree"
        )
        return kit, {"kind": kind}
    paint = paint or FENCE_PAINTS[int(rng.integers(3))]
    if kind == "boards":
        kit.add((0, 0, high / 2), (length, 0.06, high), paint, s.WOOD)
    count = max(int(length / (0.5 if kind == "pickets" else 2.0)), 1)
    for k in range(count + 1):
        kit.add((-length / 2 + length * k / count, 0, high / 2), (0.09, 0.07, high), paint)
    for level in (0.35, 0.85):
        kit.add((0, 0, high * level), (length, 0.05, 0.09), paint)
    return kit, {"kind": kind}


def bench(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A bench that looks to +x."""
    paints = {"brown": palette.WOOD_BROWN, "green": (0.12, 0.32, 0.20), "grey": (0.5, 0.5, 0.5)}
    colour, paint = palette.choose(rng, paints)
    kit, wide = Kit("bench"), rng.uniform(1.5, 2.0)
    kit.add((0, 0, 0.45), (0.48, wide, 0.06), paint, s.WOOD)
    for level in (0.64, 0.84):
        kit.add((-0.26, 0, level), (0.05, wide, 0.14), paint, s.WOOD)
    for side in (-1, 1):
        for x in (-0.22, 0.18):
            kit.add((x, side * wide * 0.42, 0.22), (0.07, 0.07, 0.44), palette.STEEL)
        kit.add((-0.26, side * wide * 0.42, 0.66), (0.05, 0.07, 0.5), palette.STEEL)
    return kit, {"colour": colour}


def potted_plant(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A bush, flowers or a cone in a pot; its colour is the pot's."""
    colour, clay = palette.choose(
        rng,
        {
            "terracotta": (0.68, 0.34, 0.20),
            "white": (0.85, 0.84, 0.80),
            "blue": (0.16, 0.30, 0.55),
            "grey": (0.42, 0.43, 0.44),
        },
    )
    kind = ("bush", "flowers", "cone")[int(rng.integers(3))]
    kit, wide, pot = Kit("potted plant"), rng.uniform(0.55, 0.75), rng.uniform(0.42, 0.6)
    green = np.array(palette.LEAVES[int(rng.integers(len(palette.LEAVES)))])
    kit.add((0, 0, pot / 2), (wide * 0.8, wide * 0.8, pot), clay, 0, CYLINDER_Z)
    kit.add((0, 0, pot - 0.05), (wide * 0.95, wide * 0.95, 0.12), np.array(clay) * 0.85, 0, CYLINDER_Z)
    if kind == "cone":
        kit.add((0, 0, pot + 0.5), (wide, wide, 1.0), green * 0.8, s.LEAVES, inset=(wide * 0.42,) * 3)
    else:
        texture = s.FLOWERS if kind == "flowers" else s.LEAVES
        bloom = palette.choose(rng, palette.CLOTHES)[1]
        for k in range(4):
            angle, size = 1.57 * k + rng.uniform(0, 1), wide * rng.uniform(0.62, 0.85)
            at = (np.cos(angle) * wide * 0.25, np.sin(angle) * wide * 0.25, pot + size * rng.uniform(0.3, 0.75))
            kit.add(at, (size, size, size), green * rng.uniform(0.9, 1.2), texture, ELLIPSOID, accent=bloom, variant=k)
    return kit, {"colour": colour, "kind": kind}


def building(rng: np.random.Generator, wall: Vector, trim: Vector, wide: float, deep: float) -> tuple[Kit, dict]:
    """A house ``wide`` along x and ``deep`` along y whose front faces +y."""
    storeys = int(rng.integers(2, 6))
    high = 3.1 * storeys + 0.5
    kit, wall = Kit("building"), np.array(wall) * rng.uniform(0.88, 1.1)
    trim = np.array(trim)
    kit.add((0, 0, high / 2), (wide, deep, high), wall, s.FACADE, accent=trim, variant=int(rng.integers(64)))
    roof = ("flat", "gable", "hip")[int(rng.integers(3))]
    tiles = np.array(((0.45, 0.20, 0.15), (0.25, 0.26, 0.29), (0.36, 0.28, 0.22))[int(rng.integers(3))])
    if roof == "flat":
        kit.add((0, 0, high + 0.2), (wide, deep + 0.4, 0.4), trim * 0.9)
    else:
        rise, hip = rng.uniform(2.0, 3.2), wide * 0.3 if roof == "hip" else 0.0
        kit.add((0, 0, high + rise / 2), (wide, deep + 0.6, rise), tiles, s.ROOF, inset=(hip, hip, deep / 2))
        kit.add((wide * rng.uniform(-0.3, 0.3), 0.15 * deep, high + rise * 0.8), (0.7, 0.7, rise * 1.1), wall * 0.7)
    if rng.uniform() < 0.4:
        awning = palette.choose(rng, palette.CLOTHES)[1]
        kit.add((0, deep / 2 + 0.45, 2.75), (wide * 0.55, 0.9, 0.35), np.array(awning) * 0.9, inset=(0.05, 0.05, 0.3))
    return kit, {"storeys": storeys, "roof": roof}
