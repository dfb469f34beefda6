"""The street as CamVid in both of its layouts: SegNet's ids of 11 classes, and the original's colours of 32."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.files import atomic_folder
from kdnb.world.camera import View, render
from kdnb.world.drive import make_drive
from kdnb.world.export import render_all, rendered
from kdnb.world.scene import SPLITS, Scene, Thing
from kdnb.world.solids import SEMANTICS

LAYOUTS = ("segnet", "colour")
# of the original's 32 classes: SegNet's id, then red, green, blue
CLASSES = {
    "Animal": (9, 64, 128, 64),
    "Archway": (1, 192, 0, 128),
    "Bicyclist": (10, 0, 128, 192),
    "Bridge": (1, 0, 128, 64),
    "Building": (1, 128, 0, 0),
    "Car": (8, 64, 0, 128),
    "CartLuggagePram": (9, 64, 0, 192),
    "Child": (9, 192, 128, 64),
    "Column_Pole": (2, 192, 192, 128),
    "Fence": (7, 64, 64, 128),
    "LaneMkgsDriv": (3, 128, 0, 192),
    "LaneMkgsNonDriv": (3, 192, 0, 64),
    "Misc_Text": (6, 128, 128, 64),
    "MotorcycleScooter": (10, 192, 0, 192),
    "OtherMoving": (8, 128, 64, 64),
    "ParkingBlock": (4, 64, 192, 128),
    "Pedestrian": (9, 64, 64, 0),
    "Road": (3, 128, 64, 128),
    "RoadShoulder": (4, 128, 128, 192),
    "Sidewalk": (4, 0, 0, 192),
    "SignSymbol": (6, 192, 128, 128),
    "Sky": (0, 128, 128, 128),
    "SUVPickupTruck": (8, 64, 128, 192),
    "TrafficCone": (2, 0, 0, 64),
    "TrafficLight": (6, 0, 64, 64),
    "Train": (8, 192, 64, 128),
    "Tree": (5, 128, 128, 0),
    "Truck_Bus": (8, 192, 128, 192),
    "Tunnel": (1, 64, 0, 64),
    "VegetationMisc": (5, 192, 192, 0),
    "Void": (11, 0, 0, 0),
    "Wall": (1, 64, 192, 0),
}
NAMES = tuple(CLASSES)
IDS = np.array([number for number, *_ in CLASSES.values()], np.uint8)
RGB = np.array([colour for _, *colour in CLASSES.values()], np.uint8)
# CamVid's names of the street's materials
STREET = {
    "void": "Void",
    "sky": "Sky",
    "road": "Road",
    "lane mark": "LaneMkgsDriv",
    "pavement": "Sidewalk",
    "grass": "VegetationMisc",
    "building": "Building",
    "fence": "Fence",
    "pole": "Column_Pole",
    "traffic sign": "SignSymbol",
    "traffic light": "TrafficLight",
    "tree": "Tree",
    "car": "Car",
    "van": "SUVPickupTruck",
    "truck": "Truck_Bus",
    "bus": "Truck_Bus",
    "tram": "Train",
    "person": "Pedestrian",
    "rider": "Bicyclist",
    "bicycle": "Bicyclist",
    "motorbike": "MotorcycleScooter",
    "dog": "Animal",
    "potted plant": "VegetationMisc",
    "bench": "Void",
}
TABLE = np.array([NAMES.index(STREET[name]) for name in SEMANTICS], np.uint8)


def special_name(thing: Thing) -> str | None:
    """CamVid's name of a thing where it does not follow from the material."""
    if thing.attributes.get("age") == "child":
        return "Child"
    if thing.attributes.get("body") in ("suv", "pickup"):
        return "SUVPickupTruck"
    return "OtherMoving" if thing.category == "trailer" else None


