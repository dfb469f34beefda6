"""Image embeddings against the texts of their regions: retrieval both ways, and zero-shot category and colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from kdnb.datasets.coco import Region, full_text
from kdnb.metrics.retrieval import hits_at, retrieval_scores, zero_shot
from kdnb.world.phrases import coloured, with_article

Encode = Callable[[list[str]], Tensor]  # N texts -> (N, D) unit vectors


def query_text(region: Region) -> str:
    """What retrieval asks for: "a photo of a red car"; where the data names no colour, "a photo of a car"."""
    return f"a photo of {with_article(coloured(region.category, region.attributes.get('colour')))}"


def alignment_scores(images: Tensor, regions: Sequence[Region], encode: Encode) -> dict[str, float]:
    """All scores, in percent.

    Retrieval asks for "a photo of a red car", both ways; per size it asks for "a photo of a small red car" among the
    regions of that size.

    Args:
        images: (N, D) unit embeddings of N regions.
        encode: the teacher's text tower, the same for all arms.
    """
    main, relevant = similarity(images, [query_text(r) for r in regions], encode)
    sized, relevant_sized = similarity(images, [full_text(r) for r in regions], encode)
    per_size = retrieval_scores(sized, relevant_sized, [r.size for r in regions])
    return {
        **retrieval_scores(main, relevant),
        **{name: value for name, value in per_size.items() if name.endswith(("_small", "_large"))},
        "zero_shot_category": category_accuracy(images, regions, encode),
        "zero_shot_colour": colour_accuracy(images, regions, encode),
    }


def similarity(images: Tensor, texts: Sequence[str], encode: Encode) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (N, M) of images with the distinct texts, in order of appearance, and which text is whose (N, M)."""
    distinct = list(dict.fromkeys(texts))
    relevant = np.array([distinct.index(text) for text in texts])[:, None] == np.arange(len(distinct))
    return (images.cpu() @ encode(distinct).cpu().T).numpy(), relevant


def text_to_image_hits(images: Tensor, regions: Sequence[Region], encode: Encode) -> np.ndarray:
    """(M,) bool: is the first region right, for each distinct text? The items of the paired bootstrap."""
    cosines, relevant = similarity(images, [query_text(r) for r in regions], encode)
    return hits_at(cosines.T, relevant.T, 1)


def category_accuracy(images: Tensor, regions: Sequence[Region], encode: Encode) -> float:
    """Percent of the regions that are nearest to their own category's text."""
    categories = sorted({region.category for region in regions})
    prompts = encode([f"a photo of {with_article(category)}" for category in categories])
    return zero_shot(images.cpu(), prompts.cpu(), [categories.index(r.category) for r in regions])[0]


def colour_accuracy(images: Tensor, regions: Sequence[Region], encode: Encode) -> float:
    """Which colour, given the category: each region is compared with the colours its category comes in.

    NaN where the data names no colours.
    """
    hits = []
    for category in sorted({region.category for region in regions}):
        rows = [i for i, r in enumerate(regions) if r.category == category and r.attributes.get("colour")]
        colours = sorted({regions[i].attributes["colour"] for i in rows})
        if len(colours) > 1:
            prompts = encode([f"a photo of {with_article(coloured(category, colour))}" for colour in colours])
            labels = [colours.index(regions[i].attributes["colour"]) for i in rows]
            hits.append(zero_shot(images[rows].cpu(), prompts.cpu(), labels)[1])
    return 100 * float(np.concatenate(hits).mean()) if hits else float("nan")
