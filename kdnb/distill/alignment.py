"""Losses that align image embeddings with a frozen teacher's space: with its texts, its rankings, its images.

Embeddings are unit vectors unless stated otherwise, so the product of two is their cosine; a logit is that cosine
times a scale. 1 − cos ("post-cosine") is ``losses.cosine_loss``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.distill.checks import describe, pair, require_shape
from kdnb.distill.losses import kd_kl
from kdnb.errors import InputError


def similarity_logits(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """scale · cos(image, text), (N, M), of unit vectors (N, D) and (M, D); always in float32.

    Half precision rounds a cosine near 1 to 1/256 (bf16), which at CLIP's scale of 100 is 0.4 of a logit.
    Raises InputError for other shapes.
    """
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        found = f"{describe(images)} and {describe(texts)}"
        raise InputError(f"embeddings of images and texts are {found}, expected (N, D) and (M, D)")
    with torch.autocast(images.device.type, enabled=False):
        return scale * (images.float() @ texts.float().T)


def multi_positive_infonce(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    positive: Tensor,
    scale: Tensor | float,
    known: Tensor | None = None,
) -> Tensor:
    """Contrastive loss in both directions, where an image may match several texts and a text several images.

    Cross-entropy of each image's row of logits with a target spread evenly over its positives, likewise of each
    text's column; the mean of the two directions (UniCL, Yang et al. 2022, arXiv 2204.03610). With one positive per row
    and column it is CLIP's loss. Its minimum is not 0: a row of p positives cannot go below ln p.

    Args:
        image_embeddings: (N, D) unit vectors.
        text_embeddings: (M, D) unit vectors, each distinct text once.
        positive: (N, M) bool, which text matches which image.
        scale: inverse temperature, usually learned.
        known: (N,) bool, the images whose matching texts are known; by default those with a positive.

    Returns:
        A scalar. An image that is not known is left out altogether: it is no negative either. A known image or a text
        without a match has no row of its own, but remains a negative of the others. 0 when nothing matches.

    Raises:
        InputError: other shapes.
    """
    size = (len(image_embeddings), len(text_embeddings))
    require_shape("the table of matches", positive, size, "(images, texts)")
    positive = positive.bool()
    known = positive.any(1) if known is None else known
    require_shape("the images whose texts are known", known, size[:1], "(images,)")
    known = known.bool()
    positive = positive[known]
    logits = similarity_logits(image_embeddings[known], text_embeddings, scale)
    if not positive.any():
        return logits.sum() * 0  # in the graph: DDP waits for a gradient of each parameter
    rows, columns = positive.any(1), positive.any(0)
    to_text = F.cross_entropy(logits[rows], soft_targets(positive[rows]))
    to_image = F.cross_entropy(logits.T[columns], soft_targets(positive.T[columns]))
    return (to_text + to_image) / 2


def soft_targets(positive: Tensor) -> Tensor:
    """(Q, G) bool with a positive in each row → float targets that sum to 1 in each row."""
    target = positive.float()
    return target / target.sum(1, keepdim=True)


def similarity_kd(
    student_images: Tensor, teacher_images: Tensor, texts: Tensor, scale: Tensor | float, temperature: float = 4.0
) -> Tensor:
    """KL between the teacher's and the student's ranking of the same texts, for the same images, times temperature².

    Both rows of logits are cosines times *one* scale, the teacher's: ``scale · image @ texts.T``, with each model's own
    image embedding and the teacher's text embeddings. CLIP's trained scale is 100, so temperature 4 leaves 25.
    The original of this project calls it "SimKD" (*similarity* KD); the paper of that name is ``embedding_l2``.

    Args:
        student_images, teacher_images: (N, D) unit vectors of the same images in the same view.
        texts: (M, D) unit vectors, frozen.
        scale: the teacher's ``logit_scale.exp()``.
        temperature: divides the logits of both.

    Returns:
        A scalar, the mean over images; 0 when the student ranks as the teacher does.

    Raises:
        InputError: other shapes, a temperature that is not above 0.
    """
    student_images, teacher_images = pair(student_images, teacher_images, "image embeddings")
    texts, scale = texts.detach(), torch.as_tensor(scale, device=texts.device).detach()
    student = similarity_logits(student_images, texts, scale)
    return kd_kl(student, similarity_logits(teacher_images, texts, scale), temperature)


def embedding_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance ‖student − teacher‖², summed over the width and averaged over samples.

    SimKD's loss on projected features (Chen et al. 2022, arXiv 2203.14001). Per sample, not per element:
    on unit vectors it is then 2 · (1 − cos), twice the cosine loss, whatever the width.

    Args:
        student, teacher: (N, D), of any length.

    Raises:
        InputError: they differ in shape.
    """
    student, teacher = pair(student, teacher, "embeddings")
    require_shape("the student's embedding", student, (None, None), "(N, D)")
    return (student - teacher).pow(2).sum(-1).mean() if len(student) else student.sum()
