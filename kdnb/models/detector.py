"""Faster R-CNN with a feature pyramid (FPN), from torchvision's parts: small detectors and the originals'."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from kdnb.models.hubs import torchvision_hub


class SmallResNet(nn.Sequential):
    """A residual network for small images, trained from scratch: stages at strides 4, 8, 16 and 32.

    BatchNorm instead of torchvision's FrozenBatchNorm2d, which needs pretrained weights.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]):
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(True))
        stages, channels = [], widths[0]
        for width, count in zip(widths, blocks, strict=True):
            shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, 2, bias=False), nn.BatchNorm2d(width))
            stage = [BasicBlock(channels, width, 2, shortcut)] + [BasicBlock(width, width) for _ in range(count - 1)]
            stages.append(nn.Sequential(*stage))
            channels = width
        super().__init__(stem, *stages)


def lite_detector(
    widths: Sequence[int],
    blocks: Sequence[int],
    num_classes: int,
    size: tuple[int, int],
    neck: int = 64,
    head: int = 128,
) -> FasterRCNN:
    """A small Faster R-CNN on P3-P6, trained from scratch on small images.

    Without P2, which would cost as much as all the rest on a CPU; few objects of a small image need it.

    Args:
        widths, blocks: channels and residual blocks of the four backbone stages.
        num_classes: including the background, label 0.
        size: (width, height) in pixels that images are resized to fit, keeping their aspect ratio.
        neck: channels of all pyramid levels; equal in teacher and student, so that their maps can be compared.
        head: channels of the two fully connected layers of the box head.
    """
    backbone = BackboneWithFPN(SmallResNet(widths, blocks), {"2": "0", "3": "1", "4": "2"}, list(widths[1:]), neck)
    anchors = AnchorGenerator(((14,), (28,), (56,), (104,)), ((0.5, 1.0, 2.0),) * 4)
    # the canonical scale sets the level that a proposal is pooled from; the usual 224 is for images of 800 px
    pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=5, sampling_ratio=1, canonical_scale=48, canonical_level=4)
    return FasterRCNN(
        backbone,
        min_size=min(size),
        max_size=max(size),
        rpn_anchor_generator=anchors,
        box_roi_pool=pool,
        box_head=TwoMLPHead(neck * 5 * 5, head),
        box_predictor=FastRCNNPredictor(head, num_classes),
        rpn_pre_nms_top_n_train=120,
        rpn_pre_nms_top_n_test=120,
        rpn_post_nms_top_n_train=80,
        rpn_post_nms_top_n_test=80,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_detections_per_img=40,
        box_score_thresh=0.03,
    )


