"""Image-text retrieval where several texts may match an image and several images a text; numpy only.

A query is scored by the rank of its best relevant item. Ties count against it: an irrelevant item with the same
similarity, to within ``TIE``, ranks first. So a constant embedding scores 0, even where rounding makes its similarities
differ. Pass cosines, not logits. Rates are percent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from kdnb.datasets.voc_files import as_array
from kdnb.errors import InputError

Array = ArrayLike | Tensor
KS = (1, 5, 10)
TIE = 1e-6  # float32 cosines differ by some 1e-7 with the order of their sums


def first_ranks(similarity: Array, relevant: Array) -> np.ndarray:
    """Rank (0 is first) of each query's best relevant item: the number of irrelevant items at least as similar.

    Other relevant items do not count, so "any of the first k is relevant" is the same as rank < k.

    Args:
        similarity: (Q, G), query against gallery, higher is closer; array or tensor.
        relevant: (Q, G) bool.

    Returns:
        int (Q',), in the order of the queries; queries without a relevant item are left out.

    Raises:
        InputError: shapes that differ, or a similarity that is not a finite number.
    """
    similarity, relevant = as_array(similarity, np.float64), as_array(relevant, bool)
    if similarity.ndim != 2 or similarity.shape != relevant.shape:
        raise InputError(f"similarity {similarity.shape} and relevant {relevant.shape}; expected both (queries, items)")
    if not np.isfinite(similarity).all():
        row, column = np.argwhere(~np.isfinite(similarity))[0]
        raise InputError(f"similarity of query {row} and item {column} is {similarity[row, column]}, expected a number")
    answerable = relevant.any(1)
    similarity, relevant = similarity[answerable], relevant[answerable]
    best = np.where(relevant, similarity, -np.inf).max(1, initial=-np.inf)
    return (~relevant & (similarity >= best[:, None] - TIE)).sum(1)


def hits_at(similarity: Array, relevant: Array, k: int) -> np.ndarray:
    """bool (Q',): is a relevant item among the query's first k? The items of a paired bootstrap."""
    return first_ranks(similarity, relevant) < k


def recall_at(similarity: Array, relevant: Array, ks: Sequence[int] = KS) -> dict[int, float]:
    """``{k: percent of queries with a relevant item among their first k}``; NaN when no query has a relevant item.

    Arguments as ``first_ranks``. For the other direction pass both transposed.
    """
    ranks = first_ranks(similarity, relevant)
    return {k: 100 * float((ranks < k).mean()) if len(ranks) else float("nan") for k in ks}


def retrieval_scores(
    similarity: Array, relevant: Array, sizes: ArrayLike | None = None, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Recall in both directions as flat numbers: ``image_to_text_R@1``, ``text_to_image_R@1``, ...

    Args:
        similarity, relevant: (N images, M texts), texts distinct.
        sizes: optional (N,) names such as "small" and "large"; adds ``image_to_text_R@1_small`` and so on, among the
            images of that size only. A smaller gallery is easier: compare models within a size, not sizes.
    """
    similarity, relevant = as_array(similarity, np.float64), as_array(relevant, bool)
    scores = both_ways(similarity, relevant, ks, "")
    if sizes is None:
        return scores
    sizes = np.asarray(sizes)
    if sizes.shape != (len(similarity),):
        raise InputError(f"sizes {sizes.shape} of {len(similarity)} images, expected one name each")
    for size in np.unique(sizes):
        scores |= both_ways(similarity[sizes == size], relevant[sizes == size], ks, f"_{size}")
    return scores


def both_ways(similarity: np.ndarray, relevant: np.ndarray, ks: Sequence[int], suffix: str) -> dict[str, float]:
    """``recall_at`` in both directions, named with a suffix."""
    scores = {}
    for name, s, r in (("image_to_text", similarity, relevant), ("text_to_image", similarity.T, relevant.T)):
        scores |= {f"{name}_R@{k}{suffix}": value for k, value in recall_at(s, r, ks).items()}
    return scores


def zero_shot(image_embeddings: Array, class_embeddings: Array, labels: Array) -> tuple[float, np.ndarray]:
    """Classify each image by the nearest class text.

    Args:
        image_embeddings: (N, D) unit vectors.
        class_embeddings: (C, D) unit vectors, one text per class.
        labels: (N,) class index; −1 leaves an image out (a person has no paint colour).

    Returns:
        (accuracy in percent, correct (N',) bool); NaN when no image has a label. A tie with another class is wrong.

    Raises:
        InputError: a label beyond the classes, or as ``first_ranks``.
    """
    images, classes = as_array(image_embeddings, np.float64), as_array(class_embeddings, np.float64)
    labels = as_array(labels, np.int64)
    if labels.shape != (len(images),) or (labels >= len(classes)).any():
        raise InputError(
            f"labels {labels.shape} up to {labels.max(initial=-1)} for {len(images)} images and "
            f"{len(classes)} classes; expected one label below {len(classes)} per image"
        )
    correct = hits_at(images @ classes.T, labels[:, None] == np.arange(len(classes)), 1)
    return (100 * float(correct.mean()) if len(correct) else float("nan")), correct
