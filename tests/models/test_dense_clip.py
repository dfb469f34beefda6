import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from kdnb.errors import InputError
from kdnb.models.clip import normalised_for
from kdnb.models.dense_clip import DenseClip, positions_for
from kdnb.models.prompts import class_embeddings, read_prompts
from kdnb.models.segmenter import PromptSegmenter, segmentation_step

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def tiny(monkeypatch):
    """A ViT of open_clip's own classes that takes no seconds to draw."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY).eval()
    nn.init.normal_(model.visual.transformer.resblocks[-1].attn.in_proj_bias)  # or a bias left out would not show
    monkeypatch.setattr("kdnb.models.dense_clip.full_teacher", lambda name, pretrained: model)
    return DenseClip("ViT-B-32")


def random_images(n, height, width):
    shape = (n, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def with_attention(visual, tokens, mask=None):
    """The last block, normalisation and projection by open_clip's own modules."""
    return visual.ln_post(visual.transformer.resblocks[-1](tokens, attn_mask=mask)) @ visual.proj


def check_against_open_clip(dense, images):
    """The class token must become CLIP's embedding; a patch that may see only itself must become its dense feature."""
    visual = dense.visual
    with torch.no_grad():
        pixels = normalised_for(visual, images)
        tokens = dense.before_last_block(pixels)
        assert torch.allclose(with_attention(visual, tokens)[:, 0], visual(pixels), atol=1e-4)
        alone = torch.full((tokens.shape[1],) * 2, float("-inf")).fill_diagonal_(0)
        expected = with_attention(visual, tokens, alone)[:, 1:].transpose(1, 2)
    found = dense(images)
    side = visual.grid_size[0]
    assert torch.allclose(found.flatten(2), F.normalize(expected, dim=1), atol=1e-5)
    assert found.shape == (len(images), dense.channels, side, side)
    gathered = F.normalize(with_attention(visual, tokens)[:, 1:].transpose(1, 2), dim=1)
    assert not torch.allclose(found.flatten(2), gathered, atol=1e-3)  # the attention does change something


def test_dense_features_are_the_last_block_without_its_attention(tiny):
    check_against_open_clip(tiny, random_images(2, 32, 32))


def test_a_patch_is_told_apart_in_row_and_column(tiny):
    """Row by row, as the label map is."""
    images = random_images(1, 32, 32)
    with torch.no_grad():
        tokens = tiny.before_last_block(normalised_for(tiny.visual, images))
        alone = torch.full((17, 17), float("-inf")).fill_diagonal_(0)
        one = with_attention(tiny.visual, tokens, alone)[0, 1 + 2 * 4 + 3]
    assert torch.allclose(tiny(images)[0, :, 2, 3], F.normalize(one, dim=0), atol=1e-5)


@pytest.mark.parametrize(
    "size, short_side, grid", [((48, 64), None, (4, 5)), ((30, 100), 64, (8, 27)), ((32, 32), 16, (2, 2))]
)
def test_other_sizes_keep_their_aspect_in_whole_patches(tiny, size, short_side, grid):
    tiny.short_side = short_side or tiny.short_side
    found = tiny(random_images(1, *size))
    assert found.shape == (1, 24, *grid) and torch.allclose(found.norm(dim=1), torch.ones(1, *grid))


def test_positions_are_interpolated_between_neighbours():
    ramp = torch.arange(4.0)[:, None] * 10 + torch.arange(4.0)  # a plane, which interpolation keeps inside
    embedding = torch.cat([torch.tensor([[99.0]]), ramp.reshape(-1, 1)])
    found = positions_for(embedding, (4, 4), (8, 8))
    assert found[0].item() == 99 and positions_for(embedding, (4, 4), (4, 4)) is embedding
    centres = (torch.arange(8.0) + 0.5) / 2 - 0.5
    plane = centres[:, None] * 10 + centres
    assert torch.allclose(found[1:].view(8, 8)[3:5, 3:5], plane[3:5, 3:5], atol=1e-4)


def test_the_tower_is_frozen_and_the_text_tower_is_not_saved(tiny):
    assert not tiny.train().visual.training and not any(p.requires_grad for p in tiny.parameters())
    assert {name.partition(".")[0] for name in tiny.state_dict()} == {"visual"}
    assert tiny.encode(["a car", "a tree"]).shape == (2, 24)


def test_a_prompt_segmenter_on_it_trains_its_projection_only(tiny):
    images = random_images(1, 32, 32)
    texts = class_embeddings(read_prompts(), "bag_of_words", tiny.encode)
    teacher = PromptSegmenter(tiny, texts, tiny.channels)
    batch = {
        "images": images,
        "labels": torch.zeros(1, 32, 32, dtype=torch.int64),
        "indices": [0],
        "labelled": torch.ones(1, dtype=torch.bool),
    }
    segmentation_step(teacher.train(), batch)["loss"].backward()
    assert [name for name, p in teacher.named_parameters() if p.grad is not None] == [
        "logit_scale",
        "project.weight",
        "project.bias",
    ]


def test_vit_b_32_on_a_real_frame(real_data):
    """The original's tower from random weights; some 3 s, nearly all for drawing 151 M weights."""
    torch.manual_seed(0)
    dense = DenseClip("ViT-B-32")
    folder = real_data / "camvid"
    name = (folder / "train.txt").read_text().split()[0].rpartition("/")[2]
    image = pil_to_tensor(Image.open(folder / "train" / name).convert("RGB"))[None]
    check_against_open_clip(dense, F.interpolate(image, (224, 224)))
    found = dense(image)
    assert found.shape == (1, 512, 7, 9) and torch.allclose(found.norm(dim=1), torch.ones(1, 7, 9), atol=1e-5)
    embeddings = class_embeddings(read_prompts(), "label", dense.encode)
    assert PromptSegmenter(dense, embeddings, dense.channels)(image)["logits"].shape == (1, 11, 360, 480)


@pytest.mark.parametrize("name", ["RN50", "coca_ViT-B-32"])
def test_towers_that_are_no_plain_vit_are_refused(name, monkeypatch):
    def small(name, pretrained):
        if name == "RN50":
            vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
            return open_clip.CLIP(**{**TINY, "vision_cfg": vision})
        return open_clip.CLIP(**{**TINY, "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True}})

    monkeypatch.setattr("kdnb.models.dense_clip.full_teacher", small)
    with pytest.raises(InputError, match=f"the image tower of '{name}'"):
        DenseClip(name)
