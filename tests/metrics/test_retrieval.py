import numpy as np
import pytest
import torch

from kdnb.errors import InputError
from kdnb.evidence import mean_metric, paired_bootstrap
from kdnb.metrics.retrieval import first_ranks, hits_at, recall_at, retrieval_scores, zero_shot


def brute_force_recall(similarity, relevant, k):
    """Sort the gallery of each query by falling similarity, irrelevant items first among equals."""
    hits = []
    for scores, truth in zip(similarity, relevant, strict=True):
        if truth.any():
            order = sorted(range(len(scores)), key=lambda i: (-scores[i], truth[i]))
            hits.append(any(truth[i] for i in order[:k]))
    return 100 * sum(hits) / len(hits)


@pytest.fixture(params=[0, 1, 2])
def random_case(request):
    rng = np.random.default_rng(request.param)
    similarity = rng.normal(size=(40, 25))
    if request.param:
        similarity = similarity.round(1 if request.param == 1 else 0)  # many ties
    return similarity, rng.random((40, 25)) < 0.08  # some queries have nothing relevant


def test_against_brute_force(random_case):
    similarity, relevant = random_case
    assert not relevant.any(1).all()
    for s, r in ((similarity, relevant), (similarity.T, relevant.T)):
        assert recall_at(s, r, (1, 3, 10, 25)) == {
            k: pytest.approx(brute_force_recall(s, r, k)) for k in (1, 3, 10, 25)
        }


def test_by_hand():
    similarity = [[0.9, 0.8, 0.1], [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]]
    relevant = [[False, True, True], [True, False, False], [False, False, False]]
    assert first_ranks(similarity, relevant).tolist() == [1, 2]  # the third query has nothing to find
    assert recall_at(similarity, relevant, (1, 2, 3)) == {1: 0, 2: 50, 3: 100}
    assert hits_at(similarity, relevant, 2).tolist() == [True, False]


def test_relevant_items_are_not_in_each_others_way():
    similarity = [[0.9, 0.8, 0.7, 0.6]]
    assert first_ranks(similarity, [[False, True, True, True]]).tolist() == [1]
    assert first_ranks(similarity, [[False, False, False, True]]).tolist() == [3]


def test_a_constant_embedding_finds_nothing():
    """Also when float32 rounding tells the equal similarities apart."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=128).astype(np.float32)
    texts = rng.normal(size=(30, 128)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    similarity = np.tile(image / np.linalg.norm(image), (40, 1)) @ texts.T
    similarity += rng.choice([0, 6e-8], size=similarity.shape)
    relevant = np.arange(40)[:, None] % 30 == np.arange(30)
    scores = retrieval_scores(similarity, relevant)
    assert scores["text_to_image_R@1"] == scores["text_to_image_R@10"] == 0
    assert scores["image_to_text_R@1"] <= 100 * 2 / 40  # the one text nearest to everything, right for two images
    assert recall_at(np.zeros((4, 4)), np.eye(4)) == {1: 0, 5: 100, 10: 100}


def test_scores_both_ways_and_per_size():
    similarity = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    relevant = torch.tensor([[1, 0], [0, 1], [0, 1]], dtype=torch.bool)
    scores = retrieval_scores(similarity, relevant, ["small", "large", "large"], ks=(1,))
    assert scores == {
        "image_to_text_R@1": pytest.approx(200 / 3),
        "text_to_image_R@1": 100,
        "image_to_text_R@1_large": 50,
        "text_to_image_R@1_large": 100,  # the first text has no large image
        "image_to_text_R@1_small": 100,
        "text_to_image_R@1_small": 100,
    }


def test_hits_serve_a_paired_bootstrap():
    relevant = np.eye(50, dtype=bool)
    good, bad = relevant + 0.0, np.roll(relevant, 1, axis=1) + 0.0
    a, b = (mean_metric(hits_at(similarity, relevant, 1)) for similarity in (bad, good))
    assert paired_bootstrap(a, b, 50).verdict == "BEATS"


def test_nothing_relevant_is_nan():
    assert np.isnan(recall_at(np.zeros((2, 3)), np.zeros((2, 3)))[1])
    assert first_ranks(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"similarity of query 1 and item 0 is nan"):
        recall_at([[0.0, 1], [float("nan"), 0]], np.eye(2))
    with pytest.raises(InputError, match=r"\(2, 3\) and relevant \(3, 2\)"):
        recall_at(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="of 2 images"):
        retrieval_scores(np.eye(2), np.eye(2), sizes=["small"])


def test_zero_shot_by_hand():
    images = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8], [1, 0]])
    accuracy, correct = zero_shot(images, torch.eye(2), torch.tensor([0, 1, 0, -1]))
    assert correct.tolist() == [True, True, False] and accuracy == pytest.approx(200 / 3)
    assert zero_shot(images, torch.ones(3, 2), [0, 1, 2, 0])[0] == 0  # all classes tie
    assert np.isnan(zero_shot(images, torch.eye(2), [-1] * 4)[0])


def test_zero_shot_refuses_labels_beyond_the_classes():
    with pytest.raises(InputError, match="up to 2 for 2 images and 2 classes"):
        zero_shot(np.eye(2), np.eye(2), [0, 2])
    with pytest.raises(InputError, match="expected one label"):
        zero_shot(np.eye(2), np.eye(2), [0])
