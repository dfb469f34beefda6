"""Interactive looks at predictions, with core ipywidgets only, so that they work in JupyterLab, Notebook and Colab.

Each explorer has a static twin: the figure above it in the notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
import torch
from torch import Tensor

from kdnb.viz.detection import disagreement, draw_detections, draw_item, mask_on_image
from kdnb.viz.guard import PANEL, arm_boxes, guarded, png, screen, side_by_side_titled, take_upload
from kdnb.viz.style import arm_label


class DetectionExplorer:
    """Pick an image, a score threshold, the arms to show and a mask level; or upload an image of your own.

    Args:
        items: samples with "id", "image" uint8 (3, H, W), "boxes", "labels", "difficult".
        detections: arm → image id → detections. Images are sorted by how much the last two arms disagree.
        classes: names; label 1 is the first.
        masks: ``masks(item)`` → per level (1, 1, H_l, W_l), the foreground cells; one panel shows the chosen level.
        predictors: arm → ``predict(image)`` → detections, for uploaded images; some arms may answer for these only.
        first_level: number of the finest level, for its name.
    """

    def __init__(
        self,
        items: list[dict],
        detections: dict[str, dict],
        classes: Sequence[str],
        masks: Callable[[dict], list[Tensor]],
        predictors: dict[str, Callable[[Tensor], dict]],
        first_level: int = 2,
    ):
        self.detections = {**{arm: {} for arm in predictors}, **detections}
        self.classes, self.masks, self.predictors = classes, masks, predictors
        self.first_level = first_level
        first, second = list(detections)[-2:]
        order = {i["id"]: disagreement(detections[first][i["id"]], detections[second][i["id"]]) for i in items}
        self.items = {item["id"]: item for item in sorted(items, key=lambda i: -order[i["id"]])}
        options = [(f"{name}: {order[name]:.0f} differences", name) for name in self.items]
        wide = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="330px")}
        self.image = widgets.Dropdown(options=options, description="image", **wide)
        self.threshold = widgets.FloatSlider(0.5, min=0.05, max=0.95, step=0.05, description="threshold", **wide)
        levels = [("no mask", -1), *((f"P{k + first_level}", k) for k in range(len(masks(items[0]))))]
        self.level = widgets.Dropdown(options=levels, value=-1, description="mask level", **wide)
        self.arms = arm_boxes({**detections, **predictors}, 150)
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your image")
        self.screen = screen()
        self.message = widgets.HTML()
        self.view = widgets.VBox(
            [
                widgets.HBox([self.image, self.threshold]),
                widgets.HBox([self.level, *self.arms.values(), self.upload]),
                self.message,
                self.screen,
            ]
        )
        for control in (self.image, self.threshold, self.level, *self.arms.values()):
            control.observe(guarded(self.message, self._redraw), "value")
        self.upload.observe(guarded(self.message, self._uploaded), "value")
        self._redraw()

    def render(self) -> np.ndarray:
        """The screen as (H, W, 3) uint8: chosen arms, ground truth if there is one, the mask if one is chosen."""
        item = self.items[self.image.value]
        zoom = max(1, round(PANEL / item["image"].shape[-1]))
        panels = []
        for name, box in self.arms.items():
            if box.value and item["id"] in self.detections[name]:
                detections = self.detections[name][item["id"]]
                shown = draw_detections(item, detections, self.threshold.value, self.classes, zoom)
                panels.append((arm_label(name), shown))
        if not item.get("uploaded"):
            panels.append(("ground truth", draw_item(item, self.classes, zoom)))
            if self.level.value >= 0:
                mask = self.masks(item)[self.level.value][0, 0]
                level = self.level.value + self.first_level
                title = f"foreground on P{level}: {int(mask.sum())} of {mask.numel()} cells"
                panels.append((title, mask_on_image(item["image"], mask, zoom)))
        return side_by_side_titled(panels)

    def _redraw(self) -> None:
        self.level.disabled = "uploaded" in self.items[self.image.value]  # its foreground is unknown
        self.screen.value = png(self.render())

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file, image = take_upload(self.upload)
        name = f"your {file}"
        nothing = torch.zeros(0, dtype=torch.int64)
        self.items[name] = {
            "id": name,
            "image": image,
            "boxes": torch.zeros(0, 4),
            "labels": nothing,
            "difficult": nothing.bool(),
            "uploaded": True,
        }
        for arm, predict in self.predictors.items():
            self.detections[arm][name] = predict(image)
        self.image.options = [(name, name), *(option for option in self.image.options if option[1] != name)]
        self.image.value = name
        self._redraw()
