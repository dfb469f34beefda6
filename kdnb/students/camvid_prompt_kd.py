"""05's students: photographs of a street → the class of every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from kdnb.datasets.camvid import CLASSES, PALETTE
from kdnb.files import atomic_path
from kdnb.models.segmenter import resized
from kdnb.projects.camvid_prompt_kd.data import Network
from kdnb.projects.camvid_prompt_kd.terms import build
from kdnb.students.student import Student


class CamVidStudent(Student):
    """An answer is uint8 (H, W), the class of each pixel of the image, in the order of ``classes``."""

    project, dataset = "05_camvid_prompt_kd", "camvid"
    shown_on = ("street", "pavement")

    @staticmethod
    def facts(experiment: Any) -> dict[str, Any]:
        return {"classes": CLASSES, **Student.facts(experiment)}

    def build(self) -> nn.Module:
        return build(Network(**self.about["network"]), seed=0)

    def answer(self, images: list[Tensor]) -> list[Tensor]:
        size = list(self.about["size"][::-1])
        batch = torch.stack([resize(image.to(self.device), size, antialias=True) for image in images])
        logits = self.network(batch)["logits"]
        shapes = [image.shape[1:] for image in images]
        return [
            resized(one[None], shape)[0].argmax(0).to(torch.uint8).cpu()
            for one, shape in zip(logits, shapes, strict=True)
        ]

    @staticmethod
    def teachers_answer(experiment: Any, image: Tensor) -> Tensor:
        return experiment.predict_image(experiment.train("teacher").model, image).argmax(0).to(torch.uint8)

    def write(self, out: Path, answers: dict[str, Tensor]) -> None:
        """A PNG of class ids for each image, as ``kdnb eval camvid`` reads them."""
        out.mkdir(parents=True, exist_ok=True)
        for name, classes in answers.items():
            with atomic_path(out / f"{name}.png") as part:
                Image.fromarray(classes.numpy()).save(part, "PNG")

    def draw(self, image: Tensor, answer: Tensor) -> Image.Image:
        colours = PALETTE[answer.numpy()].astype(float)
        return Image.fromarray((0.5 * image.permute(1, 2, 0).numpy() + 0.5 * colours).astype(np.uint8))

    def deployed(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        width, height = self.about["size"]
        return (
            Segmenter(self.network),
            {"images": torch.zeros(2, 3, height, width, dtype=torch.uint8)},
            ["logits", "classes"],
        )


class Segmenter(nn.Module):
    """uint8 (N, 3, H, W) of the size in training → logits (N, 11, H, W) and classes uint8 (N, H, W)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)["logits"]
        return logits, logits.argmax(1).to(torch.uint8)
