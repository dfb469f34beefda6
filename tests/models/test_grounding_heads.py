import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.ops import box_iou

from kdnb.datasets.images import read_image
from kdnb.errors import InputError
from kdnb.models.alignment import Student
from kdnb.models.grounding import Grounder, align_cells, box_loss, crop_cells, grounding_step, overlaps, ranking_loss
from kdnb.models.grounding_heads import BOX_FEATURES, ProjectionHead, TransformerHead, box_features, centre_to_edges
from kdnb.world.camera import render
from kdnb.world.scene import make_scene

INPUTS = ("tokens", "boxes", "proposal_mask", "text", "words", "padding")
P, T, D, W, L = 8, 2, 24, 16, 6
HEADS = [(kind, mode) for kind in ("projection", "transformer") for mode in ("rank", "regress")]
SIDES = 5  # the vocabulary of the toy commands: five colours, then left and right


def toy_batch(n, seed):
    """Commands that name a colour ("the red one") or a side ("the one on the left"), over proposals to choose from.

    Colours are directions in the space of cells, and other directions in that of words. One of the first two proposals
    is meant: they alone have the size of things that commands are about, stand on different sides and differ in colour.
    """
    shared, g = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    colours, vocabulary = torch.randn(5, D, generator=shared), torch.randn(7, W, generator=shared)
    spoken = torch.randn(7, D, generator=shared)

    colour = torch.randint(0, 5, (n, P), generator=g)
    colour[:, 1] = (colour[:, 0] + torch.randint(1, 5, (n,), generator=g)) % 5
    right = torch.rand(n, generator=g) < 0.5  # does the first stand on the right?
    size = torch.rand(n, P, 2, generator=g) * 0.02 + 0.05
    size[:, :2] += 0.15
    centre = torch.rand(n, P, 2, generator=g) * 0.8 + 0.1
    centre[:, 0, 0] = torch.rand(n, generator=g) * 0.3 + 0.1 + 0.5 * right
    centre[:, 1, 0] = torch.rand(n, generator=g) * 0.3 + 0.1 + 0.5 * ~right
    boxes = centre_to_edges(torch.cat([centre, size], -1))

    meant = torch.randint(0, 2, (n,), generator=g)
    side_said = torch.rand(n, generator=g) < 0.5
    on_right = (right ^ (meant == 1)).long()
    said = torch.where(side_said, SIDES + on_right, colour.gather(1, meant[:, None])[:, 0])
    words = 0.1 * torch.randn(n, L, W, generator=g)
    words[:, 1] += vocabulary[said]
    proposal_mask = torch.arange(P) < torch.randint(3, P + 1, (n, 1), generator=g)
    tokens = colours[colour][:, :, None] + 0.3 * torch.randn(n, P, T, D, generator=g)
    batch = {
        "tokens": tokens,
        "boxes": boxes,
        "proposal_mask": proposal_mask,
        "text": F.normalize(spoken[said], dim=-1),
        "words": words,
        "padding": torch.arange(L).expand(n, L) > 2,
        "truth": boxes[torch.arange(n), meant],
    }
    return batch, side_said


def make_head(kind, mode, seed=0):
    torch.manual_seed(seed)
    if kind == "projection":
        return ProjectionHead(D, D, 64, mode)
    return TransformerHead(D, D, W, 64, 2, mode)


def asked(head, batch):
    return head(*(batch[name] for name in INPUTS))


