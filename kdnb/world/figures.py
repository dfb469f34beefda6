"""People, bicycles and motorbikes with their riders, and dogs, as kits of solids.

A limb is a leaning box: inset (a, -a) moves its top backwards by a.
"""

import numpy as np

from kdnb.world import palette
from kdnb.world.solids import CYLINDER_Y, ELLIPSOID, HEAD, HELMET, LAMP, RING, SHIRT, WHEEL, Kit, Vector


def limb(
    kit: Kit,
    foot: Vector,
    top: Vector,
    thick: float,
    colour: Vector,
    wide: float | None = None,
    texture: int = 0,
    accent: Vector | None = None,
) -> None:
    """A leaning box from ``foot`` (x, y, z) up to ``top`` (x, z), both ends at the middle of the limb."""
    (fx, y, fz), (tx, tz) = foot, top
    kit.add(
        (fx, y, (fz + tz) / 2),
        (thick, wide or thick, max(tz - fz, 0.03)),
        colour,
        texture,
        inset=(fx - tx, tx - fx, 0),
        accent=accent,
    )


def _clothing(rng):
    top, shirt = palette.choose(rng, palette.CLOTHES)
    bottom, trousers = palette.choose(rng, palette.TROUSERS)
    skin = palette.SKIN[int(rng.integers(len(palette.SKIN)))]
    hair = palette.HAIR[int(rng.integers(len(palette.HAIR)))]
    return top, np.array(shirt), bottom, np.array(trousers), np.array(skin), np.array(hair)


def person(rng: np.random.Generator) -> tuple[Kit, dict]:
    """Somebody on foot: child or adult, standing or walking, perhaps with a skirt, a hat, a rucksack or a bag."""
    top, shirt, bottom, trousers, skin, hair = _clothing(rng)
    child = rng.uniform() < 0.15
    tall = rng.uniform(1.15, 1.4) if child else rng.uniform(1.58, 1.92)
    walking = rng.uniform() < 0.6
    extra = ("nothing", "hat", "rucksack", "bag", "skirt")[int(rng.integers(5))]
    kit, wide = Kit("person"), 0.27 * tall * rng.uniform(0.92, 1.1)
    hip, shoulder = 0.48 * tall, 0.83 * tall
    step = 0.17 * tall * rng.uniform(0.7, 1.1) if walking else 0.015
    for side, swing in ((-1, step), (1, -step)):
        limb(kit, (swing, side * wide * 0.24, 0.07), (0, hip), 0.10 * tall, trousers, wide * 0.42)
        kit.add((swing + 0.04, side * wide * 0.24, 0.04), (0.155 * tall, wide * 0.36, 0.08), (0.10, 0.08, 0.07))
        limb(
            kit,
            (-swing * 0.8, side * wide * 0.62, 0.46 * tall),
            (0, shoulder - 0.02),
            0.065 * tall,
            shirt * 0.88,
            wide * 0.2,
        )
        kit.add((-swing * 0.8, side * wide * 0.62, 0.45 * tall), (0.06 * tall, wide * 0.2, 0.06 * tall), skin)
    if extra == "skirt":
        kit.add(
            (0, 0, (hip + 0.28 * tall) / 2),
            (0.24 * tall, wide * 1.25, hip - 0.28 * tall),
            trousers,
            inset=(0.05, 0.05, 0.08),
        )
    kit.add(
        (0, 0, (hip + shoulder) / 2),
        (0.14 * tall, wide, shoulder - hip),
        shirt,
        SHIRT,
        accent=shirt[::-1],
        variant=int(rng.integers(4)),
    )
    kit.add((0.01, 0, 0.855 * tall), (0.06 * tall, 0.06 * tall, 0.06 * tall), skin)
    kit.add((0.01, 0, 0.935 * tall), (0.125 * tall, 0.105 * tall, 0.14 * tall), skin, HEAD, ELLIPSOID, accent=hair)
    if extra == "hat":
        _, felt = palette.choose(rng, palette.CLOTHES)
        kit.add((0.01, 0, 0.985 * tall), (0.13 * tall, 0.12 * tall, 0.06 * tall), felt)
        kit.add((0.04, 0, 0.96 * tall), (0.20 * tall, 0.13 * tall, 0.015 * tall), felt)
    if extra == "rucksack":
        _, cloth = palette.choose(rng, palette.CLOTHES)
        kit.add((-0.12 * tall, 0, 0.69 * tall), (0.10 * tall, wide * 0.72, 0.24 * tall), cloth)
    if extra == "bag":
        _, cloth = palette.choose(rng, palette.CLOTHES)
        kit.add((step * 0.8, wide * 0.68, 0.36 * tall), (0.22 * tall, 0.07, 0.17 * tall), cloth)
    return kit, {
        "colour": top,
        "trousers": bottom,
        "age": "child" if child else "adult",
        "pose": "walking" if walking else "standing",
        "extra": extra,
    }


