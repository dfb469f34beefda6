"""Heads that find what a command means among region proposals, and the encoder beneath them.

A batch holds B commands, each with P proposals of T cells. Boxes are (x1, y1, x2, y2) as shares of the picture, 0 to 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss, roi_align

from kdnb.errors import InputError

MODES = ("rank", "regress")
NEVER = -1e4  # score of a proposal that is not there; finite, so that a softmax in half precision stays one


def box_features(boxes: Tensor, frequencies: int = 4) -> Tensor:
    """(..., 4) boxes → (..., 6 + 6 · frequencies): centre, size, log size, and sines and cosines of the first three.

    A single linear map of the four numbers cannot tell "left of the middle" from "far left"; waves can.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = (x2 - x1).clamp(min=1e-4), (y2 - y1).clamp(min=1e-4)
    plain = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, width, height, width.log(), height.log()], -1)
    angles = plain[..., [0, 1, 3]].unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(frequencies, device=boxes.device))
    waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
    return torch.cat([plain, waves], -1)


BOX_FEATURES = 6 + 6 * 4  # width of what box_features gives


def centre_to_edges(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height → x1, y1, x2, y2."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


class ProjectionHead(nn.Module):
    """Image vector, box and sentence vector of each proposal, concatenated, through an MLP.

    As in the original's first head. "rank" gives each proposal a score; "regress" gives each a box and a weight, and
    answers with the weighted mean of the boxes.

    Args:
        channels: D, width of a cell.
        text: E, width of the sentence vector.
        width: of the hidden layers.
        mode: "rank" or "regress".
    """

    def __init__(self, channels: int, text: int, width: int = 96, mode: str = "rank"):
        super().__init__()
        self.mode = known_mode(mode)
        # a unit vector of E numbers is 1 / sqrt(E) in each: beside the cells it would hardly be heard
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
        """Arguments and result as ``TransformerHead.forward``; ``words`` and ``padding`` are not looked at."""
        picture = self.norm(tokens.mean(2))
        sentence = self.heard(text)[:, None].expand(-1, boxes.shape[1], -1)
        out = self.mlp(torch.cat([picture, box_features(boxes), sentence], -1))
        return answer(out[..., 0], out[..., 1:], boxes, proposal_mask, self.mode)


class TransformerHead(nn.Module):
    """A decoder with the text as queries and the un-pooled cells of all proposals as keys and values.

    As in the original's second head, without its pooling. Sentence and words attend to each other and to the cells; of
    the last layer only the sentence is needed. A proposal's score is the scaled dot product of the sentence with it,
    plus the logarithm of the attention that it got, so that the attention has to point at what the command means; plus,
    where pictures and text share a space, as after 01, their cosine in it, with a learned weight. "regress" corrects
    the proposals' boxes and answers with their mean, weighted by the scores.

    Args:
        channels: D, width of a cell.
        text: E, width of the sentence vector. With E = D the two are taken to share a space.
        words: W, width of a word's state.
        width: of the decoder.
        layers: decoder layers.
        mode: "rank" or "regress".
    """

    def __init__(self, channels: int, text: int, words: int, width: int = 96, layers: int = 2, mode: str = "rank"):
        super().__init__()
        self.mode = known_mode(mode)
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
        """Which proposal, or which box, does each command mean?

        Args:
            tokens: (B, P, T, D) cells of the proposals.
            boxes: (B, P, 4).
            proposal_mask: (B, P) bool, False for filling up to P.
            text: (B, E) sentence vectors.
            words: (B, L, W) states of the words.
            padding: (B, L) bool, True behind the end of a sentence.

        Returns:
            "scores" (B, P), logits; "box" (B, 4), the best proposal or the regressed box; "attention" (B, P), sums to
            1: how much the sentence looked at each proposal in the last layer.
        """
        regions, memory, hidden = self.look(tokens, boxes, proposal_mask)
        # the sentence as a whole is one more query, in front of the words; nobody reads behind the longest command
        longest = int((~padding).sum(1).max())
        query = torch.cat([self.sentence(text)[:, None], self.words(words[:, :longest])], 1)
        padding = F.pad(padding[:, :longest], (1, 0), value=False)
        for layer in self.layers[:-1]:
            query, _ = layer(query, query, memory, padding, hidden)
        said, attention = self.layers[-1](query[:, :1], query, memory, padding, hidden)
        said = self.norm(said)
        looked = attention[:, 0].view(*tokens.shape[:3]).sum(-1)
        scores = (said * regions).sum(-1) / math.sqrt(regions.shape[-1]) + (looked.float() + 1e-6).log()
        if self.fits is not None:
            scores = scores + self.fits * F.cosine_similarity(tokens.mean(2).float(), text[:, None].float(), dim=-1)
        offsets = None
        if self.correct is not None:
            offsets = self.correct(torch.cat([said * regions, regions, said.expand_as(regions)], -1))
        return {**answer(scores, offsets, boxes, proposal_mask, self.mode), "attention": looked}

    def look(self, tokens: Tensor, boxes: Tensor, proposal_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(regions (B, P, width) that saw each other, all cells (B, P·T, width), which cells are filling (B, P·T))."""
        cells = self.cells(tokens) + self.places(box_features(boxes))[:, :, None]
        regions = self.neighbours(cells.mean(2), src_key_padding_mask=~proposal_mask)
        memory = (cells + regions[:, :, None]).flatten(1, 2)
        return regions, memory, ~proposal_mask.repeat_interleave(tokens.shape[2], 1)


class DecoderLayer(nn.Module):
    """Queries attend to the text, then to the picture, then think for themselves; gives its attention to the picture.

    ``query`` (B, Q, width) may be fewer than ``text`` (B, L, width), which stands for all of them.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.to_text = nn.MultiheadAttention(width, heads, batch_first=True)
        self.to_picture = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, query: Tensor, text: Tensor, memory: Tensor, padding: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        text = self.norms[0](text)
        query = query + self.to_text(self.norms[0](query), text, text, key_padding_mask=padding, need_weights=False)[0]
        seen, attention = self.to_picture(self.norms[1](query), memory, memory, key_padding_mask=hidden)
        query = query + seen
        return query + self.mlp(self.norms[2](query)), attention


def answer(
    scores: Tensor, offsets: Tensor | None, boxes: Tensor, proposal_mask: Tensor, mode: str
) -> dict[str, Tensor]:
    """ "scores" (B, P), "box" (B, 4) and "attention" (B, P) of what a head says about each proposal.

    Args:
        scores: (B, P).
        offsets: (B, P, 4), of each proposal's centre (in its sizes) and log size, used by "regress".
    """
    scores = scores.masked_fill(~proposal_mask, NEVER)
    weights = scores.softmax(-1)
    if mode == "rank":
        box = boxes.gather(1, scores.argmax(-1)[:, None, None].expand(-1, 1, 4))[:, 0]
    else:
        size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-4)
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + offsets[..., :2].tanh() * size
        moved = centre_to_edges(torch.cat([centre, size * offsets[..., 2:].clamp(-1, 1).exp()], -1))
        box = (weights[..., None] * moved).sum(1)
    return {"scores": scores, "box": box, "attention": weights.detach()}


def known_mode(mode: str) -> str:
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    return mode


# --- losses -----------------------------------------------------------------------------------------------------


def ranking_loss(scores: Tensor, boxes: Tensor, proposal_mask: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy over proposals; those that overlap the truth by an IoU above 0.5 share the target by their IoU.

    Commands that every proposal misses are left out: no choice would be right. 0 when that is all of them.

    Args:
        scores: (B, P); boxes: (B, P, 4); proposal_mask: (B, P); truth: (B, 4).
    """
    overlap = overlaps(boxes, truth[:, None])
    target = torch.where((overlap > 0.5) & proposal_mask, overlap, 0.0)
    possible = target.sum(1) > 0
    if not possible.any():
        return (scores * 0).sum()
    target = target[possible] / target[possible].sum(1, keepdim=True)
    return F.cross_entropy(scores[possible].float(), target)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (..., 4) that broadcast; 0 for boxes without area. torchvision's takes no batches."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


OVERLAP_LOSSES = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}


def box_loss(box: Tensor, truth: Tensor, l1: float = 5.0, iou: float = 2.0, overlap: str = "giou") -> dict[str, Tensor]:
    """L1 of the four edges, as shares of the picture and summed over them, and 1 − overlap, each times its weight.

    DETR's loss (Carion et al. 2020, arXiv 2005.12872, section 3.1); the original of this project weighs 5 and 2.

    Args:
        box, truth: (B, 4).
        overlap: "giou", generalised IoU (Rezatofighi et al. 2019, arXiv 1902.09630), or "ciou", complete IoU, which
            also compares centres and aspect ratios (Zheng et al. 2020, arXiv 1911.08287).

    Raises:
        InputError: another overlap.
    """
    if overlap not in OVERLAP_LOSSES:
        raise InputError(f"overlap is {overlap!r}, expected one of {', '.join(OVERLAP_LOSSES)}")
    return {
        "l1": l1 * (box - truth).abs().sum(-1).mean(),
        overlap: iou * OVERLAP_LOSSES[overlap](box.float(), truth.float(), reduction="mean"),
    }


# --- the whole model --------------------------------------------------------------------------------------------


class Grounder(nn.Module):
    """An image encoder and a head: pictures or kept cells, proposals and a command's text in, an answer out.

    Args:
        encoder: anything with ``feature_map(images) -> (N, D, h, w)``, such as 01's student.
        head: ``ProjectionHead`` or ``TransformerHead``.
        frozen: the encoder stays as it is, also its normalisation.
        cells: with whole pictures, RoIAlign gives each proposal cells x cells.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, frozen: bool = True, cells: int = 2):
        super().__init__()
        self.encoder, self.head, self.frozen, self.cells = encoder, head, frozen, cells
        encoder.requires_grad_(not frozen)
        if hasattr(encoder, "logit_scale"):
            encoder.logit_scale.requires_grad_(False)  # of 01's texts; no answer here depends on it

    def train(self, mode: bool = True) -> Grounder:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Args: batch: "tokens" (B, P, T, D), or "crops" uint8 (B, P, 3, h, w), or "pictures" uint8 (B, 3, H, W);
        and "boxes", "proposal_mask", "text", "words", "padding" as ``TransformerHead`` wants them."""
        return self.head(
            self.tokens(batch), batch["boxes"], batch["proposal_mask"], batch["text"], batch["words"], batch["padding"]
        )

    def tokens(self, batch: dict) -> Tensor:
        """(B, P, T, D) cells of the proposals."""
        if "tokens" in batch:
            return batch["tokens"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if "pictures" in batch:
                return align_cells(self.encoder.feature_map(batch["pictures"]), batch["boxes"], self.cells)
            crops = batch["crops"]
            return crop_cells(self.encoder, crops.flatten(0, 1)).unflatten(0, crops.shape[:2])


def crop_cells(encoder: nn.Module, crops: Tensor) -> Tensor:
    """uint8 (N, 3, h, w) → (N, T, D), the cells of each crop's feature map."""
    return encoder.feature_map(crops).flatten(2).transpose(1, 2)


def align_cells(feature_map: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """RoIAlign: (B, D, h, w) and boxes (B, P, 4) as shares of the picture → (B, P, cells², D).

    One pass over the picture serves all its proposals, whatever their number.
    """
    height, width = feature_map.shape[-2:]
    scaled = boxes.float() * boxes.new_tensor([width, height, width, height]).float()
    # in bf16 a box's edge would be rounded to a quarter of a cell
    found = roi_align(feature_map.float(), list(scaled), cells, sampling_ratio=2, aligned=True)
    return found.flatten(2).transpose(1, 2).unflatten(0, boxes.shape[:2])


def grounding_step(model: Grounder, batch: dict, l1: float = 5.0, iou: float = 2.0, overlap: str = "giou") -> dict:
    """The task of a ``Distiller``: "truth" (B, 4) in the batch; ranking loss, and ``box_loss`` in "regress"."""
    found = model(batch)
    rank = ranking_loss(found["scores"], batch["boxes"], batch["proposal_mask"], batch["truth"])
    if model.head.mode == "rank":
        return {"loss": rank, **found}
    parts = box_loss(found["box"], batch["truth"], l1, iou, overlap)
    return {"loss": sum(parts.values()), "parts": parts, **found}
