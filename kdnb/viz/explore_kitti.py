"""Look at KITTI frames: what each arm detects, over the image and from above; and at an image of your own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
from PIL import Image

from kdnb.datasets.kitti import Frame
from kdnb.datasets.kitti_boxes import boxes_in_lidar
from kdnb.datasets.kitti_calib import Calibration, guessed_calibration
from kdnb.datasets.kitti_labels import CLASSES
from kdnb.datasets.kitti_views import objects_to_detect
from kdnb.metrics.kitti_match import OVERLAPS
from kdnb.metrics.rotated_iou import rotated_ious
from kdnb.viz.boxes3d import TRUTH, below, beside, draw_above, draw_depth, draw_over, fitted, legend, sure
from kdnb.viz.guard import fov_slider, guarded, screen, take_upload
from kdnb.viz.style import arm_label

WIDE, HIGH, ABOVE, GAP = 828, 420, 520, 6  # pixels: of an image at most, of the view from above, between panels
LONGEST = 1242  # pixels to which an uploaded image is shrunk
KITTI_FOV = 81  # degrees
GUESSED = """<i>The calibration is guessed from the field of view: a level camera without distortion, mounted as
KITTI's. The depth of <code>tiny</code> comes from a network that has seen one camera (81 degrees across, 3.3 times as
wide as high) and rendered streets; it is scaled with the focal length. Elsewhere distances may be wrong, and boxes with
them.</i>"""


@dataclass
class Shot:
    """What is shown: an image uint8 (H, W, 3), its clouds by name (N, 4), detections by arm; ``truth`` (boxes and
    labels) and ``depth`` (H, W) where there are any."""

    image: np.ndarray
    calibration: Calibration
    clouds: dict[str, np.ndarray]
    detections: dict[str, dict]
    truth: dict | None = None
    depth: np.ndarray | None = None


class KittiExplorer:
    """Pick a frame, a score threshold, the arms to show and the cloud; or upload an image of your own.

    Args:
        frames: in the order in which they are offered.
        detections: arm → frame's name → "boxes" (K, 7), "scores" (K,), "labels" (K,).
        predict: ``predict(arm, image, calibration, points)`` → the same, "points" (N, 4) and "depth" (H, W), for an
            image of your own; ``points`` is None for the first arm, then that arm's.
        clouds: name → ``f(frame)`` → points (N, 4).
        own: arms that need no LiDAR, for your own image.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        detections: dict[str, dict[str, dict]],
        predict: Callable,
        clouds: dict[str, Callable[[Frame], np.ndarray]],
        own: Sequence[str] = ("baseline", "distilled"),
    ):
        self.frames, self.detections, self.predict, self.clouds = (
            {f.name: f for f in frames},
            detections,
            predict,
            clouds,
        )
        self.own, self.images, self._last = list(own), {}, (None, None)
        options = [
            (f"{name}: {len(objects_to_detect(frame.labels))} objects", name) for name, frame in self.frames.items()
        ]
        wide = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="330px")}
        self.image = widgets.Dropdown(options=options, description="frame", **wide)
        self.threshold = widgets.FloatSlider(0.3, min=0.05, max=0.95, step=0.05, description="threshold", **wide)
        self.cloud = widgets.ToggleButtons(options=list(clouds), style={"button_width": "130px"})
        box = {"indent": False, "layout": widgets.Layout(width="140px")}
        self.arms = {name: widgets.Checkbox(True, description=arm_label(name), **box) for name in (TRUTH, *detections)}
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your image")
        self.fov = fov_slider(KITTI_FOV)
        self.screen = screen("jpeg")
        self.message, self.notice = widgets.HTML(), widgets.HTML(GUESSED)
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.image, self.threshold], layout=row),
                widgets.HBox([*self.arms.values(), self.cloud], layout=row),
                widgets.HBox([self.upload, self.fov], layout=row),
                self.notice,
                self.message,
                self.screen,
            ]
        )
        for control in (self.image, self.threshold, self.cloud, self.fov, *self.arms.values()):
            control.observe(guarded(self.message, self._redraw), "value")
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        guarded(self.message, self._redraw)(None)

    def render(self) -> np.ndarray:
        """The screen as (H, W, 3) uint8: the image with boxes, the depth of your own one, the cloud from above."""
        shot = self._shot()
        image = fitted(shot.image, WIDE, HIGH)
        chosen = [name for name, box in self.arms.items() if box.value]
        shown = {TRUTH: shot.truth} if TRUTH in chosen and shot.truth else {}
        shown |= {name: sure(shot.detections[name], self.threshold.value) for name in chosen if name in shot.detections}
        over = draw_over(image, shown, shot.calibration, image.shape[1] / shot.image.shape[1])
        above = draw_above(shot.clouds.get(self.cloud.value, next(iter(shot.clouds.values()))), shown, ABOVE)
        words = [(name, summary(name, shown.get(name), shot.truth)) for name in chosen]
        column = [legend(words, WIDE - above.shape[1] - GAP, shot.depth is not None)]
        if shot.depth is not None:
            column.insert(0, draw_depth(shot.depth, column[0].shape[1], ABOVE - GAP - column[0].shape[0]))
        return below([over, beside([above, below(column, GAP)], GAP)], GAP)

    def _redraw(self) -> None:
        mine = self.image.value in self.images
        self.notice.layout.display = self.fov.layout.display = "" if mine else "none"
        self.cloud.layout.display = "none" if mine else ""
        buffer = io.BytesIO()  # JPEG: a third of a PNG's size, in a tenth of its time
        Image.fromarray(self.render()).save(buffer, "jpeg", quality=90, subsampling=0)
        self.screen.value = buffer.getvalue()

    def _shot(self) -> Shot:
        """The chosen frame or upload, read and predicted once."""
        name = self.image.value
        key = name, self.fov.value if name in self.images else None
        if self._last[0] != key:
            shot = self._predicted(self.images[name]) if name in self.images else self._read(self.frames[name])
            self._last = key, shot
        return self._last[1]

    def _read(self, frame: Frame) -> Shot:
        objects = objects_to_detect(frame.labels)
        truth = {
            "boxes": boxes_in_lidar(objects, frame.calibration),
            "labels": np.array([CLASSES.index(label.type) for label in objects], int),
        }
        return Shot(
            frame.image(),
            frame.calibration,
            {name: points(frame) for name, points in self.clouds.items()},
            {arm: detections[frame.name] for arm, detections in self.detections.items()},
            None if frame.labels is None else truth,
        )

    def _predicted(self, image: np.ndarray) -> Shot:
        calibration = guessed_calibration(image.shape[1::-1], self.fov.value)
        detections, points, depth = {}, None, None
        for arm in self.own:
            detections[arm] = self.predict(arm, image, calibration, points)
            if points is None:
                points, depth = detections[arm]["points"], detections[arm]["depth"]
        return Shot(image, calibration, {"pseudo-LiDAR": points}, detections, depth=depth)

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file, image = take_upload(self.upload, LONGEST)
        name = f"your {file}"
        self.images[name] = image.permute(1, 2, 0).numpy()
        self._last = None, None
        self.image.options = [(name, name), *(option for option in self.image.options if option[1] != name)]
        self.image.value = name
        self._redraw()


