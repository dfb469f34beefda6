"""Shipped students on photographs that no network of the course was trained on: as a figure, and as a stack for 07."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from kdnb.datasets.street_frames import StreetFrame
from kdnb.files import atomic_write
from kdnb.projects.car_kfold.frames import crop_car
from kdnb.projects.scoreboard import Stack
from kdnb.students.shipping import PHOTOGRAPHS, photographs, teachers_answers
from kdnb.students.student import as_pixels, load_student
from kdnb.viz.figures import new_figure
from kdnb.viz.strip import strip
from kdnb.viz.style import arm_label

WIDTH = 3.4  # inches of one image
STRIP = (
    ("03", "street", "03 objects"),
    ("05", "street", "05 pixels"),
    ("03", "cows", "03 objects"),
    ("05", "pavement", "05 pixels"),
)
CREDIT = "photographs: Flickr, CC BY 2.0, see data/photographs/README.md"


def on_photographs(number: str, arms: Sequence[str] = ("few_labels_baseline", "few_labels_distilled")) -> Figure:
    """A row for each photograph; a column for the teacher of project ``number`` and for each of its students."""
    students, kept = {arm: load_student(number, arm) for arm in arms}, teachers_answers(number)
    drawer, rows = students[arms[0]], []
    for path in photographs(number):
        pixels = as_pixels(path)
        answers = {"teacher": kept[path.stem]} if path.stem in kept else {}
        answers |= {arm: student(pixels) for arm, student in students.items()}
        rows.append({arm: drawer.draw(pixels, answer) for arm, answer in answers.items()})
    return _sheet(rows)


def _sheet(rows: Sequence[dict[str, Image.Image]]) -> Figure:
    """Each row: images of one size, by arm."""
    heights = [next(iter(row.values())).height / next(iter(row.values())).width for row in rows]
    columns = max(map(len, rows))
    shape = {"squeeze": False, "height_ratios": heights}
    figure, axes = new_figure(
        WIDTH * columns, WIDTH * sum(heights) + 0.3 * len(rows) + 0.3, len(rows), columns, **shape
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, images in zip(axes, rows, strict=True):
        for axis, (arm, image) in zip(row, images.items(), strict=False):
            axis.imshow(np.asarray(image))
            axis.set_title(arm_label(arm), fontsize=11)
    figure.supxlabel(CREDIT, fontsize=8, color="0.35")
    return figure


def write_photo_strip(path: Path, arm: str = "distilled") -> Path:
    """Write a strip for the README: what shipped students of 03, 05 and 06 see. Raises InputError if one is missing."""
    tiles, labels = [], []
    for number, name, label in STRIP:
        student, pixels = load_student(number, arm), as_pixels(PHOTOGRAPHS / f"{name}.jpg")
        tiles.append(student.draw(pixels, student(pixels)))
        labels.append(label)
    data = io.BytesIO()
    strip(tiles, labels).save(data, "jpeg", quality=85)
    return atomic_write(path, data.getvalue())


def photo_stack(arm: str = "distilled") -> Stack:
    """The shipped students of 03, 05 and 06 as 07 asks its networks: objects, road, and a car's model."""
    detector, segmenter, classifier = (load_student(number, arm) for number in ("03", "05", "06"))
    road = segmenter.classes.index("road")

    def objects(frame: StreetFrame) -> dict[str, np.ndarray]:
        return {key: value.numpy() for key, value in detector(frame.image).items()}

    def where_road(frame: StreetFrame) -> dict[str, np.ndarray]:
        return {"mask": segmenter(frame.image).numpy() == road}

    def model(frame: StreetFrame, box: tuple) -> list[tuple[str, float]]:
        probabilities = classifier(crop_car(frame.image, box)).tolist()
        return sorted(zip(classifier.classes, probabilities, strict=True), key=lambda pair: -pair[1])

    return Stack({"objects": objects, "road": where_road, "model": model})
