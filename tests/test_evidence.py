import math

import numpy as np
import pytest

from kdnb.errors import InputError
from kdnb.evidence import Comparison, mean_metric, over_seeds, paired_bootstrap, verdict


def compare(a, b, **options):
    return paired_bootstrap(mean_metric(a), mean_metric(b), len(a), **options)


def test_two_items_by_hand():
    # differences 0 and 1: a resample of two items has mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    result = compare([0.0, 0.0], [0.0, 1.0], n_resamples=20_000)
    assert result.delta == 0.5 and result.per_seed == (0.5,)
    values, counts = np.unique(result.replicates, return_counts=True)
    assert values.tolist() == [0, 0.5, 1] and np.allclose(counts / 20_000, [0.25, 0.5, 0.25], atol=0.015)
    assert result.ci95 == (0.0, 1.0) and result.verdict == "INCONCLUSIVE"
    assert result.as_json() == {"delta": 0.5, "ci95": [0.0, 1.0], "verdict": "INCONCLUSIVE"}


def test_the_interval_of_a_mean_agrees_with_the_normal_formula():
    difference = np.random.default_rng(1).normal(0.3, 2.0, 400)
    result = compare(np.zeros(400), difference, n_resamples=4000)
    half = 1.96 * difference.std() / 20
    assert result.ci95 == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.1 * half)


def test_pairing_removes_what_the_items_share():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 300)
    result = compare(hard, hard + 0.5 + rng.normal(0, 0.1, 300))
    assert result.verdict == "BEATS" and result.ci95[1] - result.ci95[0] < 0.05


@pytest.mark.parametrize(
    ("low", "high", "higher", "word"),
    [
        (0.1, 2, True, "BEATS"),
        (-2, -0.1, True, "LOSES"),
        (-1, 1, True, "INCONCLUSIVE"),
        (0, 1, True, "INCONCLUSIVE"),
        (0.1, 2, False, "LOSES"),
        (-2, -0.1, False, "BEATS"),
        (-1, 0, False, "INCONCLUSIVE"),
        (float("nan"), float("nan"), True, "INCONCLUSIVE"),
        (float("nan"), float("nan"), False, "INCONCLUSIVE"),
    ],
)
def test_verdicts(low, high, higher, word):
    assert verdict(low, high, higher) == word


def test_a_lower_loss_beats_and_delta_stays_raw():
    result = compare(np.full(30, 2.0), np.full(30, 1.0), higher_is_better=False)
    assert result.delta == -1 and result.ci95 == (-1, -1) and result.verdict == "BEATS"


def test_a_metric_that_is_no_mean():
    def best(values):  # the highest score among the drawn items
        return lambda weights: np.where(weights > 0, np.asarray(values), -np.inf).max(axis=1)

    result = paired_bootstrap(best([1.0, 2, 3]), best([1.0, 2, 5]), 3, n_resamples=20_000)
    assert result.delta == 2
    assert np.mean(result.replicates == 2) == pytest.approx(1 - (2 / 3) ** 3, abs=0.02)  # item 3 is drawn at all


def test_nan_replicates_are_left_out():
    def sometimes(weights):
        return np.where(weights[:, 0] > 0, 1.0, np.nan)

    result = paired_bootstrap(lambda w: np.zeros(len(w)), sometimes, 3)
    assert np.isnan(result.replicates).any() and result.ci95 == (1, 1) and result.verdict == "BEATS"
    nothing = paired_bootstrap(lambda w: np.zeros(len(w)), lambda w: np.full(len(w), np.nan), 3)
    assert nothing.verdict == "INCONCLUSIVE" and np.isnan(nothing.delta)


