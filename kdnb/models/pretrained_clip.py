"""A CLIP of two towers that others trained, each on its own kind of data: only what joins them is learned here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import open_clip

from kdnb.models.pretrained import fold_batchnorm, lite_weights, require_transformers, text_model

IMAGE_TOWER, TEXT_TOWER = "tf_efficientnet_lite2", "minilm"
CONTEXT = 64  # tokens of a text


def pretrained_clip(width: int, image_size: int, pretrained: bool = True) -> open_clip.CustomTextCLIP:
    """EfficientNet-Lite2 (ImageNet) and MiniLM (sentences), frozen, each with a linear map to a common space.

    As in LiT (Zhai et al. 2022, arXiv 2111.07991) towers are locked; here both are, for there are few images.

    Args:
        width: of the common space.
        image_size: pixels of a side of the crops.
        pretrained: False gives random image weights, to read trained ones into. The text tower's shape is MiniLM's.

    Raises:
        InputError: a package is missing.
    """
    require_transformers()
    image = {"timm_model_name": IMAGE_TOWER, "timm_pool": "avg", "timm_proj": "linear", "image_size": image_size}
    with text_model(TEXT_TOWER) as place:
        text = {"hf_model_name": place, "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
        model = open_clip.CustomTextCLIP(width, image, {**text, "hf_model_pretrained": pretrained})
    if pretrained:
        trunk, weights = model.visual.trunk, lite_weights(IMAGE_TOWER)
        trunk.load_state_dict({**trunk.state_dict(), **{k: weights[k] for k in trunk.state_dict() if k in weights}})
    model.visual.image_mean = model.visual.image_std = (0.5, 0.5, 0.5)
    fold_batchnorm(model.visual.trunk)
    model.text.transformer.requires_grad_(False)
    return model


@cache
def pretrained_tokenizer() -> Callable:
    """Texts -> (M, CONTEXT) token ids of MiniLM."""
    with text_model(TEXT_TOWER) as place:
        return open_clip.tokenizer.HFTokenizer(place, context_length=CONTEXT)