def _rider(rng, hip, shoulder, feet, hands, helmet) -> tuple[Kit, dict]:
    """Somebody seated; hip, shoulder, feet and hands are (x, z) in the frame of what is ridden."""
    top, shirt, bottom, trousers, skin, hair = _clothing(rng)
    kit = Kit("rider")
    limb(kit, (hip[0], 0, hip[1]), shoulder, 0.24, shirt, 0.40, SHIRT, accent=shirt[::-1])
    knee = (hip[0] + 0.40, hip[1] - 0.08)
    for side, lift in ((-1, 0.0), (1, 0.16)):
        kit.add(((hip[0] + knee[0]) / 2, side * 0.13, hip[1] - 0.02), (0.50, 0.15, 0.16), trousers)
        limb(kit, (feet[0], side * 0.14, feet[1] + lift), (knee[0], hip[1] + 0.02), 0.12, trousers * 0.9, 0.13)
        kit.add((feet[0] + 0.05, side * 0.14, feet[1] + lift), (0.26, 0.10, 0.08), (0.10, 0.08, 0.07))
        limb(kit, (hands[0], side * 0.24, hands[1]), (shoulder[0], shoulder[1] - 0.03), 0.10, shirt * 0.88)
    crown = shoulder[1] + 0.19
    kit.add((shoulder[0] + 0.06, 0, crown), (0.23, 0.19, 0.26), skin, HEAD, ELLIPSOID, accent=hair)
    if helmet is not None:
        lift, size = (0.07, (0.29, 0.23, 0.16)) if helmet[1] == "open" else (0.01, (0.30, 0.27, 0.31))
        kit.add((shoulder[0] + 0.05, 0, crown + lift), size, helmet[0], HELMET if helmet[1] == "full" else 0, ELLIPSOID)
    return kit, {"colour": top, "trousers": bottom}


def sitter(rng: np.random.Generator) -> tuple[Kit, dict]:
    """Somebody who sits on a bench of furniture.py, in the bench's frame."""
    top, shirt, bottom, trousers, skin, hair = _clothing(rng)
    kit, at = Kit("person"), round(rng.uniform(-0.45, 0.45), 3)
    limb(kit, (-0.06, at, 0.50), (-0.10, 1.05), 0.22, shirt, 0.42, SHIRT, accent=shirt[::-1])
    for side in (-1, 1):
        y = at + side * 0.12
        kit.add((0.14, y, 0.56), (0.50, 0.16, 0.16), trousers)
        limb(kit, (0.38, y, 0.06), (0.34, 0.54), 0.13, trousers * 0.9, 0.14)
        kit.add((0.43, y, 0.04), (0.27, 0.11, 0.08), (0.10, 0.08, 0.07))
        limb(kit, (0.12, at + side * 0.25, 0.62), (-0.08, 1.02), 0.10, shirt * 0.88)
        kit.add((0.16, at + side * 0.22, 0.63), (0.12, 0.09, 0.08), skin)
    kit.add((-0.04, at, 1.22), (0.23, 0.19, 0.26), skin, HEAD, ELLIPSOID, accent=hair)
    return kit, {"colour": top, "trousers": bottom}


def bicycle(rng: np.random.Generator) -> tuple[Kit, dict, Kit, dict]:
    """A bicycle and its rider: two kits in the same frame, each with its attributes."""
    colour, paint = palette.choose(rng, palette.CAR_COLOURS)
    kit = Kit("bicycle")
    for x in (-0.52, 0.52):
        kit.add((x, 0, 0.35), (0.70, 0.05, 0.70), (0.06, 0.06, 0.06), WHEEL, RING, accent=(0.12, 0.12, 0.12))
        kit.add((x, 0, 0.35), (0.10, 0.08, 0.10), palette.CHROME, 0, CYLINDER_Y)
    limb(kit, (0.52, 0, 0.35), (0.36, 0.95), 0.05, paint)  # fork
    limb(kit, (-0.05, 0, 0.30), (-0.22, 0.92), 0.05, paint)  # seat tube
    limb(kit, (-0.02, 0, 0.30), (0.38, 0.78), 0.07, paint)  # down tube
    limb(kit, (-0.52, 0, 0.35), (-0.20, 0.76), 0.04, paint)  # seat stay
    kit.add((0.10, 0, 0.78), (0.52, 0.05, 0.05), paint)
    kit.add((-0.28, 0, 0.34), (0.48, 0.04, 0.04), paint)
    kit.add((-0.22, 0, 0.95), (0.26, 0.14, 0.06), (0.07, 0.06, 0.06))
    kit.add((0.38, 0, 1.00), (0.06, 0.56, 0.04), (0.10, 0.10, 0.10))
    cap = palette.choose(rng, palette.CLOTHES)[1]
    helmet = (cap, "open") if rng.uniform() < 0.6 else None
    rider, looks = _rider(rng, (-0.20, 0.98), (0.08, 1.46), (0.02, 0.24), (0.36, 1.03), helmet)
    return kit, {"colour": colour}, rider, {**looks, "helmet": helmet is not None}


