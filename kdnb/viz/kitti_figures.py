"""Figures of 3D detection: frames with their boxes, each arm's cloud and detections, scores by class and distance."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import PIL.Image
from IPython.display import Image
from matplotlib.figure import Figure

from kdnb.datasets.kitti import Frame
from kdnb.datasets.kitti_boxes import boxes_in_lidar
from kdnb.datasets.kitti_labels import CLASSES
from kdnb.datasets.kitti_views import objects_to_detect
from kdnb.viz.boxes3d import TRUTH, draw_over, sure
from kdnb.viz.figures import new_figure
from kdnb.viz.points import draw_birds_eye
from kdnb.viz.style import arm_colour, arm_label, arm_line, arm_marker


def truth_of(frame: Frame) -> dict[str, np.ndarray]:
    """The objects to detect in a frame: "boxes" (M, 7), velodyne frame, "scores" (M,) of 1, "labels" (M,)."""
    objects = objects_to_detect(frame.labels)
    labels = np.array([CLASSES.index(label.type) for label in objects], int)
    return {"boxes": boxes_in_lidar(objects, frame.calibration), "scores": np.ones(len(objects)), "labels": labels}


def frames_with_boxes(frames: Sequence[Frame], titles: Sequence[str], columns: int = 2) -> Figure:
    """Images with the ground truth's 3D boxes."""
    rows = -(-len(frames) // columns)
    share = max(frame.image_size[1] / frame.image_size[0] for frame in frames)
    figure, axes = new_figure(5.5 * columns, rows * (5.5 * share + 0.3), rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, frame, title in zip(axes.flat, frames, titles, strict=False):
        ax.imshow(draw_over(frame.image(), {TRUTH: truth_of(frame)}, frame.calibration))
        ax.set_title(title, fontsize=10)
    return figure


def disagreement(frame: Frame, first: dict, second: dict, threshold: float, near: float = 2.0) -> int:
    """How many objects of a frame one of two arms detects and the other does not.

    An object counts as detected when a box of its class with a score of at least ``threshold`` has its centre less than
    ``near`` metres from the object's, in the ground plane.
    """
    truth = truth_of(frame)
    return int((reached(truth, first, threshold, near) != reached(truth, second, threshold, near)).sum())


def reached(truth: dict, detections: dict, threshold: float, near: float) -> np.ndarray:
    """bool (M,): which of the objects have a detection of their class close by."""
    detections = sure(detections, threshold)
    apart = np.linalg.norm(truth["boxes"][:, None, :2] - detections["boxes"].reshape(-1, 7)[None, :, :2], axis=-1)
    return ((apart < near) & (truth["labels"][:, None] == detections["labels"])).any(1)


def what_arms_find(
    frame: Frame,
    clouds: dict[str, np.ndarray],
    detections: dict[str, dict],
    threshold: float = 0.3,
    ahead: float = 40.0,
    aside: float = 15.0,
) -> Figure:
    """A row for each arm: its boxes over the image, and from above on its cloud; truth in black.

    Args:
        clouds: arm → (N, 4), its input.
        detections: arm → its detections in this frame.
        threshold: least score of a box that is shown.
    """
    rows, high = len(detections), 3.4  # inches of a row; the image is as wide as fits beside the view from above
    figure, axes = new_figure(
        12.5, high * rows + 0.4, rows, 2, squeeze=False, width_ratios=[8.2, 2 * aside / ahead * high]
    )
    truth = truth_of(frame)
    for (over, above), (name, one) in zip(axes, detections.items(), strict=True):
        shown = sure(one, threshold)
        over.imshow(draw_over(frame.image(), {TRUTH: truth, name: shown}, frame.calibration))
        over.axis("off")
        hits = int(reached(truth, one, threshold, 2.0).sum())
        over.set_title(f"{arm_label(name)}: {hits} of {len(truth['boxes'])} within 2 m")
        points = draw_birds_eye(above, clouds[name], {TRUTH: truth["boxes"], name: shown["boxes"]}, ahead, aside)
        above.legend(loc="upper left", fontsize=7)
    figure.colorbar(points, ax=axes[:, 1], label="height above the sensor, m", shrink=0.5, extend="both")
    return figure


def ladder(scores: dict[str, dict[str, float]], counts: dict[str, int], metric: str) -> Figure:
    """Scores of arms over groups such as distances, in their order: one line for each arm.

    Args:
        scores: arm → group → percent. counts: group → number of test objects.
    """
    figure, ax = new_figure(7, 3.8)
    places = np.arange(len(counts))
    for name, of_arm in scores.items():
        ax.plot(
            places,
            [of_arm[group] for group in counts],
            color=arm_colour(name),
            marker=arm_marker(name),
            ls=arm_line(name),
            label=arm_label(name),
        )
    ax.set_xticks(places, [f"{group}\n{count} objects" for group, count in counts.items()])
    ax.set_ylabel(f"{metric}, %")
    ax.set_ylim(-2, 102)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def still(image: np.ndarray, alt: str) -> Image:
    """An image uint8 (H, W, 3) for a notebook's output, as JPEG with a description."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "jpeg", quality=88)
    return Image(buffer.getvalue(), alt=alt)
