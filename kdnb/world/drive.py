"""The street from a driving car: more road users than in the other data sets, and farther away."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kdnb.world import figures, furniture, palette, vehicles
from kdnb.world.kerb import add_kerb
from kdnb.world.layout import Placer, sample_street
from kdnb.world.scene import SPLITS, Scene, Stage, add_scenery, generator
from kdnb.world.solids import Kit, solids

# name: (expected number, share of near ones, range of the near ones and of the far ones in metres, whose zones)
CAST = {
    "tram": (0.25, 0.4, (9, 22), (20, 42), "tram"),
    "truck": (0.40, 0.4, (8, 20), (18, 45), "truck"),
    "van": (0.45, 0.4, (6, 18), (16, 42), "van"),
    "car": (7.0, 0.55, (5, 16), (14, 45), "car"),
    "trailer": (0.25, 0.6, (5, 18), (16, 40), "van"),
    "cyclist": (3.4, 0.62, (4.5, 16), (13, 38), "bicycle"),
    "sitting person": (0.5, 0.6, (4, 15), (12, 35), "bench"),
    "person": (3.6, 0.60, (4.5, 16), (13, 38), "person"),
}
Builder = Callable[[np.random.Generator], tuple[Kit, dict]]
HALF_VIEW = 0.78  # radians; a little more than half of KITTI's 81 degrees, so that some things leave the image
HIDDEN = 0.7  # share of a thing's width that another may cover


def cyclist(rng: np.random.Generator) -> tuple[Kit, dict]:
    """A bicycle and its rider as one thing."""
    bicycle, attributes, rider, looks = figures.bicycle(rng)
    bicycle.rows += rider.rows
    return bicycle, {**looks, "bicycle": attributes["colour"]}


BUILDERS = {
    "tram": vehicles.tram,
    "truck": vehicles.truck,
    "van": vehicles.van,
    "trailer": vehicles.trailer,
    "cyclist": cyclist,
    "sitting person": figures.sitter,
    "person": figures.person,
}


def make_drive(
    seed: int, split: str = "train", index: int = 0, town: bool = False, car: Builder = vehicles.car
) -> Scene:
    """Drive ``index`` of a split, with things of the categories in CAST; looks are held out as in make_scene.

    ``town`` adds what kerb.py has: railings, fences, signs and signals close by, and at times the own bonnet. ``car``
    builds the cars: ``car(rng)`` → (Kit, attributes).

    Raises InputError for an unknown split.
    """
    generator(seed, split, index)  # checks its arguments
    rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index, 3]))
    look, street = palette.sample_look(rng, split), _road(rng)
    stage, placer = Stage(), Placer(rng, street, HALF_VIEW, HIDDEN)
    names = [name for name, (expected, *_) in CAST.items() for _ in range(int(rng.poisson(expected)))]
    mixed = [names[k] for k in rng.permutation(len(names)).tolist()]
    for name in sorted(mixed, key=lambda name: name not in ("tram", "truck")):  # large ones first, while there is room
        _place(rng, stage, placer, name, car)
    for _ in range(3):  # far away, in view
        _place(rng, stage, placer, ("car", "van", "person", "cyclist")[int(rng.integers(4))], car, far=True)
    if town:
        add_kerb(rng, stage, street, placer)
    add_scenery(rng, stage, street, placer, split)
    return Scene(solids(stage.placed), stage.things, street, look, 1.65, 0.0, 1.0, (seed, split, index))


def _road(rng):
    """A street with the camera in its own lane, more cars parked and the crossing farther on."""
    street = sample_street(rng)
    zebra = round(rng.uniform(7, 22), 3) if rng.uniform() < 0.6 else None
    begin = round((zebra or rng.uniform(8, 25)) + rng.uniform(4.5, 8), 3)
    parking = tuple(2.3 if rng.uniform() < 0.6 else 0.0 for _ in range(2))
    return replace(
        street,
        viewpoint="car",
        heading=round(rng.uniform(-0.08, 0.08), 4),
        zebra=zebra,
        parking=parking,
        offset=round(rng.uniform(-0.3, 0.3), 4),
        side=(begin, begin + 8.0) if rng.uniform() < 0.45 else None,
    )


def _place(rng, stage, placer, name, car, far=False):
    """Place a thing if there is room for it."""
    _, share, near, beyond, zone = CAST[name]
    kit, attributes = car(rng) if name == "car" else BUILDERS[name](rng)
    parts = [(name, kit, attributes)]
    if name == "sitting person":  # on a bench, which is no thing here
        parts.append(("bench", *furniture.bench(rng)))
    reach = (-30, 60) if far else near if rng.uniform() < share else beyond
    spot = placer.find(zone, parts, reach, near=not far)
    if spot is None:
        return
    stage.thing(name, kit, attributes, *spot)
    if len(parts) == 2:
        stage.scenery(parts[1][1], *spot[:3])


def advance(scene: Scene, metres: float) -> Scene:
    """The same street after its camera has driven on along it; all things stand still.

    Sensor noise is sampled anew at each place.
    """
    cos, sin = np.cos(scene.street.heading), np.sin(scene.street.heading)
    step = np.array([metres * cos, -metres * sin, 0.0])  # the street's direction in the ego frame
    seed, split, index = scene.seed
    return replace(
        scene,
        solids=replace(scene.solids, centre=scene.solids.centre - step),
        things=[replace(thing, centre=thing.centre - step) for thing in scene.things],
        street=replace(scene.street, along=scene.street.along + metres),
        seed=(seed, split, index + round(1000 * metres)),
    )


def free_ahead(scene: Scene, half_width: float = 1.5) -> float:
    """Metres that a car of this half width can drive along the street before it meets a thing."""
    nearest = np.inf
    for thing in scene.things:
        x, y = scene.street.from_ego(*thing.centre[:2])
        reach = np.hypot(*thing.size[:2]) / 2
        if abs(y - scene.street.offset) < half_width + reach and x + reach > 0:
            nearest = min(nearest, x - reach)
    return float(max(nearest, 0.0))
