"""What the networks of the projects predict for one frame: all teachers in one stack, all students in the other.

Within a stack one network uses what another one predicts: the boxes of 03 are the candidates of 02.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from kdnb.datasets.street_frames import StreetFrame
from kdnb.experiment import Experiment
from kdnb.metrics.cost import latency_ms
from kdnb.metrics.grounding import iou

MIN_SCORE = 0.1  # of a detection that is a candidate for a command
TASKS = ("objects", "road", "boxes", "target", "model")  # in the order in which a stack asks
SIDES = ("teachers", "students")


class Stack:
    """``stack.look(frame, command, car)`` -> the predictions of its networks.

    Args:
        parts: task -> function, those of TASKS that are there. "objects", "road" and "boxes" take a frame, "target" a
            frame, candidates (P, 4) and a command, "model" a frame and a box.
    """

    def __init__(self, parts: dict[str, Callable]):
        self.parts = parts

    def look(self, frame: StreetFrame, command: str, car: tuple | None = None) -> dict:
        """Task -> prediction, None where a network lacks something: a LiDAR, a car.

        "objects": "boxes" (K, 4), "labels", "scores", numpy, in the frame's pixels. "road": "mask", bool (H, W). Both
        name the "window", the part of the frame that was looked at. "boxes": LiDAR boxes as 04 detects them, with the
        "points". "target": the box (4,). "model": [(class, probability), ...], the likeliest first.
        """
        outputs = {task: self.parts[task](frame) for task in ("objects", "road", "boxes") if task in self.parts}
        if "target" in self.parts:
            outputs["target"] = self.parts["target"](frame, candidates(outputs.get("objects")), command)
        if "model" in self.parts:
            outputs["model"] = None if car is None else self.parts["model"](frame, car)
        return outputs

    def latency(
        self, frame: StreetFrame, command: str, car: tuple | None = None, repeats: int = 20
    ) -> dict[str, float]:
        """Task -> median milliseconds on one thread, cutting and resizing included; of what can be predicted."""
        outputs = self.look(frame, command, car)
        calls = {task: partial(self.parts[task], frame) for task in ("objects", "road", "boxes") if task in outputs}
        if "target" in outputs:
            calls["target"] = partial(self.parts["target"], frame, candidates(outputs.get("objects")), command)
        if outputs.get("model") is not None:
            calls["model"] = partial(self.parts["model"], frame, car)
        return latency_ms({task: call for task, call in calls.items() if outputs[task] is not None}, repeats, warmup=1)


def candidates(objects: dict | None) -> np.ndarray:
    """Boxes (P, 4) of the detections that a command may mean, the most confident first."""
    if objects is None:
        return np.zeros((0, 4))
    order = np.argsort(-objects["scores"], kind="stable")
    return objects["boxes"][order][objects["scores"][order] >= MIN_SCORE]


def build_stacks(experiments: dict[str, Experiment]) -> dict[str, Stack]:
    """ "teachers" and "students" of the finished projects, as ``reopen`` gives them."""
    of_task = {experiment.frame_task: experiment for experiment in experiments.values()}
    present = [task for task in TASKS if task in of_task]
    teachers = {task: of_task[task].frame_predictor(of_task[task].teacher_name()) for task in present}
    students = {task: of_task[task].frame_predictor("distilled") for task in present}
    return {"teachers": Stack(teachers), "students": Stack(students)}


def right_on(stack: Stack, frames: list[StreetFrame]) -> dict[str, str]:
    """How often the stack is right: "box", "command", "model" -> "7 of 12". Rendered frames, of each the nearest car.

    "box": a detection that 02 may choose overlaps what the command means by more than half; "command": so does the
    one that it chose.
    """
    right: dict[str, list] = {"box": [], "command": [], "model": []}
    for frame in frames:
        car, model = frame.cars[0]
        outputs, target = stack.look(frame, frame.command, car), np.array(frame.target)
        if "target" in outputs:
            right["box"].append((iou(candidates(outputs.get("objects")), target) > 0.5).any())
            right["command"].append(iou(outputs["target"], target) > 0.5)
        if "model" in outputs:
            right["model"].append(outputs["model"][0][0] == model)
    return {task: f"{sum(hits)} of {len(hits)}" for task, hits in right.items()}
