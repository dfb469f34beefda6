"""The street as a Talk2Car set in the official format: images, commands that mean one thing, region proposals."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.files import atomic_folder
from kdnb.world.annotate import annotate
from kdnb.world.camera import View, render
from kdnb.world.commands import Command, commands
from kdnb.world.export import render_all, rendered
from kdnb.world.pinhole import Camera
from kdnb.world.proposals import NAMES, propose
from kdnb.world.referring import Referent, referents
from kdnb.world.scene import SPLITS, Thing, make_scene
from kdnb.world.twins import stage_twins

FULL = (1600, 900)  # the boxes' image size, whatever is rendered
STAGED = 0.7  # share of images to which a twin is added; some have one anyway, some have no room
SIDE_TWINS = 0.5  # of those
ATTEMPTS, STRIDE = 20, 1_000_000  # scenes tried for an image, and the stride of their indices


def export_talk2car(
    out: str | Path,
    train: int = 480,
    val: int = 80,
    test: int = 140,
    size: tuple[int, int] = (320, 180),
    proposals: int = 16,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write ``commands/{train,val,test}_commands.json``, ``images/img_<split>_<number>.jpg`` and
    ``centernet_bboxes.json`` into the folder ``out`` and return its path.

    An image has one or two commands. Besides the official fields, "twin" is the only attribute in which another thing
    in the image differs from the target ("colour", "side" or null), and "twin_box" is that thing's box.

    The folder appears when it is complete: a killed run leaves none.

    Args:
        train, val, test: images of each split; test scenes have facades, light and haze of their own.
        size: (width, height) rendered, 16 to 9; boxes are written in 1600 x 900 all the same.
        proposals: region proposals of each image.
        workers: processes, by default one per usable core; the result does not depend on it.

    Raises:
        InputError: no image in a split, an aspect ratio other than 16 to 9, less than 160 x 90 pixels, no proposals, or
            an existing folder.
    """
    width, height = size
    if min(train, val, test, proposals) < 1:
        raise InputError(
            f"export_talk2car: train={train}, val={val}, test={test}, proposals={proposals}, expected at least 1 each"
        )
    if width * 9 != height * 16 or width < 160:
        raise InputError(f"export_talk2car: size is {width}x{height}, expected 16 to 9 from 160x90: 320x180")
    images = {"train": train, "val": val, "test": test}
    with atomic_folder(Path(out)) as build:
        (build / "images").mkdir()
        (build / "commands").mkdir()
        jobs = [
            (build / "images", split, k, seed, tuple(size), proposals) for split in SPLITS for k in range(images[split])
        ]
        done = sorted(render_all(_render, jobs, workers), key=lambda image: image[:2])
        for split in SPLITS:
            rows = [row for name, _, rows, _ in done if name == split for row in rows]
            scenes = list(dict.fromkeys(row["scene_token"] for row in rows))
            (build / "commands" / f"{split}_commands.json").write_text(
                json.dumps({"commands": rows, "scene_tokens": scenes})
            )
        boxes = {
            split: {row["command_token"]: proposed for name, _, rows, proposed in done if name == split for row in rows}
            for split in SPLITS
        }
        (build / "centernet_bboxes.json").write_text(json.dumps(boxes))
    return Path(out)


def rendered_talk2car(root: str | Path, **settings: Any) -> Path:
    """The folder for these settings of export_talk2car, rendered only when ``root`` does not hold it yet.

    Raises InputError as export_talk2car does, and for an unknown setting.
    """
    known = {"train": 480, "val": 80, "test": 140, "size": (320, 180), "proposals": 16, "seed": 0}
    return rendered(root, "talk2car", export_talk2car, known, settings)


def sample_image(
    seed: int, split: str, index: int, size: tuple[int, int]
) -> tuple[View, list[Referent], list[Command], np.random.Generator]:
    """View, referents, commands and generator of image ``index`` of a split: the first of its scenes with a command.

    Raises InputError when none of ATTEMPTS scenes has a thing that is large enough for a command.
    """
    for attempt in range(ATTEMPTS):
        rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index, attempt, 2]))
        scene = make_scene(seed, split, index + attempt * STRIDE)
        staged, side = rng.uniform(size=2) < (STAGED, SIDE_TWINS)
        if staged:
            scene = stage_twins(scene, "side" if side else "colour", rng, *size)
        view = render(scene, *size)
        candidates = referents(annotate(scene, view), size[0])
        chosen = commands(candidates, rng)
        if chosen:
            return view, candidates, chosen, rng
    raise InputError(f"no command fits image {index} of {split} at {size[0]}x{size[1]}, expected a larger size")


def _render(job) -> tuple:
    """Render and write one image; returns its split, number, commands and proposals as the files have them."""
    folder, split, index, seed, size, most = job
    view, candidates, chosen, rng = sample_image(seed, split, index, size)
    name = f"img_{split}_{index}.jpg"
    Image.fromarray(view.image).save(folder / name, quality=95, subsampling=0)
    rows = [_row(c, k, view.camera, (seed, split, index), name) for k, c in enumerate(chosen)]
    boxes = propose(candidates, *size, most, rng)
    scale = FULL[0] / size[0]
    for proposal in boxes:
        proposal["bbox"] = [round(v * scale, 2) for v in proposal["bbox"]]
    return split, index, rows, boxes


def _row(command: Command, number: int, camera: Camera, place: tuple, image: str) -> dict:
    """A command with the official fields: the 3D box is in the camera's frame (x right, y down, z forward), its size is
    width, length, height, and its rotation a quaternion (w, x, y, z) of strings."""
    thing = command.target.thing
    scale = FULL[0] / camera.width
    length, width, height = thing.size.tolist()
    return {
        "scene_token": _token(*place, "scene"),
        "sample_token": _token(*place, "sample"),
        "translation": [round(float(v), 6) for v in camera.to_camera(thing.centre)],
        "size": [width, length, height],
        "rotation": [str(v) for v in rotation_quaternion(thing, camera)],
        "command": command.text,
        "obj_name": NAMES[command.target.noun],
        "box_token": _token(*place, thing.instance),
        "command_token": _token(*place, "command", number),
        "2d_box": _official(command.target.box, scale),
        "t2c_img": image,
        "twin": command.twin,
        "twin_box": _official(command.twin_referent.box, scale) if command.twin else None,
    }


def _token(*parts) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _official(box, scale) -> list[int]:
    """[x, y, width, height] in 1600 x 900; integers, as the official evaluation rounds them."""
    x1, y1, x2, y2 = (round(v * scale) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def rotation_quaternion(thing: Thing, camera: Camera) -> list[float]:
    """Quaternion (w, x, y, z) from the thing's axes (forward, left, up) to the camera's (right, down, forward)."""
    half = camera.pitch / 2, thing.yaw / 2
    pitched = (np.cos(half[0]), np.sin(half[0]), 0.0, 0.0)
    axes = (0.5, 0.5, -0.5, 0.5)  # ego axes to those of a level camera
    heading = (np.cos(half[1]), 0.0, 0.0, np.sin(half[1]))
    return [round(float(v), 9) for v in _times(_times(pitched, axes), heading)]


def _times(a, b):
    """Product of two quaternions (w, x, y, z)."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a, b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