def trained(kind, mode, steps):
    data, _ = toy_batch(1200, 1)
    head = make_head(kind, mode)
    model, optimiser = Grounder(nn.Identity(), head), torch.optim.AdamW(head.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    g = torch.Generator().manual_seed(2)
    for _ in range(steps):
        some = torch.randint(0, 1200, (32,), generator=g)
        optimiser.zero_grad()
        grounding_step(model, {name: value[some] for name, value in data.items()})["loss"].backward()
        optimiser.step()
        schedule.step()
    return head.eval()


# --- what the heads can learn -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, mode, steps",
    [
        ("projection", "rank", 300),
        ("projection", "regress", 400),
        ("transformer", "rank", 200),
        ("transformer", "regress", 250),
    ],
)
def test_heads_learn_colours_and_sides(kind, mode, steps):
    head = trained(kind, mode, steps)
    batch, side_said = toy_batch(400, 3)
    with torch.no_grad():
        found = asked(head, batch)
    right = overlaps(found["box"], batch["truth"]) > 0.5
    assert right[~side_said].float().mean() > 0.9
    assert right[side_said].float().mean() > 0.9
    # what was looked at most is what was meant, too: the explorers show the attention as a reason
    looked = batch["boxes"][torch.arange(400), found["attention"].argmax(1)]
    assert (overlaps(looked, batch["truth"]) > 0.5).float().mean() > 0.75


# --- what must hold for any weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind, mode", HEADS)
def test_filling_and_padding_change_nothing(kind, mode):
    head = make_head(kind, mode).eval()
    batch, _ = toy_batch(6, 4)
    plain = asked(head, batch)
    g = torch.Generator().manual_seed(5)
    other = dict(batch)
    gone = ~batch["proposal_mask"]
    assert gone.any() and batch["padding"].any()
    other["tokens"] = torch.where(gone[..., None, None], 9 * torch.randn(6, P, T, D, generator=g), batch["tokens"])
    other["boxes"] = torch.where(gone[..., None], torch.tensor([0.0, 0.0, 1.0, 1.0]), batch["boxes"])
    other["words"] = torch.where(batch["padding"][..., None], torch.full((W,), 7.0), batch["words"])
    changed = asked(head, other)
    proposal_mask = batch["proposal_mask"]
    torch.testing.assert_close(changed["scores"][proposal_mask], plain["scores"][proposal_mask])
    torch.testing.assert_close(changed["box"], plain["box"])
    torch.testing.assert_close(changed["attention"], plain["attention"])
    torch.testing.assert_close(plain["attention"].sum(1), torch.ones(6))
    assert (plain["attention"][gone] == 0).all() and (plain["scores"].argmax(1) < proposal_mask.sum(1)).all()


@pytest.mark.parametrize("kind, mode", HEADS)
def test_the_order_of_proposals_does_not_matter(kind, mode):
    head = make_head(kind, mode).eval()
    batch, _ = toy_batch(4, 6)
    order = torch.randperm(P, generator=torch.Generator().manual_seed(0))
    shuffled = {**batch, **{name: batch[name][:, order] for name in ("tokens", "boxes", "proposal_mask")}}
    plain, turned = asked(head, batch), asked(head, shuffled)
    torch.testing.assert_close(turned["scores"], plain["scores"][:, order])
    torch.testing.assert_close(turned["box"], plain["box"])


@pytest.mark.parametrize("kind, mode", HEADS)
def test_every_parameter_takes_part(kind, mode):
    """Or several processes, each with a part of the batch, would wait for a gradient that never comes."""
    head = make_head(kind, mode)
    grounding_step(Grounder(nn.Identity(), head), toy_batch(8, 7)[0])["loss"].backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind, mode", HEADS)
def test_half_precision_gives_numbers(kind, mode):
    model = Grounder(nn.Identity(), make_head(kind, mode))
    with torch.autocast("cpu", torch.bfloat16):
        out = grounding_step(model, toy_batch(8, 8)[0])
    out["loss"].backward()
    assert torch.isfinite(out["loss"]) and out["loss"].dtype == torch.float32


def test_text_may_live_in_a_space_of_its_own():
    batch, _ = toy_batch(3, 9)
    batch["text"] = torch.randn(3, D + 5)
    head = TransformerHead(D, D + 5, W, 32)
    assert head.fits is None and asked(head, batch)["scores"].shape == (3, P)


def test_an_unknown_mode_is_refused():
    for head in (lambda: ProjectionHead(D, D, mode="choose"), lambda: TransformerHead(D, D, W, mode="choose")):
        with pytest.raises(InputError, match="mode is 'choose', expected one of rank, regress"):
            head()


