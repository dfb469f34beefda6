from types import SimpleNamespace

import numpy as np
import pytest

from kdnb.datasets.kitti_boxes import labels_from_boxes
from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.viz.kitti_figures import disagreement, frames_with_boxes, ladder, still, truth_of, what_arms_find

SIZE = (207, 63)
BOXES = np.array([[12.0, 2, -0.8, 4, 1.8, 1.5, 0.2], [20, -4, -0.8, 4, 1.8, 1.5, 1.7], [9, -2, -0.8, 0.8, 0.6, 1.7, 0]])


@pytest.fixture
def frame():
    calibration = guessed_calibration(SIZE)
    labels = labels_from_boxes(BOXES, ["Car", "Car", "Pedestrian"], None, calibration, SIZE)
    return SimpleNamespace(
        name="000007",
        calibration=calibration,
        labels=labels,
        image_size=SIZE,
        image=lambda: np.full((*SIZE[::-1], 3), 90, np.uint8),
    )


def found(boxes, labels, scores):
    return {"boxes": np.array(boxes, float).reshape(-1, 7), "labels": np.array(labels, int), "scores": np.array(scores)}


def test_truth_holds_the_boxes_that_were_labelled(frame):
    truth = truth_of(frame)
    assert np.allclose(truth["boxes"], BOXES, atol=0.02) and truth["labels"].tolist() == [0, 0, 1]


def test_arms_disagree_about_objects_that_one_of_them_finds(frame):
    both = found(BOXES[:2] + [1, 0, 0, 0, 0, 0, 0], [0, 0], [0.9, 0.9])
    assert disagreement(frame, both, both, 0.3) == 0
    assert disagreement(frame, both, found([], [], []), 0.3) == 2
    unsure, far = found(BOXES[:2], [0, 0], [0.9, 0.2]), found(BOXES[:2] + [3, 0, 0, 0, 0, 0, 0], [0, 0], [0.9, 0.9])
    assert disagreement(frame, both, unsure, 0.3) == 1  # its second box is below the threshold
    assert disagreement(frame, both, far, 0.3) == 2  # 3 m off
    assert disagreement(frame, found(BOXES[2:], [1], [0.9]), found(BOXES[2:], [2], [0.9]), 0.3) == 1  # a cyclist there


def test_a_row_for_each_arm_says_what_it_found(frame):
    points = np.random.default_rng(0).uniform((0, -15, -2, 0), (40, 15, 1, 1), (500, 4))
    answers = {"teacher": found(BOXES, [0, 0, 1], [0.9] * 3), "baseline": found(BOXES[:1], [0], [0.9])}
    figure = what_arms_find(frame, {name: points for name in answers}, answers)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["teacher: 3 of 3 within 2 m", "baseline: 1 of 3 within 2 m"]


def test_the_ladder_keeps_the_order_of_its_groups():
    scores = {"teacher": {"near": 90.0, "far": 80.0}, "teacher_swapped": {"near": 30.0, "far": 5.0}}
    (ax,) = ladder(scores, {"near": 41, "far": 7}, "AP").axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["near\n41 objects", "far\n7 objects"]
    assert [line.get_ydata().tolist() for line in ax.get_lines()] == [[90, 80], [30, 5]]


def test_frames_and_stills_are_pictures(frame):
    assert len(frames_with_boxes([frame] * 3, ["a", "b", "c"]).axes) == 4
    picture = still(frame.image(), "a grey street")
    assert picture.data[:2] == b"\xff\xd8" and picture.alt == "a grey street"
