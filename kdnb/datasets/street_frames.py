"""One frame for the networks of all projects: rendered with its truth, or any image with a guessed camera.

Each network was trained with a camera of its own. A frame is wide and high enough for all of them: ``cut_out`` gives a
network the part of it that its camera would have taken.
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

WIDE, BAND, HIGH, ABOVE = 828, 250, 416, 94  # pixels: KITTI's image, and how much more a frame has, above it and below
BEAMS, SECTOR = 32, 45  # of the LiDAR, as 04's
STREETS = 7000  # seeds of frames begin here: no project has rendered any of them
MIN_CAR, MAX_HIDDEN = 600, 0.35  # pixels of a car from which its model can be told; share of it that may be hidden
MIN_OBJECT, MAX_OCCLUSION = 40, 0.8  # the same of objects that are to be detected at all
MAX_METRES = 25.0  # of a drive
COMMAND = "stop next to the car"  # where there is no better one

Window = tuple[int, int, int, int]


@dataclass
class StreetFrame:
    """An image uint8 (H, W, 3) and what is known about it.

    Attributes:
        calibration: of the whole image.
        points: LiDAR points (N, 4), None where there was no LiDAR.
        truth: "boxes" (K, 7) in the LiDAR's frame and "labels" (K,), None where it is unknown.
        cars: [("box" (4,) in pixels, model), ...] of cars large enough to tell their model.
        command: something to say to the driver; target: the box (4,) of what it means, None where it is unknown.
    """

    name: str
    image: np.ndarray
    calibration: Calibration
    points: np.ndarray | None = None
    truth: dict | None = None
    cars: list[tuple[tuple, str]] = field(default_factory=list)
    command: str = COMMAND
    target: tuple | None = None

    def street_window(self, size: tuple[int, int]) -> Window:
        """(left, top, right, bottom) of what the street's camera takes in images of ``size`` (width, height).

        Its focal length is the square root of width times height, see ``scene_camera``.
        """
        width, height = size
        return self._window((width / height) ** 0.5, width / height, 0.5)

    def kitti_window(self) -> Window:
        """What KITTI's camera takes."""
        return self._window(FULL[0] / FOCAL, FULL[0] / FULL[1], MIDDLE[1] / FULL[1])

    def _window(self, wide: float, aspect: float, horizon: float) -> Window:
        """A window around the optical axis, ``wide`` focal lengths across; smaller, but not another shape, where the
        image has less. ``horizon``: share of the window's height at which the axis lies."""
        height, width = self.image.shape[:2]
        camera = self.calibration.P2
        focal, x, y = camera[0, 0], camera[0, 2] + 0.5, camera[1, 2] + 0.5
        across = min(wide * focal, width, height * aspect)
        down = across / aspect
        left = float(np.clip(x - across / 2, 0, width - across))
        top = float(np.clip(y - horizon * down, 0, height - down))
        return round(left), round(top), round(left + across), round(top + down)

    def cut_out(self, window: Window) -> tuple[np.ndarray, Calibration]:
        """The window's pixels and their calibration: the axis moves with the window's corner."""
        left, top, right, bottom = window
        moved = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
        matrices = {key: moved @ getattr(self.calibration, key) for key in ("P0", "P1", "P2", "P3")}
        pixels = np.ascontiguousarray(self.image[top:bottom, left:right])
        return pixels, replace(self.calibration, **matrices)


# --- rendered ------------------------------------------------------------------------------------------------------


def wide_camera() -> Camera:
    """KITTI's camera with more pixels above and below, so that its horizon lies in the middle."""
    camera = kitti_camera((WIDE, BAND))
    return replace(camera, height=HIGH, cy=camera.cy + ABOVE)


def street(seed: int, index: int) -> Scene:
    """A drive in a light that no training street had, its cars those that 06 knows."""
    return make_drive(STREETS + seed, "test", index, car=_any_model)


def _any_model(rng: np.random.Generator) -> tuple:
    return model_car(rng, MODELS[int(rng.integers(len(MODELS)))])


