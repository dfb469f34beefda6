"""A car close by with some street around it, and a camera for a loose crop whose shape follows the car's."""

import numpy as np

from kdnb.world import palette
from kdnb.world.camera import Camera
from kdnb.world.car_models import Model, model_car
from kdnb.world.layout import Placer, sample_street
from kdnb.world.scene import SPLITS, Scene, Stage, add_scenery, build, generator
from kdnb.world.solids import solids

OTHERS = ("car", "car", "van", "person", "bicycle", "truck", "motorbike")  # categories that may stand behind it
MARGIN = (0.02, 0.10)  # free share of the car's width or height on each side
# how sellers photograph: chance, angle between the car's nose and the line to the camera, half range of the angle
POSES = ((0.60, 0.65, 0.30), (0.25, 2.45, 0.30), (0.15, 1.57, 1.57))
LOOK_SPLITS = ("train", "train", "test")  # of train and test images alike: one competition, no shift


def _generator(seed, split, index, purpose):
    generator(seed, split, index)  # checks its arguments
    return np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index, purpose]))


def _yaw(rng) -> float:
    """Yaw of the car in radians; pi faces the camera."""
    _, middle, spread = POSES[int(rng.choice(len(POSES), p=[chance for chance, *_ in POSES]))]
    side = 1 if rng.uniform() < 0.5 else -1
    return np.pi + side * (middle + rng.uniform(-spread, spread))


def make_close_up(seed: int, split: str, index: int, model: Model) -> tuple[Scene, dict]:
    """Car ``index`` of a split, of a given model, 5.5 to 10 metres away, at any yaw, in any light.

    Returns the scene, whose first thing is the car, and the car's attributes.
    """
    rng = _generator(seed, split, index, 6)
    kind = LOOK_SPLITS[int(rng.integers(len(LOOK_SPLITS)))]
    look, street = palette.sample_look(rng, kind), sample_street(rng)
    stage, placer = Stage(), Placer(rng, street, half_view=0.6, hidden=0.8)
    kit, attributes = model_car(rng, model)
    distance = rng.uniform(5.5, 10.0)
    stage.thing("car", kit, attributes, distance, rng.uniform(-0.8, 0.8), _yaw(rng), "")
    car = stage.things[0]
    placer.claim_box(car.centre, car.size, car.yaw)
    for _ in range(int(rng.integers(0, 3))):
        name = OTHERS[int(rng.integers(len(OTHERS)))]
        parts = build(name, rng)
        spot = placer.find(name, parts, (distance + 3, 30), near=True)
        if spot:
            stage.add(parts, *spot)
    add_scenery(rng, stage, street, placer, kind)
    height, pitch = round(rng.uniform(1.1, 2.4), 3), round(rng.uniform(0.0, 0.10), 4)
    return Scene(solids(stage.placed), stage.things, street, look, height, pitch, 1.0, (seed, split, index)), attributes


def crop_camera(scene: Scene, size: tuple[int, int]) -> Camera:
    """A camera framed on the scene's first thing, at most ``size`` = (width, height) in pixels.

    The margins are sampled, and so is the share of ``size`` that the image uses (70 to 100 %).
    """
    rng = _generator(*scene.seed, 7)
    unit = Camera(1, 1, 1.0, 1.0, 0.0, 0.0, scene.camera_height, scene.camera_pitch)
    own = scene.solids.take(scene.solids.instance == 1)
    x1, y1, x2, y2 = unit.bounds(own.corners).T
    left, top, right, bottom = x1.min(), y1.min(), x2.max(), y2.max()
    wide, high = right - left, bottom - top
    free = rng.uniform(*MARGIN, 4) * (wide, high, wide, high)
    left, top, right, bottom = left - free[0], top - free[1], right + free[2], bottom + free[3]
    focal = min(size[0] / (right - left), size[1] / (bottom - top)) * rng.uniform(0.7, 1.0)
    width, height = (max(round(focal * side), 16) for side in (right - left, bottom - top))
    return Camera(width, height, focal, focal, -focal * left, -focal * top, scene.camera_height, scene.camera_pitch)
