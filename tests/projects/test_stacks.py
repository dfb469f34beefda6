"""Stacks of toy networks: what they are shown, and where their predictions land in the frame."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kdnb.datasets.camvid import CLASSES
from kdnb.datasets.street_frames import StreetFrame, photo_frame
from kdnb.projects import scoreboard
from kdnb.projects.camvid_prompt_kd import CamVidPromptKd
from kdnb.projects.car_kfold import CarKfold
from kdnb.projects.car_kfold.frames import crop_car
from kdnb.projects.kitti_pseudo_lidar import KittiPseudoLidar
from kdnb.projects.talk2car_grounding import Talk2CarGrounding
from kdnb.projects.voc_defeat import VocDefeat

WHOLE = photo_frame("toy", np.random.default_rng(0).integers(0, 255, (416, 828, 3)).astype(np.uint8), 81)


class Detector(nn.Module):
    """Detects the whole image as a bus and its left upper quarter as a car."""

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
    """A run of a project; remembers what its networks were shown."""

    known = {"teacher": SimpleNamespace(points="velodyne"), "distilled": SimpleNamespace(points="pseudo")}

    def __init__(self, kind, size=(160, 96), model=None, output=None, classes=()):
        self.kind, self.frame_task, self.settings = kind, kind.frame_task, SimpleNamespace(size=size)
        self.model, self.output, self.classes, self.shown = model, output, list(classes), []

    def teacher_name(self):
        return "teacher"

    def frame_predictor(self, name):
        return self.kind.frame_predictor(self, name)

    def train(self, name):
        return SimpleNamespace(model=self.model or nn.Identity())

    def predict_image(self, *inputs):
        self.shown.append(inputs)
        return self.output(*inputs)

    predict_command = predict_image


def test_objects_land_where_their_window_lies():
    outputs = Toy(VocDefeat, model=Detector()).frame_predictor("teacher")(WHOLE)
    left, top, right, bottom = WHOLE.street_window((160, 96))
    assert outputs["boxes"][0].tolist() == [left, top, right, bottom]
    assert outputs["boxes"][1].tolist() == pytest.approx([left, top, (left + right) / 2, (top + bottom) / 2])
    assert outputs["labels"].tolist() == [6, 7] and outputs["window"] == (left, top, right, bottom)


def test_the_road_is_what_is_called_so_in_the_window():
    def output(model, image):
        probabilities = torch.zeros(11, *image.shape[1:])
        probabilities[0] = 0.5
        probabilities[CLASSES.index("road"), :, : image.shape[2] // 2] = 0.6  # the left half is road
        return probabilities

    toy = Toy(CamVidPromptKd, (160, 120), output=output)
    mask = toy.frame_predictor("distilled")(WHOLE)["mask"]
    left, top, right, bottom = WHOLE.street_window((160, 120))
    assert toy.shown[0][1].shape == (3, 120, 160)  # as in training
    middle = (left + right) // 2
    assert mask[top:bottom, left : middle - 3].all() and not mask[:, middle + 3 :].any() and not mask[:, :left].any()


def test_a_lidar_teacher_is_silent_without_points_and_the_student_makes_its_own():
    toy = Toy(KittiPseudoLidar, output=lambda arm, image, calibration, points: {"points": points, "size": image.shape})
    teacher, student = toy.frame_predictor("teacher"), toy.frame_predictor("distilled")
    assert teacher(WHOLE) is None and toy.shown == []
    left, top, right, bottom = WHOLE.kitti_window()
    assert student(WHOLE)["size"] == (bottom - top, right - left, 3)
    assert toy.shown[0][3] is None and toy.shown[0][2].P2[1, 2] == pytest.approx(WHOLE.calibration.P2[1, 2] - top)
    scanned = StreetFrame("toy", WHOLE.image, WHOLE.calibration, np.ones((5, 4)))
    assert teacher(scanned)["points"].shape == (5, 4) and student(scanned)["points"] is None


def test_a_command_chooses_among_candidates_in_the_frames_pixels():
    toy = Toy(Talk2CarGrounding, (320, 180), output=lambda arm, image, proposals, command: {"box": proposals[-1]})
    boxes = np.array([[300.0, 200, 340, 230], [400.0, 210, 470, 260]])
    box = toy.frame_predictor("teacher")(WHOLE, boxes, "stop")
    assert box == pytest.approx(boxes[1], abs=0.01)
    assert toy.shown[0][1].shape == (3, 180, 320) and toy.shown[0][3] == "stop"
    outside = np.array([[0.0, 0, 20, 20]])  # not in what this network is shown
    toy.frame_predictor("teacher")(WHOLE, outside, "stop")
    assert len(toy.shown[1][2]) == 15  # a grid all over the image instead


def test_a_car_is_cut_out_with_room_and_named():
    toy = Toy(CarKfold, output=lambda model, image: torch.tensor([0.0, 2.0, 1.0]), classes=("a", "b", "c"))
    likely = toy.frame_predictor("ensemble")(WHOLE, (100, 100, 200, 150))
    assert [name for name, _ in likely] == ["b", "c", "a"] and sum(share for _, share in likely) == pytest.approx(1)
    assert toy.shown[0][1].shape == (3, 56, 112)
    assert crop_car(WHOLE.image, (-5, 400, 30, 500)).shape == (22, 32, 3)  # the frame ends first


@pytest.fixture
def both():
    boxes = {"boxes": np.zeros((0, 7)), "scores": np.zeros(0), "labels": np.zeros(0, int), "points": np.zeros((0, 4))}
    return scoreboard.build_stacks(
        {
            "03_voc_defeat": Toy(VocDefeat, model=Detector()),
            "04_kitti_pseudo_lidar": Toy(KittiPseudoLidar, output=lambda *_: boxes),
            "02_talk2car_grounding": Toy(
                Talk2CarGrounding, (320, 180), output=lambda arm, image, proposals, command: {"box": proposals[0]}
            ),
        }
    )


def test_a_stack_hands_its_own_boxes_on(both):
    outputs = both["students"].look(WHOLE, "stop")
    assert set(outputs) == {"objects", "boxes", "target"}
    most_confident = outputs["objects"]["boxes"][1]
    window = WHOLE.street_window((320, 180))
    clipped = np.clip(most_confident, [*window[:2], *window[:2]], [*window[2:], *window[2:]])
    assert outputs["target"] == pytest.approx(clipped, abs=0.5)


def test_latency_is_that_of_what_can_be_predicted(both):
    assert set(both["students"].latency(WHOLE, "stop", repeats=1)) == {"objects", "boxes", "target"}
    took = both["teachers"].latency(WHOLE, "stop", repeats=1)
    assert set(took) == {"objects", "target"} and all(ms > 0 for ms in took.values())  # no LiDAR, no boxes in space


def test_right_is_counted_over_the_frames_for_what_is_there(both):
    window = WHOLE.street_window((320, 180))
    most_confident = both["students"].look(WHOLE, "")["objects"]["boxes"][1]
    near = tuple(np.clip(most_confident, [*window[:2], *window[:2]], [*window[2:], *window[2:]]).tolist())
    frames = [
        StreetFrame(name, WHOLE.image, WHOLE.calibration, cars=[(near, "b")], target=target)
        for name, target in (("hit", near), ("miss", (0, 0, 9, 9)))
    ]
    assert scoreboard.right_on(both["students"], frames) == {"box": "1 of 2", "command": "1 of 2", "model": "0 of 0"}
    named = scoreboard.build_stacks(
        {"06_car_5fold_kd": Toy(CarKfold, output=lambda *_: torch.tensor([0.0, 1]), classes="ab")}
    )
    assert scoreboard.right_on(named["teachers"], frames) == {"box": "0 of 0", "command": "0 of 0", "model": "2 of 2"}


def test_the_most_confident_detections_are_candidates():
    objects = {"boxes": np.arange(12.0).reshape(3, 4), "scores": np.array([0.2, 0.05, 0.9])}
    assert scoreboard.candidates(objects).tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert scoreboard.candidates(None).shape == (0, 4)