def test_box_features_tell_halves_apart_and_take_boxes_without_area():
    boxes = torch.tensor([[0.1, 0.1, 0.2, 0.3], [0.8, 0.1, 0.9, 0.3], [0.5, 0.5, 0.5, 0.5]])
    features = box_features(boxes)
    assert features.shape == (3, BOX_FEATURES) and torch.isfinite(features).all()
    torch.testing.assert_close(features[0, :4], torch.tensor([0.15, 0.2, 0.1, 0.2]))
    assert features[0, 6] > 0.4 and (features[0] != features[1]).any()  # sin(pi * 0.15)


# --- losses -----------------------------------------------------------------------------------------------------


def test_overlaps_are_torchvisions():
    g = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 5, 2, 2, generator=g).sort(2).values.flatten(2)
    torch.testing.assert_close(overlaps(corners[0][:, None], corners[1][None]), box_iou(corners[0], corners[1]))
    assert overlaps(torch.zeros(4), torch.zeros(4)) == 0


def test_ranking_loss_shares_the_target_by_iou_and_leaves_out_what_all_miss():
    truth = torch.tensor([[0.0, 0.0, 0.4, 0.4]] * 2)
    near, half, far = [0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.3], [0.6, 0.6, 0.9, 0.9]  # IoU 1, 0.75, 0
    boxes = torch.tensor([[near, half, far], [far, far, far]])
    proposal_mask = torch.ones(2, 3, dtype=torch.bool)
    scores = torch.tensor([[1.0, 2.0, 3.0], [50.0, -50.0, 0.0]], requires_grad=True)
    logs = scores[0].log_softmax(0)
    expected = -(logs[0] * 1.0 + logs[1] * 0.75) / 1.75
    torch.testing.assert_close(ranking_loss(scores, boxes, proposal_mask, truth), expected)
    without = proposal_mask & torch.tensor([True, False, True])  # one that is only filling is no target
    torch.testing.assert_close(ranking_loss(scores, boxes, without, truth), -logs[0])
    nothing = ranking_loss(scores[1:], boxes[1:], proposal_mask[1:], truth[1:])
    nothing.backward()
    assert nothing == 0 and (scores.grad == 0).all()


def test_box_loss_has_the_values_of_its_formulas():
    truth = torch.tensor([[0.2, 0.2, 0.4, 0.4]])
    parts = box_loss(truth.clone(), truth)
    assert parts["l1"] == 0 and parts["giou"].abs() < 1e-5
    away = torch.tensor([[0.6, 0.2, 0.8, 0.4]])  # hull 0.6 x 0.2 = 0.12, of which the boxes cover 0.08: GIoU = -1/3
    parts = box_loss(away, truth)
    torch.testing.assert_close(parts["l1"], torch.tensor(5 * 0.8))
    torch.testing.assert_close(parts["giou"], torch.tensor(2 * 4 / 3), atol=1e-4, rtol=0)
    assert box_loss(away, truth, l1=0.0, iou=1.0)["l1"] == 0
    # centres 0.4 apart, the hull's diagonal squared is 0.4, same shape: 1 - CIoU = 1 + 0.16 / 0.4
    complete = box_loss(away, truth, overlap="ciou")
    assert list(complete) == ["l1", "ciou"] and complete["ciou"].item() == pytest.approx(2 * 1.4, abs=1e-4)
    with pytest.raises(InputError, match="overlap is 'diou', expected one of giou, ciou"):
        box_loss(away, truth, overlap="diou")


def test_step_adds_the_parts_of_the_box_loss():
    batch, _ = toy_batch(8, 10)
    out = grounding_step(Grounder(nn.Identity(), make_head("transformer", "regress")), batch)
    torch.testing.assert_close(out["loss"], out["parts"]["l1"] + out["parts"]["giou"])
    box = out["box"]
    assert (box[:, 2:] > box[:, :2]).all()


# --- the whole model --------------------------------------------------------------------------------------------


