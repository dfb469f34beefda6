import numpy as np
import pytest
from PIL import ImageColor

from kdnb.datasets.kitti_boxes import box_in_image
from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.viz import boxes3d
from kdnb.viz.boxes3d import CROSS, OUTLINE, TRUTH, draw_above, draw_depth, draw_over, fitted, legend, lines_of, sure
from kdnb.viz.style import arm_colour

SIZE = (300, 90)  # width, height
CALIBRATION = guessed_calibration(SIZE)
AHEAD, BESIDE = np.array([12.0, 1, -0.5, 4, 1.8, 1.5, 0.3]), np.array([1.5, 3, -0.5, 6, 1.8, 1.5, 0.2])
BEHIND = np.array([-9.0, 1, -0.5, 4, 1.8, 1.5, 0.3])


def found(*boxes, scores=None):
    return {
        "boxes": np.reshape(boxes, (-1, 7)),
        "scores": np.array(scores or [0.9] * len(boxes)),
        "labels": np.zeros(len(boxes), int),
    }


def places(picture, colour):
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((picture == ImageColor.getrgb(colour)).all(-1))


def grey():
    return np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)


@pytest.mark.parametrize("zoom", [1, 2])
def test_a_box_is_drawn_where_it_projects(zoom):
    image = grey().repeat(zoom, 0).repeat(zoom, 1)
    drawn = places(draw_over(image, {TRUTH: found(AHEAD)}, CALIBRATION, zoom), "#000000")[:, ::-1]
    expected = (np.array(box_in_image(AHEAD, CALIBRATION)) + 0.5) * zoom - 0.5
    np.testing.assert_allclose([*drawn.min(0), *drawn.max(0)], expected, atol=1.5)
    assert (image == 128).all()


@pytest.mark.parametrize("box", [AHEAD, BESIDE])
def test_lines_end_at_the_camera(box):
    """Against the function that finds the 2D boxes of labels; BESIDE reaches behind the camera."""
    (lines,) = lines_of(box[None], OUTLINE, CALIBRATION)
    np.testing.assert_allclose([*lines.min((0, 1)), *lines.max((0, 1))], box_in_image(box, CALIBRATION))
    assert len(lines) == (12 if box is AHEAD else 8)


def test_what_is_behind_the_camera_or_beside_the_image_leaves_no_trace():
    aside = np.array([8.0, 40, -0.5, 4, 1.8, 1.5, 0.3])
    assert (draw_over(grey(), {"teacher": found(BEHIND, aside), TRUTH: found()}, CALIBRATION) == 128).all()
    assert [len(lines) for lines in lines_of(np.array([BEHIND, AHEAD]), CROSS, CALIBRATION)] == [0, 2]


@pytest.mark.parametrize(("zoom", "count"), [(1, 2), (2, 3)])
def test_names_do_not_cover_each_other_and_go_where_there_is_no_room(zoom, count, monkeypatch):
    write, taken = boxes3d._write_above, []

    def spy(*arguments):
        write(*arguments)
        taken[:] = arguments[-1]

    monkeypatch.setattr(boxes3d, "_write_above", spy)
    image = grey().repeat(zoom, 0).repeat(zoom, 1)
    draw_over(image, {arm: found(AHEAD) for arm in ("teacher", "baseline", "distilled")}, CALIBRATION, zoom)
    rows = sorted(y for _, y, _ in taken)
    assert len(rows) == count and rows[0] >= 0 and min(np.diff(rows)) >= 13


def test_from_above_forward_is_up_left_is_left_and_behind_is_nothing():
    points = np.array([[20.0, 5, 2, 0], [-3, 0, 2, 0], [99, 0, 2, 0], [20, -45, 2, 0]])
    picture = draw_above(points, {}, 500)  # ten pixels a metre, 200 to either side
    assert picture.shape == (500, 400, 3)
    high = np.argwhere((picture == boxes3d.RAMP[-1]).all(-1))
    assert sorted(map(tuple, high)) == [(300, 150), (300, 151), (301, 150), (301, 151)]
    box = places(draw_above(points[:0], {"teacher": found([20.0, 5, -1, 4, 2, 1.5, 0])}, 500), arm_colour("teacher"))
    np.testing.assert_allclose([*box.min(0), *box.max(0)], [280, 140, 320, 160], atol=1)
    middle = box[(box[:, 1] > 145) & (box[:, 1] < 155) & (box[:, 0] > 284) & (box[:, 0] < 316)]
    assert len(middle) and middle[:, 0].max() <= 301  # the line from the middle leads forward


def test_depth_grows_brighter_with_distance_and_the_unknown_is_nearest():
    picture = draw_depth(np.array([[0.0, 4, 8, 16, 32, 60, 90]]).repeat(3, 0), 7, 3).astype(int).sum(-1)[1]
    assert picture[0] == picture[1] and (np.diff(picture[1:6]) > 0).all() and picture[5] == picture[6]


def test_scores_below_the_threshold_are_left_out():
    assert sure(found(AHEAD, BESIDE, scores=[0.3, 0.29]), 0.3)["boxes"].tolist() == [AHEAD.tolist()]
    assert len(sure(found(), 0.3)["labels"]) == 0


def test_images_keep_their_shape_and_legends_grow_with_their_rows():
    assert fitted(np.zeros((50, 100, 3), np.uint8), 400, 100).shape == (100, 200, 3)
    rows = [("teacher", "all"), ("baseline", "half")]
    picture = legend(rows, 300)
    assert len(legend(rows * 3, 300)) - len(picture) == 4 * 22 and len(places(picture, arm_colour("baseline"))) > 100
    assert len(legend(rows, 300, depth=True)) > len(picture)
