"""All detection scores at once: COCO's against pycocotools directly, VOC's against the VOC evaluator."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdnb.metrics.detection import coco_map, detection_scores
from kdnb.metrics.voc import evaluate_voc


def case(seed=0, images=10, classes=3):
    rng = np.random.default_rng(seed)
    ground_truth, detections = {}, {}
    for i in range(images):
        n = int(rng.integers(1, 5))
        corner = rng.integers(0, 60, (n, 2))
        boxes = np.concatenate([corner, corner + rng.integers(8, 60, (n, 2))], 1).astype(float)
        labels = rng.integers(1, classes + 1, n)
        ground_truth[f"2007/{i}"] = {"boxes": boxes, "labels": labels, "difficult": rng.random(n) < 0.2}
        if i:  # the first image has no entry at all
            moved = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), boxes + 40])
            detections[f"2007/{i}"] = {"boxes": moved, "labels": np.tile(labels, 2), "scores": rng.random(2 * n)}
    return ground_truth, detections


def pycocotools_map(ground_truth, detections):
    """mAP straight from pycocotools, in [x, y, width, height]."""
    objects, found = [], []
    for number, (image, truth) in enumerate(ground_truth.items(), start=1):
        for box, label, hard in zip(truth["boxes"], truth["labels"], truth["difficult"], strict=True):
            width, height = box[2] - box[0], box[3] - box[1]
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": int(label),
                    "iscrowd": int(hard),
                    "bbox": [box[0], box[1], width, height],
                    "area": width * height,
                }
            )
        for box, label, score in zip(
            *(detections.get(image, {}).get(k, []) for k in ("boxes", "labels", "scores")), strict=True
        ):
            found.append(
                {
                    "image_id": number,
                    "category_id": int(label),
                    "score": score,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "annotations": objects,
            "images": [{"id": i + 1} for i in range(len(ground_truth))],
            "categories": [{"id": i} for i in range(1, 21)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return 100 * evaluation.stats[0]


@pytest.mark.parametrize("seed", range(8))
def test_coco_map_equals_pycocotools(seed):
    ground_truth, detections = case(seed)
    expected = pycocotools_map(ground_truth, detections)
    assert 10 < expected < 90 and coco_map(ground_truth, detections) == pytest.approx(expected, abs=1e-4)


def test_scores_are_those_of_the_evaluators():
    ground_truth, detections = case()
    scores = detection_scores(ground_truth, detections)
    assert list(scores) == ["mAP50", "mAP50_07", "mAP75", "mAP", "AP"]
    assert scores["mAP50"] == evaluate_voc(ground_truth, detections, "area")["mAP"]
    assert scores["mAP50_07"] == evaluate_voc(ground_truth, detections, "07")["mAP"]
    assert scores["mAP75"] == evaluate_voc(ground_truth, detections, "area", 0.75)["mAP"] < scores["mAP50"]
    assert np.nanmean(list(scores["AP"].values())) == pytest.approx(scores["mAP50"])


def test_perfect_tensors_score_100_and_nothing_scores_0():
    ground_truth, _ = case()
    perfect = {
        image: {
            "boxes": torch.tensor(item["boxes"]),
            "labels": torch.tensor(item["labels"]),
            "scores": torch.ones(len(item["labels"]), requires_grad=True),
        }
        for image, item in ground_truth.items()
    }
    scores = detection_scores(ground_truth, perfect)
    assert [scores[key] for key in ("mAP50", "mAP50_07", "mAP75", "mAP")] == pytest.approx([100] * 4, abs=1e-4)
    scores = detection_scores(ground_truth, {})
    assert [scores[key] for key in ("mAP50", "mAP50_07", "mAP75", "mAP")] == [0] * 4


def test_no_objects_at_all_is_nan():
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "difficult": np.zeros(0, bool)}
    scores = detection_scores({"1": nothing}, {})
    assert all(np.isnan(scores[key]) for key in ("mAP50", "mAP50_07", "mAP75", "mAP"))
