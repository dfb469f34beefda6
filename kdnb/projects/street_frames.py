"""One frame for the networks of all projects: drawn with its truth, or any picture with a guessed camera.

Each network was trained with a camera of its own. A frame is wide and high enough to hold what each of them has seen:
``cut_out`` gives a network the part of it that its camera would have taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from kdnb.datasets.kitti_calib import Calibration, guessed_calibration
from kdnb.datasets.kitti_labels import CLASSES
from kdnb.errors import InputError
from kdnb.world.annotate import Annotation, annotate
from kdnb.world.camera import Camera, render
from kdnb.world.car_models import MODELS, model_car
from kdnb.world.commands import commands
from kdnb.world.drive import advance, free_ahead, make_drive
from kdnb.world.export_kitti import FOCAL, FULL, LIDAR, MIDDLE, TYPE, calibration, kitti_camera, kitti_lidar
from kdnb.world.lidar import scan
from kdnb.world.phrases import NOUNS
from kdnb.world.referring import referents
from kdnb.world.scene import Scene

WIDE, BAND, HIGH, ABOVE = 828, 250, 416, 94  # pixels: KITTI's picture, and what a frame has more, above it and below
BEAMS, SECTOR = 32, 45  # of the LiDAR, as 04's
STREETS = 7000  # seeds of frames begin here: no project has drawn any of them
LEAST_CAR, MOST_HIDDEN = 600, 0.35  # pixels of a car from which its model can be told; share of it that may be hidden
LEAST, HIDDEN = 40, 0.8  # the same of what is to be found at all
FARTHEST = 25.0  # metres that a drive is long
COMMAND = "stop next to the car"  # where nobody knows a better one


@dataclass
class StreetFrame:
    """A picture uint8 (H, W, 3) and what is known about it.

    Attributes:
        calibration: of the whole picture.
        points: LiDAR points (N, 4), None where there was no LiDAR.
        truth: "boxes" (K, 7) in the LiDAR's frame and "labels" (K,), None where nobody knows.
        cars: [("box" (4,) in pixels, model), ...] of cars large enough to tell their model.
        command: something to say to the driver; target: the box (4,) of what it means, None where nobody knows.
    """

    name: str
    image: np.ndarray
    calibration: Calibration
    points: np.ndarray | None = None
    truth: dict | None = None
    cars: list[tuple[tuple, str]] = field(default_factory=list)
    command: str = COMMAND
    target: tuple | None = None


# --- drawn ------------------------------------------------------------------------------------------------------


def wide_camera() -> Camera:
    """KITTI's camera with more pixels above and below, so that its horizon lies in the middle."""
    camera = kitti_camera((WIDE, BAND))
    return replace(camera, height=HIGH, cy=camera.cy + ABOVE)


def street(seed: int, index: int) -> Scene:
    """A drive in a light that no training street had, its cars those that 06 knows."""
    return make_drive(STREETS + seed, "test", index, car=_any_model)


def _any_model(rng: np.random.Generator) -> tuple:
    return model_car(rng, MODELS[int(rng.integers(len(MODELS)))])


def draw_frame(scene: Scene, name: str, meant: tuple[str, int | None] | None = None) -> StreetFrame:
    """What camera and LiDAR see of a scene, with the truth; the largest car comes first.

    Args:
        meant: a command and the instance that it means; one is made up if None.
    """
    camera = wide_camera()
    view = render(scene, camera=camera)
    seen = annotate(scene, view)
    matrices = {
        {"R0_rect": "R0", "Tr_velo_to_cam": "velo_to_cam", "Tr_imu_to_velo": "imu_to_velo"}.get(key, key): value
        for key, value in calibration(camera).items()
    }
    command, instance = meant or make_up_command(seen, camera.width, scene.seed)
    target = next((one.visible_box for one in seen if one.thing.instance == instance), None)
    cars = [
        one for one in seen if one.thing.category == "car" and one.pixels >= LEAST_CAR and one.occlusion <= MOST_HIDDEN
    ]
    cars = [(one.visible_box, one.thing.attributes["model"]) for one in sorted(cars, key=lambda one: -one.pixels)]
    points = scan(scene, sensor=kitti_lidar(BEAMS, SECTOR))
    return StreetFrame(name, view.image, Calibration(**matrices), points, _truth(seen), cars, command, target)


