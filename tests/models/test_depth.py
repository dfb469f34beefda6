import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.errors import InputError
from kdnb.metrics.depth import evaluate_depth
from kdnb.models.depth import DepthModel, depth_model, hf_depth, require_metres
from kdnb.models.depth_net import FAR, NEAR, TinyDepth, bounded_depth, depth_step, silog, sparse_l1

IMAGE = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)


def test_silog_of_a_common_factor_leaves_what_the_focus_leaves():
    truth = torch.rand(3, 4, 5) * 50 + 1
    for focus in (0.0, 0.85, 1.0):
        expected = math.log(1.3) * math.sqrt(1 - focus)
        assert silog(1.3 * truth, truth, focus).item() == pytest.approx(expected, abs=2e-3)


def test_silog_of_two_pixels_by_hand():
    found = silog(torch.tensor([2.0, 3.0, 99.0]), torch.tensor([1.0, 1.0, 0.0]))
    a, b = math.log(2), math.log(3)
    assert found.item() == pytest.approx(math.sqrt((a * a + b * b) / 2 - 0.85 * ((a + b) / 2) ** 2), abs=2e-4)


def test_losses_are_zero_and_smooth_when_all_is_right_or_nothing_was_measured():
    for truth in (torch.full((2, 3), 7.0), torch.zeros(2, 3)):
        found = torch.full((2, 3), 7.0, requires_grad=True)
        loss = silog(found, truth) + sparse_l1(found, truth)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-6) and found.grad.isfinite().all()


def test_l1_counts_measured_pixels_only():
    assert sparse_l1(torch.tensor([5.0, 9.0, 1.0]), torch.tensor([4.0, 12.0, 0.0])).item() == pytest.approx(2.0)


def test_depth_stays_within_its_bounds():
    depth = bounded_depth(torch.tensor([-100.0, 0.0, 100.0]))
    assert depth.tolist() == pytest.approx([NEAR, math.sqrt(NEAR * FAR), FAR], rel=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (50, 67), (33, 161)])
def test_the_network_takes_any_size(size):
    assert TinyDepth()(torch.zeros(2, 3, *size, dtype=torch.uint8)).shape == (2, *size)


def test_the_network_is_small_and_learns_a_ground_plane():
    torch.manual_seed(0)
    net = TinyDepth((32, 64), widths=(8, 12, 16, 24, 32))
    assert sum(p.numel() for p in TinyDepth().parameters()) < 300_000
    depth = (40 / (torch.arange(32.0) + 1))[:, None].expand(32, 64).clamp(2, 60)[None].repeat(2, 1, 1)
    batch = {"images": torch.randint(0, 255, (2, 3, 32, 64), dtype=torch.uint8), "depth": depth}
    losses = []
    for _ in range(40):
        out = depth_step(net, batch)
        net.zero_grad()
        out["loss"].backward()
        with torch.no_grad():  # torch.optim takes seconds to import
            for p in net.parameters():
                p -= 0.1 * p.grad
        losses.append(out["loss"].item())
    assert set(out["parts"]) == {"silog", "l1"} and losses[-1] < 0.25 * losses[0]


def test_tiny_depth_of_an_image_of_another_size():
    net = TinyDepth((32, 64))
    model = depth_model("tiny", net)
    depth = model(IMAGE)
    assert depth.shape == (50, 70) and depth.dtype == np.float32 and NEAR <= depth.min() <= depth.max() <= FAR
    net.depth.bias.data += 1
    assert depth_model("tiny", net).name != model.name  # other weights, other clouds


def test_folder_reads_png_and_npy_in_metres(tmp_path):
    metres = np.round(np.random.default_rng(1).uniform(0, 80, (50, 70)) * 256).astype(np.uint16)
    Image.fromarray(metres).save(tmp_path / "000001.png")
    np.save(tmp_path / "000002.npy", np.where(metres > 3000, np.inf, metres / 256))
    model = depth_model(f"folder:{tmp_path}")
    np.testing.assert_array_equal(model(IMAGE, "000001"), (metres / 256).astype(np.float32))
    np.testing.assert_allclose(model(IMAGE, "000002"), np.where(metres > 3000, 0, metres / 256), rtol=1e-6)