def test_a_difference_that_is_nan_has_no_verdict():
    """Of two seeds, one of which could not be scored: the other must not decide alone."""
    good = compare([0.0, 0, 0], [1.0, 1, 1])
    nothing = paired_bootstrap(lambda w: np.zeros(len(w)), lambda w: np.full(len(w), np.nan), 3)
    both = over_seeds([good, nothing])
    assert good.verdict == "BEATS" and np.isnan(both.delta) and both.verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ([0.0, math.nan, 1.0], "^the score of test item 1 is nan, expected a finite number$"),
        ([0.0, 1.0, math.inf], "^the score of test item 2 is inf"),
        ([[0.0], [1.0]], r"^scores of test items have shape \(2, 1\), expected \(items,\)$"),
        (["a"], "^scores of test items are no numbers, expected one number an item$"),
        ([0.0, 1.0], "^2 scores for 3 test items, expected one an item$"),
    ],
)
def test_scores_that_are_no_numbers_are_named_by_their_item(scores, line):
    with pytest.raises(InputError, match=line):
        paired_bootstrap(mean_metric([0.0, 0.0, 0.0]), mean_metric(scores), 3)


def test_bad_calls_are_named():
    with pytest.raises(InputError, match="0 test items"):
        compare([], [])
    with pytest.raises(InputError, match=r"shape \(3,\) for 1 resamples"):
        paired_bootstrap(lambda w: np.zeros(3), lambda w: np.zeros(len(w)), 3)
    with pytest.raises(InputError, match="no comparison to combine"):
        over_seeds([])
    with pytest.raises(InputError, match="differ in their number of replicates"):
        over_seeds([compare([0.0], [1.0], n_resamples=n) for n in (10, 20)])


def test_equal_models_are_told_apart_in_about_5_percent_of_cases():
    rng = np.random.default_rng(0)
    words = [compare(rng.normal(size=60), rng.normal(size=60), n_resamples=400, seed=k).verdict for k in range(600)]
    false_alarms = np.mean([word != "INCONCLUSIVE" for word in words])
    assert 0.02 < false_alarms < 0.09  # 600 trials: 5 % +- 0.9, plus what the percentile interval lacks at n = 60


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    inside = 0
    for k in range(400):
        low, high = compare(rng.normal(size=80), rng.normal(0.4, 1.5, size=80), n_resamples=400, seed=k).ci95
        inside += low <= 0.4 <= high
    assert 0.91 < inside / 400 < 0.98


def constant(delta, n=100):
    return Comparison(delta, (delta, delta), verdict(delta, delta), np.full(n, float(delta)), True, (delta,))


def test_one_seed_keeps_its_own_interval():
    only = compare([0.0, 1, 0, 1], [1.0, 1, 1, 0])
    assert over_seeds([only]) is only


def test_three_seeds_by_hand():
    # no item noise: the mean of three draws from {0, 3, 6} is 0 with probability 1/27 = 3.7 %, so the interval is 0..6
    result = over_seeds([constant(0), constant(3), constant(6)], n_resamples=40_000)
    assert result.delta == 3 and result.per_seed == (0, 3, 6)
    assert result.ci95 == (0, 6) and result.verdict == "INCONCLUSIVE"
    assert result.replicates.std() == pytest.approx(np.sqrt(6 / 3), rel=0.02)  # variance of {0, 3, 6} is 6
    assert over_seeds([constant(2), constant(3), constant(4)]).verdict == "BEATS"


def test_seeds_on_one_test_set_do_not_multiply_it():
    # three identical seeds on the same items are one experiment, not three: the interval must not shrink
    difference = np.random.default_rng(3).normal(0, 1, 200)
    one = compare(np.zeros(200), difference)
    three = over_seeds([one, one, one])
    assert three.delta == pytest.approx(one.delta)
    assert three.ci95 == pytest.approx(one.ci95, abs=0.02)


def test_seeds_on_their_own_test_sets_do_add_up():
    rng = np.random.default_rng(4)
    seeds = [compare(np.zeros(200), rng.normal(5, 1, 200)) for _ in range(8)]
    alone = np.mean([c.ci95[1] - c.ci95[0] for c in seeds])
    together = over_seeds(seeds).ci95
    assert together[1] - together[0] < 0.75 * alone