def _truth(seen: list[Annotation]) -> dict:
    """3D boxes in the LiDAR's frame, which is the ego frame moved to where the scanner stands."""
    kept = [
        one for one in seen if TYPE[one.thing.category] in CLASSES and one.pixels >= LEAST and one.occlusion <= HIDDEN
    ]
    boxes = [[*(one.thing.centre - LIDAR), *one.thing.size, one.thing.yaw] for one in kept]
    return {
        "boxes": np.array(boxes, float).reshape(-1, 7),
        "labels": np.array([CLASSES.index(TYPE[one.thing.category]) for one in kept], int),
    }


def make_up_command(seen: list[Annotation], width: int, seed: tuple) -> tuple[str, int | None]:
    """A command that means one large car, by its colour if possible, and that car's instance, None if there is none."""
    found = referents([one for one in seen if one.thing.category in NOUNS], width)
    options = []
    for k in range(12):
        meant = commands(found, np.random.default_rng((seed[0], seed[2], k)))
        options += [one for one in meant if one.target.noun == "car" and one.target.pixels >= LEAST_CAR]
    if not options:
        return COMMAND, None
    best = next((one for one in options if "colour" in one.expression.says), options[0])
    return best.text, best.target.thing.instance


def some_frames(seed: int, count: int) -> list[StreetFrame]:
    """Drawn frames worth a look: in each a car whose model can be told, and a command that means one thing."""
    frames, index = [], 0
    while len(frames) < count:
        frame = draw_frame(street(seed, index), f"street {index}")
        if frame.cars and frame.target is not None:
            frames.append(frame)
        index += 1
    return frames


def drive(seed: int, metres: float, step: float) -> Iterator[StreetFrame]:
    """Frames of a drive of so many metres along a street that is free for so long, one after each ``step``; all with
    one command. Nobody else moves.

    Raises:
        InputError: no step, or farther than FARTHEST: the street ends.
    """
    if not 0 < step <= metres <= FARTHEST:
        raise InputError(f"a drive of {metres} m in steps of {step} m, expected steps above 0 and at most {FARTHEST} m")
    camera, index, meant = wide_camera(), 0, (COMMAND, None)
    while meant[1] is None:
        scene = street(seed, index)
        if free_ahead(scene) > metres + 5:
            meant = make_up_command(annotate(scene, render(scene, camera=camera)), camera.width, scene.seed)
        index += 1
    for k in range(round(metres / step) + 1):
        yield draw_frame(advance(scene, k * step), f"street {index - 1}, {k * step:.1f} m on", meant)


# --- any picture ------------------------------------------------------------------------------------------------


def photo_frame(name: str, image: np.ndarray, fov: float) -> StreetFrame:
    """A picture of which only its horizontal field of view is known, in degrees; see ``guessed_calibration``."""
    if image.ndim != 3 or min(image.shape[:2]) < 32:
        raise InputError(f"{name}: a picture of {image.shape[1]}x{image.shape[0]} pixels, expected at least 32x32")
    return StreetFrame(name, image, guessed_calibration(image.shape[1::-1], fov))


# --- what a network's own camera would have seen ----------------------------------------------------------------


def street_window(frame: StreetFrame, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what the street's camera takes in pictures of ``size`` (width, height): its focal
    length is the square root of width times height, see ``scene_camera``."""
    width, height = size
    return _window(frame, (width / height) ** 0.5, width / height, 0.5)


def kitti_window(frame: StreetFrame) -> tuple[int, int, int, int]:
    """What KITTI's camera takes."""
    return _window(frame, FULL[0] / FOCAL, FULL[0] / FULL[1], MIDDLE[1] / FULL[1])


def _window(frame, wide: float, aspect: float, horizon: float) -> tuple[int, int, int, int]:
    """A window around the optical axis, ``wide`` focal lengths across; smaller, but not another shape, where the
    picture has less. ``horizon``: share of the window's height at which the axis lies."""
    height, width = frame.image.shape[:2]
    focal, x, y = frame.calibration.P2[0, 0], frame.calibration.P2[0, 2] + 0.5, frame.calibration.P2[1, 2] + 0.5
    across = min(wide * focal, width, height * aspect)
    down = across / aspect
    left, top = (
        float(np.clip(a, 0, most))
        for a, most in ((x - across / 2, width - across), (y - horizon * down, height - down))
    )
    return round(left), round(top), round(left + across), round(top + down)


def cut_out(frame: StreetFrame, window: tuple[int, int, int, int]) -> tuple[np.ndarray, Calibration]:
    """The window's pixels and their calibration: the axis moves with the window's corner."""
    left, top, right, bottom = window
    moved = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    camera = frame.calibration
    return (
        np.ascontiguousarray(frame.image[top:bottom, left:right]),
        replace(camera, **{key: moved @ getattr(camera, key) for key in ("P0", "P1", "P2", "P3")}),
    )
