"""The street as a Talk2Car set in the official layout: pictures, commands that mean one thing, region proposals."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.files import atomic_folder
from kdnb.world.annotate import annotate
from kdnb.world.camera import Camera, render
from kdnb.world.commands import Command, commands
from kdnb.world.export import render_all, rendered
from kdnb.world.proposals import NAMES, propose
from kdnb.world.referring import referents
from kdnb.world.scene import SPLITS, Thing, make_scene
from kdnb.world.twins import stage_twins

FULL = (1600, 900)  # the boxes' picture, whatever is drawn
STAGED = 0.7  # share of pictures into which a twin is put; some have one anyway, some have no room
SIDE_TWINS = 0.5  # of those
ATTEMPTS, STRIDE = 20, 1_000_000  # scenes tried for a picture, and how far their numbers lie apart


def export_talk2car(
    out,
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

    A picture has one or two commands. Beside the official fields a command says in "twin" by what alone another thing
    in the picture differs from what it means ("colour", "side" or null), and in "twin_box" where that thing is.

    It is built beside its place and moved there whole: a killed run leaves no such folder.

    Args:
        train, val, test: pictures of each split; facades, light and haze of test scenes are not those of the others.
        size: (width, height) drawn, 16 to 9; boxes are written in 1600 x 900 all the same.
        proposals: region proposals of each picture.
        workers: processes, by default one per usable core; the result does not depend on it.

    Raises:
        InputError: no picture in a split, another format than 16 to 9, less than 160 x 90 pixels, no proposals, or a
            folder that is there already.
    """
    width, height = size
    if min(train, val, test, proposals) < 1:
        raise InputError(
            f"export_talk2car: train={train}, val={val}, test={test}, proposals={proposals}, expected at least 1 each"
        )
    if width * 9 != height * 16 or width < 160:
        raise InputError(f"export_talk2car: size is {width}x{height}, expected 16 to 9 from 160x90: 320x180")
    pictures = {"train": train, "val": val, "test": test}
    with atomic_folder(Path(out)) as build:
        (build / "images").mkdir()
        (build / "commands").mkdir()
        jobs = [
            (build / "images", split, k, seed, tuple(size), proposals)
            for split in SPLITS
            for k in range(pictures[split])
        ]
        done = sorted(render_all(_draw, jobs, workers), key=lambda picture: picture[:2])
        for split in SPLITS:
            rows = [row for name, _, rows, _ in done if name == split for row in rows]
            scenes = list(dict.fromkeys(row["scene_token"] for row in rows))
            (build / "commands" / f"{split}_commands.json").write_text(
                json.dumps({"commands": rows, "scene_tokens": scenes})
            )
        boxes = {
            split: {row["command_token"]: found for name, _, rows, found in done if name == split for row in rows}
            for split in SPLITS
        }
        (build / "centernet_bboxes.json").write_text(json.dumps(boxes))
    return Path(out)


def rendered_talk2car(root, **settings) -> Path:
    """The folder for these settings of export_talk2car, drawn only when ``root`` does not hold it yet.

    Of two processes that draw the same set at once, the slower one uses what the other has moved into place.

    Raises InputError as export_talk2car does, and for an unknown setting.
    """
    known = {"train": 480, "val": 80, "test": 140, "size": (320, 180), "proposals": 16, "seed": 0}
    return rendered(root, "talk2car", export_talk2car, known, settings)


def picture(seed: int, split: str, index: int, size: tuple[int, int]):
    """(View, [Referent], [Command], Generator) of picture ``index`` of a split: the first of its scenes with a command.

    Raises InputError when none of ATTEMPTS scenes has a thing that is large enough to be meant.
    """
    for attempt in range(ATTEMPTS):
        rng = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index, attempt, 2]))
        scene = make_scene(seed, split, index + attempt * STRIDE)
        staged, side = rng.uniform(size=2) < (STAGED, SIDE_TWINS)
        if staged:
            scene = stage_twins(scene, "side" if side else "colour", rng, *size)
        view = render(scene, *size)
        found = referents(annotate(scene, view), size[0])
        meant = commands(found, rng)
        if meant:
            return view, found, meant, rng
    raise InputError(f"no command fits picture {index} of {split} at {size[0]}x{size[1]}, expected a larger size")


def _draw(job) -> tuple:
    """Draw and write one picture; returns its split, number, commands and proposals as the files have them."""
    folder, split, index, seed, size, most = job
    view, found, meant, rng = picture(seed, split, index, size)
    name = f"img_{split}_{index}.jpg"
    Image.fromarray(view.image).save(folder / name, quality=95, subsampling=0)
    rows = [_row(m, k, view.camera, (seed, split, index), name) for k, m in enumerate(meant)]
    boxes = propose(found, *size, most, rng)
    scale = FULL[0] / size[0]
    for proposal in boxes:
        proposal["bbox"] = [round(v * scale, 2) for v in proposal["bbox"]]
    return split, index, rows, boxes


def _row(meant: Command, number: int, camera: Camera, place: tuple, image: str) -> dict:
    """A command with the official fields. As there, the 3D box is in the camera's frame (x right, y down, z forward),
    its size is width, length, height, and its rotation a quaternion (w, x, y, z) of texts."""
    thing = meant.target.thing
    scale = FULL[0] / camera.width
    length, width, height = thing.size.tolist()
    return {
        "scene_token": _token(*place, "scene"),
        "sample_token": _token(*place, "sample"),
        "translation": [round(float(v), 6) for v in camera.to_camera(thing.centre)],
        "size": [width, length, height],
        "rotation": [str(v) for v in turned(thing, camera)],
        "command": meant.text,
        "obj_name": NAMES[meant.target.noun],
        "box_token": _token(*place, thing.instance),
        "command_token": _token(*place, "command", number),
        "2d_box": _official(meant.target.box, scale),
        "t2c_img": image,
        "twin": meant.twin,
        "twin_box": _official(meant.twin_referent.box, scale) if meant.twin else None,
    }


def _token(*parts) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _official(box, scale) -> list[int]:
    """[x, y, width, height] in 1600 x 900; whole numbers, as the official evaluation makes them anyway."""
    x1, y1, x2, y2 = (round(v * scale) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def turned(thing: Thing, camera: Camera) -> list[float]:
    """Quaternion (w, x, y, z) that takes the thing's axes (forward, left, up) into the camera's (right, down, on)."""
    half = camera.pitch / 2, thing.yaw / 2
    pitched = (np.cos(half[0]), np.sin(half[0]), 0.0, 0.0)
    axes = (0.5, 0.5, -0.5, 0.5)  # ego axes to those of a camera that looks straight ahead
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
