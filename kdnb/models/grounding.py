"""A grounding model: an image encoder and a head that chooses the proposal a command refers to, and their losses.

Shapes as in ``grounding_heads``: B commands, P proposals of T cells, boxes (x1, y1, x2, y2) in 0..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss, roi_align

from kdnb.errors import InputError

# --- losses -----------------------------------------------------------------------------------------------------


def ranking_loss(scores: Tensor, boxes: Tensor, proposal_mask: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy over proposals; the target is spread over those with an IoU above 0.5, in proportion to it.

    Commands without such a proposal are left out. 0 if there is no other command.

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
    """IoU of boxes (..., 4) that broadcast; 0 for boxes without area. torchvision's does not broadcast."""
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


OVERLAP_LOSSES = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}


def box_loss(box: Tensor, truth: Tensor, l1: float = 5.0, iou: float = 2.0, overlap: str = "giou") -> dict[str, Tensor]:
    """Sum of the L1 errors of the four edges, and 1 − overlap, each times its weight; means over the batch.

    DETR's loss (Carion et al. 2020, arXiv 2005.12872, section 3.1); the original uses the weights 5 and 2.

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
    """An image encoder and a head: images or stored cells, proposals and text in, the head's outputs out.

    Args:
        encoder: anything with ``feature_map(images) -> (N, D, h, w)``, such as 01's student.
        head: ``ProjectionHead`` or ``TransformerHead``.
        frozen: the encoder is not trained and stays in eval mode.
        cells: RoIAlign samples cells x cells per proposal from whole images.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, frozen: bool = True, cells: int = 2):
        super().__init__()
        self.encoder, self.head, self.frozen, self.cells = encoder, head, frozen, cells
        encoder.requires_grad_(not frozen)
        if hasattr(encoder, "logit_scale"):
            encoder.logit_scale.requires_grad_(False)  # of 01's InfoNCE; unused here

    def train(self, mode: bool = True) -> Grounder:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Args: batch: "tokens" (B, P, T, D), or "crops" uint8 (B, P, 3, h, w), or "images" uint8 (B, 3, H, W);
        and "boxes", "proposal_mask", "text", "words", "padding" as ``TransformerHead`` takes them."""
        names = ("boxes", "proposal_mask", "text", "words", "padding")
        return self.head(self.tokens(batch), *(batch[name] for name in names))

    def tokens(self, batch: dict) -> Tensor:
        """(B, P, T, D) cells of the proposals."""
        if "tokens" in batch:
            return batch["tokens"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if "images" in batch:
                return align_cells(self.encoder.feature_map(batch["images"]), batch["boxes"], self.cells)
            crops = batch["crops"]
            return crop_cells(self.encoder, crops.flatten(0, 1)).unflatten(0, crops.shape[:2])


def crop_cells(encoder: nn.Module, crops: Tensor) -> Tensor:
    """uint8 (N, 3, h, w) → (N, T, D), the cells of each crop's feature map."""
    return encoder.feature_map(crops).flatten(2).transpose(1, 2)


def align_cells(feature_map: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """RoIAlign: (B, D, h, w) and boxes (B, P, 4) in 0..1 → (B, P, cells², D).

    One pass of the encoder serves all proposals of an image.
    """
    height, width = feature_map.shape[-2:]
    scaled = boxes.float() * boxes.new_tensor([width, height, width, height]).float()
    # in float32: bfloat16 would round a box's edge to a quarter of a cell
    aligned = roi_align(feature_map.float(), list(scaled), cells, sampling_ratio=2, aligned=True)
    return aligned.flatten(2).transpose(1, 2).unflatten(0, boxes.shape[:2])


def grounding_step(model: Grounder, batch: dict, l1: float = 5.0, iou: float = 2.0, overlap: str = "giou") -> dict:
    """The task of a ``Distiller``, against "truth" (B, 4): the ranking loss, and ``box_loss`` in "regress"."""
    outputs = model(batch)
    rank = ranking_loss(outputs["scores"], batch["boxes"], batch["proposal_mask"], batch["truth"])
    if model.head.mode == "rank":
        return {"loss": rank, **outputs}
    parts = box_loss(outputs["box"], batch["truth"], l1, iou, overlap)
    return {"loss": sum(parts.values()), "parts": parts, **outputs}
