"""The street as a COCO 2017 set in the official format: instances with masks, crowds, five captions an image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.files import atomic_folder
from kdnb.world.camera import View, render, silhouettes
from kdnb.world.captions import VisibleThing, captions
from kdnb.world.export import render_all, rendered
from kdnb.world.phrases import colour_of, size_word
from kdnb.world.scene import Scene, make_scene

# supercategory: {official id: name}, with COCO's gaps
COCO_CATEGORIES = {
    "person": {1: "person"},
    "vehicle": {2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat"},
    "outdoor": {10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench"},
    "animal": {
        16: "bird",
        17: "cat",
        18: "dog",
        19: "horse",
        20: "sheep",
        21: "cow",
        22: "elephant",
        23: "bear",
        24: "zebra",
        25: "giraffe",
    },
    "accessory": {27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase"},
    "sports": {
        34: "frisbee",
        35: "skis",
        36: "snowboard",
        37: "sports ball",
        38: "kite",
        39: "baseball bat",
        40: "baseball glove",
        41: "skateboard",
        42: "surfboard",
        43: "tennis racket",
    },
    "kitchen": {44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl"},
    "food": {
        52: "banana",
        53: "apple",
        54: "sandwich",
        55: "orange",
        56: "broccoli",
        57: "carrot",
        58: "hot dog",
        59: "pizza",
        60: "donut",
        61: "cake",
    },
    "furniture": {62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet"},
    "electronic": {72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone"},
    "appliance": {78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator"},
    "indoor": {
        84: "book",
        85: "clock",
        86: "vase",
        87: "scissors",
        88: "teddy bear",
        89: "hair drier",
        90: "toothbrush",
    },
}
COCO_ID = {name: number for group in COCO_CATEGORIES.values() for number, name in group.items()}
COCO_NAME = {
    "car": "car",
    "van": "car",
    "truck": "truck",
    "bus": "bus",
    "tram": "train",
    "person": "person",
    "rider": "person",
    "bicycle": "bicycle",
    "motorbike": "motorcycle",
    "dog": "dog",
    "potted plant": "potted plant",
    "bench": "bench",
}
BODY = ("van", "tram", "rider")  # distinctions that COCO's names do not make
FEWEST_PIXELS = 10  # fewer visible pixels than this are not annotated one by one
CROWD = 3  # as many tiny things side by side are one crowd


@dataclass(eq=False)  # compared by identity
class Group:
    """Things of one COCO category with a common annotation: ``mask`` bool (H, W), ``things`` of the scene;
    ``visible`` is the unoccluded share of their silhouette in the image."""

    name: str
    mask: np.ndarray
    things: list
    visible: float


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE of a bool mask (H, W): runs of 0 and 1 in turn down the columns, starting with 0."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) around the true pixels, in pixel edges."""
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def annotation(group: Group, crowd: bool) -> dict:
    """COCO's entry without ids. ``attributes``, an addition of ours for single things: colour, body (None for none)
    and the visible share of the silhouette."""
    x1, y1, x2, y2 = mask_box(group.mask)
    thing = group.things[0]
    body = thing.attributes.get("body") or (thing.category if thing.category in BODY else None)
    own = {"attributes": {"colour": colour_of(thing), "body": body, "visible": round(group.visible, 3)}}
    return {
        "segmentation": run_lengths(group.mask),
        "area": int(group.mask.sum()),
        "iscrowd": int(crowd),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "category_id": COCO_ID[group.name],
        **({} if crowd else own),
    }


def annotations(scene: Scene, view: View) -> tuple[list[dict], list[VisibleThing]]:
    """COCO's annotations of an image, and its single things for the captions."""
    visible = np.bincount(view.instance.ravel(), minlength=len(scene.things) + 1)
    things = [t for t in scene.things if t.category in COCO_NAME and visible[t.instance] > 0]
    masks = silhouettes(scene, [t.instance for t in things], view.camera) if things else []
    groups = []
    for thing, silhouette in zip(things, masks, strict=True):
        mask = view.instance == thing.instance
        groups.append(Group(COCO_NAME[thing.category], mask, [thing], float(mask.sum() / silhouette.sum())))
    single, crowds = split_crowds(groups)
    visible_things = [VisibleThing(g.things[0], mask_box(g.mask), int(g.mask.sum())) for g in single]
    return [annotation(g, False) for g in single] + [annotation(g, True) for g in crowds], visible_things


