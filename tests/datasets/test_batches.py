"""Every collate function names the items and the views of its batch, so that a store of teacher outputs can key it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.datasets import car_views, detection, kitti_views, region_views, segmentation
from kdnb.datasets.color_jitter import ColorJitterViews
from kdnb.datasets.kitti_augment import View


def detections(_):
    image = torch.zeros(3, 12, 16, dtype=torch.uint8)
    objects = {"boxes": torch.tensor([[1.0, 2, 8, 9]]), "labels": torch.tensor([3]), "difficult": torch.tensor([False])}
    data = [{"id": f"2007/{k:06d}", "image": image, **objects} for k in range(3)]
    return detection.DetectionViews(data), detection.collate


def regions(_):
    boxes = [SimpleNamespace(id=f"val/{k}", image_id=7, box=(2.0, 2, 10, 8)) for k in range(3)]
    image = np.zeros((12, 16, 3), np.uint8)
    data = SimpleNamespace(regions=boxes, context=1.2, image=lambda index: image)
    return region_views.RegionViews(data, crop=8, indices=range(3)), region_views.collate


def frames(_):
    image = torch.zeros(3, 12, 16, dtype=torch.uint8)
    data = [{"name": f"f{k}", "image": image, "label": torch.zeros(12, 16, dtype=torch.int64)} for k in range(3)]
    return segmentation.SegmentationViews(data, (12, 16)), segmentation.collate


def jittered_frames(_):
    views, collate = frames(_)
    return ColorJitterViews(views), collate


class Prepared:
    frames = [SimpleNamespace(name=f"{k:06d}") for k in range(3)]

    def __len__(self):
        return 3

    def annotated_image(self, index):
        image, boxes = np.zeros((12, 16, 3), np.uint8), np.array([[9.0, 1, -1, 4, 2, 1, 0]])
        return {"image": image, "projection": np.eye(3, 4), "boxes": boxes, "labels": np.array([0])}

    def cloud(self, index, points):
        return np.ones((5, 4), np.float32)


def clouds(_):
    views = {"plain": View(), "flip": View(flip=True)}
    return kitti_views.KittiViews(Prepared(), "velodyne", views), kitti_views.collate


def cars(folder):
    items = [(folder / f"class{k}" / "0.png", k) for k in range(3)]
    for path, _ in items:
        path.parent.mkdir()
        Image.new("RGB", (16, 12)).save(path)
    return car_views.CarViews(items, (12, 12), "A"), car_views.collate


@pytest.mark.parametrize("make", [detections, regions, frames, jittered_frames, clouds, cars])
def test_a_batch_names_its_items_and_views(make, tmp_path):
    views, collate = make(tmp_path)
    flip = {"regions": "plain_flip", "jittered_frames": "flip@2"}.get(make.__name__, "flip")
    keys = [(0, "plain"), (1, flip), (0, flip), (2, "plain")]
    batch = collate([views[key] for key in keys])
    assert batch["views"] == [view for _, view in keys] and len(batch["ids"]) == len(keys)
    assert all(isinstance(item, (str, int)) for item in batch["ids"])
    assert batch["ids"][0] == batch["ids"][2] and len(set(batch["ids"])) == len(views) == 3