def label(scene: Scene, view: View) -> np.ndarray:
    """uint8 (H, W): the class at the middle of each pixel, an index into NAMES."""
    classes = TABLE[view.semantic]
    for thing in scene.things:
        name = special_name(thing)
        if name:
            classes[view.instance == thing.instance] = NAMES.index(name)
    return classes


def places(layout: str, split: str, name: str) -> tuple[str, str]:
    """Where an image and its label lie below the root."""
    if layout == "segnet":
        return f"{split}/{name}.png", f"{split}annot/{name}.png"
    return f"701_StillsRaw_full/{name}.png", f"LabeledApproved_full/{name}_L.png"


def _render(job):
    """Render and write one image and its label."""
    root, layout, split, index, name, size, seed = job
    scene = make_drive(seed, split, index, town=True)
    view = render(scene, *size)
    classes = label(scene, view)
    image_place, label_place = places(layout, split, name)
    Image.fromarray(view.image).save(root / image_place, compress_level=1)
    Image.fromarray(IDS[classes] if layout == "segnet" else RGB[classes]).save(root / label_place)


def export_camvid(
    out: str | Path,
    train: int = 500,
    val: int = 60,
    test: int = 100,
    size: tuple[int, int] = (160, 120),
    seed: int = 0,
    layout: str = "segnet",
    workers: int | None = None,
) -> Path:
    """Write a CamVid root into the new folder ``out`` and return its path.

    The folder appears when it is complete. "segnet": ``train/ trainannot/`` and so on, 8-bit ids 0 to 10
    and 11 for void, lists with the absolute prefix of SegNet's own. "colour": ``701_StillsRaw_full/``,
    ``LabeledApproved_full/*_L.png``, ``label_colors.txt``; its lists are an addition of ours.
    One seed gives the same streets in both.

    Args:
        train, val, test: frames. Test frames have facades, light and haze of their own: another drive.
        size: (width, height) in pixels.
        workers: processes, by default one per usable core; the result does not depend on it.

    Raises:
        InputError: no frame in a split, an image smaller than 32 pixels, another layout, or an existing folder.
    """
    if min(train, val, test) < 1 or min(size) < 32:
        raise InputError(
            f"export_camvid: train={train}, val={val}, test={test}, size={tuple(size)}, expected at least "
            "1 frame each and 32 pixels"
        )
    if layout not in LAYOUTS:
        raise InputError(f"export_camvid: layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    with atomic_folder(Path(out)) as build:
        _fill(build, {"train": train, "val": val, "test": test}, tuple(size), seed, layout, workers)
    return Path(out)


def _fill(root: Path, frames: dict[str, int], size, seed, layout, workers):
    names = {split: [f"{split}_{k:05d}" for k in range(frames[split])] for split in SPLITS}
    for split in SPLITS:
        for place in places(layout, split, "x"):
            (root / place).parent.mkdir(exist_ok=True)
    jobs = [(root, layout, split, k, name, size, seed) for split in SPLITS for k, name in enumerate(names[split])]
    render_all(_render, jobs, workers)
    prefix = "/SegNet/CamVid/" if layout == "segnet" else ""
    for split, listed in names.items():
        pairs = [places(layout, split, name) for name in listed]
        lines = [f"{prefix}{image} {prefix}{annot}\n" for image, annot in pairs]
        (root / f"{split}.txt").write_text("".join(lines))
    if layout == "colour":
        lines = [f"{' '.join(map(str, rgb))}\t{name}\n" for name, (_, *rgb) in CLASSES.items()]
        (root / "label_colors.txt").write_text("".join(lines))


def rendered_camvid(root: str | Path, **settings: Any) -> Path:
    """The folder for these settings of export_camvid, rendered only when ``root`` does not hold it yet.

    Raises InputError as export_camvid does, and for an unknown setting.
    """
    known = {"train": 500, "val": 60, "test": 100, "size": (160, 120), "seed": 0, "layout": "segnet"}
    return rendered(root, "camvid", export_camvid, known, settings)
