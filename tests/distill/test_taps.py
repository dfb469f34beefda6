"""A tap gives what its module gave, whatever a later layer writes over it, and copies only where one does."""

import gc
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from kdnb.distill import taps
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.losses import cosine_loss
from kdnb.distill.taps import Taps
from kdnb.distill.terms import Term
from kdnb.errors import InputError


class Block(nn.Module):
    def __init__(self, after):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.after = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), after

    def forward(self, x):
        return self.after(self.bn(self.conv(x)))


def added(x):
    x += 1
    return x


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
WRITERS = {
    "an in-place module": nn.ReLU(inplace=True),
    "an in-place function": lambda x: F.relu(x, inplace=True),
    "+=": added,
    "a view": lambda x: x.flatten(1).mul_(2),
    "an index": lambda x: x.index_fill_(1, torch.tensor([0]), 0.0),
}
READERS = {"a copying module": nn.ReLU(), "nothing": nn.Identity(), "a view": lambda x: x.flatten(1)}


def clones(monkeypatch):
    """The tensors that are cloned from now on."""
    seen, clone = [], torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, **more: seen.append(self) or clone(self, **more))
    return seen


def true_output(net, images=IMAGES):
    return net.bn(net.conv(images))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("after", WRITERS.values(), ids=WRITERS)
def test_what_a_later_layer_writes_does_not_reach_the_tap(after, gradients):
    net = Block(after).eval()
    for _ in range(3):
        with torch.set_grad_enabled(gradients), Taps(net, ["bn"]) as seen:
            net(IMAGES)
            inside = seen["bn"]
        assert torch.equal(inside, true_output(net)) and torch.equal(seen["bn"], inside) and inside.min() < -1


@pytest.mark.parametrize("after", READERS.values(), ids=READERS)
def test_where_nothing_writes_the_tap_is_the_tensor_itself(after, monkeypatch):
    net, given = Block(after), []
    net.bn.register_forward_hook(lambda module, inputs, output: given.append(output.data_ptr()))
    for number in range(3):
        copies = clones(monkeypatch)
        with Taps(net, ["bn"]) as seen:
            net(IMAGES)
        assert seen["bn"].data_ptr() == given[-1]
        assert len(copies) == (number == 0)  # the first pass looks whether it has to
        assert seen.taken["bn"].copy is None  # and keeps nothing of it


def test_resnet18_of_torchvision():
    torch.manual_seed(0)
    net, images, true = resnet18(weights=None).eval(), torch.randn(1, 3, 64, 64), {}
    net.layer1[0].bn2.register_forward_hook(lambda module, inputs, output: true.update(bn2=output.clone()))
    with torch.no_grad(), Taps(net, ["layer1.0.bn2", "layer1.0.relu", "fc"]) as seen:
        net(images)
    assert torch.equal(seen["layer1.0.bn2"], true["bn2"]) and seen["layer1.0.bn2"].min() < -1
    assert seen["layer1.0.relu"].min() == 0 and seen["fc"].shape == (1, 1000)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("after", WRITERS.values(), ids=WRITERS)
