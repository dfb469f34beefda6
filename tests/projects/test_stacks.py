"""Stacks of toy networks: what they are shown, and where their answers land in the frame."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kdnb.projects import stacks
from kdnb.projects.street_frames import StreetFrame, kitti_window, photo_frame, street_window

WHOLE = photo_frame("toy", np.random.default_rng(0).integers(0, 255, (416, 828, 3)).astype(np.uint8), 81)


class Detector(nn.Module):
    """Finds the whole picture, a bus, and its left upper quarter, a car."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        height, width = images[0].shape[1:]
        return [
            {
                "boxes": torch.tensor([[0.0, 0, width, height], [0, 0, width / 2, height / 2]]),
                "labels": torch.tensor([6, 7]),
                "scores": torch.tensor([0.3, 0.8]),
            }
        ]


class Toy:
    """An experiment of any project; remembers what its networks were shown."""

    def __init__(self, size=(160, 96), model=None, answer=None, classes=()):
        self.settings, self.model, self.answer = SimpleNamespace(size=size), model, answer
        self.classes, self.shown = list(classes), []

    def train(self, name):
        return SimpleNamespace(model=self.model or nn.Identity())

    def arm(self, name):
        return SimpleNamespace(points="velodyne" if name == "teacher" else "pseudo")

    def ask(self, *given):
        self.shown.append(given)
        return self.answer(*given)


def test_objects_land_where_their_window_lies():
    found = stacks.objects_of(Toy(model=Detector()), "teacher")(WHOLE)
    left, top, right, bottom = street_window(WHOLE, (160, 96))
    assert found["boxes"][0].tolist() == [left, top, right, bottom]
    assert found["boxes"][1].tolist() == pytest.approx([left, top, (left + right) / 2, (top + bottom) / 2])
    assert found["labels"].tolist() == [6, 7] and found["window"] == (left, top, right, bottom)


def test_the_road_is_what_is_called_so_in_the_window():
    def answer(model, image):
        shares = torch.zeros(11, *image.shape[1:])
        shares[0] = 0.5
        shares[stacks.ROAD, :, : image.shape[2] // 2] = 0.6  # the left half is road
        return shares

    toy = Toy((160, 120), answer=answer)
    mask = stacks.road_of(toy, "distilled")(WHOLE)["mask"]
    left, top, right, bottom = street_window(WHOLE, (160, 120))
    assert toy.shown[0][1].shape == (3, 120, 160)  # as in training
    middle = (left + right) // 2
    assert mask[top:bottom, left : middle - 3].all() and not mask[:, middle + 3 :].any() and not mask[:, :left].any()


def test_a_lidar_teacher_is_silent_without_points_and_the_student_makes_its_own():
    toy = Toy(answer=lambda arm, image, calibration, points: {"points": points, "size": image.shape})
    teacher, student = stacks.boxes_of(toy, "teacher"), stacks.boxes_of(toy, "distilled")
    assert teacher(WHOLE) is None and toy.shown == []
    left, top, right, bottom = kitti_window(WHOLE)
    assert student(WHOLE)["size"] == (bottom - top, right - left, 3)
    assert toy.shown[0][3] is None and toy.shown[0][2].P2[1, 2] == pytest.approx(WHOLE.calibration.P2[1, 2] - top)
    seen = StreetFrame("toy", WHOLE.image, WHOLE.calibration, np.ones((5, 4)))
    assert teacher(seen)["points"].shape == (5, 4) and student(seen)["points"] is None


def test_a_command_chooses_among_candidates_in_the_frames_pixels():
    toy = Toy((320, 180), answer=lambda arm, image, proposals, command: {"box": proposals[-1]})
    boxes = np.array([[300.0, 200, 340, 230], [400.0, 210, 470, 260]])
    box = stacks.target_of(toy, "teacher")(WHOLE, boxes, "stop")
    assert box == pytest.approx(boxes[1], abs=0.01)
    assert toy.shown[0][1].shape == (3, 180, 320) and toy.shown[0][3] == "stop"
    outside = np.array([[0.0, 0, 20, 20]])  # not in what this network is shown
    stacks.target_of(toy, "teacher")(WHOLE, outside, "stop")
    assert len(toy.shown[1][2]) == 15  # a grid all over the picture instead


def test_a_car_is_cut_out_with_room_and_named():
    toy = Toy(answer=lambda model, image: torch.tensor([0.0, 2.0, 1.0]), classes=("a", "b", "c"))
    said = stacks.model_of(toy, "ensemble")(WHOLE, (100, 100, 200, 150))
    assert [name for name, _ in said] == ["b", "c", "a"] and sum(share for _, share in said) == pytest.approx(1)
    assert toy.shown[0][1].shape == (3, 56, 112)
    assert stacks.car_picture(WHOLE, (-5, 400, 30, 500)).shape == (22, 32, 3)  # the frame ends first


@pytest.fixture
def both():
    boxes = {"boxes": np.zeros((0, 7)), "scores": np.zeros(0), "labels": np.zeros(0, int), "points": np.zeros((0, 4))}
    return stacks.build_stacks(
        {
            "03_voc_defeat": Toy(model=Detector()),
            "04_kitti_pseudo_lidar": Toy(answer=lambda *_: boxes),
            "02_talk2car_grounding": Toy(
                (320, 180), answer=lambda arm, image, proposals, command: {"box": proposals[0]}
            ),
        }
    )


def test_a_stack_hands_its_own_boxes_on(both):
    found = both["students"].look(WHOLE, "stop")
    assert set(found) == {"objects", "boxes", "target"}
    surest = found["objects"]["boxes"][1]
    window = street_window(WHOLE, (320, 180))
    clipped = np.clip(surest, [*window[:2], *window[:2]], [*window[2:], *window[2:]])
    assert found["target"] == pytest.approx(clipped, abs=0.5)


def test_latency_is_that_of_what_can_be_answered(both):
    assert set(both["students"].latency(WHOLE, "stop", repeats=1)) == {"objects", "boxes", "target"}
    took = both["teachers"].latency(WHOLE, "stop", repeats=1)
    assert set(took) == {"objects", "target"} and all(ms > 0 for ms in took.values())  # no LiDAR, no boxes in space


def test_right_is_counted_over_the_frames_for_what_is_there(both):
    window = street_window(WHOLE, (320, 180))
    surest = both["students"].look(WHOLE, "")["objects"]["boxes"][1]
    near = tuple(np.clip(surest, [*window[:2], *window[:2]], [*window[2:], *window[2:]]).tolist())
    frames = [
        StreetFrame(name, WHOLE.image, WHOLE.calibration, cars=[(near, "b")], target=target)
        for name, target in (("hit", near), ("miss", (0, 0, 9, 9)))
    ]
    assert stacks.right_on(both["students"], frames) == {"box": "1 of 2", "command": "1 of 2", "model": "0 of 0"}
    named = stacks.build_stacks({"06_car_5fold_kd": Toy(answer=lambda *_: torch.tensor([0.0, 1]), classes="ab")})
    assert stacks.right_on(named["teachers"], frames) == {"box": "0 of 0", "command": "0 of 0", "model": "2 of 2"}


def test_the_surest_detections_are_candidates():
    objects = {"boxes": np.arange(12.0).reshape(3, 4), "scores": np.array([0.2, 0.05, 0.9])}
    assert stacks.candidates(objects).tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert stacks.candidates(None).shape == (0, 4)
