"""A street scene from a seed: its things, their places, its light and its camera."""

from dataclasses import dataclass

import numpy as np

from kdnb.errors import InputError
from kdnb.world import figures, furniture, palette, vehicles
from kdnb.world.layout import Placer, Street, sample_street
from kdnb.world.solids import Kit, Solids, solids

SPLITS = ("train", "val", "test")
# Chance (or expected number) of each category in a scene, nearest and farthest placing in metres.
CAST = {
    "tram": (0.42, 8, 22),
    "bus": (0.42, 7, 20),
    "truck": (0.20, 8, 26),
    "van": (0.30, 6, 20),
    "car": (1.5, 4.5, 18),
    "motorbike": (0.46, 2.8, 8),
    "bicycle": (0.60, 2.8, 8),
    "dog": (0.64, 2.2, 5.5),
    "potted plant": (0.74, 2.2, 6.5),
    "bench": (0.2, 3.0, 8),
    "person": (1.25, 2.6, 8),
}


@dataclass
class Thing:
    """An annotated object. ``centre`` (3,), ``size`` (length, width, height) and ``yaw`` are its upright 3D box in the
    ego frame (metres, radians); ``attributes`` such as colour, body and trim. ``partner`` is the instance of a rider's
    bicycle or motorbike, and the other way round, 0 for none; ``place`` is where it stands: "lane", "oncoming",
    "parked", "side street", "crossing" or "pavement"."""

    instance: int
    category: str
    attributes: dict
    centre: np.ndarray
    size: np.ndarray
    yaw: float
    place: str = ""
    partner: int = 0


