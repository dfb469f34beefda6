"""Stand in the street: move the camera, change the light, take cars away, and see all sensors change at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import ipywidgets as widgets
import numpy as np
from matplotlib import colormaps

from kdnb.errors import InputError
from kdnb.viz.guard import guarded, png, screen, side_by_side_titled
from kdnb.world.camera import Camera, View, render
from kdnb.world.drive import make_drive
from kdnb.world.lidar import Lidar, scan
from kdnb.world.palette import LIGHTS, Look
from kdnb.world.scene import Scene
from kdnb.world.solids import SEMANTICS

OWN = "its own"  # light
KINDS = {name: numbers for of_split in LIGHTS.values() for name, numbers in of_split.items()}
SKY = (225, 225, 225)  # no distance, no object
NEAR, FAR = 3.0, 60.0  # metres of the depth colours, whose scale is the logarithm's
AHEAD, ASIDE = 60.0, 18.0  # metres seen from above
COLOURS = {  # of what a pixel shows; those of one kind are neighbours in hue
    "void": "#000000",
    "sky": "#CFE8F7",
    "road": "#6B6B6B",
    "lane mark": "#FFFFFF",
    "pavement": "#B7A99A",
    "grass": "#BFD77A",
    "building": "#8C5A3C",
    "fence": "#C49A6C",
    "pole": "#3A3A3A",
    "traffic sign": "#F0E442",
    "tree": "#009E73",
    "car": "#0072B2",
    "van": "#3D93D0",
    "truck": "#56B4E9",
    "bus": "#7A7FD1",
    "tram": "#4B4E9E",
    "person": "#D55E00",
    "rider": "#E69F00",
    "bicycle": "#CC79A7",
    "motorbike": "#9C4F7C",
    "dog": "#F7A072",
    "potted plant": "#5DBB63",
    "bench": "#7A5230",
    "traffic light": "#FFD21F",
}


class SceneExplorer:
    """Six images of one moment: photograph, depth, classes, objects, LiDAR in the photograph, LiDAR from above.

    Args:
        streets: indices of the drives to choose from, see ``kdnb.world.drive.make_drive``.
        size: width and height of each image in pixels.
        seed, split: of the drives.

    Raises:
        InputError: no streets.
    """

    def __init__(
        self, streets: Sequence[int] = range(8), size: tuple[int, int] = (320, 192), seed: int = 0, split: str = "train"
    ):
        if not len(streets):
            raise InputError("no streets to explore, expected at least one index of a drive")
        self.size, self.seed, self.split = size, seed, split
        self.resting = False  # while the slider of cars gets another range
        self._controls(streets)
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.street, self.light, self.beams], layout=row),
                widgets.HBox([self.height, self.pitch, self.field, self.cars], layout=row),
                self.message,
                self.screen,
                self.key,
            ]
        )
        self.street.observe(guarded(self.message, self._move), "value")
        for control in (self.light, self.beams, self.height, self.pitch, self.field, self.cars):
            control.observe(guarded(self.message, self._redraw), "value")
        guarded(self.message, self._move)(None)

    def _controls(self, streets) -> None:
        wide = {"style": {"description_width": "120px"}, "layout": widgets.Layout(width="360px")}
        slow = {**wide, "continuous_update": False}  # a redraw per step of the mouse would queue up
        self.street = widgets.Dropdown(options=list(streets), description="street", **wide)
        self.light = widgets.Dropdown(options=[OWN, *KINDS], description="light", **wide)
        self.beams = widgets.Dropdown(options=[64, 32, 16], description="LiDAR beams", **wide)
        self.height = widgets.FloatSlider(1.65, min=0.6, max=8, step=0.1, description="height, m", **slow)
        self.pitch = widgets.FloatSlider(0, min=-10, max=40, step=1, description="looking down, °", **slow)
        self.field = widgets.FloatSlider(80, min=30, max=120, step=5, description="field of view, °", **slow)
        self.cars = widgets.IntSlider(0, min=0, max=100, description="cars", **slow)
        self.screen = screen()
        self.message, self.key = widgets.HTML(), widgets.HTML()

    def shown(self) -> tuple[Scene, Camera]:
        """The scene and the camera as the controls say."""
        scene = with_cars(self.scene, self.cars.value)
        if self.light.value != OWN:
            scene = replace(scene, look=in_light(scene.look, self.light.value))
        return scene, camera_at(self.size, self.height.value, self.pitch.value, self.field.value)

    def render(self) -> np.ndarray:
        """The six images as one, (H, W, 3) uint8."""
        scene, camera = self.shown()
        view, points = render(scene, camera=camera), cloud(scene, camera, self.beams.value)
        self.rendered = view
        return side_by_side_titled(
            [
                ("what the camera sees", view.image),
                (f"depth, {NEAR:.0f} m dark to {FAR:.0f} m bright", depth_image(view.depth)),
                ("which class a pixel shows", class_image(view.semantic)),
                (f"which object: {len(np.unique(view.instance)) - 1} in view", object_image(view.instance)),
                (f"LiDAR, {self.beams.value} beams: {len(points):,} points", over_image(view, points)),
                (f"from above: {AHEAD:.0f} m ahead to the right", from_above(points, camera)),
            ]
        )

    def _move(self) -> None:
        """To another street, with all its cars."""
        self.scene = make_drive(self.seed, self.split, self.street.value)
        count = sum(thing.category == "car" for thing in self.scene.things)
        self.resting = True
        self.cars.max = count
        self.cars.value = count
        self.resting = False
        self._redraw()

    def _redraw(self) -> None:
        if not self.resting:
            self.screen.value = png(self.render())
            self.key.value = key_of(self.rendered.semantic)


# --- the scene --------------------------------------------------------------------------------------------------


def with_cars(scene: Scene, count: int) -> Scene:
    """The scene with its ``count`` nearest cars; everything else stays."""
    cars = sorted(
        (thing for thing in scene.things if thing.category == "car"),
        key=lambda thing: float(np.hypot(*thing.centre[:2])),
    )
    gone = {thing.instance for thing in cars[count:]}
    kept = [thing for thing in scene.things if thing.instance not in gone]
    number = np.zeros(len(scene.things) + 1, scene.solids.instance.dtype)  # old instance → new: they count from 1
    number[[thing.instance for thing in kept]] = np.arange(1, len(kept) + 1)
    solids = scene.solids.take(~np.isin(scene.solids.instance, list(gone)))
    solids.instance = number[solids.instance]
    things = [
        replace(thing, instance=int(number[thing.instance]), partner=int(number[thing.partner])) for thing in kept
    ]
    return replace(scene, solids=solids, things=things)


def in_light(look: Look, name: str) -> Look:
    """A look in another light, the middle of what ``palette.LIGHTS`` has under this name; the sun keeps its azimuth.

    Raises:
        InputError: an unknown light.
    """
    if name not in KINDS:
        raise InputError(f"light is {name!r}, expected one of {', '.join(KINDS)}")
    elevation, sun, ambient, zenith, horizon, visibility, clouds = KINDS[name]
    up, around = np.radians(np.mean(elevation)), np.arctan2(look.sun[1], look.sun[0])
    direction = np.array([np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)])
    return replace(
        look,
        light=name,
        sun=direction,
        sun_colour=np.array(sun),
        ambient=np.array(ambient),
        zenith=np.array(zenith),
        horizon=np.array(horizon),
        visibility=float(np.mean(visibility)),
        clouds=float(np.mean(clouds)),
    )


def camera_at(size: tuple[int, int], height: float, pitch: float, field: float) -> Camera:
    """A camera ``height`` metres above the ground that looks down by ``pitch`` and sees ``field`` degrees across."""
    width, tall = size
    focal = width / 2 / np.tan(np.radians(field) / 2)
    return Camera(width, tall, focal, focal, width / 2, tall / 2, height, np.radians(pitch))


def cloud(scene: Scene, camera: Camera, beams: int) -> np.ndarray:
    """(N, 3) points in the ego frame of a LiDAR that stands where the camera stands and scans what lies ahead."""
    sensor = Lidar(beams=beams, columns=640, above=camera.above, sector=75.0)
    return scan(scene, sensor=sensor)[:, :3] + sensor.origin


# --- images ---------------------------------------------------------------------------------------------------


def shades(metres: np.ndarray) -> np.ndarray:
    """(..., 3) uint8: cividis over the logarithm of a distance in metres, dark is near."""
    share = np.log(np.clip(metres, NEAR, FAR) / NEAR) / np.log(FAR / NEAR)
    return (255 * colormaps["cividis"](share)[..., :3]).astype(np.uint8)


def depth_image(depth: np.ndarray) -> np.ndarray:
    """(H, W) metres, infinite in the sky → (H, W, 3) uint8."""
    return np.where(np.isfinite(depth)[..., None], shades(depth), SKY).astype(np.uint8)


def class_image(semantic: np.ndarray) -> np.ndarray:
    """(H, W) indices into SEMANTICS → (H, W, 3) uint8."""
    return np.array([_rgb(COLOURS[name]) for name in SEMANTICS], np.uint8)[semantic]


def object_image(instance: np.ndarray) -> np.ndarray:
    """(H, W) instances → (H, W, 3) uint8, a colour for each; scenery, 0, is grey."""
    hues = (np.arange(instance.max()) * 0.618) % 1  # the golden ratio: neighbours differ
    return np.array([SKY, *(255 * colormaps["turbo"](hues)[:, :3])], np.uint8)[instance]


def over_image(view: View, points: np.ndarray) -> np.ndarray:
    """The points in the greyed photograph, coloured by depth, near ones on top."""
    height, width = view.depth.shape
    pixels, depth = view.camera.project(points)
    inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < (width, height)).all(1)
    order = np.argsort(-depth[inside])
    column, row = pixels[inside][order].astype(int).T
    image = np.repeat((0.5 * view.image.mean(2) + 110)[..., None], 3, 2).astype(np.uint8)
    image[row, column] = shades(depth[inside][order])
    return image


def from_above(points: np.ndarray, camera: Camera) -> np.ndarray:
    """The points from above as large as the photograph, the sensor in the middle of the left edge, ahead to the right;
    bright is high. The two lines are the edges of what the camera sees."""
    width, height = camera.width, camera.height
    image = np.full((height, width, 3), 255, np.uint8)
    ahead = np.arange(width) / width * AHEAD
    for side in (-1, 1):
        aside = side * ahead * width / 2 / camera.fx
        visible = np.abs(aside) < ASIDE
        image[_rows(aside[visible], height), np.flatnonzero(visible)] = (213, 94, 0)
    near = (points[:, 0] > 0) & (points[:, 0] < AHEAD) & (np.abs(points[:, 1]) < ASIDE)
    x, y, z = points[near][np.argsort(points[near, 2])].T
    colours = (255 * colormaps["cividis"](np.clip(z / 3, 0, 1))[:, :3]).astype(np.uint8)
    image[_rows(y, height), (x / AHEAD * width).astype(int)] = colours
    return image


def _rows(aside: np.ndarray, height: int) -> np.ndarray:
    """Rows of places so many metres to the left."""
    return ((ASIDE - aside) / (2 * ASIDE) * (height - 1)).astype(int)


def key_of(semantic: np.ndarray) -> str:
    """HTML that names the classes in view beside their colours, with their share of the pixels, the largest first."""
    count = np.bincount(semantic.ravel(), minlength=len(SEMANTICS))
    parts = [
        f"<span style='display:inline-block;width:12px;height:12px;border:1px solid #666;background:"
        f"{COLOURS[SEMANTICS[k]]}'></span> {SEMANTICS[k]} {100 * count[k] / count.sum():.0f} %"
        for k in np.argsort(-count)
        if count[k]
    ]
    return " &nbsp; ".join(parts)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))
