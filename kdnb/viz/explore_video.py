"""A video of your own through a detector: choose it, press the button, watch the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np

from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.viz.boxes3d import beside, draw_above, draw_over, fitted, sure
from kdnb.viz.explore_kitti import GUESSED, HIGH, KITTI_FOV, LONGEST, WIDE
from kdnb.viz.guard import guarded
from kdnb.viz.style import arm_label
from kdnb.viz.video import detect_video

FEW = 100  # frames by default
LARGEST = 10  # MB: what Jupyter's connection to the browser carries in one piece, and drops without a word beyond


def seen_by(predict: Callable, arm: str, fov: float = KITTI_FOV, threshold: float = 0.3) -> tuple[Callable, Callable]:
    """``predict`` and ``draw`` for ``detect_video``, for a camera with a known horizontal field of view.

    Args:
        predict: ``predict(arm, image, calibration)`` → "boxes", "scores", "labels" and "points".
        fov: degrees.
        threshold: of the scores.

    Returns:
        ``predict(frame)`` and ``draw(frame, output)``: the frame with boxes, and beside it the view from above.
    """

    def predict_frame(frame: np.ndarray) -> dict:
        image = fitted(frame, LONGEST, LONGEST) if max(frame.shape) > LONGEST else frame
        calibration = guessed_calibration(image.shape[1::-1], fov)
        return {**predict(arm, image, calibration), "image": image, "calibration": calibration}

    def draw(frame: np.ndarray, output: dict) -> np.ndarray:
        image, shown = fitted(output["image"], WIDE, HIGH), {arm: sure(output, threshold)}
        over = draw_over(image, shown, output["calibration"], image.shape[1] / output["image"].shape[1])
        return beside([over, draw_above(output["points"], shown, len(over))])

    return predict_frame, draw


class VideoPanel:
    """Upload a video or type where it lies; see it with an arm's boxes.

    Args:
        predict: as for ``seen_by``.
        folder: where uploads and results go; made when it is needed.
        clip: path of a video that is offered at first.
        arms: to choose from.
    """

    def __init__(
        self,
        predict: Callable,
        folder: str | Path,
        clip: str | Path = "",
        arms: Sequence[str] = ("distilled", "baseline"),
    ):
        self.predict, self.folder = predict, Path(folder)
        wide = {"style": {"description_width": "110px"}, "layout": widgets.Layout(width="360px")}
        self.upload = widgets.FileUpload(accept="video/*", multiple=False, description="your video")
        self.path = widgets.Text(
            str(clip),
            description="or its path",
            placeholder=f"for those above {LARGEST} MB",
            style=wide["style"],
            layout=widgets.Layout(width="560px"),
        )
        self.arm = widgets.Dropdown(options=[(arm_label(arm), arm) for arm in arms], description="arm", **wide)
        self.fov = widgets.IntSlider(KITTI_FOV, min=30, max=130, description="field of view, °", **wide)
        self.threshold = widgets.FloatSlider(0.3, min=0.05, max=0.95, step=0.05, description="threshold", **wide)
        self.stride = widgets.BoundedIntText(1, min=1, max=1000, description="every n-th frame", **wide)
        self.most = widgets.BoundedIntText(FEW, min=1, max=100_000, description="at most, frames", **wide)
        self.start = widgets.Button(description="find objects", button_style="primary")
        self.bar, self.state = widgets.IntProgress(0, min=0, max=1), widgets.Label()
        self.message = widgets.HTML()
        self.screen = widgets.Video(
            autoplay=False, loop=False, layout=widgets.Layout(max_width="100%", align_self="flex-start", display="none")
        )
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.upload, self.path], layout=row),
                widgets.HBox([self.arm, self.threshold], layout=row),
                widgets.HBox([self.fov, self.stride, self.most], layout=row),
                widgets.HTML(GUESSED),
                widgets.HBox([self.start, self.bar, self.state], layout=row),
                self.message,
                self.screen,
            ]
        )
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        self.start.on_click(guarded(self.message, self.run))

    def run(self) -> Path:
        """What the button does; returns the path of the result. An older one stays until the new one is complete.

        Raises:
            InputError: no video, or as ``detect_video``.
        """
        source = Path(self.path.value.strip()).expanduser()
        if not self.path.value.strip():
            raise InputError("no video, expected an upload or the path of one")
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{source.stem}_{self.arm.value}.mp4"
        how = seen_by(self.predict, self.arm.value, self.fov.value, self.threshold.value)
        self.start.disabled, self.bar.value, self.state.value = True, 0, ""
        try:
            detect_video(source, target, *how, self._progress, self.stride.value, self.most.value)
        finally:
            self.start.disabled = False
        self.state.value += f", written to {target}"
        self.screen.value, self.screen.layout.display = target.read_bytes(), ""
        return target

    def _progress(self, done: int, total: int) -> None:
        self.bar.max, self.bar.value = total or done + 1, done
        self.state.value = f"{done} of {total} frames" if total else f"{done} frames"

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file = self.upload.value[0]
        name, content = Path(file["name"].replace("\\", "/")).name, bytes(file["content"])
        self.upload.value = ()  # so that the same file can be chosen again
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path.value = str(atomic_write(self.folder / name, content))
