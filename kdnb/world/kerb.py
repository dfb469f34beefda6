"""What stands along a town's kerbs: railings, front fences, signs and signals, large enough to tell apart; and the
bonnet of the camera's own car."""

import numpy as np

from kdnb.world import furniture, palette
from kdnb.world.layout import Placer, Street
from kdnb.world.scene import Stage
from kdnb.world.solids import CAR_BODY, ELLIPSOID, Kit

PIECE = 2.4  # metres of fence placed at once; a piece without room is left out
RAILING, FRONT, BONNET = 0.55, 0.6, 0.3  # chances of a railing and of a front fence on a side, and of a bonnet in view


def add_kerb(rng: np.random.Generator, stage: Stage, street: Street, placer: Placer) -> None:
    """Fences, signs and signals on both sides, within some 25 metres; none of them is a thing."""
    if rng.uniform() < BONNET:
        _bonnet(rng, stage)
    for side in (-1, 1):
        for _ in range(int(rng.integers(1, 4))):
            _post(rng, stage, street, placer, side)
        if rng.uniform() < RAILING:
            _fences(rng, stage, street, placer, side * (street.kerb(side) + 0.3), ("pickets", "rails"))
        if rng.uniform() < FRONT:
            edge = street.kerb(side) + street.pavement[side > 0] - 0.1
            _fences(rng, stage, street, placer, side * edge, ("boards", "pickets", "rails", "boards"))


def _fences(rng, stage, street, placer, y, kinds):
    """A row of pieces along ``y`` of the street, open where people cross or a street branches off."""
    kind, begin = kinds[int(rng.integers(len(kinds)))], rng.uniform(4, 14)
    high, paint = rng.uniform(0.9, 1.4), furniture.FENCE_PAINTS[int(rng.integers(len(furniture.FENCE_PAINTS)))]
    openings = [street.side] if street.side else []
    openings += [(street.zebra, street.zebra + 3.0)] if street.zebra else []
    for k in range(int(rng.integers(3, 9))):
        x = begin + PIECE * k
        if any(first - PIECE / 2 < x < last + PIECE / 2 for first, last in openings):
            continue
        if all(placer.claim(x + step, y, 0.35) for step in (-0.8, 0.0, 0.8)):
            kit, _ = furniture.fence(rng, PIECE, kind, high, paint)
            stage.scenery(kit, *street.to_ego(x, y, 0.0))


def _post(rng, stage, street, placer, side):
    """A sign, or a signal, at the kerb."""
    kind = furniture.signal if rng.uniform() < 0.3 else furniture.sign
    kit, _ = kind(rng)
    for _ in range(4):
        x, y = rng.uniform(5, 20), side * (street.kerb(side) + rng.uniform(0.35, 0.8))
        branch = street.side is not None and street.side[0] - 0.5 < x < street.side[1] + 0.5
        if not branch and placer.claim(x, y, 0.3):
            stage.scenery(kit, *street.to_ego(x, y, 0.0))
            return


def _bonnet(rng, stage):
    """The end of the own car's bonnet at the bottom of the image, of class void."""
    kit, paint = Kit("void"), np.array(palette.choose(rng, palette.CAR_COLOURS)[1])
    left, top = rng.uniform(-0.3, 0.3), rng.uniform(1.06, 1.16)
    kit.add((1.3, left, top - 0.35), (1.3, 1.9, 0.7), paint * 0.8, CAR_BODY, ELLIPSOID, variant=3)
    stage.scenery(kit, 0.0, 0.0, 0.0)
