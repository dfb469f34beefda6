"""All students on one frame, beside their teachers: pick a street, say something to the driver, ask about a car, or
upload an image of your own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.viz.guard import fov_slider, guarded, screen, take_upload
from kdnb.viz.one_frame import LAYERS, sheet

LONGEST = 828  # pixels to which an uploaded image is shrunk
FOV = 81  # degrees across: of the rendered frames, and the guess for an upload
CAR = "car"
SHOWN = {"objects": "objects (03)", "road": "road (05)", "command": "command (02)"}
UNSEEN = "No network here has seen a photograph."
PARTLY_UNSEEN = "The students of the rendered street have never seen a photograph."
GUESSED = """<i>{} The camera is guessed from the field of view; distances, and
boxes in space with them, may be wrong.</i>"""
PHOTO = "photo students"


class OneFrameExplorer:
    """Frame, command, car, threshold and layers; or an upload with its field of view.

    Args:
        frames: rendered ones, see ``one_frame``.
        look: "teachers" and "students" → ``f(frame, command, car's box)`` → that stack's outputs.
        photo: ``photo(name, pixels, fov)`` → a frame.
        classes: names of the objects, label 1 is the first.
        milliseconds: "teachers" and "students" → task → latency.
        look_at_photo: as in ``look``, of students that were trained on photographs: they answer for uploads, in the
            teachers' place.
    """

    def __init__(
        self,
        frames: Sequence,
        look: dict[str, Callable],
        photo: Callable,
        classes: Sequence[str],
        milliseconds: dict[str, dict[str, float]],
        look_at_photo: Callable | None = None,
    ):
        self.frames, self.look, self.photo = {frame.name: frame for frame in frames}, look, photo
        self.classes, self.milliseconds = list(classes), milliseconds
        of_photos = {PHOTO: look_at_photo} if look_at_photo else {"teachers": look["teachers"]}
        self.look_at_upload = {**of_photos, "students": look["students"]}
        self.images: dict[str, np.ndarray] = {}
        self._known: dict[tuple, dict] = {}
        self._settling = False
        wide = {"style": {"description_width": "90px"}}
        third = widgets.Layout(width="330px")
        self.frame = widgets.Dropdown(options=list(self.frames), description="frame", layout=third, **wide)
        self.command = widgets.Text(
            frames[0].command,
            description="command",
            continuous_update=False,
            placeholder="type a command, press Enter",
            layout=widgets.Layout(width="520px"),
            **wide,
        )
        self.car = widgets.Dropdown(options=[("no car", -1)], description="which car", layout=third, **wide)
        self.threshold = widgets.FloatSlider(
            0.4, min=0.1, max=0.9, step=0.05, description="threshold", continuous_update=False, layout=third, **wide
        )
        box = {"indent": False, "layout": widgets.Layout(width="130px")}
        self.layers = {name: widgets.Checkbox(True, description=SHOWN[name], **box) for name in LAYERS}
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your image")
        self.fov = fov_slider(FOV)
        self.screen = screen("jpeg")
        self.message, self.notice = (
            widgets.HTML(),
            widgets.HTML(GUESSED.format(PARTLY_UNSEEN if look_at_photo else UNSEEN)),
        )
        row = widgets.Layout(flex_flow="row wrap")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.frame, self.command], layout=row),
                widgets.HBox([self.car, self.threshold, *self.layers.values()], layout=row),
                widgets.HBox([self.upload, self.fov], layout=row),
                self.notice,
                self.message,
                self.screen,
            ]
        )
        self.frame.observe(guarded(self.message, self._picked), "value")
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        self.fov.observe(guarded(self.message, self._list_cars), "value")
        for control in (self.command, self.car, self.threshold, *self.layers.values()):
            control.observe(guarded(self.message, self._redraw), "value")
        guarded(self.message, self._picked)(None)

    def render(self) -> np.ndarray:
        """The screen as (H, W, 3) uint8. Raises InputError for an empty command."""
        frame, command = self._frame(), self.command.value.strip()
        if not command:
            raise InputError("the command is empty, expected words such as 'stop behind the red car'")
        car = self._cars()[self.car.value] if self.car.value >= 0 else None
        outputs = self._outputs(frame, command, None if car is None else car[0])
        layers = [name for name, box in self.layers.items() if box.value]
        latencies = {
            side: {task: ms for task, ms in self.milliseconds.get(side, {}).items() if one.get(task) is not None}
            for side, one in outputs.items()
        }
        return sheet(frame, outputs, latencies, self.classes, car, self.threshold.value, layers, command)

    def _frame(self):
        name = self.frame.value
        if name in self.images:
            return self.photo(name, self.images[name], self.fov.value)
        return self.frames[name]

    def _outputs(self, frame, command: str, car: tuple | None) -> dict[str, dict]:
        """The outputs of both stacks, computed once."""
        mine = frame.name in self.images
        key = frame.name, self.fov.value if mine else None, command, car
        if key not in self._known:
            looks = self.look_at_upload if mine else self.look
            self._known[key] = {side: look(frame, command, car) for side, look in looks.items()}
        return self._known[key]

    def _cars(self) -> list[tuple[tuple, str]]:
        """The cars to choose from: the frame's own, or those that the students detect in an upload."""
        frame = self._frame()
        if frame.name not in self.images:
            return frame.cars
        outputs = self._outputs(frame, self.command.value.strip() or frame.command, None)
        objects = outputs[PHOTO if PHOTO in outputs else "students"].get("objects")
        if objects is None:
            return []
        are = [k for k in np.argsort(-objects["scores"]) if self.classes[int(objects["labels"][k]) - 1] == CAR]
        return [(tuple(objects["boxes"][k].tolist()), "") for k in are[:8]]

    def _redraw(self) -> None:
        if self._settling:
            return
        buffer = io.BytesIO()  # JPEG: a third of a PNG's size, in a tenth of its time
        Image.fromarray(self.render()).save(buffer, "jpeg", quality=90, subsampling=0)
        self.screen.value = buffer.getvalue()

    def _picked(self) -> None:
        """Another frame: its own command and its cars."""
        mine = self.frame.value in self.images
        self.notice.layout.display = self.fov.layout.display = "" if mine else "none"
        self._settle(self._frame().command)

    def _list_cars(self) -> None:
        """Another field of view: other windows, and so other cars."""
        self._settle(self.command.value)

    def _settle(self, command: str) -> None:
        """Set the command and the cars, and draw once, when both belong to the frame."""
        self._settling = True
        try:
            self.command.value = command
            cars = self._cars()
            options = [(f"car {k + 1}, {round(box[2] - box[0])} pixels wide", k) for k, (box, _) in enumerate(cars)]
            self.car.options = [*options, ("no car", -1)]
            self.car.value = 0 if cars else -1
        finally:
            self._settling = False
        self._redraw()

    def _uploaded(self) -> None:
        if self.upload.value:
            file, image = take_upload(self.upload, LONGEST)
            self.show(f"your {file}", image.permute(1, 2, 0).numpy())

    def show(self, name: str, image: np.ndarray) -> None:
        """Pick a photograph uint8 (H, W, 3), as if it had been uploaded."""
        self.images[name] = image
        self._known = {key: outputs for key, outputs in self._known.items() if key[0] != name}
        self.frame.options = [name, *(option for option in self.frame.options if option != name)]
        if self.frame.value == name:
            self._picked()
        else:
            self.frame.value = name  # which redraws
