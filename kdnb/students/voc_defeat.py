"""03's students: photographs → boxes of the 20 VOC classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from kdnb.datasets.voc import VOC_CLASSES, write_detections
from kdnb.models.detector import as_float, predict
from kdnb.projects.voc_defeat.data import Network
from kdnb.projects.voc_defeat.terms import detector
from kdnb.students.student import Student
from kdnb.viz.detection import draw_boxes

SHOWN = 0.5  # score from which a box is drawn


class VocStudent(Student):
    """An answer is a dict: "boxes" (D, 4) xyxy in the image's pixels, "labels" (D,) from 1, "scores" (D,)."""

    project, dataset = "03_voc_defeat", "voc"
    shown_on = ("street", "pavement", "train", "cows")

    @staticmethod
    def facts(experiment: Any) -> dict[str, Any]:
        return {"classes": VOC_CLASSES, **Student.facts(experiment)}

    def build(self) -> nn.Module:
        return detector(Network(**self.about["network"]), tuple(self.about["size"]))

    def answer(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = self.network([as_float(image).to(self.device) for image in images])
        return [{key: value.cpu() for key, value in one.items()} for one in found]

    @staticmethod
    def teachers_answer(experiment: Any, image: Tensor) -> dict[str, Tensor]:
        return predict(experiment.train("teacher").model, [image])[0]

    def write(self, out: Path, answers: dict[str, dict[str, Tensor]]) -> None:
        """``comp4_det_test_<class>.txt``, as ``kdnb eval voc`` reads them."""
        write_detections(out, self.classes, answers)

    def draw(self, image: Tensor, answer: dict[str, Tensor]) -> Image.Image:
        sure = answer["scores"] >= SHOWN
        return Image.fromarray(
            draw_boxes(
                image, *(answer[k][sure] for k in ("boxes", "labels")), self.classes, answer["scores"][sure], zoom=1
            )
        )

    def deployed(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        width, height = self.about["size"]
        return (
            Detector(self.network),
            {"image": torch.zeros(3, height, width, dtype=torch.uint8)},
            ["boxes", "labels", "scores"],
        )


class Detector(nn.Module):
    """uint8 (3, H, W) → boxes (D, 4) in its pixels, labels (D,), scores (D,); one image, for D varies."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.network([image.float() / 255])[0]
        return found["boxes"], found["labels"], found["scores"]