def render_frame(scene: Scene, name: str, meant: tuple[str, int | None] | None = None) -> StreetFrame:
    """What camera and LiDAR record of a scene, with the truth; the largest car comes first.

    Args:
        meant: a command and the instance that it means; one is made up if None.
    """
    camera = wide_camera()
    view = render(scene, camera=camera)
    annotations = annotate(scene, view)
    matrices = {
        {"R0_rect": "R0", "Tr_velo_to_cam": "velo_to_cam", "Tr_imu_to_velo": "imu_to_velo"}.get(key, key): value
        for key, value in calibration(camera).items()
    }
    command, instance = meant or make_up_command(annotations, camera.width, scene.seed)
    target = next((one.visible_box for one in annotations if one.thing.instance == instance), None)
    cars = [
        one
        for one in annotations
        if one.thing.category == "car" and one.pixels >= MIN_CAR and one.occlusion <= MAX_HIDDEN
    ]
    cars = [(one.visible_box, one.thing.attributes["model"]) for one in sorted(cars, key=lambda one: -one.pixels)]
    points = scan(scene, sensor=kitti_lidar(BEAMS, SECTOR))
    return StreetFrame(name, view.image, Calibration(**matrices), points, _truth(annotations), cars, command, target)


def _truth(annotations: list[Annotation]) -> dict:
    """3D boxes in the LiDAR's frame, which is the ego frame moved to where the scanner stands."""
    kept = [
        one
        for one in annotations
        if TYPE[one.thing.category] in CLASSES and one.pixels >= MIN_OBJECT and one.occlusion <= MAX_OCCLUSION
    ]
    boxes = [[*(one.thing.centre - LIDAR), *one.thing.size, one.thing.yaw] for one in kept]
    return {
        "boxes": np.array(boxes, float).reshape(-1, 7),
        "labels": np.array([CLASSES.index(TYPE[one.thing.category]) for one in kept], int),
    }


def make_up_command(annotations: list[Annotation], width: int, seed: tuple) -> tuple[str, int | None]:
    """A command that means one large car, by its colour if possible, and that car's instance, None if there is none."""
    targets = referents([one for one in annotations if one.thing.category in NOUNS], width)
    options = []
    for k in range(12):
        meant = commands(targets, np.random.default_rng((seed[0], seed[2], k)))
        options += [one for one in meant if one.target.noun == "car" and one.target.pixels >= MIN_CAR]
    if not options:
        return COMMAND, None
    best = next((one for one in options if "colour" in one.expression.attributes), options[0])
    return best.text, best.target.thing.instance


def some_frames(seed: int, count: int) -> list[StreetFrame]:
    """Rendered frames, each with a car whose model can be told and a command that means one thing."""
    frames, index = [], 0
    while len(frames) < count:
        frame = render_frame(street(seed, index), f"street {index}")
        if frame.cars and frame.target is not None:
            frames.append(frame)
        index += 1
    return frames


def drive(seed: int, metres: float, step: float) -> Iterator[StreetFrame]:
    """Frames of a drive of so many metres along a street that is free for so long, one after each ``step``; all with
    one command. Nobody else moves.

    Raises:
        InputError: no step, or farther than MAX_METRES: the street ends.
    """
    if not 0 < step <= metres <= MAX_METRES:
        raise InputError(
            f"a drive of {metres} m in steps of {step} m, expected steps above 0 and at most {MAX_METRES} m"
        )
    camera, index, meant = wide_camera(), 0, (COMMAND, None)
    while meant[1] is None:
        scene = street(seed, index)
        if free_ahead(scene) > metres + 5:
            meant = make_up_command(annotate(scene, render(scene, camera=camera)), camera.width, scene.seed)
        index += 1
    for k in range(round(metres / step) + 1):
        yield render_frame(advance(scene, k * step), f"street {index - 1}, {k * step:.1f} m on", meant)


# --- any image ------------------------------------------------------------------------------------------------


def photo_frame(name: str, image: np.ndarray, fov: float) -> StreetFrame:
    """An image of which only its horizontal field of view is known, in degrees; see ``guessed_calibration``."""
    if image.ndim != 3 or min(image.shape[:2]) < 32:
        raise InputError(f"{name}: an image of {image.shape[1]}x{image.shape[0]} pixels, expected at least 32x32")
    return StreetFrame(name, image, guessed_calibration(image.shape[1::-1], fov))
