"""The sheet of one frame: what is asked for is drawn, where it is, and nothing else moves."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.viz.one_frame import MEANT, ROAD, TRUE, as_figure, sheet
from kdnb.viz.style import arm_colour

CLASSES = ["bus", "car"]
TOOK = {"teachers": {"objects": 8.0, "boxes": 11.5}, "students": {"objects": 5.0}}


def rgb(colour):
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))


def count(picture, colour):
    return int((picture == np.array(colour)).all(-1).sum())


@pytest.fixture
def frame():
    pixels = np.full((416, 828, 3), 90, np.uint8)
    truth = {"boxes": np.array([[12.0, 2, -0.8, 4, 1.8, 1.5, 0.2]]), "labels": np.array([0])}
    return SimpleNamespace(
        name="toy",
        image=pixels,
        calibration=guessed_calibration((828, 416), 81),
        points=np.random.default_rng(0).uniform(0, 20, (50, 4)),
        truth=truth,
        cars=[((300, 200, 400, 260), "sedan_2007")],
        command="stop behind the red car",
        target=(300, 200, 400, 260),
    )


def answers(frame):
    mask = np.zeros((416, 828), bool)
    mask[300:] = True
    boxes = {
        "boxes": frame.truth["boxes"] + 0.3,
        "scores": np.array([0.9]),
        "labels": np.array([0]),
        "points": frame.points,
    }
    objects = {
        "boxes": np.array([[300.0, 200, 400, 260], [10, 10, 60, 60]]),
        "labels": np.array([2, 1]),
        "scores": np.array([0.8, 0.2]),
    }
    return {
        "objects": objects,
        "road": {"mask": mask},
        "boxes": boxes,
        "target": np.array([310.0, 205, 420, 270]),
        "model": [("sedan_2007", 0.6), ("sedan_2011", 0.4)],
    }


@pytest.fixture
def found(frame):
    return {"teachers": answers(frame), "students": answers(frame)}


def test_every_layer_can_be_left_out(frame, found):
    whole = sheet(frame, found, TOOK, CLASSES, frame.cars[0])
    road = tuple((90 * 0.62 + np.array(ROAD) * 0.38).astype(int))
    assert count(whole, road) > 40_000
    assert count(sheet(frame, found, TOOK, CLASSES, frame.cars[0], layers=("objects", "command")), road) == 0
    silent = sheet(frame, found, TOOK, CLASSES, frame.cars[0], layers=("objects", "road"))
    for colour in (MEANT, TRUE):
        assert count(whole, rgb(colour)) > count(silent, rgb(colour)) + 500
    unsure = sheet(frame, found, TOOK, CLASSES, frame.cars[0], threshold=0.1)
    assert unsure.shape == whole.shape == silent.shape and (unsure != whole).any()


def test_what_a_car_is_taken_for_has_its_sides_colour(frame, found):
    """Bars: 110 pixels across at 100 %, six high."""
    del found["students"]["boxes"], found["teachers"]["boxes"]
    shown = sheet(frame, found, {}, CLASSES, frame.cars[0], layers=())
    silent = sheet(frame, found, {}, CLASSES, None, layers=())
    for arm in ("teacher", "distilled"):
        colour = rgb(arm_colour(arm))
        assert count(shown, colour) - count(silent, colour) == pytest.approx(110 * 6, abs=20)


def test_another_command_hides_what_the_frames_own_one_means(frame, found):
    own = sheet(frame, found, TOOK, CLASSES)
    other = sheet(frame, found, TOOK, CLASSES, command="follow the bus")
    assert count(own, rgb(TRUE)) > count(other, rgb(TRUE)) + 500 and count(other, rgb(MEANT)) > 500


def test_the_road_lies_where_its_mask_says(frame, found):
    with_road, without = (sheet(frame, found, {}, CLASSES, layers=layers) for layers in (("road",), ()))
    rows, columns = np.nonzero((with_road != without).any(-1))
    top = rows.min()
    zoom = 600 / 828
    assert np.ptp(columns) > 1190 and np.ptp(rows) == pytest.approx(116 * zoom, abs=3)
    assert top == pytest.approx(22 + 6 + 22 + 6 + 300 * zoom, abs=2)  # below two lines of text


def test_a_photograph_has_no_lidar_and_a_missing_project_is_told(frame, found):
    frame.points = frame.truth = None
    found["teachers"]["boxes"] = None
    del found["students"]["model"], found["students"]["road"]
    whole = sheet(frame, found, TOOK, CLASSES, frame.cars[0])
    assert whole.dtype == np.uint8 and whole.shape[1] == 2 * 600 + 12


@pytest.mark.parametrize("size", [(828, 300), (300, 828), (64, 64)])
def test_any_shape_of_picture_fits(frame, size):
    width, height = size
    frame.image = np.full((height, width, 3), 90, np.uint8)
    frame.calibration = guessed_calibration(size, 81)
    frame.points = frame.truth = frame.target = None
    nothing = {"teachers": {}, "students": {"model": None}}
    assert sheet(frame, nothing, {}, CLASSES).shape[1] == 1212


def test_as_a_figure_every_pixel_stays_one(frame):
    pixels = np.random.default_rng(0).integers(0, 255, (120, 200, 3)).astype(np.uint8)
    figure = as_figure(pixels)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(85)
    canvas.draw()
    assert (np.asarray(canvas.buffer_rgba())[..., :3] == pixels).mean() > 0.95
