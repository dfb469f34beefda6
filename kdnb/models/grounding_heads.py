"""Heads that choose the region proposal a command refers to.

A batch holds B commands, each with P proposals of T cells. Boxes are (x1, y1, x2, y2) in 0..1, relative to the image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.errors import InputError

MODES = ("rank", "regress")
MASKED_SCORE = -1e4  # of a padded proposal; finite, so that a softmax in half precision does not overflow


def box_features(boxes: Tensor, frequencies: int = 4) -> Tensor:
    """(..., 4) boxes → (..., 6 + 6 · frequencies): centre, size, log size, and sines and cosines of the first three.

    A single linear map of the four numbers cannot separate "left of the middle" from "far left"; sinusoids can.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = (x2 - x1).clamp(min=1e-4), (y2 - y1).clamp(min=1e-4)
    linear = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, width, height, width.log(), height.log()], -1)
    angles = linear[..., [0, 1, 3]].unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(frequencies, device=boxes.device))
    waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
    return torch.cat([linear, waves], -1)


BOX_FEATURES = 6 + 6 * 4  # output width of box_features


def centre_to_edges(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height → x1, y1, x2, y2."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


class ProjectionHead(nn.Module):
    """An MLP on each proposal's image vector, box and sentence vector, concatenated: the original's first head.

    "rank" scores the proposals; "regress" predicts a box and a weight for each and returns the weighted mean box.

    Args:
        channels: D, width of a cell.
        text: E, width of the sentence vector.
        width: of the hidden layers.
        mode: "rank" or "regress".
    """

    def __init__(self, channels: int, text: int, width: int = 96, mode: str = "rank"):
        super().__init__()
        self.mode = checked_mode(mode)
        # the entries of a unit vector are about 1 / sqrt(E): without a norm the cells would drown them
        self.norm, self.heard = nn.LayerNorm(channels), nn.LayerNorm(text)
        self.mlp = nn.Sequential(
            nn.Linear(channels + BOX_FEATURES + text, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Linear(width, 5),
        )

    def forward(
        self, tokens: Tensor, boxes: Tensor, proposal_mask: Tensor, text: Tensor, words: Tensor, padding: Tensor
    ) -> dict[str, Tensor]:
        """Arguments and result as ``TransformerHead.forward``; ``words`` and ``padding`` are ignored."""
        image = self.norm(tokens.mean(2))
        sentence = self.heard(text)[:, None].expand(-1, boxes.shape[1], -1)
        out = self.mlp(torch.cat([image, box_features(boxes), sentence], -1))
        return head_outputs(out[..., 0], out[..., 1:], boxes, proposal_mask, self.mode)


class TransformerHead(nn.Module):
    """A decoder with the text as queries and the un-pooled cells of all proposals as keys and values.

    The original's second head without its pooling. Sentence and words attend to each other and to the cells; the last
    layer computes the sentence only. A proposal's score is its scaled dot product with the sentence, plus the logarithm
    of the attention it received, so that the attention must point at the referred object. Where image and text share a
    space, as after 01, their cosine is added with a learned weight. "regress" corrects the proposals' boxes and returns
    their mean, weighted by the scores.

    Args:
        channels: D, width of a cell.
        text: E, width of the sentence vector. E = D means that image and text share a space.
        words: W, width of a word's hidden state.
        width: of the decoder.
        layers: decoder layers.
        mode: "rank" or "regress".
    """

    def __init__(self, channels: int, text: int, words: int, width: int = 96, layers: int = 2, mode: str = "rank"):
        super().__init__()
        self.mode = checked_mode(mode)
        heads = max(1, width // 32)
        self.cells = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.places = nn.Sequential(nn.Linear(BOX_FEATURES, width), nn.GELU(), nn.Linear(width, width))
        self.words = nn.Sequential(nn.LayerNorm(words), nn.Linear(words, width))
        self.sentence = nn.Sequential(nn.LayerNorm(text), nn.Linear(text, width))
        self.neighbours = nn.TransformerEncoderLayer(
            width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.fits = nn.Parameter(torch.tensor(5.0)) if channels == text else None
        self.correct = None
        if mode == "regress":
            self.correct = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 4))

    def forward(
        self, tokens: Tensor, boxes: Tensor, proposal_mask: Tensor, text: Tensor, words: Tensor, padding: Tensor
    ) -> dict[str, Tensor]:
        """Score the proposals of each command.

        Args:
            tokens: (B, P, T, D) cells of the proposals.
            boxes: (B, P, 4).
            proposal_mask: (B, P) bool, False for padding.
            text: (B, E) sentence vectors.
            words: (B, L, W) states of the words.
            padding: (B, L) bool, True after the end of a sentence.

        Returns:
            "scores" (B, P), logits; "box" (B, 4), the best proposal or the regressed box; "attention" (B, P), of the
            sentence to each proposal in the last layer, sums to 1.
        """
        regions, memory, memory_padding = self.encode_regions(tokens, boxes, proposal_mask)
        # the sentence is one more query before the words; columns after the longest command are padding only
        longest = int((~padding).sum(1).max())
        query = torch.cat([self.sentence(text)[:, None], self.words(words[:, :longest])], 1)
        padding = F.pad(padding[:, :longest], (1, 0), value=False)
        for layer in self.layers[:-1]:
            query, _ = layer(query, query, memory, padding, memory_padding)
        sentence, attention = self.layers[-1](query[:, :1], query, memory, padding, memory_padding)
        sentence = self.norm(sentence)
        attention = attention[:, 0].view(*tokens.shape[:3]).sum(-1)
        scores = (sentence * regions).sum(-1) / math.sqrt(regions.shape[-1]) + (attention.float() + 1e-6).log()
        if self.fits is not None:
            scores = scores + self.fits * F.cosine_similarity(tokens.mean(2).float(), text[:, None].float(), dim=-1)
        offsets = None
        if self.correct is not None:
            offsets = self.correct(torch.cat([sentence * regions, regions, sentence.expand_as(regions)], -1))
        return {**head_outputs(scores, offsets, boxes, proposal_mask, self.mode), "attention": attention}

    def encode_regions(self, tokens: Tensor, boxes: Tensor, proposal_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Contextualised proposals (B, P, width), all cells (B, P·T, width) and the cells' padding mask (B, P·T)."""
        cells = self.cells(tokens) + self.places(box_features(boxes))[:, :, None]
        regions = self.neighbours(cells.mean(2), src_key_padding_mask=~proposal_mask)
        memory = (cells + regions[:, :, None]).flatten(1, 2)
        return regions, memory, ~proposal_mask.repeat_interleave(tokens.shape[2], 1)


class DecoderLayer(nn.Module):
    """Attention to the text, attention to the image, MLP; returns the queries and their attention to the image.

    ``query`` (B, Q, width) may hold fewer rows than ``text`` (B, L, width): only those are updated.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.to_text = nn.MultiheadAttention(width, heads, batch_first=True)
        self.to_picture = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, query: Tensor, text: Tensor, memory: Tensor, padding: Tensor, memory_padding: Tensor
    ) -> tuple[Tensor, Tensor]:
        text = self.norms[0](text)
        query = query + self.to_text(self.norms[0](query), text, text, key_padding_mask=padding, need_weights=False)[0]
        update, attention = self.to_picture(self.norms[1](query), memory, memory, key_padding_mask=memory_padding)
        query = query + update
        return query + self.mlp(self.norms[2](query)), attention


def head_outputs(
    scores: Tensor, offsets: Tensor | None, boxes: Tensor, proposal_mask: Tensor, mode: str
) -> dict[str, Tensor]:
    """The outputs of a head from its raw predictions: "scores" (B, P), "box" (B, 4) and "attention" (B, P).

    Args:
        scores: (B, P).
        offsets: (B, P, 4), of each proposal's centre (relative to its size) and log size, used by "regress".
    """
    scores = scores.masked_fill(~proposal_mask, MASKED_SCORE)
    weights = scores.softmax(-1)
    if mode == "rank":
        box = boxes.gather(1, scores.argmax(-1)[:, None, None].expand(-1, 1, 4))[:, 0]
    else:
        size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-4)
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + offsets[..., :2].tanh() * size
        moved = centre_to_edges(torch.cat([centre, size * offsets[..., 2:].clamp(-1, 1).exp()], -1))
        box = (weights[..., None] * moved).sum(1)
    return {"scores": scores, "box": box, "attention": weights.detach()}


def checked_mode(mode: str) -> str:
    """``mode`` itself. Raises InputError on another than "rank" and "regress"."""
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    return mode