def split_crowds(groups: list[Group]) -> tuple[list[Group], list[Group]]:
    """Things annotated one by one, and crowds: CROWD or more tiny things of a category side by side.

    Tiny is below half of COCO's bound of small; side by side are boxes whose gap is at most 4 % of the image's width:
    in practice rows of far cars. Things below FEWEST_PIXELS in no crowd are left out.
    """
    tiny = [g for g in groups if size_word(2 * int(g.mask.sum()), *g.mask.shape[::-1]) == "small"]
    crowds = []
    while tiny:
        cluster, rest = [tiny[0]], tiny[1:]
        for g in cluster:  # grows during the loop
            near = [other for other in rest if other.name == g.name and _touch(g.mask, other.mask)]
            rest = [other for other in rest if other not in near]
            cluster += near
        if len(cluster) >= CROWD:
            mask = np.logical_or.reduce([g.mask for g in cluster])
            crowds.append(Group(cluster[0].name, mask, [g.things[0] for g in cluster], 1.0))
        tiny = rest
    crowded = {t.instance for crowd in crowds for t in crowd.things}
    single = [g for g in groups if g.things[0].instance not in crowded and g.mask.sum() >= FEWEST_PIXELS]
    return single, crowds


def _touch(a: np.ndarray, b: np.ndarray) -> bool:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = mask_box(a), mask_box(b)
    gap = max(ax1, bx1) - min(ax2, bx2), max(ay1, by1) - min(ay2, by2)
    return max(gap) <= 0.04 * a.shape[1]


def _render(job) -> tuple[int, list[dict], list[str]]:
    """Render and write one image; returns its id, annotations and captions."""
    path, number, seed, split, index, (width, height) = job
    scene = make_scene(seed, split, index)
    view = render(scene, width, height)
    entries, things = annotations(scene, view)
    Image.fromarray(view.image).save(path, quality=95, subsampling=0)
    return number, entries, captions(things, width, height, (seed, split, index))


def _write_split(folder: Path, split: str, size, content: list[tuple[int, list[dict], list[str]]]):
    info = {"description": "The kdnb street as COCO 2017", "version": "1.0", "year": 2017}
    licenses = [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}]
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "width": size[0], "height": size[1], "license": 1}
        for number, _, _ in content
    ]
    head = {"info": info, "licenses": licenses, "images": images}
    instances = [
        {"id": 1000 * number + k, "image_id": number, **one}
        for number, entries, _ in content
        for k, one in enumerate(entries)
    ]
    sentences = [
        {"id": 10 * number + k, "image_id": number, "caption": text}
        for number, _, texts in content
        for k, text in enumerate(texts)
    ]
    categories = [
        {"supercategory": group, "id": number, "name": name}
        for group, members in COCO_CATEGORIES.items()
        for number, name in members.items()
    ]
    (folder / f"instances_{split}2017.json").write_text(
        json.dumps({**head, "annotations": instances, "categories": categories})
    )
    (folder / f"captions_{split}2017.json").write_text(json.dumps({**head, "annotations": sentences}))


def export_coco(
    out: str | Path,
    train: int = 600,
    val: int = 200,
    size: tuple[int, int] = (192, 144),
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write ``annotations/``, ``train2017/`` and ``val2017/`` into the new folder ``out`` and return its path.

    The folder appears when it is complete.

    Args:
        train: images of train2017, from the street's "train" scenes.
        val: images of val2017, from its "test" scenes, with facades, light and haze of their own.
        size: (width, height) in pixels.
        workers: processes, by default one per usable core; the result does not depend on it.

    Raises:
        InputError: no image in a split, a size below 32 pixels, or a folder that exists and is not empty.
    """
    if min(train, val) < 1 or min(size) < 32:
        raise InputError(
            f"export_coco: train={train}, val={val}, size={tuple(size)}, expected at least 1 image, "
            "1 image and 32 pixels"
        )
    with atomic_folder(Path(out)) as build:
        for folder in ("annotations", "train2017", "val2017"):
            (build / folder).mkdir()
        plan = [("train", "train", k) for k in range(train)] + [("val", "test", k) for k in range(val)]
        jobs = [
            (build / f"{split}2017" / f"{n:012d}.jpg", n, seed, scenes, k, tuple(size))
            for n, (split, scenes, k) in enumerate(plan, start=1)
        ]
        content = sorted(render_all(_render, jobs, workers), key=lambda one: one[0])
        _write_split(build / "annotations", "train", size, content[:train])
        _write_split(build / "annotations", "val", size, content[train:])
    return Path(out)


def rendered_coco(root: str | Path, **settings: Any) -> Path:
    """The COCO root for these settings of export_coco, rendered only when ``root`` does not hold it yet.

    Raises InputError as export_coco does, and for an unknown setting.
    """
    known = {"train": 600, "val": 200, "size": (192, 144), "seed": 0}
    return rendered(root, "coco", export_coco, known, settings)