def test_folder_names_what_is_missing_or_wrong(tmp_path):
    Image.fromarray(IMAGE[..., 0]).save(tmp_path / "eight.png")
    (tmp_path / "text.png").write_text("no picture")
    np.save(tmp_path / "whole.npy", np.ones((50, 70), np.uint16))
    np.save(tmp_path / "small.npy", np.ones((5, 7)))
    np.save(tmp_path / "below.npy", -np.ones((50, 70)))
    model = depth_model(f"folder:{tmp_path}")
    for frame, message in (
        ("000009", "000009.png: no such file"),
        ("eight", "mode L, expected a 16-bit PNG"),
        ("text", "not an image, expected a 16-bit PNG"),
        ("whole", "uint16.*floating point metres"),
        ("small", r"\(5, 7\), expected \(50, 70\)"),
        ("below", "down to -1"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            model(IMAGE, frame)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such folder"):
        depth_model(f"folder:{tmp_path / 'none'}")


@pytest.mark.parametrize(
    ("factor", "file", "hint"),
    [
        (1, "png", None),
        (1000 / 256, "png", "0.256 times as large, so these look like millimetres in PNGs, which hold metres x 256"),
        (1000, "npy", "0.001 times as large, so these look like millimetres"),
        (1 / 8, "npy", "8 times as large, so these look like a share of 10 m where weights of KITTI mean 80 m"),
        (3, "npy", "0.333 times as large"),
        (0, "npy", "no depth at any of the pixels that the LiDAR measured"),
    ],
)
def test_depth_that_is_not_in_metres_is_refused_with_its_scale(tmp_path, factor, file, hint):
    truth = np.random.default_rng(2).uniform(4, 60, (50, 70)).astype(np.float32)
    if file == "png":
        Image.fromarray(np.round(truth * factor * 256).astype(np.uint16)).save(tmp_path / "a.png")
    else:
        np.save(tmp_path / "a.npy", truth * factor)
    model = depth_model(f"folder:{tmp_path}")
    errors = evaluate_depth([(model(IMAGE, "a"), truth)])
    if hint is None:
        require_metres(model, errors)
        return
    with pytest.raises(InputError) as caught:
        require_metres(model, errors)
    assert str(caught.value).startswith(f"folder-{tmp_path}: ") and str(caught.value).endswith(
        (hint, f"{hint}, expected metres")
    )


@pytest.mark.parametrize("spec", ["", "tiny", "hf:", "midas", "folder:"])
def test_an_unknown_spec_names_the_known_ones(spec):
    with pytest.raises(InputError, match="'hf:<model id>' or 'folder:<path>'"):
        depth_model(spec)


def test_a_wrong_size_is_refused():
    with pytest.raises(InputError, match=r"\(2, 2\), expected \(50, 70\)"):
        DepthModel("two", lambda image, frame: np.ones((2, 2)))(IMAGE)


def test_missing_transformers_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'kdnb\[full\]'"):
        depth_model("hf:some/model")


@pytest.fixture(scope="module")
def glpn(tmp_path_factory):
    """A GLPN with random weights and the library's default ``max_depth`` of 10, as the hub's older ones have it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        decoder_hidden_size=16,
        num_attention_heads=[1, 1, 1, 1],
        mlp_ratios=[1, 1, 1, 1],
    )
    folder = tmp_path_factory.mktemp("glpn")
    torch.manual_seed(0)
    transformers.GLPNForDepthEstimation(config).save_pretrained(folder)
    transformers.GLPNImageProcessor().save_pretrained(folder)
    return str(folder)


def test_glpn_speaks_in_shares_of_80_metres(glpn):
    model = depth_model(f"hf:{glpn}")
    depth = model(IMAGE)
    assert depth.shape == (50, 70) and 0 < depth.min() <= depth.max() < 80 and depth.mean() > 10
    np.testing.assert_allclose(depth, 8 * hf_depth(glpn, max_depth=10)(IMAGE), rtol=1e-5)
    np.testing.assert_allclose(depth, hf_depth(glpn, max_depth=10, factor=8)(IMAGE), rtol=1e-5)


def test_glpn_is_not_scaled_twice(glpn):
    with pytest.raises(InputError, match="a factor of 8 would scale twice.*already reaches 80 m"):
        depth_model(f"hf:{glpn}", factor=8)


def test_relative_depth_is_refused_with_the_reason(tmp_path):
    transformers = pytest.importorskip("transformers")
    configs = (transformers.DepthAnythingConfig(), transformers.DPTConfig(), transformers.ResNetConfig())
    for k, (config, message) in enumerate(zip(configs, ("relative", "relative", "not known"), strict=True)):
        config.save_pretrained(tmp_path / str(k))
        with pytest.raises(InputError, match=message) as caught:
            depth_model(f"hf:{tmp_path / str(k)}")
        assert "\n" not in str(caught.value)


def test_a_metric_depth_anything_is_welcome_and_a_missing_model_is_not():
    transformers = pytest.importorskip("transformers")
    from kdnb.models.depth import metric_limit

    config = transformers.DepthAnythingConfig(depth_estimation_type="metric", max_depth=80)
    assert metric_limit("some/model", config, 10) == 80
    with pytest.raises(InputError, match="cannot be loaded"):
        depth_model("hf:./no/such/folder")
