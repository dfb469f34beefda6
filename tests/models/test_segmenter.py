import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.losses import kd_kl
from kdnb.distill.terms import Term
from kdnb.errors import InputError
from kdnb.models.segmenter import PromptSegmenter, TimmSegmenter, UNet, segmentation_step

MOBILE = "mobilenetv3_small_050"


def random_images(n=2, height=48, width=64):
    shape = (n, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def batch_of(labels, labelled=None, size=(48, 64)):
    n = len(labels)
    return {
        "images": random_images(n, *size),
        "labels": labels,
        "indices": [40 + i for i in range(n)],
        "labelled": torch.ones(n, dtype=torch.bool) if labelled is None else torch.tensor(labelled),
    }


def striped(n=2, height=48, width=64):
    """Eleven upright stripes."""
    return (torch.arange(width) * 11 // width).expand(n, height, width).clone()


class Table(nn.Module):
    """Answers with its parameter, whatever the image."""

    def __init__(self, shape):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        return {"logits": self.logits, "features": self.logits}


class Fixed(nn.Module):
    """A body whose features are given."""

    def __init__(self, features):
        super().__init__()
        self.features, self.head = features, nn.Linear(1, 1)

    def feature_map(self, images):
        return self.features


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (33, 61), (50, 96)])
@pytest.mark.parametrize("make", [lambda: UNet(4), lambda: TimmSegmenter(MOBILE, width=8)])
def test_any_size_from_32_pixels_on(make, size):
    torch.manual_seed(0)
    net = make().eval()
    out = net(random_images(2, *size))
    half = tuple(math.ceil(side / 2) for side in size)
    assert out["logits"].shape == (2, 11, *size) and out["features"].shape == (2, net.channels, *half)
    logits = F.interpolate(net.head(out["features"]), size, mode="bilinear", align_corners=False)
    assert torch.allclose(out["logits"], logits, atol=1e-6)  # the features say all that the logits do


@pytest.mark.parametrize("make", [lambda: UNet(4), lambda: TimmSegmenter(MOBILE, width=8)])
def test_a_shifted_image_gives_shifted_logits(make):
    """By whole cells of the coarsest map, and far from the border."""
    torch.manual_seed(0)
    net = make().eval()
    wide = random_images(1, 192, 384)
    left, right = net(wide)["logits"], net(wide.roll(64, -1))["logits"].roll(-64, -1)
    middle = (slice(None), slice(None), slice(64, 128), slice(128, 192))
    assert torch.allclose(left[middle], right[middle], atol=1e-2 * left.std().item())


def test_a_small_net_learns_stripes():
    torch.manual_seed(0)
    net, batch = UNet(4), batch_of(striped())
    colours = random_images(1, 1, 11)[0]
    batch["images"] = colours[:, 0, batch["labels"]].transpose(0, 1).contiguous()
    losses = []
    for _ in range(30):
        out = segmentation_step(net, batch)
        net.zero_grad()
        out["loss"].backward()
        with torch.no_grad():  # torch.optim takes seconds to import
            for p in net.parameters():
                p -= 0.3 * p.grad
        losses.append(out["loss"].item())
    assert losses[0] > 2 and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "make",
    [lambda: UNet(4), lambda: TimmSegmenter(MOBILE, width=8), lambda: PromptSegmenter(UNet(4), torch.randn(11, 6), 4)],
)
def test_every_parameter_gets_a_gradient(make):
    """DDP stops at one that does not."""
    net = make()
    segmentation_step(net, batch_of(striped()))["loss"].backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_a_backbone_sees_pixels_as_its_weights_were_trained():
    net, seen = TimmSegmenter("resnet18", width=8).eval(), []
    net.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(torch.full((1, 3, 32, 32), 124, dtype=torch.uint8))
    imagenet = zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    expected = [(124 / 255 - mean) / spread for mean, spread in imagenet]
    assert seen[0][0, :, 5, 7].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v9", "vit_tiny_patch16_224.none", "resnet18.none"])
def test_backbones_that_cannot_be_had_are_refused(name):
    with pytest.raises(InputError, match=f"backbone '{name}'") as told:
        TimmSegmenter(name)
    assert "\n" not in str(told.value)


def test_other_images_are_refused():
    for images, message in ((random_images(1, 31, 64), "at least 32 x 32"), (torch.rand(1, 3, 48, 64), "uint8")):
        with pytest.raises(InputError, match=message):
            UNet(4)(images)


@pytest.mark.parametrize("make", [lambda: UNet(8), lambda: TimmSegmenter("mobilenetv3_small_100", width=32)])
def test_a_step_on_a_real_frame(make, real_data):
    folder = real_data / "camvid"
    name = (folder / "train.txt").read_text().split()[0].rpartition("/")[2]
    image = np.asarray(Image.open(folder / "train" / name).convert("RGB"))
    label = np.asarray(Image.open(folder / "trainannot" / name).convert("L"))  # the palette's grey is the class
    batch = {
        "images": torch.tensor(image).permute(2, 0, 1)[None].repeat(2, 1, 1, 1),
        "labels": torch.tensor(label).long()[None].repeat(2, 1, 1),
        "labelled": torch.tensor([True, False]),
        "indices": [0, 1],
    }
    torch.manual_seed(0)
    out = segmentation_step(make(), batch)
    assert out["logits"].shape == (2, 11, 360, 480)
    assert out["loss"].item() == pytest.approx(math.log(11), rel=0.2)  # nothing learned yet: all classes alike


# --- prompts ----------------------------------------------------------------------------------------------------


def fixed_teacher(scale=10.0):
    torch.manual_seed(2)
    features, texts = torch.randn(2, 5, 3, 4), torch.randn(11, 6)
    teacher = PromptSegmenter(Fixed(features), texts, 5)
    with torch.no_grad():
        teacher.logit_scale.fill_(math.log(scale))
    return teacher, features, texts


