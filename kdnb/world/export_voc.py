"""The street as a Pascal VOC detection set in the official format."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.files import atomic_folder
from kdnb.world.annotate import Annotation, annotate
from kdnb.world.camera import render
from kdnb.world.export import render_all, rendered
from kdnb.world.scene import make_scene

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOC_NAME = {
    "car": "car",
    "van": "car",
    "bus": "bus",
    "tram": "train",
    "person": "person",
    "rider": "person",
    "bicycle": "bicycle",
    "motorbike": "motorbike",
    "dog": "dog",
    "potted plant": "pottedplant",
}
FEWEST_PIXELS = 10  # fewer visible pixels than this are not annotated


def is_difficult(a: Annotation) -> bool:
    """Tiny or more than 70 % hidden."""
    x1, y1, x2, y2 = a.visible_box
    return min(x2 - x1, y2 - y1) < 8 or a.pixels < 60 or a.occlusion > 0.7


def pose(a: Annotation) -> str:
    """VOC's pose: the visible side of the thing."""
    bearing = np.arctan2(a.thing.centre[1], a.thing.centre[0])
    turn = np.mod(round(np.degrees(a.thing.yaw - bearing), 3) + 45, 360)
    return ("Rear", "Left", "Frontal", "Right")[int(turn // 90)]


def objects(annotations: list[Annotation]) -> list[dict]:
    """VOC objects of an image: name, pose, truncated, difficult, and 1-based inclusive integer corners."""
    out = []
    for a in annotations:
        if a.thing.category not in VOC_NAME or a.pixels < FEWEST_PIXELS:
            continue
        x1, y1, x2, y2 = a.visible_box
        out.append(
            {
                "name": VOC_NAME[a.thing.category],
                "pose": pose(a),
                "truncated": int(a.truncation > 0.15),
                "difficult": int(is_difficult(a)),
                "xmin": int(np.floor(x1)) + 1,
                "ymin": int(np.floor(y1)) + 1,
                "xmax": int(np.ceil(x2)),
                "ymax": int(np.ceil(y2)),
            }
        )
    return out


def _xml(name: str, width: int, height: int, objects: list[dict]) -> str:
    lines = [
        "<annotation>",
        "\t<folder>VOC2007</folder>",
        f"\t<filename>{name}.jpg</filename>",
        "\t<source>",
        "\t\t<database>The kdnb street</database>",
        "\t\t<annotation>PASCAL VOC2007</annotation>",
        "\t\t<image>drawn</image>",
        "\t</source>",
        "\t<size>",
        f"\t\t<width>{width}</width>",
        f"\t\t<height>{height}</height>",
        "\t\t<depth>3</depth>",
        "\t</size>",
        "\t<segmented>0</segmented>",
    ]
    for o in objects:
        lines += [
            "\t<object>",
            *(f"\t\t<{k}>{o[k]}</{k}>" for k in ("name", "pose", "truncated", "difficult")),
            "\t\t<bndbox>",
            *(f"\t\t\t<{k}>{o[k]}</{k}>" for k in ("xmin", "ymin", "xmax", "ymax")),
            "\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _render(job) -> tuple[str, list[tuple[str, int]]]:
    """Render and write one image and its annotation; returns its name and (class, difficult) of its objects."""
    folder, name, seed, split, index, (width, height) = job
    scene = make_scene(seed, split, index)
    view = render(scene, width, height)
    listed = objects(annotate(scene, view))
    Image.fromarray(view.image).save(folder / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
    (folder / "Annotations" / f"{name}.xml").write_text(_xml(name, width, height, listed))
    return name, [(o["name"], o["difficult"]) for o in listed]


def _write_lists(main: Path, sets: dict[str, list[str]], content: dict[str, list[tuple[str, int]]]):
    """<set>.txt, and <class>_<set>.txt with 1 (present), 0 (difficult ones only) or -1 (absent)."""
    for which, names in sets.items():
        (main / f"{which}.txt").write_text("".join(f"{n}\n" for n in names))
        for label in CLASSES:
            lines = []
            for n in names:
                hard = [difficult for kind, difficult in content[n] if kind == label]
                lines.append(f"{n} {-1 if not hard else 0 if all(hard) else 1:2d}\n")
            (main / f"{label}_{which}.txt").write_text("".join(lines))


def export_voc(
    out: str | Path,
    train: int = 800,
    test: int = 150,
    size: tuple[int, int] = (160, 128),
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write a VOCdevkit into the folder ``out`` and return the path of that VOCdevkit.

    The VOCdevkit appears when it is complete: a killed run leaves none.

    Args:
        train: images of trainval; the last eighth of them is val, sampled like train from scenes of its own.
        test: images of the test set, with facades, light and haze of their own.
        size: (width, height) in pixels.
        workers: processes, by default one per usable core; the result does not depend on it.

    Raises:
        InputError: fewer than 8 training images or no test image, an image smaller than 32 pixels, or an existing
            VOCdevkit.
    """
    if train < 8 or test < 1 or min(size) < 32:
        raise InputError(
            f"export_voc: train={train}, test={test}, size={tuple(size)}, expected at least 8 images, "
            "1 image and 32 pixels"
        )
    root = Path(out) / "VOCdevkit"
    with atomic_folder(root) as build:
        _fill(build / "VOC2007", train, test, tuple(size), seed, workers)
    return root


def _fill(folder: Path, train: int, test: int, size, seed: int, workers: int | None):
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True)
    val = train // 8
    splits = ["train"] * (train - val) + ["val"] * val + ["test"] * test
    jobs = [(folder, f"{k + 1:06d}", seed, split, k, size) for k, split in enumerate(splits)]
    content = dict(render_all(_render, jobs, workers))
    names = [job[1] for job in jobs]
    sets = {
        "train": names[: train - val],
        "val": names[train - val : train],
        "trainval": names[:train],
        "test": names[train:],
    }
    _write_lists(folder / "ImageSets" / "Main", sets, content)


def rendered_voc(root: str | Path, **settings: Any) -> Path:
    """The VOCdevkit for these settings of export_voc, rendered only when ``root`` does not hold it yet.

    Raises InputError as export_voc does, and for an unknown setting.
    """
    known = {"train": 800, "test": 150, "size": (160, 128), "seed": 0}
    return rendered(root, "voc", export_voc, known, settings, inside="VOCdevkit")