def summary(arm: str, detections: dict | None, truth: dict | None) -> str:
    """The legend's text for an arm."""
    if detections is None:
        return "nobody knows" if arm == TRUTH else "needs a LiDAR"
    count = len(detections["boxes"])
    if arm == TRUTH:
        return f"{count} object{'s' * (count != 1)}"
    if truth is None:
        return ", ".join(f"{int((detections['labels'] == k).sum())} {name}" for k, name in enumerate(CLASSES))
    right = hits(truth, detections)
    return f"{right} of {len(truth['boxes'])} found, {count - right} more where nothing is"


def hits(truth: dict, detections: dict) -> int:
    """How many objects have a detection of their class whose 3D IoU with them is above KITTI's loose limit. A box
    counts for one object, the most certain box first."""
    limits = np.array(OVERLAPS["loose"]["3d"])[detections["labels"]]
    m, k = np.nonzero(truth["labels"][:, None] == detections["labels"])  # the pairs of one class
    overlap, count = np.zeros((len(truth["labels"]), len(limits))), 0
    overlap[m, k] = rotated_ious(upright(truth["boxes"][m]), upright(detections["boxes"][k]))[1]
    overlap[overlap <= limits] = 0
    for box in np.argsort(-detections["scores"], kind="stable"):
        if overlap[:, box].any():
            overlap[overlap[:, box].argmax()] = 0  # it is taken
            count += 1
    return count


def upright(boxes: np.ndarray) -> np.ndarray:
    """LiDAR boxes (K, 7) in the columns of ``rotated_ious``: x right, y down to the bottom, z ahead, sizes reversed."""
    x, y, z, length, width, height, yaw = np.asarray(boxes, float).reshape(-1, 7).T
    return np.stack([-y, height / 2 - z, x, height, width, length, -yaw - np.pi / 2], 1)