@dataclass
class Scene:
    """Solids and things in the ego frame: x forward, y left, z up, metres, origin on the ground below the camera.

    ``lens`` is the focal length as a share of sqrt(width * height), so a scene has the same character in each image
    format; ``camera_height`` in metres, ``camera_pitch`` in radians, positive looks down.
    """

    solids: Solids
    things: list[Thing]
    street: Street
    look: palette.Look
    camera_height: float
    camera_pitch: float
    lens: float
    seed: tuple

    def thing(self, instance: int) -> Thing:
        """The thing with this instance id; ids count from 1."""
        return self.things[instance - 1]


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The scene's random generator: PCG64 seeded with (seed, split, index).

    Raises InputError for an unknown split or a negative number.
    """
    if split not in SPLITS:
        raise InputError(f"split is '{split}', expected one of {', '.join(SPLITS)}")
    if min(seed, index) < 0:
        raise InputError(f"scene seed is {seed}, index {index}, expected whole numbers from 0")
    return np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index]))


def build(category: str, rng: np.random.Generator) -> list[tuple[str, Kit, dict]]:
    """The kits of one category: (category, kit, attributes), two of them for a bicycle or motorbike with its rider."""
    single = {
        "car": vehicles.car,
        "van": vehicles.van,
        "truck": vehicles.truck,
        "bus": vehicles.bus,
        "tram": vehicles.tram,
        "person": figures.person,
        "dog": figures.dog,
        "bench": furniture.bench,
        "potted plant": furniture.potted_plant,
    }
    if category in single:
        return [(category, *single[category](rng))]
    kit, attributes, rider, looks = {"bicycle": figures.bicycle, "motorbike": figures.motorbike}[category](rng)
    return [(category, kit, attributes), ("rider", rider, looks)]


class Stage:
    """Collects placed kits and things while a scene is built."""

    def __init__(self) -> None:
        self.placed, self.things = [], []

    def scenery(self, kit: Kit, x: float, y: float, yaw: float) -> None:
        """Place a kit that is no thing."""
        self.placed.append((np.array(kit.rows), x, y, yaw, 0))

    def thing(self, category: str, kit: Kit, attributes: dict, x: float, y: float, yaw: float, place: str) -> Thing:
        """Place a kit that is a thing."""
        low, high = kit.extent()
        middle, cos, sin = (low + high) / 2, np.cos(yaw), np.sin(yaw)
        centre = np.array([x + cos * middle[0] - sin * middle[1], y + sin * middle[0] + cos * middle[1], middle[2]])
        instance = len(self.things) + 1
        self.placed.append((np.array(kit.rows), x, y, yaw, instance))
        self.things.append(
            Thing(
                instance,
                category,
                attributes,
                np.round(centre, 4),
                np.round(high - low, 4),
                round(float(yaw), 6),
                place,
            )
        )
        return self.things[-1]

    def add(self, parts: list[tuple[str, Kit, dict]], x: float, y: float, yaw: float, place: str) -> None:
        """Place a thing, or a vehicle and its rider."""
        things = [self.thing(*part, x, y, yaw, place) for part in parts]
        if len(things) == 2:
            things[0].partner, things[1].partner = things[1].instance, things[0].instance


def _wanted(rng) -> list[str]:
    """Categories to place, in random order, rare ones and common ones alike."""
    names = []
    for category, (expected, *_) in CAST.items():
        count = int(expected) + (rng.uniform() < expected % 1)
        if category in ("car", "person"):
            count = max(count + int(rng.integers(-1, 2)), 0)
        names += [category] * count
    order = rng.permutation(len(names))
    return [names[k] for k in order]


def _populate(rng, stage: Stage, placer: Placer):
    for category in _wanted(rng):
        parts = build(category, rng)
        spot = placer.find(category, parts, CAST[category][1:], near=True)
        if spot:
            stage.add(parts, *spot)
    for _ in range(int(rng.integers(4, 8))):  # for wide images and LiDAR: too far out or too far away for small ones
        category = ("car", "car", "car", "person", "van", "truck", "bicycle")[int(rng.integers(7))]
        parts = build(category, rng)
        spot = placer.find(category, parts, (-30, 60), near=False)
        if spot:
            stage.add(parts, *spot)


def add_scenery(rng: np.random.Generator, stage: Stage, street: Street, placer: Placer, split: str) -> None:
    """Houses, fences, trees, lamps, signs and the end of the street."""
    facades = palette.FACADES["test" if split == "test" else "train"]
    for side in (-1, 1):
        x = -32.0 + rng.uniform(0, 6)
        while x < 95:
            wide = rng.uniform(8, 15)
            gap = street.side is not None and x < street.side[1] + 2 and x + wide > street.side[0] - 2
            if gap:
                x = street.side[1] + 2.05
                continue
            back = street.frontage(side)
            if rng.uniform() < 0.78:
                name, (wall, trim) = palette.choose(rng, facades)
                deep = rng.uniform(8, 11)
                kit, _ = furniture.building(rng, wall, trim, wide, deep)
                yaw = 0.0 if side < 0 else np.pi
                stage.scenery(kit, *street.to_ego(x + wide / 2, side * (back + deep / 2 + 0.4), yaw))
            else:
                _garden(rng, stage, street, side, x, wide, back)
            x += wide + (rng.uniform(1, 4) if rng.uniform() < 0.25 else 0.05)
        _kerbside(rng, stage, street, placer, side)
    _end_of_street(rng, stage, street, facades)
    if street.side is not None:
        _end_of_side_street(rng, stage, street, facades)


def _garden(rng, stage, street, side, x, wide, back):
    """A gap between houses: a fence, and trees behind it."""
    kit, _ = furniture.fence(rng, wide - 0.6)
    stage.scenery(kit, *street.to_ego(x + wide / 2, side * (back + 0.5), 0.0))
    for k in range(2):
        kit, _ = furniture.tree(rng, rng.uniform(1.6, 2.6))
        stage.scenery(kit, *street.to_ego(x + wide * (0.3 + 0.4 * k), side * (back + 4.0 + 3 * k), 0.0))


def _kerbside(rng, stage, street, placer, side):
    """Trees, lamps, signs and signals along the kerb; their feet keep clear of people."""
    x, y = -20 + rng.uniform(0, 8), side * (street.kerb(side) + 0.55)
    leafy = rng.uniform() < 0.65
    while x < 75:
        kind = rng.uniform()
        free = street.side is None or not street.side[0] - 1 < x < street.side[1] + 1
        ex, ey, _ = street.to_ego(x, y, 0.0)
        free &= not (-1 < ex < 5 and abs(ey) < 1.6)  # not right before the lens
        if free and placer.claim(x, y, 0.35):
            if leafy and kind < 0.6:
                kit, yaw = furniture.tree(rng, rng.uniform(4.0, 4.6))[0], rng.uniform(0, 6)
            elif kind < 0.8:
                kit, yaw = furniture.lamp_post(rng)[0], 0.0 if side < 0 else np.pi
            elif kind < 0.95 or street.zebra is None:
                kit, yaw = furniture.sign(rng)[0], 0.0
            else:
                kit, yaw = furniture.signal(rng)[0], 0.0
            stage.scenery(kit, *street.to_ego(x, y, yaw))
        x += rng.uniform(6, 13)


def _end_of_street(rng, stage, street, facades):
    for k in range(-3, 4):
        if rng.uniform() < 0.5:
            kit, _ = furniture.building(rng, *palette.choose(rng, facades)[1], 14, 8)
            stage.scenery(kit, *street.to_ego(118 + rng.uniform(0, 8), 14.5 * k, np.pi / 2))
        else:
            kit, _ = furniture.tree(rng, 2.0)
            stage.scenery(kit, *street.to_ego(108, 14.5 * k, 0.0))


def _end_of_side_street(rng, stage, street, facades):
    for side in (-1, 1):
        kit, _ = furniture.building(rng, *palette.choose(rng, facades)[1], 30, 8)
        x, y = sum(street.side) / 2 + rng.uniform(-6, 6), side * rng.uniform(62, 75)
        stage.scenery(kit, *street.to_ego(x, y, 0.0 if side < 0 else np.pi))
        for k in (-1, 1):
            kit, _ = furniture.tree(rng, 2.0)
            stage.scenery(kit, *street.to_ego(x + k * rng.uniform(5, 14), side * rng.uniform(40, 54), 0.0))


def make_scene(seed: int, split: str = "train", index: int = 0) -> Scene:
    """Scene ``index`` of a split. "test" scenes have facades, light, haze and sky of their own.

    Raises InputError for an unknown split.
    """
    rng = generator(seed, split, index)
    look = palette.sample_look(rng, split)
    street = sample_street(rng)
    lens = round(rng.uniform(0.92, 1.10), 4)
    height = rng.uniform(1.35, 1.9) if street.viewpoint == "car" else rng.uniform(1.4, 2.3)
    pitch = round(rng.uniform(0.0, 0.06) + 0.035 * (height - 1.5), 4)
    stage, placer = Stage(), Placer(rng, street, half_view=float(np.arctan(0.56 / lens)))
    _populate(rng, stage, placer)
    add_scenery(rng, stage, street, placer, split)
    return Scene(solids(stage.placed), stage.things, street, look, round(height, 3), pitch, lens, (seed, split, index))
