"""The parts of Stable Diffusion that give features: a model of the hub, or a tiny one with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.models.hubs import reachable
from kdnb.models.prompts import word_vector


@dataclass
class Diffusion:
    """The parts of a latent diffusion model that features need; frozen.

    Attributes:
        unet: diffusers' ``UNet2DConditionModel``.
        vae: diffusers' ``AutoencoderKL``.
        encode: texts → per text the states (L, W) of its tokens, without padding.
        alphas: (T,), ᾱ of each time step: the fraction of the image's variance that is left.
    """

    unet: nn.Module
    vae: nn.Module
    encode: Callable[[Sequence[str]], list[Tensor]]
    alphas: Tensor

    def __post_init__(self) -> None:
        for part in (self.unet, self.vae):
            part.eval().requires_grad_(False)


def import_diffusers() -> ModuleType:
    """The package diffusers. Raises InputError if it is not installed."""
    try:
        import diffusers
    except ImportError:
        raise InputError("diffusion features need the package diffusers: pip install 'kdnb[full]'") from None
    return diffusers


def stable_diffusion(model_id: str) -> Diffusion:
    """A Stable Diffusion 1 or 2 of the Hugging Face hub, or of a folder; its U-Net in half precision on a GPU.

    Raises:
        InputError: diffusers missing; a model that cannot be loaded; an XL, whose U-Net needs more than a prompt.
    """
    diffusers = import_diffusers()
    import transformers

    ways = "a network for Hugging Face's hub, or a folder with a Stable Diffusion 1 or 2"
    with reachable(f"diffusion model {model_id!r}", ways, random=""):
        unet = diffusers.UNet2DConditionModel.from_pretrained(model_id, subfolder="unet")
        vae = diffusers.AutoencoderKL.from_pretrained(model_id, subfolder="vae")
        schedule = diffusers.DDIMScheduler.from_pretrained(model_id, subfolder="scheduler")
        text = transformers.CLIPTextModel.from_pretrained(model_id, subfolder="text_encoder")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(model_id, subfolder="tokenizer")
    if unet.config.addition_embed_type is not None:
        raise InputError(f"{model_id}: its U-Net needs more than a prompt, expected a Stable Diffusion 1 or 2")
    if torch.cuda.is_available():
        unet.half()
    return Diffusion(unet, vae, token_states(text.eval(), tokenizer), schedule.alphas_cumprod)


def token_states(model: nn.Module, tokenizer: Callable) -> Callable[[Sequence[str]], list[Tensor]]:
    """Hugging Face's text tower as ``Diffusion.encode``. Its attention is causal, so padding would change nothing."""

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> list[Tensor]:
        tokens = [tokenizer(text, truncation=True, return_tensors="pt").input_ids for text in texts]
        return [model(ids).last_hidden_state[0].float() for ids in tokens]

    return encode


def tiny_random_unet(width: int = 16) -> nn.Module:
    """A U-Net with Stable Diffusion's module paths and random weights, for tests; prompt states of ``width``."""
    return import_diffusers().UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )


def tiny_diffusion(width: int = 16) -> Diffusion:
    """A diffusion model with random weights that runs in milliseconds and downloads nothing."""
    vae = import_diffusers().AutoencoderKL(
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # Stable Diffusion's schedule

    def encode(texts: Sequence[str]) -> list[Tensor]:
        tokens = [["", *re.findall(r"\w+", text.lower())] for text in texts]
        return [torch.tensor(np.stack([word_vector(w, width) for w in t]), dtype=torch.float32) for t in tokens]

    return Diffusion(tiny_random_unet(width), vae, encode, (1 - betas).cumprod(0))
