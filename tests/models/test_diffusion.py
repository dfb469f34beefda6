import copy
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from kdnb.errors import InputError
from kdnb.models.diffusion import DiffusionFeatures, DiffusionSegmenter, diffusion_step
from kdnb.models.prompts import class_embeddings, hashed_words, read_prompts
from kdnb.models.segmenter import PromptSegmenter
from kdnb.models.stable_diffusion import Diffusion, import_diffusers, stable_diffusion, tiny_diffusion

pytest.importorskip("diffusers", reason="needs the extra full: pip install 'kdnb[full]'")

PROMPTS = {"sky": ["sky", "blue"], "building": ["house"], "pole": ["a thin pole"]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_diffusion()


def random_images(n=2, height=64, width=96):
    shape = (n, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def batch_of(images):
    labels = torch.full((len(images), *images.shape[2:]), 11)
    labels[0, :, :32], labels[0, :, 32:64] = 0, 2
    return {
        "images": images,
        "labels": labels,
        "labelled": (labels != 11).flatten(1).any(1),
        "indices": list(range(len(images))),
    }


def same(one, other):
    return all(torch.equal(one[block], other[block]) for block in one)


# --- what is read -----------------------------------------------------------------------------------------------


def test_maps_are_what_the_modules_compute(model):
    """With hooks of our own: the convolutions before the shortcut, and the attentions as what their block projects."""
    features, images = DiffusionFeatures(model, PROMPTS), random_images()
    seen, blocks = {}, model.unet.up_blocks
    hooks = [
        module.register_forward_hook(lambda m, given, out, path=path: seen.__setitem__(path, (given, out)))
        for path, module in model.unet.named_modules()
        if path.startswith("up_blocks")
    ]
    found = features(images)
    for hook in hooks:
        hook.remove()
    assert [found[b].shape[1:] for b in "0123"] == [(48, 1, 2), (96, 2, 3), (48, 4, 6), (48, 8, 12)]
    for number in range(4):
        own, channels = found[str(number)], blocks[number].resnets[0].conv2.out_channels
        parts = own.split(channels, 1)
        order = [path for path in features.taps if path.startswith(f"up_blocks.{number}.")]
        for path, part in zip(order, parts, strict=True):
            if "resnets" in path:
                assert torch.equal(part, seen[path][1])
            else:  # Transformer2DModel: output = projection(map) + input
                attention = path.removesuffix(".transformer_blocks.0")
                (given, *_), (out, *_) = seen[attention]
                module = model.unet.get_submodule(attention)
                assert torch.allclose(module.proj_out(part) + given, out, atol=1e-5)
    assert len(features.taps) == 12 + 9 and features.channels == {b: m.shape[1] for b, m in found.items()}


def test_noise_is_added_as_by_diffusers(model):
    features, latents = DiffusionFeatures(model, step=300, seed=4), torch.randn(3, 4, 8, 12)
    schedule = import_diffusers().DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(4))
    expected = schedule.add_noise(latents, noise.expand(3, -1, -1, -1), torch.tensor([300] * 3))
    assert torch.allclose(features.noisy(latents), expected, atol=1e-5)


def test_the_same_image_gives_the_same_maps_whatever_is_beside_it(model):
    features, images = DiffusionFeatures(model, PROMPTS), random_images(3)
    torch.manual_seed(1)
    together = features(images)
    torch.manual_seed(2)
    alone = features(images[1:2])
    assert all(torch.allclose(together[b][1], alone[b][0], atol=1e-4) for b in alone)


def test_prompts_step_and_seed_change_the_maps_and_the_key(model):
    images = random_images(1)
    makers = [{}, {"prompts": PROMPTS}, {"prompts": {"sky": ["cloud"]}}, {"step": 101}, {"seed": 1}]
    made = [DiffusionFeatures(model, **how) for how in makers]
    maps = [one(images)["3"] for one in made]
    for i in range(len(made)):
        for j in range(i):
            assert not torch.allclose(maps[i], maps[j], atol=1e-6) and made[i].key() != made[j].key()
    assert made[1].key() == DiffusionFeatures(model, PROMPTS).key()
    with pytest.raises(InputError, match="time step 1000, expected 0 to 999"):
        DiffusionFeatures(model, step=1000)


@pytest.mark.parametrize(
    "size, short_side, finest", [((36, 50), None, (4, 6)), ((120, 160), 60, (8, 10)), ((60, 100), None, (8, 12))]
)
def test_any_size_in_whole_cells(model, size, short_side, finest):
    maps = DiffusionFeatures(model, short_side=short_side)(random_images(1, *size))
    assert maps["3"].shape[2:] == finest and maps["2"].shape[2:] == tuple(-(-side // 2) for side in finest)


def test_fewer_taps(model):
    features = DiffusionFeatures(model, taps=["up_blocks.1.resnets.2.conv2", "up_blocks.3.resnets.0.conv2"])
    assert features.channels == {"1": 16, "3": 8}
    assert DiffusionSegmenter(features, width=4)(random_images(1))["features"].shape == (1, 4, 8, 12)
    with pytest.raises(InputError, match="'up_blocks.9' is not a module"):
        DiffusionFeatures(model, taps=["up_blocks.9"])


def test_a_unet_in_half_precision_and_training_under_autocast(model):
    """As on a GPU; what comes out is float32 and close, and does not hang on how the student trains."""
    images, expected = random_images(1), DiffusionFeatures(model, PROMPTS)(random_images(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(DiffusionFeatures(model, PROMPTS)(images), expected)
    half = Diffusion(copy.deepcopy(model.unet).half(), model.vae, model.encode, model.alphas)
    found = DiffusionFeatures(half, PROMPTS)(images)
    for block, maps in expected.items():
        assert found[block].dtype == torch.float32
        assert torch.allclose(found[block], maps, atol=0.02) and not torch.equal(found[block], maps)


# --- the folder -------------------------------------------------------------------------------------------------


def test_kept_maps_are_the_computed_ones_and_nothing_runs_twice(model, tmp_path, monkeypatch):
    images, live = random_images(3), DiffusionFeatures(model, PROMPTS)
    kept = DiffusionFeatures(model, PROMPTS, folder=tmp_path)
    first = kept(images[:2])
    assert all(torch.allclose(first[b], live(images[:2])[b], rtol=2e-3, atol=1e-3) for b in first)
    ran, compute = [], DiffusionFeatures.compute
    monkeypatch.setattr(DiffusionFeatures, "compute", lambda self, x, y=None: ran.append(len(x)) or compute(self, x, y))
    assert same(kept(images[:2]), first) and ran == []
    mixed = kept(images[[2, 0]])
    assert ran == [1] and all(torch.equal(mixed[b][1], first[b][0]) for b in first)
    kept(images[:1].flip(-1))
    assert ran == [1, 1]
    files = sorted(path.name for path in kept.folder.iterdir())
    assert len(files) == 4 and all(name.endswith(".safetensors") for name in files)
    again = DiffusionFeatures(model, PROMPTS, folder=tmp_path)
    ran.clear()
    assert same(again(images[:2]), first) and ran == []  # another process finds them
    assert DiffusionFeatures(model, {"sky": ["sky"]}, folder=tmp_path).folder != kept.folder


def test_a_killed_write_leaves_no_broken_file(model, tmp_path, monkeypatch):
    kept = DiffusionFeatures(model, folder=tmp_path)

    def killed(tensors, path):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kdnb.models.diffusion.save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            kept(random_images(1))
    assert not list(kept.folder.glob("*.safetensors"))
    kept(random_images(1))
    assert len(list(kept.folder.glob("*.safetensors"))) == 1


# --- training ---------------------------------------------------------------------------------------------------


def test_only_the_decoder_is_trained_and_saved(model):
    torch.manual_seed(0)
    embeddings = class_embeddings(read_prompts(), "label", hashed_words(12))
    for net in (
        DiffusionSegmenter(DiffusionFeatures(model), width=8),
        PromptSegmenter(DiffusionSegmenter(DiffusionFeatures(model, PROMPTS), width=8), embeddings, 8),
    ):
        out = diffusion_step(net.train(), batch_of(random_images()))
        out["loss"].backward()
        assert out["logits"].shape == (2, 11, 64, 96) and torch.isfinite(out["loss"])
        assert [name for name, p in net.named_parameters() if p.grad is None] == []
        assert sum(p.numel() for p in net.parameters()) < 20_000 < sum(p.numel() for p in model.unet.parameters())
        assert not any("unet" in name for name in net.state_dict())
    assert not any(p.requires_grad for part in (model.unet, model.vae) for p in part.parameters())


def test_mask_steps_warn_and_feed_the_truth_while_training_only(model):
    with pytest.warns(UserWarning, match="leaks the ground truth"):
        features = DiffusionFeatures(model, PROMPTS, mask_steps=True)
    images = random_images()
    batch, plain = batch_of(images), DiffusionFeatures(model, PROMPTS)(images)["3"]
    told = features(images, batch["labels"])["3"]
    sky = DiffusionFeatures(model, {"sky": PROMPTS["sky"]})(images)["3"]
    # labels 0 and 2 each cover four columns of cells of the first image; the rest and the second one have none
    assert torch.allclose(told[0, :, :, :4], sky[0, :, :, :4], atol=1e-5)
    assert torch.equal(told[0, :, :, 8:], plain[0, :, :, 8:]) and torch.equal(told[1], plain[1])
    assert not torch.allclose(told[0, :, :, 4:8], plain[0, :, :, 4:8], atol=1e-6)
    net = DiffusionSegmenter(features, width=8).eval()
    seen = diffusion_step(net, batch)["features"]
    assert torch.equal(seen, net.feature_map(images))
    for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 0.0  # training would change them, too
    trained = diffusion_step(net.train(), batch)["features"]
    assert not torch.allclose(trained, net.feature_map(images), atol=1e-6) and net.truth is None


def test_without_mask_steps_labels_are_not_looked_at(model, tmp_path):
    features, images = DiffusionFeatures(model, PROMPTS, folder=tmp_path), random_images()
    net, batch = DiffusionSegmenter(features, width=8).train(), batch_of(images)
    first = diffusion_step(net, batch)["features"]
    assert torch.equal(first, diffusion_step(net, {**batch, "labels": batch["labels"].flip(-1)})["features"])
    assert same(features(images, batch["labels"]), features(images)) and len(list(features.folder.iterdir())) == 2


def test_a_step_on_a_real_frame(model, real_data):
    folder = real_data / "camvid"
    name = (folder / "train.txt").read_text().split()[0].rpartition("/")[2]
    images = pil_to_tensor(Image.open(folder / "train" / name).convert("RGB"))[None]
    labels = pil_to_tensor(Image.open(folder / "trainannot" / name).convert("L")).long()
    texts = read_prompts().texts("orthogonal_concept")
    net = DiffusionSegmenter(DiffusionFeatures(model, texts), width=8)
    batch = {"images": images, "labels": labels, "labelled": torch.tensor([True]), "indices": [0]}
    out = diffusion_step(net, batch)
    out["loss"].backward()
    assert out["logits"].shape == (1, 11, 360, 480) and out["features"].shape == (1, 8, 45, 60)
    assert 0 < out["loss"].item() < 5


# --- the hub's layout -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A Stable Diffusion of random weights, laid out as the hub's, with a vocabulary of single letters."""
    import transformers

    root = tmp_path_factory.mktemp("tiny-stable-diffusion")
    model.unet.save_pretrained(root / "unet")
    model.vae.save_pretrained(root / "vae")
    schedule = import_diffusers().DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule.save_pretrained(root / "scheduler")
    letters = [chr(i) for i in range(97, 123)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (root / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 12})
    )
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    transformers.CLIPTextModel(config).eval().save_pretrained(root / "text_encoder")
    return root


def test_a_folder_in_the_hubs_layout_is_read(model, folder):
    read = stable_diffusion(str(folder))
    assert torch.allclose(read.alphas, model.alphas, atol=1e-5)
    assert not any(p.requires_grad for p in read.unet.parameters())
    car, long = read.encode(["car", "an endless sentence of words"])
    assert car.shape == (5, 16) and long.shape == (12, 16)  # three letters with start and end; cut at twelve
    read.encode, images = model.encode, random_images(1)
    found, expected = DiffusionFeatures(read, PROMPTS)(images), DiffusionFeatures(model, PROMPTS)(images)
    assert all(torch.allclose(found[b], expected[b], atol=1e-5) for b in expected)


def test_padding_would_not_change_a_words_state(folder):
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    tower = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").eval()
    padded = tokenizer("car", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = tower(padded).last_hidden_state[0, :5]
    (car,) = stable_diffusion(str(folder)).encode(["car"])
    assert padded.shape == (1, 12) and torch.allclose(car, states, atol=1e-5)


def test_models_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be loaded") as told:
        stable_diffusion(str(tmp_path))
    assert "\n" not in str(told.value)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'kdnb\[full\]'"):
        stable_diffusion("any")


def test_interpolation_of_labels_takes_the_nearest(model):
    """A cell is told the class of the pixel at its upper left corner, as torch's nearest picks it."""
    with pytest.warns(UserWarning):
        features = DiffusionFeatures(model, PROMPTS, mask_steps=True)
    images, labels = random_images(1), torch.full((1, 64, 96), 11)
    labels[:, ::8, ::8] = 0
    told, sky = features(images, labels)["3"], DiffusionFeatures(model, {"sky": PROMPTS["sky"]})(images)["3"]
    assert torch.allclose(told, sky, atol=1e-5)
    assert F.interpolate(labels[:, None].float(), (8, 12), mode="nearest").unique().tolist() == [0]
