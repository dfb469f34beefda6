import math

import numpy as np
import pytest

from kdnb.errors import InputError
from kdnb.metrics.depth import depth_scores, error_by_distance, evaluate_depth

TRUTH = np.array([[10.0, 20.0], [0.0, 90.0]])  # one pixel without a return, one beyond 80 m
FOUND = np.array([[12.0, 15.0], [7.0, 40.0]])


def test_scores_of_two_pixels_by_hand():
    scores = depth_scores(FOUND, TRUTH)
    assert scores["AbsRel"] == pytest.approx((0.2 + 0.25) / 2)
    assert scores["RMSE"] == pytest.approx(math.sqrt((4 + 25) / 2))
    assert scores["MAE"] == pytest.approx(3.5)
    assert scores["delta1.25"] == 50.0 and scores["pixels"] == 2  # 12/10 < 1.25 <= 20/15


def test_the_limit_of_delta_does_not_count_as_near():
    assert depth_scores(np.array([12.5]), np.array([10.0]))["delta1.25"] == 0.0
    assert depth_scores(np.array([8.0]), np.array([10.0]))["delta1.25"] == 0.0


def test_perfect_depth():
    assert depth_scores(TRUTH + 1e-12, TRUTH) == pytest.approx(
        {"AbsRel": 0, "RMSE": 0, "delta1.25": 100, "MAE": 0, "pixels": 2}, abs=1e-9
    )


def test_images_weigh_alike_and_bins_count_pixels():
    many, one = (np.full((3, 4), 11.0), np.full((3, 4), 10.0)), (np.array([[30.0]]), np.array([[20.0]]))
    empty = (np.ones((2, 2)), np.zeros((2, 2)))
    scores = evaluate_depth([many, one, empty])
    assert scores["AbsRel"] == pytest.approx((0.1 + 0.5) / 2)
    assert scores["images"] == 2 and scores["pixels"] == 13
    first, second = scores["by_distance"][:2]
    assert first == {"low": 0, "high": 10, "pixels": 12, "MAE": 1.0, "bias": 1.0, "AbsRel": pytest.approx(0.1)}
    assert (second["pixels"], second["MAE"]) == (1, 10.0)


def test_bins_keep_the_sign_of_the_error_and_say_when_they_are_empty():
    near, far = error_by_distance(np.array([4.0, 8.0]), np.array([5.0, 6.0]), edges=(0, 10, 20))
    assert (near["bias"], near["MAE"]) == (0.5, 1.5)
    assert (far["pixels"], far["MAE"], far["bias"]) == (0, None, None)


def test_nothing_measured_is_no_score():
    assert depth_scores(np.ones((2, 2)), np.zeros((2, 2)))["RMSE"] is None
    assert evaluate_depth([])["AbsRel"] is None


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_depth_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match="expected positive metres"):
        depth_scores(np.array([bad]), np.array([5.0]))


def test_unknown_depth_is_left_out():
    predicted, truth = np.array([[0.0, 5.5, 0.0]]), np.array([[5.0, 5.0, 0.0]])
    assert depth_scores(predicted, truth)["pixels"] == 1
    assert depth_scores(predicted, truth)["AbsRel"] == pytest.approx(0.1)
    assert depth_scores(np.zeros((1, 3)), truth)["AbsRel"] is None


def test_maps_of_two_sizes_are_refused():
    with pytest.raises(InputError, match=r"\(2, 2\).*expected \(1, 2\)"):
        depth_scores(np.ones((2, 2)), np.ones((1, 2)))
