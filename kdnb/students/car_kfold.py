"""06's students: photographs of a car → probabilities of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from kdnb.datasets.car_submissions import write_submission
from kdnb.datasets.car_views import META, collate, views_of_image
from kdnb.models.classifier import ClassifierConfig, build_classifier
from kdnb.students.student import Student


class CarStudent(Student):
    """An answer is float (C,), the probabilities of ``classes``."""

    project, dataset = "06_car_5fold_kd", "cars"
    shown_on = ("car",)

    @staticmethod
    def facts(experiment: Any) -> dict[str, Any]:
        constants = [values.tolist() for values in experiment.data.constants]
        own = {"experiment": experiment.settings.experiment, "constants": constants}
        return {"classes": list(experiment.classes), **Student.facts(experiment), **own}

    def build(self) -> nn.Module:
        meta = len(META[self.about["experiment"]])
        return build_classifier(ClassifierConfig(**self.about["network"]), len(self.classes), meta, seed=0)

    def answer(self, images: list[Tensor]) -> list[Tensor]:
        size, letter = tuple(self.about["size"][::-1]), self.about["experiment"]
        constants = tuple(torch.tensor(values) for values in self.about["constants"])
        batch = collate([views_of_image(image, size, letter, constants)[0, "plain"] for image in images])
        logits = self.network(batch["images"].to(self.device), batch["meta"].to(self.device))["logits"]
        return list(logits.softmax(1).cpu())

    @staticmethod
    def teachers_answer(experiment: Any, image: Tensor) -> Tensor:
        networks = (experiment.train(fold).model for fold in experiment.known["ensemble"].members)
        return torch.stack([experiment.predict_image(one, image).softmax(0) for one in networks]).mean(0)

    def write(self, out: Path, answers: dict[str, Tensor]) -> None:
        """A CSV with "ID" and a column of probabilities for each class, as ``kdnb eval cars`` reads it."""
        out.parent.mkdir(parents=True, exist_ok=True)
        write_submission(out, list(answers), self.classes, torch.stack(list(answers.values())).numpy())

    def draw(self, image: Tensor, answer: Tensor) -> Image.Image:
        photograph = Image.fromarray(image.permute(1, 2, 0).numpy())
        lines = [
            f"{100 * p:.0f} %  {self.classes[i]}" for p, i in zip(*(t.tolist() for t in answer.topk(3)), strict=True)
        ]
        font = ImageFont.load_default(size=max(11, photograph.height // 20))
        sheet = Image.new("RGB", (photograph.width, photograph.height + 4 * font.size + 4), "white")
        sheet.paste(photograph)
        ImageDraw.Draw(sheet).multiline_text((4, photograph.height + 2), "\n".join(lines), fill="black", font=font)
        return sheet

    def deployed(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        width, height = self.about["size"]
        mean, spread = (torch.tensor(values)[META[self.about["experiment"]]] for values in self.about["constants"])
        inputs = {"images": torch.zeros(2, 3, height, width, dtype=torch.uint8), "numbers": torch.zeros(2, len(mean))}
        return Classifier(self.network, mean, spread), inputs, ["probabilities"]


class Classifier(nn.Module):
    """uint8 (N, 3, h, w) and the numbers (N, M) of ``META``, such as the original's mean colour in 0..1 → (N, C)."""

    def __init__(self, network: nn.Module, mean: Tensor, spread: Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, images: Tensor, numbers: Tensor) -> Tensor:
        return self.network(images, (numbers - self.mean) / self.spread)["logits"].softmax(1)
