"""Ground truth per thing: boxes in the image, how much of it is hidden, how much lies outside, the 3D box."""

from dataclasses import dataclass

import numpy as np

from kdnb.world.camera import View, silhouettes
from kdnb.world.scene import Scene, Thing

LIMIT = 64  # rays per side of the grid a thing is cast on when it reaches beyond the image


@dataclass
class Annotation:
    """A thing as one camera sees it. Boxes are (x1, y1, x2, y2) in pixel edges, 0-based, half-open.

    visible_box: around its visible pixels (VOC, COCO). box: around its whole silhouette inside the image, hidden or not
    (KITTI). amodal_box: around its silhouette beyond the image too (clipped one image size away on each side).
    occlusion: share of its silhouette in the image that other things cover. truncation: share of its silhouette outside
    the image. ``thing`` holds the 3D box in the ego frame.
    """

    thing: Thing
    visible_box: tuple[float, float, float, float]
    box: tuple[float, float, float, float]
    amodal_box: tuple[float, float, float, float]
    pixels: int
    occlusion: float
    truncation: float


def _mask_box(mask, columns, rows, step_x, step_y):
    """Box around the true cells of a mask whose cell centres are at columns and rows."""
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return (
        float(columns[x[0]] - step_x / 2),
        float(rows[y[0]] - step_y / 2),
        float(columns[x[-1]] + step_x / 2),
        float(rows[y[-1]] + step_y / 2),
    )


def _amodal(scene, instance, camera, bounds):
    """Amodal box and the share of the silhouette outside the image, on a grid of at most LIMIT x LIMIT rays."""
    w, h = camera.width, camera.height
    x1, x2 = np.floor(max(bounds[0], -w)), np.ceil(min(bounds[2], 2 * w))
    y1, y2 = np.floor(max(bounds[1], -h)), np.ceil(min(bounds[3], 2 * h))
    step_x, step_y = max((x2 - x1) / LIMIT, 1.0), max((y2 - y1) / LIMIT, 1.0)
    columns, rows = np.arange(x1 + step_x / 2, x2, step_x), np.arange(y1 + step_y / 2, y2, step_y)
    mask = silhouettes(scene, [instance], camera, columns, rows)[0]
    if not mask.any():
        return None, 0.0
    inside = ((columns >= 0) & (columns < w))[None, :] & ((rows >= 0) & (rows < h))[:, None]
    return _mask_box(mask, columns, rows, step_x, step_y), float(1 - (mask & inside).sum() / mask.sum())


def annotate(scene: Scene, view: View) -> list[Annotation]:
    """Annotations of all things with at least one visible pixel, in order of their instance."""
    counts = np.bincount(view.instance.ravel(), minlength=len(scene.things) + 1)
    visible = [t.instance for t in scene.things if counts[t.instance]]
    if not visible:
        return []
    masks = silhouettes(scene, visible, view.camera)
    bounds = view.camera.bounds(scene.solids.corners)
    return [
        _annotate_thing(scene, view, instance, mask, bounds[scene.solids.instance == instance])
        for instance, mask in zip(visible, masks, strict=True)
    ]


def _annotate_thing(scene, view, instance, silhouette, part_bounds):
    camera = view.camera
    columns, rows = np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5
    shown = view.instance == instance
    pixels, box = int(shown.sum()), _mask_box(silhouette, columns, rows, 1, 1)
    amodal, truncation = box, 0.0
    bounds = np.concatenate([part_bounds[:, :2].min(0), part_bounds[:, 2:].max(0)])
    if bounds[0] < 0 or bounds[1] < 0 or bounds[2] > camera.width or bounds[3] > camera.height:
        outer, truncation = _amodal(scene, instance, camera, bounds)
        if outer is not None:
            amodal = (*np.minimum(outer[:2], box[:2]).tolist(), *np.maximum(outer[2:], box[2:]).tolist())
    return Annotation(
        scene.thing(instance),
        _mask_box(shown, columns, rows, 1, 1),
        box,
        amodal,
        pixels,
        float(1 - pixels / silhouette.sum()),
        truncation,
    )
