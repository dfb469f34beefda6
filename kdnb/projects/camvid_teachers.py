"""05's teachers: one body, and on it a head that knows the classes' words, or learns its class vectors itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from kdnb.datasets.camvid import CLASSES
from kdnb.errors import InputError
from kdnb.models.clip import build_tokenizer, full_teacher
from kdnb.models.dense_clip import DenseClip
from kdnb.models.diffusion import DiffusionFeatures, DiffusionSegmenter
from kdnb.models.prompts import PromptSet, class_embeddings, clip_texts, hashed_words
from kdnb.models.segmenter import PromptSegmenter
from kdnb.models.stable_diffusion import Diffusion, stable_diffusion, tiny_diffusion
from kdnb.projects.aligned import aligned, folder_of, how_to_get, kept
from kdnb.projects.camvid_prompt_kd import PROMPT_TEACHERS, CamVidPromptKdSettings, build
from kdnb.projects.coco_alignment import CocoAlignmentSettings
from kdnb.run import load_settings

Encoder = Callable[[list[str]], Tensor]


def text_encoder(settings: CamVidPromptKdSettings, root: str | Path = "data") -> Encoder:
    """What the settings name: texts → unit vectors (N, D).

    "hashed" is the default because it is the same on every machine; "aligned", 01's text tower, must lie below ``root``
    already: nothing is trained here.

    Raises:
        InputError: 01 has not left a tower there; open_clip's model or weights cannot be had.
    """
    if settings.text == "hashed":
        return hashed_words(settings.text_width)
    if settings.text == "aligned":
        of_01 = load_settings(CocoAlignmentSettings, "coco_alignment", "lite")
        if kept(folder_of(of_01, 0, None, root), ("teacher",)) is None:
            raise InputError(how_to_get("lite", 0, None, root, ("teacher",)))
        tower = aligned("lite", 0, root, students=())
        return clip_texts(tower.teacher, tower.tokenizer)
    model = full_teacher(settings.clip_model, settings.clip_weights).eval().requires_grad_(False)
    return clip_texts(model, build_tokenizer(model, settings.clip_model))


def build_teacher(
    name: str,
    settings: CamVidPromptKdSettings,
    prompts: PromptSet,
    encode: Encoder,
    seed: int,
    body: dict[str, Tensor] | None = None,
    folder: Path | None = None,
) -> nn.Module:
    """The teacher of this name with a fresh head.

    The image-only teacher has the same head as the others, but its class vectors start at random and are learned. A
    diffusion model is told the prompts too, as in DIFF; the image-only teacher's is told nothing.

    Args:
        name: "image_only", or one of PROMPT_TEACHERS.
        body: weights of a trained one; its own head's are left out.
        folder: where diffusion features are kept; None computes them each time.
    """
    kind = PROMPT_TEACHERS.get(name)
    if settings.teacher == "clip":
        trunk = DenseClip(settings.clip_model, settings.clip_weights)
    elif settings.teacher == "diffusion":
        texts = None if kind is None else prompts.texts(kind)
        features = DiffusionFeatures(
            diffusion(settings.diffusion_model),
            texts,
            settings.diffusion_step,
            short_side=settings.diffusion_side,
            folder=folder,
            mask_steps=settings.mask_steps,
        )
        torch.manual_seed(seed)
        trunk = DiffusionSegmenter(features, width=settings.teacher_body.width)
    else:
        trunk = build(settings.teacher_body, seed)
        if body is not None:
            trunk.load_state_dict(body)
    torch.manual_seed(seed)
    if kind is None:
        vectors = torch.randn(len(CLASSES), encode(["anything"]).shape[1])
        return PromptSegmenter(trunk, vectors, trunk.channels, learned=True)
    return PromptSegmenter(trunk, class_embeddings(prompts, kind, encode), trunk.channels)


@cache
def diffusion(model: str) -> Diffusion:
    """Loaded once: the teachers share it."""
    torch.manual_seed(0)
    return tiny_diffusion() if model == "tiny" else stable_diffusion(model)