def test_logits_are_cosines_times_the_scale():
    teacher, features, texts = fixed_teacher()
    out = teacher(torch.zeros(2, 3, 3, 4, dtype=torch.uint8))  # as large as the map: nothing is interpolated
    weight, bias = (p.detach().numpy() for p in teacher.project.parameters())
    for n, y, x in [(0, 0, 0), (1, 2, 3)]:
        seen = weight[:, :, 0, 0] @ features[n, :, y, x].numpy() + bias
        cosines = texts.numpy() @ seen / np.linalg.norm(seen) / np.linalg.norm(texts.numpy(), axis=1)
        assert out["logits"][n, :, y, x].tolist() == pytest.approx((10 * cosines).tolist(), abs=1e-4)
        assert out["features"][n, :, y, x].tolist() == pytest.approx(seen.tolist(), abs=1e-5)


def test_other_prompts_give_other_answers_without_training():
    teacher, _, texts = fixed_teacher()
    images, order = torch.zeros(2, 3, 3, 4, dtype=torch.uint8), torch.randperm(11)
    before = teacher(images)["logits"]
    teacher.set_prompts(3 * texts[order])
    assert torch.allclose(teacher(images)["logits"], before[:, order], atol=1e-5)
    for wrong in (texts[:10], texts[:, :5]):
        with pytest.raises(InputError, match=r"expected \(11, 6\)"):
            teacher.set_prompts(wrong)


def test_prompts_are_saved_but_not_trained_and_the_bodys_head_is_gone():
    teacher, _, texts = fixed_teacher()
    assert set(dict(teacher.named_parameters())) == {"project.weight", "project.bias", "logit_scale"}
    assert torch.allclose(teacher.state_dict()["prompts"], F.normalize(texts), atol=1e-6)
    other = PromptSegmenter(Fixed(torch.zeros(1)), torch.randn(11, 6), 5)
    other.load_state_dict(teacher.state_dict())
    assert torch.equal(other.prompts, teacher.prompts)


def test_the_scale_stays_below_clips_bound():
    images = torch.zeros(2, 3, 3, 4, dtype=torch.uint8)
    at, above = (fixed_teacher(scale)[0](images)["logits"] for scale in (100, 5000))
    assert torch.allclose(at, above) and at.abs().max() <= 100


def test_cosines_keep_their_precision_under_autocast():
    teacher, _, _ = fixed_teacher(100)
    images = torch.zeros(2, 3, 3, 4, dtype=torch.uint8)
    out = teacher(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = teacher(images)
    rebuilt = 100 * torch.einsum("ndhw,kd->nkhw", F.normalize(half["features"], dim=1), teacher.prompts)
    assert half["logits"].dtype == torch.float32 and torch.allclose(half["logits"], rebuilt, atol=1e-3)
    assert not torch.allclose(half["logits"], out["logits"], atol=1e-3)  # the projection did run in half precision


# --- the task ---------------------------------------------------------------------------------------------------


def by_hand(logits, labels, weights):
    """Cross-entropy in numpy, pixel by pixel."""
    total = weight = 0.0
    for n, y, x in np.ndindex(labels.shape):
        if labels[n, y, x] != 11:
            z = logits[n, :, y, x]
            w = weights[labels[n, y, x]]
            total += w * (np.log(np.exp(z).sum()) - z[labels[n, y, x]])
            weight += w
    return total / weight


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_cross_entropy_over_known_pixels_of_labelled_frames(weighted):
    labels = torch.randint(0, 12, (4, 5, 7), generator=torch.Generator().manual_seed(3))
    labels[1] = 11  # an unlabelled frame
    labels[2] = 11  # a labelled one that is void
    model = Table((4, 11, 5, 7))
    weights = torch.linspace(0.5, 3, 11) if weighted else torch.ones(11)
    batch = batch_of(labels, [True, False, True, True])
    out = segmentation_step(model, batch, weights if weighted else None)
    expected = by_hand(model.logits.detach().double().numpy(), labels.numpy(), weights.double().numpy())
    assert out["loss"].item() == pytest.approx(expected, rel=1e-5)
    out["loss"].backward()
    silent = (model.logits.grad == 0).all(1)
    assert torch.equal(silent, labels == 11)
    assert torch.equal(out["labels"], labels) and out["logits"] is model.logits


def test_labelled_frames_that_are_all_void_are_named():
    labels = torch.full((3, 48, 64), 11)
    with pytest.raises(InputError, match=r"frames \[40, 42\] of this batch are void"):
        segmentation_step(UNet(4), batch_of(labels, [True, False, True]))


def test_a_batch_without_labels_trains_by_the_terms_alone():
    student, teacher = Table((2, 11, 5, 7)), Table((2, 11, 5, 7))
    teacher.logits.data += 1 + torch.randn(2, 11, 5, 7)
    term = Term("kl", kd_kl, "logits", "logits")
    distiller = Distiller(student, LiveTeacher(teacher, lambda m, b, _: m(b["images"])), [term], segmentation_step)
    parts = distiller(batch_of(torch.full((2, 5, 7), 11), [False, False]))
    parts["loss"].backward()
    alone = torch.autograd.grad(kd_kl(student.logits, teacher.logits), student.logits)[0]
    assert parts["task"].item() == 0 and torch.allclose(student.logits.grad, alone)
    baseline = Distiller(student, student_step=segmentation_step)
    student.zero_grad()
    baseline(batch_of(torch.full((2, 5, 7), 11), [False, False]))["loss"].backward()
    assert student.logits.grad.abs().sum() == 0