class PretrainedPyramid(nn.Module):
    """A pretrained backbone's maps at strides 8, 16 and 32, and a feature pyramid P3-P6 on them.

    Args:
        trunk: pixels → maps, finest first; its last three are used.
        channels: of these three.
        neck: channels of all pyramid levels.
    """

    def __init__(self, trunk: nn.Module, channels: Sequence[int], neck: int):
        super().__init__()
        self.trunk, self.out_channels = trunk, neck
        self.fpn = FeaturePyramidNetwork(list(channels), neck, LastLevelMaxPool())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels (N, 3, H, W) → {"0": P3, "1": P4, "2": P5, "pool": P6}."""
        return self.fpn({str(level): one for level, one in enumerate(self.trunk(pixels)[-3:])})


def photo_detector(
    trunk: nn.Module,
    channels: Sequence[int],
    num_classes: int,
    size: tuple[int, int],
    neck: int,
    head: int,
    proposals: int,
) -> FasterRCNN:
    """A Faster R-CNN on a pretrained backbone whose pixels are scaled to mean and deviation 0.5, for photographs.

    Every image is padded to a square, so that feature maps of all images have one size and can be kept.

    Args:
        trunk, channels: see ``PretrainedPyramid``.
        num_classes: including the background, label 0.
        size: (width, height) in pixels that images are resized to fit, keeping their aspect ratio.
        neck: channels of all pyramid levels.
        head: channels of the two fully connected layers of the box head.
        proposals: that the box head looks at, of each image.
    """
    side = max(size)
    model = FasterRCNN(
        PretrainedPyramid(trunk, channels, neck),
        min_size=min(size),
        max_size=side,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        rpn_anchor_generator=AnchorGenerator(tuple((side // 10 * 2**k,) for k in range(4)), ((0.5, 1.0, 2.0),) * 4),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, sampling_ratio=2, canonical_scale=side // 3),
        box_head=TwoMLPHead(neck * 7 * 7, head),
        box_predictor=FastRCNNPredictor(head, num_classes),
        rpn_pre_nms_top_n_train=600,
        rpn_pre_nms_top_n_test=3 * proposals,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=proposals,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=64,
        box_score_thresh=0.03,
    )
    model.transform.size_divisible = side
    return model.to(memory_format=torch.channels_last)


def full_detector(backbone: str, num_classes: int, size: tuple[int, int], pretrained: bool = True) -> FasterRCNN:
    """Faster R-CNN as in the original, on a torchvision backbone: "resnet101", "resnet50", "mobilenet_v3_large".

    Args:
        size: (width, height) in pixels; the shorter side of an image is scaled to the smaller of the two, its longer
            side to at most the larger (VOC: 600 and 1000).
        pretrained: ImageNet weights and frozen normalisation; False starts from random weights with BatchNorm.
    """
    norm = {} if pretrained else {"norm_layer": nn.BatchNorm2d}
    layers = 3 if pretrained else 5
    with torchvision_hub(backbone, pretrained) as weights:
        if backbone.startswith("mobilenet"):
            # strides 4 to 32 and a pool, as the ResNets' pyramid; torchvision's default has two stages only
            body = mobilenet_backbone(
                backbone_name=backbone,
                weights=weights,
                fpn=True,
                trainable_layers=layers,
                returned_layers=[1, 2, 3, 4],
                **norm,
            )
        else:
            body = resnet_fpn_backbone(backbone_name=backbone, weights=weights, trainable_layers=layers, **norm)
    return FasterRCNN(body, num_classes, min_size=min(size), max_size=max(size))


def detection_step(model: FasterRCNN, batch: dict) -> dict:
    """One training step of Faster R-CNN, written out: transform → backbone → RPN → sampled RoIs → heads → losses.

    Args:
        batch: "images" list of (3, H, W) in 0..1, "targets" list of dicts with "boxes" (N, 4) xyxy in pixels and
            "labels" (N,), "labelled" list of bool. Unlabelled images only pass through the backbone: their
            boxes, if any, are a teacher's and serve as masks, never as labels.

    Returns:
        "loss" and its "parts"; "features" {level: (N, C, H_l, W_l)}; "pixels" (N, 3, H, W), the backbone's
        input; "boxes" list of (N, 4) in its pixels; of the labelled images: "proposals" list of (R, 4), the sampled
        RoIs, "class_logits" (ΣR, classes), "labels" (ΣR,), "image_sizes", and "labelled", their indices.
    """
    device = next(model.parameters()).device
    targets = [{key: value.to(device) for key, value in target.items()} for target in batch["targets"]]
    images, targets = model.transform([image.to(device) for image in batch["images"]], targets)
    features = {level: feature_map.float() for level, feature_map in model.backbone(images.tensors).items()}
    labelled = [i for i, is_labelled in enumerate(batch["labelled"]) if is_labelled]
    sizes = [images.image_sizes[i] for i in labelled]
    labelled_features = {level: feature_map[labelled] for level, feature_map in features.items()}
    truth = [targets[i] for i in labelled]

    # boxes stay in float32: half precision would round them by several pixels
    with torch.autocast(device.type, enabled=False):
        proposals, rpn_losses = model.rpn(ImageList(images.tensors[labelled], sizes), labelled_features, truth)
        # a copy: the sampler appends the ground-truth boxes to the list it is given
        sampled = model.roi_heads.select_training_samples(list(proposals), truth)
        proposals, _, labels, regression_targets = sampled
        class_logits, box_regression = roi_logits(model, labelled_features, proposals, sizes)
        class_loss, box_loss = fastrcnn_loss(class_logits, box_regression, labels, regression_targets)
    parts = {
        "rpn_class": rpn_losses["loss_objectness"],
        "rpn_box": rpn_losses["loss_rpn_box_reg"],
        "roi_class": class_loss,
        "roi_box": box_loss,
    }
    return {
        "loss": sum(parts.values()),
        "parts": parts,
        "features": features,
        "pixels": images.tensors,
        "boxes": [target["boxes"] for target in targets],
        "proposals": proposals,
        "class_logits": class_logits,
        "labels": torch.cat(labels),
        "image_sizes": sizes,
        "labelled": labelled,
    }


def roi_logits(
    model: FasterRCNN, features: dict, proposals: list[Tensor], image_sizes: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Class logits (ΣR, classes) and box offsets (ΣR, 4·classes) of a model's head on given proposals."""
    heads = model.roi_heads
    pooled = heads.box_roi_pool(features, proposals, image_sizes)
    return heads.box_predictor(heads.box_head(pooled))


