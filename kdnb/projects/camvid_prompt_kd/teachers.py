"""05's teachers: a body, and on it a head that knows the classes' words, or learns its class vectors itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from kdnb.datasets.camvid import CLASSES
from kdnb.models import pretrained
from kdnb.models.clip import build_tokenizer, full_teacher, read_text_tower
from kdnb.models.dense_clip import DenseClip
from kdnb.models.diffusion import DiffusionFeatures, DiffusionSegmenter
from kdnb.models.prompts import PromptSet, class_embeddings, clip_texts, hashed_words
from kdnb.models.segmenter import PromptSegmenter
from kdnb.models.stable_diffusion import Diffusion, stable_diffusion, tiny_diffusion
from kdnb.projects.camvid_prompt_kd.data import CamVidPromptKdSettings
from kdnb.projects.camvid_prompt_kd.terms import build

Encoder = Callable[[list[str]], Tensor]


@cache
def text_encoder(text: str, clip_model: str, clip_weights: str | None) -> Encoder:
    """What the settings of these names say: texts -> unit vectors (N, D). "hashed" is the same on every machine.

    Raises:
        InputError: a file that holds no text tower; open_clip's model or weights is unavailable.
    """
    if text == "hashed":
        return hashed_words()
    if text == "clip":
        model = full_teacher(clip_model, clip_weights)
        return clip_texts(model.eval().requires_grad_(False), build_tokenizer(clip_model))
    if not text.endswith(".safetensors"):
        return pretrained.text_encoder(text)
    model = read_text_tower(text).eval().requires_grad_(False)
    return clip_texts(model, build_tokenizer())


def build_teacher(
    kind: str, settings: CamVidPromptKdSettings, prompts: PromptSet, seed: int, folder: Path | None = None
) -> nn.Module:
    """A teacher with a fresh head, told one kind of prompts.

    The image-only teacher has the same head as the others, but its class vectors start at random and are learned. A
    diffusion model is told the prompts too, as in DIFF; the image-only teacher's is told nothing.

    Args:
        kind: of prompts; "" for the image-only teacher.
        folder: where diffusion features are kept; None computes them each time.
    """
    if settings.teacher == "clip":
        body = DenseClip(settings.clip_model, settings.clip_weights)
    elif settings.teacher == "diffusion":
        texts, side = prompts.texts(kind) if kind else None, settings.diffusion_side
        model = diffusion(settings.diffusion_model)
        features = DiffusionFeatures(model, texts, short_side=side, folder=folder, mask_steps=settings.mask_steps)
        torch.manual_seed(seed)
        body = DiffusionSegmenter(features, width=settings.teacher_body.width)
    else:
        body = build(settings.teacher_body, seed)
    encode = text_encoder(settings.text, settings.clip_model, settings.clip_weights)
    vectors = class_embeddings(prompts, kind or "label", encode)
    torch.manual_seed(seed)
    if not kind:
        vectors = torch.randn(len(CLASSES), vectors.shape[1])
    return PromptSegmenter(body, vectors, body.channels, learned=not kind)


@cache
def diffusion(model: str) -> Diffusion:
    """Loaded once: the teachers share it."""
    torch.manual_seed(0)
    return tiny_diffusion() if model == "tiny" else stable_diffusion(model)
