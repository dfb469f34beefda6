"""What 06's networks take a car in a frame of 07 for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kdnb.datasets.street_frames import StreetFrame

MARGIN = 0.06  # share of a car's box that is left free on each side, as around the cars of 06


def frame_predictor(experiment: Any, name: str) -> Callable:
    """Frame and a car's box (4,) -> [(class, probability), ...], the likeliest first."""
    model = experiment.train(name).model.eval()

    def classify(frame: StreetFrame, box: tuple) -> list[tuple[str, float]]:
        crop = torch.from_numpy(crop_car(frame.image, box).copy()).permute(2, 0, 1)
        probabilities = experiment.predict_image(model, crop).softmax(0).tolist()
        return sorted(zip(experiment.classes, probabilities, strict=True), key=lambda pair: -pair[1])

    return classify


def crop_car(image: np.ndarray, box: tuple) -> np.ndarray:
    """uint8 (h, w, 3): a car's box with a little room around it, as sellers cut out their photographs."""
    x1, y1, x2, y2 = box
    free_x, free_y = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    height, width = image.shape[:2]
    left, top = max(0, int(x1 - free_x)), max(0, int(y1 - free_y))
    right, bottom = min(width, max(left + 2, round(x2 + free_x))), min(height, max(top + 2, round(y2 + free_y)))
    return image[top:bottom, left:right]
