"""Car classifiers: shapes, what they refuse, the mean of probabilities, and the task of a batch half labelled."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import python
from torch import nn

from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.terms import Term
from kdnb.errors import InputError
from kdnb.metrics.cost import count_parameters
from kdnb.models.classifier import CarClassifier, Ensemble, PlainBackbone, classifier_step, mean_probabilities

CLASSES, TINY = 7, {"backbone": "plain", "hidden": 16, "width": 4}
TIMM = {"backbone": "test_efficientnet", "width": None, "channel_multiplier": 0.25}


def tiny(meta=2, seed=0, **changes):
    torch.manual_seed(seed)
    options = {**TINY, "classes": CLASSES, "meta": meta, **changes}
    return CarClassifier(**{name: value for name, value in options.items() if value is not None})


def batch_of(n=6, meta=2, labelled=None, size=40):
    rng = torch.Generator().manual_seed(1)
    known = torch.ones(n, dtype=torch.bool) if labelled is None else torch.tensor(labelled)
    labels = torch.randint(0, CLASSES, (n,), generator=rng)
    return {
        "images": torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=rng),
        "meta": torch.randn(n, meta, generator=rng),
        "labels": torch.where(known, labels, -1),
        "labelled": known,
        "indices": torch.arange(40, 40 + n),
    }


class Fixed(nn.Module):
    """Answers with its logits, whatever the image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits))

    def forward(self, images, meta=None):
        return {"logits": self.logits}


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 80)])
@pytest.mark.parametrize("changes", [{}, TIMM])
def test_logits_are_the_head_over_features_and_numbers(changes, size):
    net, batch = tiny(**changes).eval(), batch_of()
    images = F.interpolate(batch["images"].float(), size).byte()
    seen = net(images, batch["meta"])
    assert seen["logits"].shape == (6, CLASSES) and seen["features"].shape == (6, net.features)
    assert seen["logits"].dtype == torch.float32
    again = net.head(torch.cat([seen["features"], batch["meta"]], 1))
    assert torch.allclose(again, seen["logits"], atol=1e-6)


