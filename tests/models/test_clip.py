import copy
import math
import socket
import warnings
from types import SimpleNamespace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kdnb.distill.distiller import Distiller
from kdnb.errors import InputError
from kdnb.models.clip import (
    build_tokenizer,
    contrastive_step,
    encode_images,
    encode_text_tokens,
    encode_texts,
    full_teacher,
    lite_teacher,
    normalised,
    use_normalisation,
)

TEXTS = ["a red car", "a photo of a small blue truck on the left", "a red car", "a person"]


@pytest.fixture(scope="module")
def lite():
    torch.manual_seed(0)
    model = lite_teacher()
    return model, build_tokenizer()


def random_images(n=2, size=32):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels_are_normalised_as_open_clip_does():
    picture = random_images(1)[0]
    transform = open_clip.image_transform(32, is_train=False)
    theirs = transform(Image.fromarray(picture.permute(1, 2, 0).numpy()))
    assert torch.allclose(normalised(picture[None])[0], theirs, atol=1e-5)


@pytest.mark.parametrize("wrong", [torch.rand(2, 3, 32, 32), random_images()[0], random_images()[:, :1]])
def test_other_pixels_are_refused(wrong):
    with pytest.raises(InputError, match=r"expected uint8 \(N, 3, H, W\)"):
        normalised(wrong)