@torch.inference_mode()
def predict(model: FasterRCNN, images: Iterable[Tensor], batch_size: int = 16) -> list[dict[str, Tensor]]:
    """Detections per image: "boxes" (D, 4) xyxy in the image's own pixels, "labels" (D,), "scores" (D,), on CPU.

    Args:
        images: (3, H, W) each, uint8 or 0..1 float; read batch by batch.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    detections, remaining = [], iter(images)
    while batch := [as_float(image).to(device) for image in islice(remaining, batch_size)]:
        detections += [{key: value.cpu() for key, value in one.items()} for one in model(batch)]
    model.train(was_training)
    return detections


@torch.no_grad()
def neck_maps(model: FasterRCNN, image: Tensor) -> dict[str, Tensor]:
    """The neck's feature maps {level: (1, C, H_l, W_l)} of one image (3, H, W), finest first, on CPU.

    Sets eval mode: a forward pass in training mode would update BatchNorm's statistics.
    """
    pixels = model.eval().transform([as_float(image).to(next(model.parameters()).device)])[0].tensors
    return {level: feature_map.cpu() for level, feature_map in model.backbone(pixels).items()}


def image_masks(model: FasterRCNN, item: dict, base: float, every_level: bool = False) -> list[Tensor]:
    """``foreground_masks`` of one image ("image", "boxes", "labels", "difficult") on the model's pyramid."""
    keep = ~item["difficult"]
    target = {"boxes": item["boxes"][keep], "labels": item["labels"][keep]}
    images, targets = model.eval().transform([as_float(item["image"])], [target])
    maps = neck_maps(model, item["image"])
    return foreground_masks([targets[0]["boxes"]], maps, images.tensors.shape[-1], base, every_level)


def as_float(image: Tensor) -> Tensor:
    """uint8 0..255 → float 0..1; floats stay."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def pyramid_level(boxes: Tensor, base: float = 56.0, levels: int = 5) -> Tensor:
    """The pyramid level that DeFeat assigns to each box (N, 4): floor(log2(√area / base)), 0 is the finest.

    ``base`` is 56 pixels for images of 600 x 1000; scale it with the image.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
    return torch.floor(torch.log2(side / base)).clamp(0, levels - 1).long()


def foreground_masks(
    boxes: list[Tensor], features: dict[str, Tensor], width: int, base: float = 56.0, every_level: bool = False
) -> list[Tensor]:
    """DeFeat's foreground: the cells of each ground-truth box, on its level; the background is the rest.

    Corners are divided by the level's stride and truncated; the right and lower cells are excluded, but a box keeps at
    least one column and one row (the released code keeps a single cell).

    Args:
        boxes: per image (N, 4) xyxy in pixels of the backbone's input.
        features: {level: (B, C, H_l, W_l)}, finest level first.
        width: of the backbone's input in pixels; gives the strides.
        base: see ``pyramid_level``.
        every_level: mark a box on all levels instead of its own.

    Returns:
        Per level (B, 1, H_l, W_l) of 0 and 1.
    """
    masks = [m.new_zeros(m.shape[0], 1, *m.shape[2:]) for m in features.values()]
    strides = [2 ** round(math.log2(width / m.shape[-1])) for m in masks]
    for i, image_boxes in enumerate(boxes):
        levels = pyramid_level(image_boxes, base, len(masks)).tolist()
        for corners, level in zip(image_boxes.tolist(), levels, strict=True):
            for k in range(len(masks)) if every_level else (level,):
                rows, columns = masks[k].shape[2:]
                x1, y1, x2, y2 = (int(corner / strides[k]) for corner in corners)
                x1, y1 = min(max(x1, 0), columns - 1), min(max(y1, 0), rows - 1)
                masks[k][i, 0, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 1
    return masks
