"""Dense features in the text space of a CLIP that was trained on whole images: the idea of MaskCLIP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.models.clip import build_tokenizer, full_teacher, normalised_for
from kdnb.models.prompts import clip_texts


class DenseClip(nn.Module):
    """The image tower of an open_clip ViT with one vector per patch instead of one per image, and its text encoder.

    CLIP returns the class token, which has gathered values from all patches by attention. Without attention, the last
    block's value of a patch, sent through the same layers, lies in the same space and describes that patch (MaskCLIP:
    Zhou et al. 2022, arXiv 2112.01071, section 3.2). The tower is frozen.

    Attributes:
        channels: D, width of the joint space.
        encode: the text encoder of the same model, for ``kdnb.models.prompts``. It stays on the CPU and is not saved
            with the weights.

    Args:
        name: of an open_clip ViT, such as "ViT-B-16".
        pretrained: its weights, as ``kdnb.models.clip.full_teacher``; None for random ones.
        short_side: pixels that the shorter side of an image is scaled to; None for the size that the tower was trained
            with. More pixels give more patches, but far beyond that size worse ones.

    Raises:
        InputError: a model unknown to open_clip, or whose image tower is not open_clip's plain ViT.
    """

    def __init__(self, name: str = "ViT-B-32", pretrained: str | None = None, short_side: int | None = None):
        super().__init__()
        model = full_teacher(name, pretrained)
        self.visual = plain_vit(name, model.visual).eval().requires_grad_(False)
        model.visual = None  # only the text tower is left
        self.encode = clip_texts(model.eval().requires_grad_(False), build_tokenizer(name))
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
        """(N, 3, H, W) → (N, 1 + h·w, W), the class token first: the input of the last block."""
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
    """``visual`` itself. Raises InputError unless it gives dense features."""
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
    """(N, L, W) → (N, L, W): the block as if each token attended to itself only, so that its value is passed on.

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