def test_the_gradient_is_that_of_a_network_that_copies(after, train):
    """Of a term on the tap and of the task after it, as a network gives it that clones before it writes."""

    def gradients(net):
        net.train(train)
        for _ in range(2):
            net.zero_grad()
            with Taps(net, ["bn"]) as seen:
                out = net(IMAGES)
            (out.pow(2).mean() + 3 * (seen["bn"] - 1).abs().mean()).backward()
        return [parameter.grad for parameter in net.parameters()]

    ours, theirs = gradients(Block(after)), gradients(Block(lambda x: after(x.clone())))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_training_is_the_same_to_the_bit_with_or_without_the_first_copy():
    def trained(known):
        net = Block(nn.ReLU())
        if known:
            with Taps(net, ["bn"]):
                net(IMAGES)
            net.bn.reset_running_stats()
        with Taps(net, ["bn"]) as seen:
            out = net(IMAGES)
        tap = seen["bn"]
        (out.pow(2).mean() + tap.abs().mean() + (tap * tap).mean()).backward()
        return [parameter.grad for parameter in net.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


def test_tensors_in_collections_and_of_inference_mode():
    pair = namedtuple("pair", "fine coarse")

    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.neck = nn.Module()
            self.neck.forward = lambda x: {"a": [x * 2, None], "b": pair(x * 3, (x * 4,)), "size": 7}

        def forward(self, x):
            maps = self.neck(x)
            maps["a"][0].zero_()
            maps["b"].coarse[0].zero_()
            maps["b"] = None
            return maps

    for mode in (torch.enable_grad, torch.inference_mode, torch.inference_mode):
        net, x = Pyramid(), torch.arange(3.0)
        with mode(), Taps(net, ["neck"]) as seen:
            net(x.clone())
            maps = seen["neck"]
        assert torch.equal(maps["a"][0], 2 * x) and torch.equal(maps["b"].fine, 3 * x) and maps["size"] == 7
        assert torch.equal(maps["b"].coarse[0], 4 * x) and maps["a"][1] is None


def test_a_layer_that_writes_only_in_some_passes_is_told_and_then_copied():
    net = Block(nn.ReLU()).eval()
    with Taps(net, ["bn"]):
        net(IMAGES)
    net.after = nn.ReLU(inplace=True)
    with Taps(net, ["bn"]) as seen:
        net(IMAGES)
    with pytest.raises(InputError, match="^tap 'bn': a later layer of Block wrote over its output in this pass"):
        _ = seen["bn"]
    with Taps(net, ["bn"]) as seen:
        net(IMAGES)
    assert torch.equal(seen["bn"], true_output(net))


def test_a_module_called_twice_gives_its_last_output_and_paths_may_come_from_a_generator():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net.append(net[1])
    with Taps(net, (path for path in ["1"])) as seen:
        out = net(torch.randn(3, 4))
    assert torch.equal(seen["1"], out) and list(seen) == ["1"] and len(seen) == 1


def test_a_compiled_network_is_tapped_as_it_is():
    compiled = torch.compile(Block(nn.ReLU(inplace=True)).eval(), backend="eager")
    for _ in range(2):
        with torch.no_grad(), Taps(compiled, ["_orig_mod.bn"]) as seen:
            compiled(IMAGES)
        assert torch.equal(seen["_orig_mod.bn"], true_output(compiled._orig_mod))


def test_models_are_not_kept_alive():
    net = Block(nn.ReLU())
    with Taps(net, ["bn"]):
        net(IMAGES)
    before = len(taps.UNTOUCHED)
    del net
    gc.collect()
    assert len(taps.UNTOUCHED) == before - 1


# --- a module and a key of one name -----------------------------------------------------------------------------


class Named(nn.Module):
    """Has a module "features", as torchvision's MobileNets do."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)


def step_of(key, pool=lambda maps: maps.mean((2, 3))):
    def step(model, batch, *_):
        maps = model.features(batch)
        logits = model.head(maps.mean((2, 3)))
        return {"loss": logits.pow(2).mean(), key: pool(maps), "logits": logits}

    return step


def shapes_seen(student_key, teacher_key, tap, **options):
    shapes = []

    def loss(student, teacher):
        shapes.extend([tuple(student.shape), tuple(teacher.shape)])
        return (student.mean() - teacher.mean()) ** 2

    teacher = LiveTeacher(Named(), step_of(teacher_key, **options))
    Distiller(Named(), teacher, [Term("t", loss, tap, tap)], step_of(student_key, **options))(IMAGES)
    return shapes


def test_a_tap_that_is_a_module_and_a_key_is_refused_with_both_shapes():
    line = (
        r"^'features' is a module of Named, which gives \(2, 4, 6, 6\), and a key of its step's output, \(2, 4\): "
        "expected one of the two, rename the key$"
    )
    with pytest.raises(InputError, match=line):
        shapes_seen("features", "other", "features")
    with pytest.raises(InputError, match=line):
        shapes_seen("other", "features", "features")
    assert shapes_seen("other", "other", "features") == [(2, 4, 6, 6)] * 2
    assert shapes_seen("pooled", "pooled", "pooled") == [(2, 4)] * 2
    assert shapes_seen("features", "features", "logits") == [(2, 2)] * 2  # nobody asks for it
    assert shapes_seen("features", "features", "features", pool=lambda maps: maps) == [(2, 4, 6, 6)] * 2  # the same


def test_a_term_that_refuses_is_named():
    def wide(model, batch, *_):
        return {"logits": torch.zeros(2, 5)}

    term = Term("kd", cosine_loss, "logits", "logits")
    with pytest.raises(InputError, match=r"^term 'kd': vectors of student and teacher are \(2, 2\) and \(2, 5\)"):
        Distiller(Named(), LiveTeacher(Named(), wide), [term], step_of("pooled"))(IMAGES)


@pytest.mark.parametrize(
    ("outputs", "line"),
    [
        ({"logits": 1}, r"^the student's step gives \['logits'\], expected its task loss as 'loss'$"),
        ({"loss": torch.zeros(()), "parts": {"loss": 1}}, r"^parts of the task loss are named \['loss'\]"),
        ({"loss": torch.zeros(()), "parts": {"kd": 1, "box": 2}}, r"^parts of the task loss are named \['kd'\]"),
    ],
)
def test_names_of_a_step(outputs, line):
    terms = [Term("kd", cosine_loss, "logits", "logits")]
    with pytest.raises(InputError, match=line):
        Distiller(Named(), LiveTeacher(Named(), step_of("pooled")), terms, lambda model, batch: outputs)(IMAGES)


def test_names_of_terms_have_no_point():
    terms = [Term("layer1.bn", cosine_loss, "logits", "logits", nn.Linear(2, 2))]
    with pytest.raises(InputError, match=r"^names of terms are \['layer1.bn'\], expected some without a point$"):
        Distiller(Named(), LiveTeacher(Named(), step_of("pooled")), terms, step_of("pooled"))
