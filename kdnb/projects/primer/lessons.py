"""00's lessons, each a small measurement: what second choices say, what T² is for, how far to trust a verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from kdnb.distill.losses import kd_kl
from kdnb.evidence import from_replicates, over_seeds


def second_choices(logits: Tensor, labels: Sequence[int]) -> np.ndarray:
    """(C, C) percent: where a network's probability for other classes goes, by true class (rows).

    The probability of an image's true class is left out and the rest scaled to sum to 100, so that each image has one
    vote, however confident it is; then the mean over the class. A class without images has a row of zeros. ``logits``
    are (N, C), ``labels`` N class numbers.
    """
    labels, classes = torch.as_tensor(labels), logits.shape[1]
    others = logits.double().scatter(1, labels[:, None], -torch.inf).softmax(1)
    table = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, labels, others)
    return (100 * table / table.sum(1, keepdim=True).clamp(min=1e-12)).numpy()


def order_of_likeness(table: np.ndarray) -> list[int]:
    """Class numbers, those that are mistaken for each other side by side: average linkage of ``second_choices``."""
    likeness = (table + table.T) / 2
    distance = likeness.max() - likeness
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)).tolist()


def pull(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> pd.DataFrame:
    """Mean norm of the KL's gradient on an image's logits (N, C), at each temperature (rows), with and without T²."""
    rows = {}
    for T in temperatures:
        logits = student.detach().clone().requires_grad_()
        kd_kl(logits, teacher, T).backward()
        norm = len(logits) * logits.grad.norm(dim=1).mean().item()  # the loss is a mean over images
        rows[T] = {"with T²": norm, "without": norm / T**2}
    return pd.DataFrame(rows).T.rename_axis("temperature")


def differing(first: Sequence[int], second: Sequence[int]) -> float:
    """The share of test items that exactly one of two networks gets right, of (N,) zeros and ones each."""
    return float(np.mean(np.asarray(first) != np.asarray(second)))


def false_verdicts(
    items: int,
    differ: float,
    spread: float,
    seeds: Sequence[int] = (1, 3),
    trials: int = 300,
    resamples: int = 200,
    seed: int = 0,
) -> dict[int, float]:
    """Number of seeds -> percent of simulated comparisons of two equal ways of training that end in BEATS or LOSES.

    Which of two networks is right on an item that only one gets right is a coin toss. On top of that each training has
    luck. A bootstrap over test items sees the coin tosses; only other seeds show the luck.

    Args:
        items, differ: number of test items, and see ``differing``.
        spread: standard deviation of the accuracy that luck adds, in points.
        seeds: numbers of trainings per way, such as 1 and 3.
    """
    rng, most = np.random.default_rng(seed), max(seeds)
    luck = rng.normal(0, np.sqrt(2) * spread / 100, (trials, most, 1))
    coin = rng.uniform(size=(trials, most, items))
    difference = (coin < (differ + luck) / 2).astype(np.float32) - (coin > 1 - (differ - luck) / 2)
    weights = rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(np.float32)
    replicates = 100 / items * difference @ weights.T
    deltas = 100 * difference.mean(2)
    each = [[from_replicates(deltas[t, s], replicates[t, s]) for s in range(most)] for t in range(trials)]
    verdicts = {count: [over_seeds(trial[:count], 2000).verdict for trial in each] for count in seeds}
    return {count: 100 * float(np.mean(np.array(words) != "INCONCLUSIVE")) for count, words in verdicts.items()}
