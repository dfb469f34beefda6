import math
import time

import numpy as np
import pytest
import torch

from kdnb.datasets.kitti_boxes import corners, points_in_boxes
from kdnb.distill.distiller import Distiller
from kdnb.errors import InputError
from kdnb.models.centre_head import decode, decode_code, encode, make_targets
from kdnb.models.fusion3d import (
    FULL_GRID,
    LITE_GRID,
    MVXNET_PARAMETERS,
    full_fusion3d,
    fusion_step,
    lite_fusion3d,
    parameter_table,
)
from kdnb.models.point_fusion import PointFusion, project, sample_at_points
from kdnb.models.rotated_nms import overlaps, rotated_nms
from kdnb.models.voxels import Grid, point_features, voxelize

# an image of 208 x 64 that looks along x
PROJECTION = torch.tensor([[104.0, -150, 0, 0], [32, 0, -150, 0], [1, 0, 0, 0]])
BOXES = torch.tensor(
    [[12.0, 3, -0.9, 4.2, 1.7, 1.5, 0.4], [20, -5, -0.8, 0.7, 0.6, 1.7, 2.0], [28, 6, -0.8, 1.8, 0.6, 1.7, -1.2]]
)
LABELS = torch.tensor([0, 1, 2])


def cloud_of(boxes, seed=0, per_box=150, clutter=600):
    """Points on the walls of boxes, and some on the ground."""
    rng = np.random.default_rng(seed)
    parts = []
    for box in boxes.numpy():
        inside = rng.uniform(-0.5, 0.5, (per_box, 3))
        wall = rng.integers(0, 2, per_box)
        inside[np.arange(per_box), wall] = np.sign(inside[np.arange(per_box), wall]) / 2
        cos, sin = np.cos(box[6]), np.sin(box[6])
        local = inside * box[3:6]
        parts.append(
            np.stack([cos * local[:, 0] - sin * local[:, 1], sin * local[:, 0] + cos * local[:, 1], local[:, 2]], 1)
            + box[:3]
        )
    ground = np.stack([rng.uniform(2, 45, clutter), rng.uniform(-17, 17, clutter), np.full(clutter, -1.7)], 1)
    xyz = np.concatenate([*parts, ground])
    return torch.from_numpy(np.concatenate([xyz, rng.uniform(0, 1, (len(xyz), 1))], 1)).float()


def batch_of(*frames, seed=0):
    torch.manual_seed(seed)
    return {
        "points": [cloud_of(b, i) for i, (b, _) in enumerate(frames)],
        "images": torch.rand(len(frames), 3, 64, 208),
        "projections": PROJECTION.repeat(len(frames), 1, 1),
        "boxes": [b for b, _ in frames],
        "labels": [k for _, k in frames],
    }


def test_dynamic_voxels_are_those_of_a_loop():
    grid = Grid((0, -2, -1, 4, 2, 1), (0.5, 0.5, 0.5), cell=1.0, slabs=2)
    torch.manual_seed(0)
    clouds = [torch.rand(200, 4) * torch.tensor([5.0, 5, 3, 1]) - torch.tensor([0.5, 2.5, 1.5, 0]) for _ in range(2)]
    clouds[1][0, 0] = math.nan
    voxels = voxelize(clouds, grid)
    ours = torch.cat([voxels.frame[:, None], point_features(voxels)], 1)
    groups = {}
    for frame, cloud in enumerate(clouds):
        for point in cloud.tolist():
            step = [math.floor((point[k] - grid.range[k]) / 0.5) if point[k] == point[k] else -1 for k in range(3)]
            if all(0 <= s < n for s, n in zip(step, grid.voxels, strict=True)):
                groups.setdefault((frame, *step), []).append(point)
    theirs = []
    for (frame, *step), points in groups.items():
        mean = np.mean(points, 0)[:3]
        centre = np.array(grid.range[:3]) + (np.array(step) + 0.5) * 0.5
        theirs += [[frame, *p, *(p[:3] - mean), *(p[:3] - centre)] for p in points]
    assert len(voxels.counts) == len(groups) and len(ours) == len(theirs)
    ours, theirs = sorted(ours.tolist()), sorted(theirs)
    assert np.allclose(ours, theirs, atol=1e-5)
    # the cell of each voxel, and where in it the voxel lies
    rows, columns = grid.cells
    place = (voxels.centre - torch.tensor(grid.range[:3])) / 1.0
    first = torch.searchsorted(voxels.owner, torch.arange(len(voxels.counts)))
    cell = ((voxels.frame[first] * rows + place[:, 1].long()) * columns + place[:, 0].long()) * 2 + place[:, 2].long()
    assert torch.equal(cell, voxels.cell) and torch.equal(cell, cell.sort().values)
    assert torch.allclose(voxels.within, place - place.floor() - 0.5)


