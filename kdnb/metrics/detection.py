"""All detection scores of a project in one call, from detections in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kdnb.datasets.voc_files import VOC_CLASSES
from kdnb.metrics.voc import Samples, evaluate_voc


def detection_scores(
    ground_truth: Samples, detections: Samples, classes: Sequence[str] = VOC_CLASSES
) -> dict[str, Any]:
    """Percent scores of ``detections`` against ``ground_truth``, two dicts as ``kdnb.metrics.voc`` describes them.

    Image id -> ``boxes`` (N, 4) in 0-based pixel edges, ``labels`` (N,) 1..len(classes), and ``difficult`` (N,) or
    ``scores`` (N,); tensors or arrays. All images of the ground truth count; an image without an entry in
    ``detections`` has none. Returns

    - ``mAP50``, ``mAP75``: VOC rules, area under the precision envelope, IoU > 0.5 and > 0.75
    - ``mAP50_07``: VOC rules, 11 points
    - ``mAP``: COCO rules, mean over IoU 0.50 to 0.95 (pycocotools through torchmetrics), difficult objects as crowds
    - ``AP``: dict, AP per class at IoU > 0.5, area; NaN for a class without objects

    The official VOC corners are 1-based and inclusive; in edges their widths are ``x2 - x1``, so nothing is converted.
    Raises InputError as ``evaluate_voc`` does.
    """
    area = evaluate_voc(ground_truth, detections, "area", 0.5, classes)
    return {
        "mAP50": area["mAP"],
        "mAP50_07": evaluate_voc(ground_truth, detections, "07", 0.5, classes)["mAP"],
        "mAP75": evaluate_voc(ground_truth, detections, "area", 0.75, classes)["mAP"],
        "mAP": coco_map(ground_truth, detections),
        "AP": area["AP"],
    }


def coco_map(ground_truth: Samples, detections: Samples) -> float:
    """COCO mAP in percent (IoU 0.50 to 0.95, 101 recall points, at most 100 detections an image); NaN without objects.

    ``difficult`` objects are ``iscrowd``: a detection on one counts neither way, with COCO's own overlap for crowds.
    """
    from torchmetrics.detection import MeanAveragePrecision  # more than a second, which most processes never need

    # thresholds in float64 as in pycocotools: torchmetrics' own, in float32, move a recall of 3/10 past 0.3
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        box_format="xyxy",
        iou_type="bbox",
        backend="pycocotools",
    )
    metric.warn_on_many_detections = False
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}
    targets = [_tensors(truth, labels="labels", iscrowd="difficult") for truth in ground_truth.values()]
    predictions = [_tensors(detections.get(image, empty), labels="labels", scores="scores") for image in ground_truth]
    metric.update(predictions, targets)
    value = float(metric.compute()["map"])
    return 100 * value if value >= 0 else float("nan")


def _tensors(sample: Mapping[str, Any], **names: str) -> dict[str, torch.Tensor]:
    out = {"boxes": torch.as_tensor(sample["boxes"], dtype=torch.float32).reshape(-1, 4).cpu()}
    for target, source in names.items():
        dtype = torch.float32 if source == "scores" else torch.int64
        out[target] = torch.as_tensor(sample[source], dtype=dtype).cpu()
    return out
