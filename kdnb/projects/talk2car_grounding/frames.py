"""Which object in a frame of 07 a command means, by 02's networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdnb.datasets.street_frames import StreetFrame
from kdnb.datasets.talk2car_views import grid_proposals


def frame_predictor(experiment: Any, name: str) -> Callable:
    """Frame, candidates (P, 4) and a command -> the box (4,) that it means, in the frame's pixels.

    Where no candidate lies in the network's window of the frame, a grid of boxes stands in for them.
    """
    width, height = experiment.settings.size

    def locate(frame: StreetFrame, boxes: np.ndarray, command: str) -> np.ndarray:
        window = frame.street_window((width, height))
        pixels, _ = frame.cut_out(window)
        zoom, corner = width / pixels.shape[1], np.array([*window[:2], *window[:2]], float)
        image = torch.from_numpy(np.array(Image.fromarray(pixels).resize((width, height)))).permute(2, 0, 1)
        inside = np.clip((boxes - corner) * zoom, 0, [width, height, width, height])
        inside = inside[(inside[:, 2] - inside[:, 0] >= 2) & (inside[:, 3] - inside[:, 1] >= 2)]
        proposals = torch.from_numpy(inside).float() if len(inside) else grid_proposals(image)
        return experiment.predict_command(name, image, proposals, command)["box"].double().numpy() / zoom + corner

    return locate