def test_maximum_of_voxels_and_slabs():
    model = lite_fusion3d().eval()
    voxels = voxelize([cloud_of(BOXES), cloud_of(BOXES[:1], 1)], LITE_GRID)
    values = torch.rand(len(voxels.points), 3)
    expected = torch.stack([values[voxels.owner == i].amax(0) for i in range(len(voxels.counts))])
    assert torch.equal(voxels.max(values), expected)
    encoder, kept = model.pts_middle_encoder, []
    encoder.mix.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    features = torch.rand(len(voxels.counts), 32)
    encoder(features, voxels, 2)
    one = int(voxels.cell[len(voxels.cell) // 2])
    frame, rest = divmod(one, LITE_GRID.cells[0] * LITE_GRID.cells[1] * 4)
    row, column, slab = rest // (LITE_GRID.cells[1] * 4), rest // 4 % LITE_GRID.cells[1], rest % 4
    expected = encoder.project(torch.cat([features, voxels.within], 1))[voxels.cell == one].amax(0)
    assert torch.allclose(kept[0].view(2, 4, -1, *LITE_GRID.cells)[frame, slab, :, row, column], expected)


def test_points_see_the_pixel_they_project_to():
    feature_map = torch.arange(64 * 208.0).view(1, 1, 64, 208).repeat(2, 1, 1, 1)
    feature_map[1] += 1e5
    # u = 104 - 150 y / x, v = 32 - 150 z / x: pixels (89, 47), (104, 32.5), beyond the image, behind the camera
    xyz = torch.tensor([[10, 1.0, -1], [30, 0, -0.1], [10, 20, 0], [-10, 1, 0]])
    frame = torch.tensor([0, 1, 0, 1])
    uv, depth = project(xyz, PROJECTION.repeat(4, 1, 1))
    assert torch.allclose(uv[:2], torch.tensor([[89.0, 47], [104, 32.5]]), atol=1e-4)
    sampled = sample_at_points(feature_map, uv, depth, frame, (64, 208))[:, 0]
    assert torch.allclose(sampled, torch.tensor([47 * 208 + 89.0, 1e5 + 32.5 * 208 + 104, 0, 0]), atol=0.05)
    # a map of half the resolution covers the same image: pixel (89, 47) is half a pixel from (44, 23)'s centre
    half = torch.nn.functional.avg_pool2d(feature_map, 2)
    sampled = sample_at_points(half, uv, depth, frame, (64, 208))[:, 0]
    assert sampled[0].item() == pytest.approx(47 * 208 + 89, abs=0.05)


def test_points_see_their_pixel_in_half_precision_too():
    """Between 128 and 255 bfloat16 has whole numbers only, as shares of the width not even those."""
    u = torch.arange(150.0, 207)
    xyz = torch.stack([torch.full_like(u, 15), (104 - u) / 10, torch.zeros_like(u)], 1)
    stripes = (torch.arange(208) % 2).bfloat16().repeat(1, 1, 64, 1)
    with torch.autocast("cpu", torch.bfloat16):
        uv, depth = project(xyz, PROJECTION.repeat(len(u), 1, 1))
        sampled = sample_at_points(stripes, uv, depth, torch.zeros(len(u), dtype=torch.long), (64, 208))[:, 0]
    assert torch.allclose(uv[:, 0], u, atol=1e-3) and sampled.dtype == torch.bfloat16
    assert torch.allclose(sampled.float(), u % 2, atol=0.02)


def test_point_fusion_is_the_relu_of_a_sum():
    torch.manual_seed(0)
    fusion = PointFusion(4, 2, 6, 3, 5).eval()
    voxels = voxelize([cloud_of(BOXES)], LITE_GRID)
    maps, features = [torch.rand(1, 4, 32, 104), torch.rand(1, 4, 16, 52)], torch.rand(len(voxels.points), 6)
    fused = fusion(features, voxels, maps, (64, 208), PROJECTION[None])
    behind = PROJECTION[None] * -1  # nothing is seen: what remains is the linear layer's answer to zeros
    blind = torch.relu(fusion.img_transform(torch.zeros(1, 6)) + fusion.pts_transform(features))
    assert torch.allclose(fusion(features, voxels, maps, (64, 208), behind), blind)
    assert fused.shape == blind.shape and not torch.allclose(fused, blind)


@pytest.mark.parametrize("grid", [LITE_GRID, FULL_GRID])
def test_targets_decode_to_the_boxes(grid):
    yaws = torch.linspace(-3.1, 3.1, 9)
    boxes = torch.stack([torch.tensor([5 + 4.0 * i, -12 + 3.0 * i, -0.7, 4, 1.6, 1.5, yaws[i]]) for i in range(9)])
    labels = torch.arange(9) % 3
    far = torch.tensor([[-3.0, 0, 0, 4, 1.6, 1.5, 0]])  # out of range
    targets = make_targets([torch.cat([boxes, far]), boxes[:0]], [torch.cat([labels, labels[:1]]), labels[:0]], grid)
    assert (targets["heatmap"] == 1).sum() == 9
    assert targets["weight"].amax() == 1 and targets["weight"][1].sum() == 0
    maps = targets["boxes"].clone()
    maps[:, 8] = maps[:, 8] * 2 - 1
    found, nothing = decode({"heatmap": torch.logit(targets["heatmap"], 1e-4), "boxes": maps}, grid, 0.9)
    assert len(nothing["boxes"]) == 0
    order = found["boxes"][:, 0].argsort()
    assert torch.equal(found["labels"][order], labels)
    assert torch.allclose(found["boxes"][order], boxes, atol=1e-3)


def test_any_yaw_survives_the_code():
    boxes = torch.cat([torch.rand(200, 6) + 1, torch.linspace(-3.14, 3.14, 200)[:, None]], 1)
    code = encode(boxes, torch.zeros(200, 2), 0.7)
    code[:, 8] = code[:, 8] * 2 - 1
    assert torch.allclose(decode_code(code, torch.zeros(200, 2), 0.7), boxes, atol=1e-4)


def test_rotated_nms():
    boxes = torch.tensor(
        [
            [10, 0, 0, 4, 2, 1.5, 0.0],
            [10.3, 0, 0, 4, 2, 1.5, 3.1],
            [10, 0, 0, 4, 2, 1.5, math.pi / 2],
            [30, 0, 0, 4, 2, 1.5, 1],
        ]
    )
    iou = overlaps(boxes)
    assert iou[0, 2] == pytest.approx(4 / 12) and iou[0, 3] == 0 and iou[0, 1] > 0.8
    scores, labels = torch.tensor([0.5, 0.9, 0.8, 0.1]), torch.tensor([0, 0, 0, 0])
    assert rotated_nms(boxes, scores, labels, 0.5).tolist() == [1, 2, 3]
    assert rotated_nms(boxes, scores, labels, 0.1).tolist() == [1, 3]
    assert rotated_nms(boxes, scores, torch.tensor([0, 1, 2, 0]), 0.1).tolist() == [1, 2, 0, 3]
    assert rotated_nms(boxes[:0], scores[:0], labels[:0], 0.1).tolist() == []


def test_two_frames_are_learnt():
    batch = batch_of((BOXES, LABELS), (BOXES * torch.tensor([1, -1, 1, 1, 1, 1, -1.0]), LABELS))
    torch.manual_seed(0)
    model = lite_fusion3d()
    distiller, optimizer = Distiller(model, student_step=fusion_step), torch.optim.AdamW(model.parameters(), 1e-2)
    first = distiller(batch)["loss"].item()
    start = time.process_time()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 90)
    for _ in range(90):
        parts = distiller(batch)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        schedule.step()
    assert time.process_time() - start < 20
    assert parts["loss"] < first / 10 and {"task", "heat", "box", "yaw", "direction"} <= set(parts)
    model.eval()
    with torch.no_grad():
        found = decode(model(batch["points"], batch["images"], batch["projections"]), model.grid, 0.3)
    for one, boxes in zip(found, batch["boxes"], strict=True):
        assert sorted(one["labels"].tolist()) == [0, 1, 2]
        order = one["labels"].argsort()
        assert torch.allclose(one["boxes"][order][:, :3], boxes[:, :3], atol=0.25)
        turn = (one["boxes"][order][:, 6] - boxes[:, 6] + math.pi) % (2 * math.pi) - math.pi
        assert turn.abs().max() < 0.3


def test_an_empty_cloud_is_no_crash():
    model = lite_fusion3d()
    images, projections = torch.rand(2, 3, 64, 208), PROJECTION.repeat(2, 1, 1)
    one_voxel = torch.tensor([[10.1, 0.1, -1.5, 0.3], [10.15, 0.1, -1.5, 0.3]])
    for clouds in ([torch.zeros(0, 4)] * 2, [torch.zeros(0, 4), cloud_of(BOXES)], [torch.zeros(0, 4), one_voxel]):
        for mode in (True, False):
            output = model.train(mode)(clouds, images, projections)
            assert output["heatmap"].shape == (2, 3, *LITE_GRID.output) and output["boxes"].isfinite().all()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(value.isfinite().all() for value in before.values() if value.is_floating_point())
    loss = fusion_step(
        model.train(),
        {
            "points": [torch.zeros(0, 4)] * 2,
            "images": images,
            "projections": projections,
            "boxes": [BOXES] * 2,
            "labels": [LABELS] * 2,
        },
    )["loss"]
    loss.backward()
    assert loss.isfinite()


def test_batches_without_ground_truth():
    batch = batch_of((BOXES[:0], LABELS[:0]), (BOXES[:0], LABELS[:0]))
    model = lite_fusion3d()
    with pytest.raises(InputError, match="batch 000007, 000008: not one ground-truth box") as error:
        fusion_step(model, {**batch, "ids": ["000007", "000008"]})
    assert "\n" not in str(error.value)
    assert fusion_step(model, {**batch, "labelled": [False, False]})["loss"] == 0
    one = {**batch, "boxes": [BOXES, BOXES[:0]], "labels": [LABELS, LABELS[:0]]}
    assert fusion_step(model, one)["loss"] > 0
    # a frame that is not labelled does not count as one without objects
    alone = fusion_step(model.eval(), {**one, "labelled": [True, False]})["parts"]["heat"]
    assert alone < fusion_step(model, one)["parts"]["heat"]


def test_an_item_does_not_depend_on_its_batch():
    batch = batch_of((BOXES, LABELS), (BOXES[:1], LABELS[:1]))
    model = lite_fusion3d().eval()
    with torch.no_grad():
        both = model(batch["points"], batch["images"], batch["projections"])
        second = model(batch["points"][1:], batch["images"][1:], batch["projections"][1:])
        shuffled = [cloud[torch.randperm(len(cloud))] for cloud in batch["points"][1:]]
        third = model(shuffled, batch["images"][1:], batch["projections"][1:])
        blank = model(batch["points"], torch.zeros_like(batch["images"]), batch["projections"])
    assert torch.allclose(both["heatmap"][1:], second["heatmap"], atol=1e-4)
    assert torch.allclose(second["bev"], third["bev"], atol=1e-4)
    assert not torch.allclose(both["heatmap"], blank["heatmap"])


def test_lite_is_small():
    table = parameter_table(lite_fusion3d())
    assert 100_000 < table.loc["sum", "this model"] < 150_000
    assert list(table.index[:-1]) == list(MVXNET_PARAMETERS)
    assert table.loc["sum", "MVX-Net"] == 33_806_728  # 33.81 M


def test_full_has_the_originals_map_and_widths():
    torch.manual_seed(0)
    model = full_fusion3d(pretrained=False).eval()
    assert model.grid.voxels == (1408, 1600, 40) and model.grid.output == (200, 176)
    table = parameter_table(model)
    same = ["img_backbone", "img_neck", "pts_voxel_encoder", "pts_backbone", "pts_neck"]
    assert (table.loc[same, "this model"] == table.loc[same, "MVX-Net"]).all()
    assert table.loc["sum", "this model"] == pytest.approx(33.8e6, rel=0.05)
    names = dict(model.named_parameters())
    for name in (
        "pts_voxel_encoder.vfe_layers.1.0.weight",
        "pts_voxel_encoder.fusion_layer.lateral_convs.4.conv.bias",
        "pts_voxel_encoder.fusion_layer.img_transform.0.weight",
        "pts_backbone.blocks.1.15.weight",
        "pts_neck.deblocks.1.0.weight",
        "img_backbone.layer4.2.conv3.weight",
    ):
        assert name in names
    with torch.no_grad():
        output = model([cloud_of(BOXES)], torch.rand(1, 3, 64, 208), PROJECTION[None])
    assert output["bev"].shape == (1, 512, 200, 176) and output["heatmap"].isfinite().all()


def test_helpers_agree_about_boxes():
    """The clouds of these tests lie in the boxes that the reader of labels makes corners of."""
    cloud = cloud_of(BOXES, clutter=0)
    assert points_in_boxes(cloud.numpy(), BOXES.numpy() + [0, 0, 0, 1e-3, 1e-3, 1e-3, 0]).any(1).all()
    assert corners(BOXES.numpy()).shape == (3, 8, 3)
