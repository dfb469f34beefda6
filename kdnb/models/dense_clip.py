"""Dense features in the space of texts from a CLIP that was only ever taught whole images: the idea of MaskCLIP."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.models.clip import MAX_SCALE, build_tokenizer, full_teacher, normalised_for
from kdnb.models.prompts import clip_texts
from kdnb.models.segmenter import PromptSegmenter


class DenseClip(nn.Module):
    """The image tower of an open_clip ViT with one vector per patch instead of one per image, and its text encoder.

    A CLIP answers with the class token, which has gathered values from all patches by attention. Without the gathering,
    the last block's value of a patch, sent through the same layers, lies in the same space and tells of that patch
    (MaskCLIP: Zhou et al. 2022, arXiv 2112.01071, section 3.2). The tower stays as it is: nothing of it is trained.

    Attributes:
        channels: D, width of the space of images and texts.
        encode: the text encoder of the same model, as ``kdnb.models.prompts`` wants it. It stays on the CPU and is not
            saved with the weights.

    Args:
        name: of an open_clip ViT, such as "ViT-B-16".
        pretrained: its weights, as ``kdnb.models.clip.full_teacher``; None draws random ones.
        short_side: pixels that the shorter side of an image is scaled to before it is cut into patches; None for the
            size that the tower was trained with. More pixels give more patches, but far beyond that size worse ones.

    Raises:
        InputError: a model that open_clip does not have, or whose image tower is no plain ViT of open_clip's own.
    """

    def __init__(self, name: str = "ViT-B-32", pretrained: str | None = None, short_side: int | None = None):
        super().__init__()
        model = full_teacher(name, pretrained)
        self.visual = plain_vit(name, model.visual).eval().requires_grad_(False)
        model.visual = None  # what is left is the text tower
        self.encode = clip_texts(model.eval().requires_grad_(False), build_tokenizer(model, name))
        self.channels = self.visual.output_dim
        self.patch = self.visual.patch_size[0]
        self.short_side = short_side or min(self.visual.image_size)

    def train(self, mode: bool = True) -> DenseClip:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) of any size → unit vectors (N, D, h, w), one per patch, in the space of the texts."""
        return F.normalize(self.feature_map(images).float(), dim=1)

    @torch.no_grad()
    def feature_map(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → (N, D, h, w), not of unit length; the body of a ``PromptSegmenter``."""
        pixels = self.scaled(normalised_for(self.visual, images))
        tokens = last_block_without_attention(self.visual.transformer.resblocks[-1], self.before_last_block(pixels))
        projected = self.visual.ln_post(tokens[:, 1:]) @ self.visual.proj
        return projected.transpose(1, 2).unflatten(2, [side // self.patch for side in pixels.shape[2:]])

    def scaled(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → the same images with ``short_side``, both sides rounded to whole patches."""
        factor = self.short_side / min(pixels.shape[2:]) / self.patch
        size = [self.patch * max(1, round(side * factor)) for side in pixels.shape[2:]]
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)

    def before_last_block(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 1 + h·w, W), the class token first: what the last block gets."""
        patches = self.visual.conv1(pixels)
        grid = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        places = positions_for(self.visual.positional_embedding, self.visual.grid_size, grid)
        tokens = self.visual.ln_pre(torch.cat([first, tokens], 1) + places.to(tokens.dtype))
        for block in self.visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        return tokens


def plain_vit(name: str, visual: nn.Module) -> VisionTransformer:
    """The image tower, if dense features can be read of it. Raises InputError otherwise."""
    if not isinstance(visual, VisionTransformer):
        raise InputError(
            f"the image tower of {name!r} is a {type(visual).__name__}, expected a plain ViT such as that of ViT-B-16"
        )
    last = visual.transformer.resblocks[-1]
    if visual.attn_pool is not None or not isinstance(last, ResidualAttentionBlock):
        raise InputError(
            f"the image tower of {name!r} pools by attention or has blocks of another kind, expected a "
            "plain ViT such as that of ViT-B-16"
        )
    return visual


def last_block_without_attention(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """(N, L, W) → (N, L, W): the block as if each token attended to itself alone, so only its value is passed on.

    The residual connections and the MLP stay, as in MaskCLIP's released code.
    """
    attention, width = block.attn, tokens.shape[-1]
    value_weight, value_bias = attention.in_proj_weight[-width:], attention.in_proj_bias[-width:]  # query, key, value
    values = F.linear(block.ln_1(tokens), value_weight, value_bias)
    tokens = tokens + block.ls_1(attention.out_proj(values))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def positions_for(embedding: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Position embeddings (1 + h·w, W), class token first, of one grid (h, w), interpolated to another."""
    if tuple(before) == tuple(after):
        return embedding
    first, rest = embedding[:1], embedding[1:]
    rest = rest.T.unflatten(1, before)[None].float()
    rest = F.interpolate(rest, tuple(after), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([first, rest[0].flatten(1).T.to(first.dtype)])


def zero_shot_segmenter(dense: DenseClip, embeddings: Tensor) -> PromptSegmenter:
    """A ``PromptSegmenter`` that has learned nothing of the street yet and answers with CLIP's own knowledge.

    Its projection starts as the identity and its scale at CLIP's bound of 100; training goes on from there.

    Args:
        embeddings: (K, D), of ``dense.encode``.
    """
    teacher = PromptSegmenter(dense, embeddings, dense.channels)
    nn.init.dirac_(teacher.project.weight)
    nn.init.zeros_(teacher.project.bias)
    nn.init.constant_(teacher.logit_scale, math.log(MAX_SCALE))
    return teacher
