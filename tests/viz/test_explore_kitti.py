import io
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Polygon

from kdnb.datasets.kitti_boxes import corners, labels_from_boxes
from kdnb.datasets.kitti_calib import guessed_calibration
from kdnb.metrics.rotated_iou import rotated_ious
from kdnb.viz.explore_kitti import KittiExplorer, hits, summary, upright

SIZE = (207, 63)
BOXES = np.array([[12.0, 2, -0.8, 4, 1.8, 1.5, 0.2], [20, -4, -0.8, 4, 1.8, 1.5, 1.7], [9, -2, -0.8, 0.8, 0.6, 1.7, 0]])
LABELS = np.array([0, 0, 1])


def answer(shift=0.0, score=0.9):
    return {"boxes": BOXES + [shift, 0, 0, 0, 0, 0, 0], "scores": np.array([score, 0.4, score]), "labels": LABELS}


class Ask:
    """Answers as ``Experiment.ask`` does and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, arm, image, calibration, points=None):
        self.asked.append((arm, image.shape, calibration.P2[0, 0], points is not None))
        if arm == "broken":
            raise ValueError("no such <arm>")
        cloud = points if points is not None else np.random.default_rng(1).uniform(0, 20, (300, 4))
        depth = np.full(image.shape[:2], 12.0) if points is None else None
        return {**answer(0.5 * (arm == "baseline")), "points": cloud, "depth": depth}


def frame(name, seed):
    rng, calibration = np.random.default_rng(seed), guessed_calibration(SIZE)
    image, cloud = rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8), rng.uniform(-5, 30, (400, 4))
    labels = labels_from_boxes(BOXES, ["Car", "Car", "Pedestrian"], None, calibration, SIZE)
    return SimpleNamespace(name=name, calibration=calibration, labels=labels, image=lambda: image, points=lambda: cloud)


@pytest.fixture
def explorer():
    found = {
        arm: {name: answer(shift) for name in ("b", "a")}
        for arm, shift in (("teacher", 0.0), ("baseline", 2.0), ("distilled", 0.4))
    }
    clouds = {"LiDAR": lambda f: f.points(), "pseudo-LiDAR": lambda f: f.points()[:100]}
    return KittiExplorer([frame("b", 0), frame("a", 1)], found, Ask(), clouds)


def screen(explorer):
    assert explorer.message.value == ""
    return np.asarray(Image.open(io.BytesIO(explorer.screen.value))).astype(int)


def upload(explorer, name, content):
    explorer.upload.value = (
        {"name": name, "content": content, "size": len(content), "type": "image/png", "last_modified": datetime.now()},
    )


def picture(size=(160, 60), kind="png"):
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def test_frames_are_offered_in_the_given_order(explorer):
    assert explorer.image.options == (("b: 3 objects", "b"), ("a: 3 objects", "a")) and explorer.image.value == "b"


@pytest.mark.parametrize(("name", "value"), [("image", "a"), ("threshold", 0.5), ("cloud", "pseudo-LiDAR")])
def test_every_control_changes_the_pixels_and_moves_nothing(explorer, name, value):
    before = screen(explorer)
    getattr(explorer, name).value = value
    after = screen(explorer)
    assert after.shape == before.shape and (abs(after - before) > 60).any()


def test_arms_come_and_go_and_none_at_all_is_a_picture_too(explorer):
    whole, high = screen(explorer), 252  # rows of the image
    for name, box in explorer.arms.items():
        box.value = False
        assert (abs(screen(explorer)[:high] - whole[:high]) > 60).any(), name
    for box in explorer.arms.values():
        box.value = True
    assert (screen(explorer) == whole).all()


def test_your_own_image_is_asked_about_once_and_with_one_cloud(explorer):
    upload(explorer, "mine.png", picture())
    (arm, shape, focal, given), second = explorer.predict.asked
    assert (arm, shape, given) == ("baseline", (60, 160, 3), False) and second == ("distilled", shape, focal, True)
    assert explorer.image.value == "your mine.png" and explorer.fov.layout.display == ""
    before = screen(explorer)
    explorer.threshold.value = 0.6
    assert len(explorer.predict.asked) == 2 and (screen(explorer) != before).any()
    explorer.fov.value = 50
    assert len(explorer.predict.asked) == 4 and explorer.predict.asked[-1][2] > 1.5 * focal
    assert (screen(explorer) != before).any()
    assert "guessed" in explorer.notice.value and "tiny" in explorer.notice.value
    explorer.image.value = "a"
    assert explorer.fov.layout.display == explorer.notice.layout.display == "none"
    assert len(explorer.predict.asked) == 4 and screen(explorer).shape[1] == 828


def test_large_and_upright_images_fit_the_screen(explorer):
    upload(explorer, "tall.jpg", picture((1500, 2000), "jpeg"))
    assert max(explorer.predict.asked[-1][1]) == 1242 and screen(explorer).shape == (420 + 6 + 520, 828, 3)


@pytest.mark.parametrize(("name", "content"), [("notes.txt", b"hello"), ("cut.png", picture()[:600]), ("no.png", b"")])
def test_what_is_no_image_is_told_in_one_line_and_nothing_is_lost(explorer, name, content):
    upload(explorer, "mine.png", picture())
    before = screen(explorer)
    for _ in range(2):  # the same file again is told again
        explorer.message.value = ""
        upload(explorer, name, content)
        assert f"{name}: not a readable image" in explorer.message.value and "\n" not in explorer.message.value
    assert explorer.image.value == "your mine.png"
    explorer.threshold.value = 0.35
    assert (screen(explorer) == before).all() and len(explorer.predict.asked) == 2


def test_an_arm_that_fails_says_so_and_the_frames_stay(explorer):
    explorer.own = ["broken"]
    upload(explorer, "mine.png", picture())
    assert "ValueError: no such &lt;arm&gt;" in explorer.message.value
    explorer.image.value = "a"
    assert screen(explorer).shape[1] == 828


def test_a_frame_without_annotation_is_shown_too():
    unknown = frame("u", 2)
    unknown.labels = None
    explorer = KittiExplorer([unknown], {"distilled": {"u": answer()}}, Ask(), {"LiDAR": lambda f: f.points()})
    assert screen(explorer).shape == (252 + 6 + 520, 828, 3) and explorer._shot().truth is None


def test_the_legend_counts():
    truth = {"boxes": BOXES, "labels": LABELS}
    assert summary("baseline", answer(2.0), truth) == "0 of 3 found, 3 more where nothing is"
    assert summary("distilled", answer(), truth) == "3 of 3 found, 0 more where nothing is"
    assert summary("ground truth", truth, truth) == "3 objects"
    assert summary("ground truth", None, None) == "nobody knows"
    assert summary("distilled", answer(), None) == "2 Car, 1 Pedestrian, 0 Cyclist"
    assert summary("teacher", None, None) == "needs a LiDAR"


def test_an_object_is_found_once_by_a_box_of_its_class():
    truth = {"boxes": BOXES, "labels": LABELS}
    twice = {key: np.concatenate([value, value]) for key, value in answer().items()}
    assert hits(truth, twice) == 3 and hits(truth, {**answer(), "labels": LABELS + 1}) == 0
    assert hits(truth, answer(0.9)) == 1  # 0.54 of a car; of the other one, that stands across, 0.32
    assert hits(truth, {key: value[:0] for key, value in answer().items()}) == 0
    assert hits({key: value[:0] for key, value in truth.items()}, answer()) == 0


def test_overlaps_of_lidar_boxes_are_those_of_their_corners():
    rng = np.random.default_rng(3)
    a = np.concatenate([rng.uniform(-1, 1, (40, 3)), rng.uniform(1, 4, (40, 3)), rng.uniform(-4, 4, (40, 1))], 1)
    b = a[::-1] + [20, 20, 0, 0, 0, 0, 0]
    a[:, :2] += 20
    got = rotated_ious(upright(a), upright(b))[1]
    for one, other, overlap in zip(a, b, got, strict=True):
        ground = Polygon(corners(one)[0, :4, :2]).intersection(Polygon(corners(other)[0, :4, :2])).area
        (low, high), (below, above) = ((box[2] - box[5] / 2, box[2] + box[5] / 2) for box in (one, other))
        tall = max(0, min(high, above) - max(low, below))
        volume = one[3:6].prod() + other[3:6].prod() - ground * tall
        assert overlap == pytest.approx(ground * tall / volume, abs=1e-9)
    assert (got > 0.1).any() and (got < 0.9).any()
