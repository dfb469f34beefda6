"""What the networks of the projects say about one frame: all teachers in one stack, all students in the other.

Within a stack one network uses what another has found: the boxes of 03 are the candidates of 02.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from kdnb.datasets.camvid import CLASSES as PIXELS
from kdnb.datasets.voc import VOC_CLASSES
from kdnb.metrics.cost import latency_ms
from kdnb.metrics.grounding import iou
from kdnb.models.detector import predict
from kdnb.projects.street_frames import StreetFrame, cut_out, kitti_window, street_window
from kdnb.projects.talk2car_grounding import grid_proposals
from kdnb.tables import TEACHES

CAR = VOC_CLASSES.index("car") + 1
ROAD = PIXELS.index("road")
LEAST_SCORE = 0.1  # of a detection that is a candidate for a command
MARGIN = 0.06  # share of a car's box that is left free on each side, as around the cars of 06
TASKS = {
    "objects": "03_voc_defeat",
    "road": "05_camvid_prompt_kd",
    "boxes": "04_kitti_pseudo_lidar",
    "target": "02_talk2car_grounding",
    "model": "06_car_5fold_kd",
}
SIDES = ("teachers", "students")


class Stack:
    """``stack.look(frame, command, car)`` → what its networks say.

    Args:
        parts: task → function, those of TASKS that are there. "objects", "road" and "boxes" take a frame, "target" a
            frame, candidates (P, 4) and a command, "model" a frame and a box.
    """

    def __init__(self, parts: dict[str, Callable]):
        self.parts = parts

    def look(self, frame: StreetFrame, command: str, car: tuple | None = None) -> dict:
        """Task → answer, None where a network lacks something: a LiDAR, a car.

        "objects": "boxes" (K, 4), "labels", "scores", numpy, in the frame's pixels. "road": "mask", bool (H, W). Both
        name the "window", the part of the frame that was looked at. "boxes": LiDAR boxes as 04 finds them, with the
        "points". "target": the box (4,). "model": [(class, probability), ...], the likeliest first.
        """
        found = {task: self.parts[task](frame) for task in ("objects", "road", "boxes") if task in self.parts}
        if "target" in self.parts:
            found["target"] = self.parts["target"](frame, candidates(found.get("objects")), command)
        if "model" in self.parts:
            found["model"] = None if car is None else self.parts["model"](frame, car)
        return found

    def latency(
        self, frame: StreetFrame, command: str, car: tuple | None = None, repeats: int = 20
    ) -> dict[str, float]:
        """Task → median milliseconds on one thread, cutting and resizing included; of what can be answered."""
        found = self.look(frame, command, car)
        calls = {task: partial(self.parts[task], frame) for task in ("objects", "road", "boxes") if task in found}
        if "target" in found:
            calls["target"] = partial(self.parts["target"], frame, candidates(found.get("objects")), command)
        if found.get("model") is not None:
            calls["model"] = partial(self.parts["model"], frame, car)
        return latency_ms({task: call for task, call in calls.items() if found[task] is not None}, repeats, warmup=1)


def candidates(objects: dict | None) -> np.ndarray:
    """Boxes (P, 4) of the detections that a command may mean, the surest first."""
    if objects is None:
        return np.zeros((0, 4))
    order = np.argsort(-objects["scores"], kind="stable")
    return objects["boxes"][order][objects["scores"][order] >= LEAST_SCORE]


def build_stacks(experiments: dict) -> dict[str, Stack]:
    """ "teachers" and "students" of the finished projects: project → its ``Experiment``, as ``reopen`` gives it."""
    makers = {"objects": objects_of, "road": road_of, "boxes": boxes_of, "target": target_of, "model": model_of}
    stacks = {}
    for side in SIDES:
        parts = {}
        for task, project in TASKS.items():
            if project in experiments:
                arm = TEACHES.get(project, "teacher") if side == "teachers" else "distilled"
                parts[task] = makers[task](experiments[project], arm)
        stacks[side] = Stack(parts)
    return stacks


def right_on(stack: Stack, frames: list[StreetFrame]) -> dict[str, str]:
    """How often the stack is right: "box", "command", "model" → "7 of 12". Drawn frames, of each the nearest car.

    "box": some detection that 02 may choose overlaps what the command means by more than half; "command": so does the
    one that it chose.
    """
    right = {"box": [], "command": [], "model": []}
    for frame in frames:
        car, model = frame.cars[0]
        found, target = stack.look(frame, frame.command, car), np.array(frame.target)
        if "target" in found:
            right["box"].append((iou(candidates(found.get("objects")), target) > 0.5).any())
            right["command"].append(iou(found["target"], target) > 0.5)
        if "model" in found:
            right["model"].append(found["model"][0][0] == model)
    return {task: f"{sum(hits)} of {len(hits)}" for task, hits in right.items()}


# --- one function for each task ---------------------------------------------------------------------------------


def objects_of(experiment, arm: str) -> Callable:
    """03: boxes around objects."""
    model = experiment.train(arm).model.eval()

    def find(frame: StreetFrame) -> dict:
        window = street_window(frame, experiment.settings.size)
        found = predict(model, [picture(cut_out(frame, window)[0])])[0]
        corner = np.array([*window[:2], *window[:2]], float)
        return {
            "boxes": found["boxes"].double().numpy() + corner,
            "labels": found["labels"].numpy(),
            "scores": found["scores"].numpy(),
            "window": window,
        }

    return find


def road_of(experiment, arm: str) -> Callable:
    """05: where one can drive."""
    model = experiment.train(arm).model

    def find(frame: StreetFrame) -> dict:
        window = street_window(frame, experiment.settings.size)
        left, top, right, bottom = window
        small = Image.fromarray(cut_out(frame, window)[0]).resize(experiment.settings.size)
        road = experiment.ask(model, picture(np.asarray(small))).argmax(0).numpy() == ROAD
        smooth = Image.fromarray(255 * road.astype(np.uint8)).resize((right - left, bottom - top), Image.BILINEAR)
        mask = np.zeros(frame.image.shape[:2], bool)
        mask[top:bottom, left:right] = np.asarray(smooth) > 127
        return {"mask": mask, "window": window}

    return find


def boxes_of(experiment, arm: str) -> Callable:
    """04: boxes in space; the teacher needs a LiDAR's points, a student makes its own out of the picture."""
    needs_lidar = experiment.arm(arm).points == "velodyne"

    def find(frame: StreetFrame) -> dict | None:
        if needs_lidar and frame.points is None:
            return None
        image, calibration = cut_out(frame, kitti_window(frame))
        return experiment.ask(arm, image, calibration, frame.points if needs_lidar else None)

    return find


