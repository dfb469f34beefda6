import copy

import pytest
import torch

from kdnb.models.detector import (
    detection_step,
    foreground_masks,
    full_detector,
    image_masks,
    lite_detector,
    neck_maps,
    predict,
    pyramid_level,
)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return lite_detector([8, 16, 24, 32], [1, 1, 1, 1], 21, (160, 96), head=32)


def batch_of(labelled=(True, True)):
    torch.manual_seed(1)
    boxes = torch.tensor([[10.0, 10, 50, 60], [80, 30, 140, 90]])
    return {
        "images": [torch.rand(3, 96, 160) for _ in labelled],
        "labelled": list(labelled),
        "targets": [{"boxes": boxes.clone(), "labels": torch.tensor([7, 15])} for _ in labelled],
    }


def test_the_step_gives_torchvisions_own_losses(detector):
    batch = batch_of()
    detector.train()
    state = copy.deepcopy(detector.state_dict())
    torch.manual_seed(5)
    mine = detection_step(detector, batch)
    detector.load_state_dict(state)
    torch.manual_seed(5)
    theirs = detector(batch["images"], batch["targets"])
    names = {
        "rpn_class": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "roi_class": "loss_classifier",
        "roi_box": "loss_box_reg",
    }
    for ours, name in names.items():
        assert torch.equal(mine["parts"][ours], theirs[name])
    assert mine["loss"].item() == pytest.approx(sum(v.item() for v in theirs.values()), rel=1e-6)
    detector.load_state_dict(state)


def test_unlabelled_images_pass_the_backbone_only(detector):
    out = detection_step(detector.train(), batch_of((True, False, True)))
    assert next(iter(out["features"].values())).shape[0] == 3
    assert out["labelled"] == [0, 2] and len(out["proposals"]) == 2 and len(out["boxes"]) == 3
    assert len(out["labels"]) == len(out["class_logits"]) == sum(len(p) for p in out["proposals"])


def test_an_image_without_objects_trains(detector):
    batch = batch_of()
    batch["targets"] = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 2
    loss = detection_step(detector.train(), batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def test_predict_returns_boxes_in_the_images_own_pixels(detector):
    detector.train()
    found = predict(detector, [torch.randint(0, 255, (3, 300, 400), dtype=torch.uint8)])[0]
    assert detector.training  # as it was
    assert set(found) == {"boxes", "labels", "scores"} and found["boxes"].shape[1] == 4
    assert found["boxes"].numel() == 0 or (found["boxes"][:, 2].max() <= 400 and found["boxes"][:, 3].max() <= 300)


def test_level_rule_by_hand():
    # sides 55, 56, 111, 112, 224, 448, 2000 → floor(log2(side / 56)) clamped to 0..4
    sides = torch.tensor([55.0, 56, 111, 112, 224, 448, 2000])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], 1)
    assert pyramid_level(boxes).tolist() == [0, 0, 0, 1, 2, 3, 4]


def test_foreground_masks_by_hand():
    features = {str(i): torch.zeros(2, 3, 96 // s, 160 // s) for i, s in enumerate((8, 16, 32))}
    # 20 x 20 px: level 0 (base 14), cells 8/8=1 .. 28/8=3; 60 x 60 px: level 2, cells 64/32=2 .. 124/32=3
    boxes = [torch.tensor([[8.0, 16, 28, 36], [64, 32, 124, 92]]), torch.zeros(0, 4)]
    masks = foreground_masks(boxes, features, 160, base=14)
    assert [m.shape for m in masks] == [(2, 1, 12, 20), (2, 1, 6, 10), (2, 1, 3, 5)]
    assert masks[0][0, 0].nonzero().tolist() == [[y, x] for y in (2, 3) for x in (1, 2)]
    assert masks[1].sum() == 0 and masks[2][0, 0].nonzero().tolist() == [[1, 2]]
    assert all(m[1].sum() == 0 for m in masks)
    everywhere = foreground_masks(boxes, features, 160, base=14, every_level=True)
    assert everywhere[1][0].sum() > 0 and sum(m.sum() for m in everywhere) > sum(m.sum() for m in masks)


def test_a_box_smaller_than_a_cell_keeps_one_cell():
    features = {"0": torch.zeros(1, 3, 12, 20)}
    masks = foreground_masks([torch.tensor([[9.0, 9, 12, 12], [158, 94, 160, 96]])], features, 160, base=14)
    assert masks[0][0, 0].nonzero().tolist() == [[1, 1], [11, 19]]


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v3_large"])
def test_full_detectors_share_one_pyramid(backbone):
    """P2 to P6 at strides 4 to 64, so that a MobileNet can learn from a ResNet."""
    model = full_detector(backbone, 21, (128, 128), pretrained=False)
    assert model.roi_heads.box_predictor.cls_score.out_features == 21
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    maps = neck_maps(model, torch.rand(3, 128, 128))
    assert [m.shape[-1] for m in maps.values()] == [32, 16, 8, 4, 2]
    assert len(model.rpn.anchor_generator.sizes) == 5


def test_boxes_stay_in_float32_under_half_precision(detector):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = detection_step(detector.train(), batch_of())
    assert out["proposals"][0].dtype == out["class_logits"].dtype == torch.float32
    assert all(m.dtype == torch.float32 for m in out["features"].values())


def test_looking_at_a_model_does_not_change_it(detector):
    before = copy.deepcopy(detector.state_dict())
    item = {
        "image": torch.randint(0, 255, (3, 192, 320), dtype=torch.uint8),
        "labels": torch.tensor([7, 7]),
        "boxes": torch.tensor([[16.0, 32, 56, 72], [0, 0, 300, 180]]),
        "difficult": torch.tensor([False, True]),
    }
    masks = image_masks(detector.train(), item, base=14)
    # the image is halved to 160 x 96, the box to (8, 16, 28, 36): cells 1..2, rows 2..3 at stride 8
    assert masks[0][0, 0].nonzero().tolist() == [[y, x] for y in (2, 3) for x in (1, 2)]
    assert all(torch.equal(before[key], value) for key, value in detector.state_dict().items())
