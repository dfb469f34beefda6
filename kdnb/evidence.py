"""Is B really better than A? A paired bootstrap over test items, then over seeds, and a one-word verdict.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile interval). Pairing means that A
and B are always scored on the same resampled items, so what makes an item hard for both cancels out.
"""

from dataclasses import dataclass

import numpy as np

from kdnb.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """B against A. ``delta`` is the raw difference b - a, whichever direction is better.

    ci95: (low, high), percentile 95 % interval of delta. verdict: BEATS, LOSES or INCONCLUSIVE, from B's point of
    view. replicates: (B,) bootstrap differences. per_seed: the deltas behind it, one per seed.
    """

    delta: float
    ci95: tuple
    verdict: str
    replicates: np.ndarray
    higher_is_better: bool = True
    per_seed: tuple = ()

    def as_json(self):
        """The three numbers of metrics.json: ``{"delta", "ci95", "verdict"}``."""
        return {"delta": self.delta, "ci95": list(self.ci95), "verdict": self.verdict}


def verdict(low, high, higher_is_better=True):
    """BEATS when the interval (low, high) of b - a lies wholly on the better side of 0, LOSES on the worse side.

    Where lower is better (a loss), BEATS means an interval below 0. A NaN bound is INCONCLUSIVE.
    """
    if not higher_is_better:
        low, high = -high, -low
    return "BEATS" if low > 0 else "LOSES" if high < 0 else "INCONCLUSIVE"


def mean_metric(values):
    """Turn per-item scores, shape (n_items,), into a metric for ``paired_bootstrap``: their weighted mean."""
    values = np.asarray(values, dtype=float)

    def metric(weights):
        return weights @ values / weights.sum(axis=1)

    return metric


def paired_bootstrap(metric_a, metric_b, n_items, n_resamples=1000, seed=0, higher_is_better=True):
    """Compare B with A on the same resampled test items.

    metric_a, metric_b: functions of weights (R, n_items), int, how often each item was drawn, returning (R,) values.
    A mean is ``mean_metric(scores)``; a mAP is any function that honours the weights. ``delta`` is on the items as
    they are, each once. Replicates that are NaN (a class absent from a resample) are left out of the interval.
    Returns a ``Comparison``; raises InputError when there are no items or a metric has the wrong shape.
    """
    if n_items < 1:
        raise InputError(f"cannot compare on {n_items} test items, expected at least 1")
    weights = np.random.default_rng(seed).multinomial(n_items, np.full(n_items, 1 / n_items), size=n_resamples)
    once = np.ones((1, n_items), dtype=weights.dtype)
    delta = float(_values(metric_b, once)[0] - _values(metric_a, once)[0])
    replicates = _values(metric_b, weights) - _values(metric_a, weights)
    return _comparison(delta, replicates, higher_is_better, (delta,))


def over_seeds(comparisons, n_resamples=10_000, seed=0):
    """Combine the comparisons of several seeds: mean delta, and an interval over seeds *and* test items.

    Each resample draws as many seeds as there are, with replacement, and one set of test items for all of them: the
    same row of every seed's replicates. Where the seeds share one test set, and ``paired_bootstrap`` its default
    seed, that row is the same items, so a lucky test set is not counted as several. One seed keeps its own interval.

    With few seeds the interval is somewhat too narrow (three seeds show 2/3 of their true variance): read it
    together with ``per_seed``. Raises InputError when the list is empty or the seeds do not fit together.
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
    drawn_seeds = rng.integers(len(rows), size=(n_resamples, len(rows)))
    drawn_items = rng.integers(rows.shape[1], size=(n_resamples, 1))
    replicates = rows[drawn_seeds, drawn_items].mean(axis=1)
    return _comparison(float(np.mean(deltas)), replicates, comparisons[0].higher_is_better, deltas)


def _values(metric, weights):
    values = np.asarray(metric(weights), dtype=float)
    if values.shape != (len(weights),):
        raise InputError(
            f"a metric returned shape {values.shape} for {len(weights)} resamples, expected ({len(weights)},)"
        )
    return values


def _comparison(delta, replicates, higher_is_better, per_seed):
    known = replicates[~np.isnan(replicates)]
    low, high = (float(x) for x in np.percentile(known, [2.5, 97.5])) if len(known) else (float("nan"), float("nan"))
    return Comparison(delta, (low, high), verdict(low, high, higher_is_better), replicates, higher_is_better, per_seed)