def target_of(experiment, arm: str) -> Callable:
    """02: the candidate that a command means."""
    width, height = experiment.settings.size

    def find(frame: StreetFrame, boxes: np.ndarray, command: str) -> np.ndarray:
        window = street_window(frame, (width, height))
        image, _ = cut_out(frame, window)
        zoom = width / image.shape[1]
        small = picture(np.asarray(Image.fromarray(image).resize((width, height))))
        corner = np.array([*window[:2], *window[:2]], float)
        inside = np.clip((boxes - corner) * zoom, 0, [width, height, width, height])
        inside = inside[(inside[:, 2] - inside[:, 0] >= 2) & (inside[:, 3] - inside[:, 1] >= 2)]
        proposals = torch.from_numpy(inside).float() if len(inside) else grid_proposals(small)
        box = experiment.ask(arm, small, proposals, command)["box"].double().numpy()
        return box / zoom + corner

    return find


def model_of(experiment, arm: str) -> Callable:
    """06: which model a car is."""
    model = experiment.train(arm).model.eval()

    def tell(frame: StreetFrame, box: tuple) -> list[tuple[str, float]]:
        crop = car_picture(frame, box)
        shares = experiment.ask(model, picture(crop)).softmax(0).tolist()
        return sorted(zip(experiment.classes, shares, strict=True), key=lambda pair: -pair[1])

    return tell


def car_picture(frame: StreetFrame, box: tuple) -> np.ndarray:
    """uint8 (h, w, 3): a car's box with a little room around it, as sellers cut out their pictures."""
    x1, y1, x2, y2 = box
    free_x, free_y = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    height, width = frame.image.shape[:2]
    left, top = max(0, int(x1 - free_x)), max(0, int(y1 - free_y))
    right, bottom = min(width, max(left + 2, round(x2 + free_x))), min(height, max(top + 2, round(y2 + free_y)))
    return frame.image[top:bottom, left:right]


def picture(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) → a tensor (3, H, W)."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