def test_the_lite_teacher_needs_no_network(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("tried to open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    model = lite_teacher()
    assert encode_texts(model, build_tokenizer(), TEXTS).shape == (4, 128)


def test_embeddings_are_unit_vectors_of_one_space(lite):
    model, tokenizer = lite
    images, texts = encode_images(model.eval(), random_images(5)), encode_texts(model, tokenizer, TEXTS)
    assert images.shape == (5, 128) and texts.shape == (4, 128)
    assert torch.allclose(torch.cat([images, texts]).norm(dim=1), torch.ones(9))
    assert not texts.requires_grad and torch.equal(texts[0], texts[2]) and not torch.allclose(texts[0], texts[3])
    own = model.encode_text(tokenizer(TEXTS), normalize=True)
    assert torch.allclose(texts, own, atol=1e-6)


def test_each_distinct_string_is_encoded_once(lite, monkeypatch):
    model, tokenizer = lite
    seen = []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda tokens: seen.append(len(tokens)) or encode(tokens))
    assert encode_texts(model, tokenizer, TEXTS * 200).shape == (800, 128)
    assert seen == [3]
    encode_texts(model, tokenizer, [f"car {i}" for i in range(300)])
    assert seen[1:] == [256, 44]


def test_encoding_leaves_the_mode_as_it_was(lite):
    model, tokenizer = lite
    model.train()
    encode_texts(model, tokenizer, TEXTS)
    assert model.training


def token_states_give_the_embedding(model, tokenizer):
    """Projecting the state of the last token that is not padding must give the text's embedding."""
    states, padding = encode_text_tokens(model, tokenizer, TEXTS)
    lengths = [len(tokenizer.encode(text)) + 2 for text in TEXTS]
    assert states.shape == (4, max(lengths), model.ln_final.weight.shape[0])
    assert (~padding).sum(1).tolist() == lengths
    last = states[torch.arange(4), torch.tensor(lengths) - 1]
    pooled = F.normalize(last @ model.text_projection, dim=1)
    assert torch.allclose(pooled, encode_texts(model, tokenizer, TEXTS), atol=1e-5)


def test_token_states_of_the_lite_teacher(lite):
    token_states_give_the_embedding(*lite)
    attention = torch.nn.MultiheadAttention(128, 2, batch_first=True)
    states, padding = encode_text_tokens(*lite, TEXTS)
    read = [
        attention(torch.ones(4, 1, 128), filled, filled, key_padding_mask=padding)[0]
        for filled in (states, states.masked_fill(padding[..., None], 9.0))
    ]
    assert torch.allclose(*read)  # the mask is the one that torch's attention wants


def test_token_states_of_vit_b_32():
    """The original's text tower from random weights; some 3 s, nearly all for drawing 151 M weights."""
    torch.manual_seed(0)
    model = full_teacher("ViT-B-32")
    token_states_give_the_embedding(model, build_tokenizer("ViT-B-32"))


def test_token_states_of_other_towers_are_refused(lite):
    model = copy.deepcopy(lite[0])
    model.text_pool_type = "last"
    with pytest.raises(InputError, match="pools by 'last'"):
        encode_text_tokens(model, lite[1], TEXTS)


def test_texts_that_say_nothing_are_refused(lite):
    for texts, message in (([], "no texts"), (["a car", " "], "text 1 is ' '"), ([None], "text 0 is None")):
        for encode in (encode_texts, encode_text_tokens):
            with pytest.raises(InputError, match=message):
                encode(*lite, texts)


def test_images_of_another_size_are_refused(lite):
    with pytest.raises(InputError, match=r"\(64, 64\) pixels, expected the teacher's \(32, 32\)"):
        encode_images(lite[0], random_images(size=64))


def test_unknown_models_and_weights_are_refused():
    with pytest.raises(InputError, match="no model 'ViT-B-23'; expected .*ViT-B-32"):
        full_teacher("ViT-B-23")
    with pytest.raises(InputError, match="'laion' .*known weights: .*laion2b_s34b_b79k"):
        full_teacher("ViT-B-32", "laion")


def test_a_contrastive_step_is_clips_loss_and_trains_both_towers(lite):
    model, tokenizer = lite
    batch = {
        "images": random_images(3),
        "tokens": tokenizer(["a red car", "a bus", "a tree"]),
        "positive": torch.eye(3, dtype=torch.bool),
    }
    model.eval().zero_grad()
    parts = Distiller(model, student_step=contrastive_step)(batch)
    pixels = normalised(batch["images"])
    images, texts, scale = model(pixels, batch["tokens"])
    assert parts["loss"].item() == pytest.approx(open_clip.ClipLoss()(images, texts, scale).item(), rel=1e-5)
    parts["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["token_embedding.weight"]


def test_the_scale_stays_below_clips_bound(lite):
    model, tokenizer = lite
    batch = {
        "images": random_images(2),
        "tokens": tokenizer(["a red car", "a bus"]),
        "positive": torch.eye(2, dtype=torch.bool),
    }
    at_bound = []
    for value in (math.log(100), 9.0):
        with torch.no_grad():
            model.eval().logit_scale.fill_(value)
        at_bound.append(contrastive_step(model, batch)["loss"].item())
    assert at_bound[0] == pytest.approx(at_bound[1], rel=1e-5)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(1 / 0.07))


def test_texts_longer_than_the_context_are_told_once(lite):
    model, tokenizer = lite
    long = ["the red car " * 20 + word for word in ("left", "right")]
    with pytest.warns(UserWarning, match=f"2 of 3 texts are longer than {model.context_length} tokens") as told:
        encode_texts(model, tokenizer, [*long, "a red car", *long])
    assert len(told) == 1
    words = "car " * (model.context_length - 2)  # with start and end exactly as long as there is room
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_texts(model, tokenizer, [words])


def test_a_model_without_weights_can_normalise_as_its_tag_expects():
    """What a run read back needs: the weights come from its folder, the mean and spread from the tag."""
    model = SimpleNamespace(visual=SimpleNamespace(image_mean=None, image_std=None))
    use_normalisation(model, "ViT-B-16-SigLIP", "webli")
    assert tuple(model.visual.image_mean) == tuple(model.visual.image_std) == (0.5, 0.5, 0.5)
    before = use_normalisation(SimpleNamespace(visual=SimpleNamespace(image_mean=(1, 2, 3))), "small", None)
    assert before.visual.image_mean == (1, 2, 3)