def test_pixels_reach_the_backbone_with_imagenets_mean_and_spread():
    net, seen = tiny().eval(), []
    net.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    net(images, torch.zeros(2, 2))
    expected = (torch.tensor([124, 116, 104]) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    assert torch.allclose(seen[0][1, :, 5, 7], expected, atol=1e-5)


def test_numbers_change_the_answer_only_where_there_are_any():
    batch = batch_of()
    told, blind = tiny(2).eval(), tiny(0).eval()
    assert not torch.allclose(
        told(batch["images"], batch["meta"])["logits"], told(batch["images"], batch["meta"] + 1)["logits"]
    )
    none, empty = blind(batch["images"])["logits"], blind(batch["images"], torch.zeros(6, 0))["logits"]
    assert torch.equal(none, empty)


def test_the_plain_backbone_counts_and_sees_as_its_words_say():
    """Parameters from the layers' table, and one cell for each 16 x 16 pixels."""
    width, net = 6, PlainBackbone(6)
    pairs = [(3, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8)]  # channels before and after, in widths but for 3
    inner = sum(9 * (a if a == 3 and b == 1 else a * width) * b * width + 2 * b * width for a, b in pairs)
    assert count_parameters(net) == inner and net.num_features == 8 * width
    assert net.layers(torch.zeros(2, 3, 64, 96)).shape == (2, 8 * width, 4, 6)
    assert net(torch.zeros(2, 3, 64, 96)).shape == (2, 8 * width)


def test_a_timm_model_that_widens_its_features_has_a_head_to_match():
    net = CarClassifier("mobilenetv3_small_050", CLASSES, 4, 16).eval()
    assert net(batch_of()["images"], torch.zeros(6, 4))["features"].shape == (6, net.features)
    assert net.features != net.backbone.num_features  # or this test shows nothing


def test_parameters_of_the_head_are_those_of_the_original():
    net = CarClassifier("test_efficientnet", CLASSES, 4)
    hidden, features = 512, 256
    assert count_parameters(net.head) == (features + 4 + 1) * hidden + 2 * hidden + (hidden + 1) * CLASSES
    assert [type(layer) for layer in net.head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    assert net.head[3].p == 0.3


def test_the_state_dict_is_plain(tmp_path):
    """What a user loads with torch.load(weights_only=True) answers as the network that was saved."""
    net, batch = tiny().eval(), batch_of()
    torch.save(net.state_dict(), tmp_path / "student.pth")
    other = tiny(seed=5).eval()
    other.load_state_dict(torch.load(tmp_path / "student.pth", weights_only=True))
    assert torch.equal(net(batch["images"], batch["meta"])["logits"], other(batch["images"], batch["meta"])["logits"])


def test_faults_in_one_line():
    net, batch = tiny(), batch_of()
    faults = [
        (lambda: CarClassifier("efficientnet_b55", 3), "backbone 'efficientnet_b55' is unknown to timm"),
        (lambda: CarClassifier("test_efficientnet", 3, depth=4), "test_efficientnet.*depth"),
        (lambda: CarClassifier("plain", 3, depth=4), "plain.*depth"),
        (lambda: CarClassifier("plain", 3, pretrained=True), "'plain' has no pretrained weights"),
        (lambda: CarClassifier("resnet18.of_nobody", 3, pretrained=True), "resnet18.of_nobody"),
        (lambda: net(batch["images"]), "meta has 0 columns, model expects 2"),
        (lambda: net(batch["images"], torch.zeros(6, 3)), "meta has 3 columns, model expects 2"),
        (lambda: net(batch["images"][:1], batch["meta"][:1]), "a batch of one image"),
        (lambda: net(batch["images"].float(), batch["meta"]), "expected uint8"),
        (lambda: Ensemble([]), "an ensemble of no models"),
        (lambda: Ensemble([net], "mean"), "average is 'mean'"),
    ]
    for call, message in faults:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


# --- ensembles --------------------------------------------------------------------------------------------------


def test_an_ensemble_averages_probabilities_not_logits():
    sure, unsure = [[9.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]
    softmax = [np.exp(row[0]) / np.exp(row[0]).sum() for row in (sure, unsure)]
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    together = Ensemble([Fixed(sure), Fixed(unsure)])(images)["logits"]
    assert np.allclose(together.exp().detach(), np.mean(softmax, 0)[None], atol=1e-6)
    one_scale = Ensemble([Fixed(sure), Fixed(unsure)], "logits")(images)["logits"]
    assert torch.allclose(one_scale, torch.tensor([[4.5, 0.5, 0.0]]))


def test_probabilities_that_float32_cannot_hold_are_averaged_in_the_logarithm():
    logits = torch.tensor([[[0.0, -200.0]], [[0.0, -300.0]]])
    expected = [[0.0, -200 - np.log(2)]]
    assert np.allclose(mean_probabilities(logits), expected, rtol=1e-6)


def test_an_ensemble_of_one_is_that_one_and_agreement_changes_nothing():
    batch, net = batch_of(), tiny().eval()
    alone = net(batch["images"], batch["meta"])["logits"].log_softmax(1)
    for models in ([net], [net, copy.deepcopy(net)]):
        assert torch.allclose(Ensemble(models).eval()(batch["images"], batch["meta"])["logits"], alone, atol=1e-5)


# --- the task ---------------------------------------------------------------------------------------------------


def test_the_loss_is_the_cross_entropy_of_the_labelled_images():
    labelled = [True, False, True, True, False, True]
    net, batch = tiny().eval(), batch_of(labelled=labelled)
    seen = classifier_step(net, batch)
    known = np.flatnonzero(labelled)
    log_p = seen["logits"].log_softmax(1).detach().numpy()
    expected = -log_p[known, batch["labels"].numpy()[known]].mean()
    assert seen["loss"].item() == pytest.approx(expected, rel=1e-5)
    # smoothed by 0.1: a tenth of each label is spread over all classes
    smoothed = 0.9 * expected - 0.1 * log_p[known].mean()
    assert classifier_step(net, batch, 0.1)["loss"].item() == pytest.approx(smoothed, rel=1e-5)


def test_labels_that_may_not_be_used_are_not_read():
    net, batch = tiny().eval(), batch_of(labelled=[True] * 3 + [False] * 3)
    first = classifier_step(net, batch)["loss"]
    batch["labels"] = batch["labels"].clone().index_fill(0, torch.tensor([3, 4, 5]), 2)
    assert torch.equal(classifier_step(net, batch)["loss"], first)


def test_a_batch_without_labels_teaches_through_the_term_alone():
    net, batch = tiny(), batch_of(labelled=[False] * 6)
    seen = classifier_step(net, batch)
    assert seen["loss"].item() == 0
    seen["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
    teacher = LiveTeacher(tiny(seed=1), lambda model, batch, seen: model(batch["images"], batch["meta"]))
    term = Term("logits", F.mse_loss, "logits", "logits")
    parts = Distiller(tiny(), teacher, [term], classifier_step)(batch)
    assert parts["task"].item() == 0 and parts["loss"].item() == pytest.approx(parts["logits"].item())


def test_a_label_beyond_the_classes_is_named_with_its_picture():
    batch = batch_of()
    batch["labels"][4] = CLASSES
    with pytest.raises(InputError, match=f"image 44 has label {CLASSES}, expected 0 to {CLASSES - 1}"):
        classifier_step(tiny(), batch)


def test_six_images_can_be_learned_by_heart():
    torch.manual_seed(0)
    net, batch = tiny(dropout=0.0), batch_of()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        classifier_step(net, batch)["loss"].backward()
        optimizer.step()
    assert (net(batch["images"], batch["meta"])["logits"].argmax(1) == batch["labels"]).all()


# --- full -------------------------------------------------------------------------------------------------------

STEP = """
import json, resource, sys, time
from pathlib import Path
import torch
from kdnb.datasets.car_views import CarViews, collate, meta_constants
from kdnb.models.classifier import CarClassifier, classifier_step

torch.set_num_threads(1)
torch.manual_seed(0)
items = [(path, place) for place, path in enumerate(sorted(Path(sys.argv[1]).rglob("train/*/*.jpg"))[::400][:2])]
views = CarViews(items, (384, 384), constants=meta_constants(items), keep=False)
batch = collate([views[0, "aug0"], views[1, "aug1"]])
model = CarClassifier("efficientnet_b5", 396, 4)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
start = time.process_time()
seen = classifier_step(model, batch)
seen["loss"].backward()
still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
optimizer.step()
print(json.dumps({"loss": seen["loss"].item(), "features": seen["features"].shape, "still": still,
                  "seconds": time.process_time() - start, "ids": batch["ids"], "images": batch["images"].shape,
                  "parameters": sum(p.numel() for p in model.parameters()),
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""


def test_a_step_of_full_on_two_real_cars(real_data, capsys):
    """The original's network and size, in a process of its own so that its peak memory can be told."""
    printed, _ = python("-c", STEP, real_data / "cars")
    told = json.loads(printed.splitlines()[-1])
    with capsys.disabled():
        print(f"\nEfficientNet-B5, one step on two cars at 384 px: {told['seconds']:.1f} CPU-s, {told['peak']:.1f} GiB")
    assert told["images"] == [2, 3, 384, 384] and told["features"] == [2, 2048] and len(set(told["ids"])) == 2
    assert told["still"] == [] and 0 < told["loss"] < 100
    # 28,340,784 of the backbone as timm and the paper count it, and the head
    assert told["parameters"] == 28_340_784 + (2048 + 4 + 1) * 512 + 2 * 512 + 513 * 396
    assert told["seconds"] < 60 and told["peak"] < 6