class TinyEncoder(nn.Module):
    """Strides of 8, with a normalisation that must not move while frozen."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, D, 8, 8), nn.BatchNorm2d(D)

    def feature_map(self, images):
        return self.norm(self.conv(images.float() / 255))


def with_images(what, shape, n=4):
    batch, _ = toy_batch(n, 11)
    del batch["tokens"]
    g = torch.Generator().manual_seed(0)
    return {**batch, what: torch.randint(0, 256, shape, dtype=torch.uint8, generator=g)}


@pytest.mark.parametrize("what, shape, cells", [("crops", (4, P, 3, 16, 16), 4), ("images", (4, 3, 72, 128), 9)])
def test_images_and_kept_cells_give_the_same_answer(what, shape, cells):
    torch.manual_seed(0)
    model = Grounder(TinyEncoder(), make_head("transformer", "rank"), cells=3).eval()
    batch = with_images(what, shape)
    tokens = model.tokens(batch)
    assert tokens.shape == (4, P, cells, D)
    torch.testing.assert_close(model({**batch, "tokens": tokens})["scores"], model(batch)["scores"])
    if what == "crops":
        torch.testing.assert_close(tokens[1], crop_cells(model.encoder, batch["crops"][1]))


@pytest.mark.parametrize("what, shape", [("crops", (4, P, 3, 16, 16)), ("images", (4, 3, 72, 128))])
@pytest.mark.parametrize("frozen", [True, False])
def test_only_an_encoder_that_is_not_frozen_learns(what, shape, frozen):
    torch.manual_seed(0)
    model = Grounder(TinyEncoder(), make_head("transformer", "rank"), frozen=frozen).train()
    before = model.encoder.norm.running_mean.clone()
    grounding_step(model, with_images(what, shape))["loss"].backward()
    assert torch.equal(before, model.encoder.norm.running_mean) == frozen
    assert all((p.grad is None) == frozen for p in model.encoder.parameters())
    assert model.head.norm.weight.grad is not None and torch.is_grad_enabled()


def test_aligned_cells_are_those_of_the_box():
    """On a map that holds its own coordinates, a cell of a box has those of the cell's centre."""
    y, x = torch.meshgrid(torch.arange(18) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    boxes = torch.tensor([[[0.25, 0.25, 0.5, 0.75], [0.5, 0.5, 0.75, 0.75]]])
    found = align_cells(torch.stack([x / 32, y / 18])[None], boxes, 2)
    assert found.shape == (1, 2, 4, 2)
    expected = torch.tensor([[0.3125, 0.375], [0.4375, 0.375], [0.3125, 0.625], [0.4375, 0.625]])
    torch.testing.assert_close(found[0, 0], expected)


def step_of_full(image, frozen):
    """One step of the model of ``full`` from random weights on a uint8 image: the names of what moved."""
    torch.manual_seed(0)
    encoder = Student("convnext_tiny", 512)
    model = Grounder(encoder, TransformerHead(512, 512, 512, 256, 4, "regress"), frozen).train()
    batch = with_images("images", (1, 3, 8, 8), n=1)
    batch |= {"images": image[None], "text": torch.randn(1, 512), "words": torch.randn(1, L, 512)}
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 1e-4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    out = grounding_step(model, batch)
    out["loss"].backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert torch.isfinite(out["loss"]) and out["scores"].shape == (1, P)
    return moved


def test_full_model_steps_on_a_rendered_image_of_the_official_size():
    """As the heads of ``full`` are trained; with gradients of the encoder it takes 20 s, hence the small one below."""
    image = torch.from_numpy(render(make_scene(0), 1600, 900, supersample=1).image.copy()).permute(2, 0, 1)
    moved = step_of_full(image, frozen=True)
    assert "head.sentence.1.weight" in moved and not any(name.startswith("encoder") for name in moved)


def test_full_model_is_fine_tuned_end_to_end(real_data):
    """On a photograph, at a fifth of its usual width for the test's sake."""
    file = sorted((real_data / "coco" / "val2017").glob("*.jpg"))[0]
    photograph = np.array(Image.fromarray(read_image(file)).resize((320, 180)))
    moved = step_of_full(torch.from_numpy(photograph).permute(2, 0, 1), frozen=False)
    assert {"head.sentence.1.weight", "encoder.project.weight", "encoder.trunk.stem.0.weight"} <= moved
