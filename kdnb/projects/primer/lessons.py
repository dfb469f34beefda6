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
from kdnb.evidence import Comparison, over_seeds, verdict


def second_choices(logits: Tensor, labels: Sequence[int]) -> np.ndarray:
    """(C, C) percent: what a network's probability for other classes goes to, by true class (rows).

    Of each picture the probability of the true class is left out and what is left is shared out to 100, so that every
    picture has one vote, the sure ones too; then the mean over a class. One without pictures has a row of zeros.

    Args:
        logits: (N, C).
        labels: N class numbers.
    """
    labels, classes = torch.as_tensor(labels), logits.shape[1]
    others = logits.double().scatter(1, labels[:, None], -torch.inf).softmax(1)
    table = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, labels, others)
    return (100 * table / table.sum(1, keepdim=True).clamp(min=1e-12)).numpy()


def order_of_likeness(table: np.ndarray) -> list[int]:
    """Class numbers in an order in which neighbours are taken for each other: average linkage of ``second_choices``."""
    likeness = (table + table.T) / 2
    distance = likeness.max() - likeness
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)).tolist()


def pull(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> pd.DataFrame:
    """Mean length of the gradient of the KL on a picture's logits, at each temperature, with the factor T² and without.

    Args:
        student, teacher: (N, C) logits.
    """
    rows = {}
    for T in temperatures:
        logits = student.detach().clone().requires_grad_()
        kd_kl(logits, teacher, T).backward()
        length = len(logits) * logits.grad.norm(dim=1).mean().item()  # the loss is a mean over pictures
        rows[T] = {"with T²": length, "without": length / T**2}
    return pd.DataFrame(rows).T.rename_axis("temperature")


# --- verdicts ---------------------------------------------------------------------------------------------------


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
    """How often two equal ways of training get a verdict, BEATS or LOSES, in percent of simulated comparisons.

    On an item that only one of two networks gets right it is either one, like a coin. On top of that each training has
    luck: ``spread`` is the standard deviation of the accuracy that it adds. What a bootstrap over test items can see is
    the coin; only other seeds show the luck. The verdicts are those of ``kdnb.evidence``.

    Args:
        items: test items.
        differ: see ``differing``.
        spread: in points of accuracy.
        seeds: numbers of trainings per way, such as 1 and 3.

    Returns:
        Number of seeds → percent.
    """
    rng, most = np.random.default_rng(seed), max(seeds)
    luck = rng.normal(0, np.sqrt(2) * spread / 100, (trials, most, 1))
    coin = rng.uniform(size=(trials, most, items))
    difference = (coin < (differ + luck) / 2).astype(np.float32) - (coin > 1 - (differ - luck) / 2)
    drawn = rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(np.float32)
    replicates = 100 / items * difference @ drawn.T
    each = [[single(100 * difference[t, s].mean(), replicates[t, s]) for s in range(most)] for t in range(trials)]
    return {
        count: 100 * float(np.mean([over_seeds(of_trial[:count], 2000).verdict != "INCONCLUSIVE" for of_trial in each]))
        for count in seeds
    }


def single(delta: float, replicates: np.ndarray) -> Comparison:
    """The comparison of one seed from its bootstrap replicates, as ``paired_bootstrap`` makes it."""
    low, high = (float(bound) for bound in np.percentile(replicates, [2.5, 97.5]))
    return Comparison(float(delta), (low, high), verdict(low, high), replicates)
