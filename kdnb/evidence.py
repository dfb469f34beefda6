"""Is B really better than A? A paired bootstrap over test items, then over seeds, and a one-word verdict.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile interval). Pairing means that A
and B are always scored on the same resampled items, so that effects of an item on both cancel out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kdnb.errors import InputError

Metric = Callable[[np.ndarray], ArrayLike]  # weights (R, n_items) → values (R,)


@dataclass(frozen=True)
class Comparison:
    """B against A.

    delta: the raw difference b - a, whichever direction is better. ci95: (low, high), its 95 % percentile interval.
    verdict: BEATS, LOSES or INCONCLUSIVE, from B's point of view. replicates: (R,) bootstrap differences. per_seed: one
    delta per seed.
    """

    delta: float
    ci95: tuple[float, float]
    verdict: str
    replicates: np.ndarray
    higher_is_better: bool = True
    per_seed: tuple[float, ...] = ()

    def as_json(self) -> dict:
        """The three numbers of metrics.json: ``{"delta", "ci95", "verdict"}``."""
        return {"delta": self.delta, "ci95": list(self.ci95), "verdict": self.verdict}


def verdict(low: float, high: float, higher_is_better: bool = True) -> str:
    """BEATS when the interval (low, high) of b - a lies entirely on the better side of 0, LOSES on the worse side.

    Where lower is better (a loss), BEATS means an interval below 0. A NaN bound is INCONCLUSIVE.
    """
    if not higher_is_better:
        low, high = -high, -low
    return "BEATS" if low > 0 else "LOSES" if high < 0 else "INCONCLUSIVE"


def mean_metric(values: ArrayLike) -> Metric:
    """The weighted mean of per-item scores (n_items,), as a metric for ``paired_bootstrap``.

    Raises InputError for scores that are no list of finite numbers and, when it is asked, for another number of items.
    """
    try:
        scores = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError("scores of test items are no numbers, expected one number an item") from None
    if scores.ndim != 1:
        raise InputError(f"scores of test items have shape {scores.shape}, expected (items,)")
    if not np.isfinite(scores).all():
        place = int(np.argmin(np.isfinite(scores)))
        raise InputError(f"the score of test item {place} is {scores[place]}, expected a finite number")

    def metric(weights: np.ndarray) -> np.ndarray:
        if weights.shape[1:] != scores.shape:
            raise InputError(f"{len(scores)} scores for {weights.shape[1]} test items, expected one an item")
        return weights @ scores / weights.sum(axis=1)

    return metric


def paired_bootstrap(
    metric_a: Metric,
    metric_b: Metric,
    n_items: int,
    n_resamples: int = 1000,
    seed: int = 0,
    higher_is_better: bool = True,
) -> Comparison:
    """Compare B with A on the same resampled test items.

    metric_a, metric_b: functions of weights (R, n_items), int, how often each item was sampled, returning (R,)
    values: ``mean_metric(scores)`` for a mean, or any function that honours the weights, such as a mAP. ``delta`` is
    computed with all weights 1. Replicates that are NaN (a class absent from a resample) are left out of the interval.
    Returns a ``Comparison``; raises InputError when there are no items or a metric has the wrong shape.
    """
    if n_items < 1:
        raise InputError(f"cannot compare on {n_items} test items, expected at least 1")
    weights = np.random.default_rng(seed).multinomial(n_items, np.full(n_items, 1 / n_items), size=n_resamples)
    once = np.ones((1, n_items), dtype=weights.dtype)
    delta = float(_values(metric_b, once)[0] - _values(metric_a, once)[0])
    replicates = _values(metric_b, weights) - _values(metric_a, weights)
    return from_replicates(delta, replicates, higher_is_better, (delta,))


def over_seeds(comparisons: Iterable[Comparison], n_resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Combine the comparisons of several seeds: mean delta, and an interval over seeds *and* test items.

    Each resample samples the seeds with replacement, and one set of test items for all of them: the same column of all
    replicates. If the seeds share a test set, and ``paired_bootstrap`` had its default seed, that column stands for the
    same items, so a lucky test set is not counted several times. One seed keeps its own interval.

    With few seeds the interval is somewhat too narrow (three seeds show 2/3 of their true variance): read it
    together with ``per_seed``. Raises InputError for an empty list, and for mixed numbers of replicates or directions.
    """
    comparisons = list(comparisons)
    if not comparisons:
        raise InputError("no comparison to combine, expected one per seed")
    if len({(len(c.replicates), c.higher_is_better) for c in comparisons}) > 1:
        raise InputError("comparisons of several seeds differ in their number of replicates or their direction")
    if len(comparisons) == 1:
        return comparisons[0]
    deltas = tuple(c.delta for c in comparisons)
    rows = np.stack([c.replicates for c in comparisons])  # (seeds, replicates)
    rng = np.random.default_rng(seed)
    seeds = rng.integers(len(rows), size=(n_resamples, len(rows)))
    items = rng.integers(rows.shape[1], size=(n_resamples, 1))
    replicates = rows[seeds, items].mean(axis=1)
    return from_replicates(float(np.mean(deltas)), replicates, comparisons[0].higher_is_better, deltas)


def _values(metric: Metric, weights: np.ndarray) -> np.ndarray:
    values = np.asarray(metric(weights), dtype=float)
    if values.shape != (len(weights),):
        raise InputError(
            f"a metric returned shape {values.shape} for {len(weights)} resamples, expected ({len(weights)},)"
        )
    return values


def from_replicates(
    delta: float, replicates: np.ndarray, higher_is_better: bool = True, per_seed: tuple[float, ...] = ()
) -> Comparison:
    """A difference with the interval and the verdict that its bootstrap replicates (R,) give.

    NaNs are left out; a difference that is itself NaN has the verdict INCONCLUSIVE.
    """
    known = replicates[~np.isnan(replicates)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (float("nan"), float("nan"))
    word = verdict(low, high, higher_is_better) if not np.isnan(delta) else verdict(delta, delta)
    return Comparison(delta, (low, high), word, replicates, higher_is_better, per_seed)