def motorbike(rng: np.random.Generator) -> tuple[Kit, dict, Kit, dict]:
    """A motorbike and its rider: two kits in the same frame, each with its attributes."""
    colour, paint = palette.choose(rng, palette.CAR_COLOURS)
    paint, dark = np.array(paint), (0.09, 0.09, 0.10)
    kit = Kit("motorbike")
    for x in (-0.68, 0.70):
        kit.add((x, 0, 0.32), (0.64, 0.17, 0.64), palette.TYRE, WHEEL, CYLINDER_Y, accent=palette.CHROME)
    kit.add((0, 0, 0.45), (0.62, 0.32, 0.42), dark, inset=(0.05, 0.05, 0.03), accent=palette.CHROME)
    kit.add((0.12, 0, 0.80), (0.62, 0.34, 0.30), paint, inset=(0.10, 0.16, 0.06))
    kit.add((-0.50, 0, 0.78), (0.72, 0.28, 0.14), dark, inset=(0.06, 0.0, 0.02))
    kit.add((-0.78, 0, 0.76), (0.34, 0.24, 0.18), paint, inset=(0.0, -0.1, 0.04))
    kit.add((-0.96, 0, 0.80), (0.04, 0.20, 0.09), (0.95, 0.10, 0.08), LAMP)
    limb(kit, (0.70, 0, 0.32), (0.46, 0.98), 0.08, palette.CHROME, 0.20)
    kit.add((0.60, 0, 0.92), (0.22, 0.32, 0.32), paint, inset=(0.14, 0, 0.04))
    kit.add((0.72, 0, 0.90), (0.03, 0.20, 0.14), (1.0, 0.98, 0.85), LAMP)
    kit.add((0.42, 0, 1.06), (0.07, 0.74, 0.05), dark)
    kit.add((0.70, 0, 0.67), (0.44, 0.19, 0.05), paint)
    kit.add((-0.55, -0.20, 0.36), (0.70, 0.10, 0.12), palette.CHROME)
    shell = palette.choose(rng, palette.CLOTHES)[1]
    rider, looks = _rider(rng, (-0.30, 0.90), (0.0, 1.40), (0.0, 0.32), (0.40, 1.06), (shell, "full"))
    return kit, {"colour": colour}, rider, {**looks, "helmet": True}


def dog(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A dog of one or two shades of fur."""
    colour, fur = palette.choose(rng, palette.DOGS)
    fur, size = np.array(fur), rng.uniform(0.85, 1.25)
    patch = fur * 0.55 + 0.1 if rng.uniform() < 0.5 else fur
    kit, s = Kit("dog"), size
    for x in (-0.28, 0.28):
        for side in (-1, 1):
            swing = 0.06 * side * (1 if x > 0 else -1)
            limb(kit, ((x + swing) * s, side * 0.10 * s, 0.0), (x * s, 0.40 * s), 0.09 * s, fur * 0.9)
    kit.add((0, 0, 0.47 * s), (0.78 * s, 0.29 * s, 0.28 * s), fur, inset=(0.03, 0.05, 0.05), accent=patch)
    kit.add((-0.05 * s, 0, 0.56 * s), (0.42 * s, 0.27 * s, 0.13 * s), patch, inset=(0.05, 0.05, 0.06))
    limb(kit, (0.34 * s, 0, 0.50 * s), (0.46 * s, 0.74 * s), 0.17 * s, fur)
    kit.add((0.50 * s, 0, 0.76 * s), (0.27 * s, 0.23 * s, 0.23 * s), fur, inset=(0.04, 0.0, 0.03))
    kit.add((0.68 * s, 0, 0.71 * s), (0.20 * s, 0.12 * s, 0.12 * s), patch)
    kit.add((0.785 * s, 0, 0.745 * s), (0.03 * s, 0.06 * s, 0.05 * s), (0.03, 0.03, 0.03))
    for side in (-1, 1):
        kit.add((0.43 * s, side * 0.12 * s, 0.80 * s), (0.11 * s, 0.05 * s, 0.20 * s), patch * 0.75)
        kit.add((0.628 * s, side * 0.07 * s, 0.80 * s), (0.025 * s, 0.04 * s, 0.04 * s), (0.03, 0.03, 0.03))
    limb(kit, (-0.38 * s, 0, 0.54 * s), (-0.58 * s, 0.80 * s), 0.06 * s, fur)
    return kit, {"colour": colour}
