"""The KITTI score against arithmetic by hand, a slow independent implementation, shapely, and what must always hold."""

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from kitti_random import make, random_frames, write_frames
from kitti_slow import overlap, slow_curve

from kdnb.cli import main
from kdnb.datasets.kitti_labels import KittiLabel, read_labels
from kdnb.errors import InputError
from kdnb.metrics import kitti, kitti_match, rotated_iou
from kdnb.metrics.kitti import bootstrap_kitti, evaluate_kitti, kitti_cases, kitti_curves, recall_thresholds
from kdnb.metrics.rotated_iou import rotated_ious, shared_ground

pytestmark = pytest.mark.filterwarnings("ignore:fewer than 41 objects")
DIFFICULTIES = ("easy", "moderate", "hard")
SLOT = 200  # pixels between the boxes of two slots: nothing overlaps across slots


def at(slot, kind="Car", score=None, height=50.0, cut=0.0, **changes):
    """An object in a slot of its own: in the image 60 px wide, in space 10 m beside the next; ``cut`` takes a share of
    its width away in both, so the overlap with the whole object is 1 - cut in every metric."""
    left, width = SLOT * slot, 60 * (1 - cut)
    label = KittiLabel(
        kind,
        0,
        0,
        0.0,
        (left, 100.0, left + width, 100.0 + height),
        1.5,
        1.6,
        4 * (1 - cut),
        10.0 * slot + 2 * (1 - cut),
        1.7,
        20.0,
        0.0,
        score,
    )
    return replace(label, **changes)


def care(slot, width=60.0):
    left = SLOT * slot
    return KittiLabel("DontCare", -1, -1, -10, (left, 100.0, left + width, 150.0), -1, -1, -1, -1000, -1000, -1000, -10)


def curve(truth, found, metric="bbox", name="Car", difficulty="easy", **more):
    return kitti_curves({"a": truth}, {"a": found}, **more)[name][metric][difficulty]


def start(values, n=3):
    return pytest.approx(values + [0] * (n - len(values)))


# --- by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["bbox", "bev", "3d"])
def test_precision_and_recall_by_hand(metric):
    # 3 cars; by score: hit .9, alarm .8, hit .7; one car is never found. Hits at .9 and .7 give two thresholds:
    # at .9 precision 1/1, recall 1/3; at .7 precision 2/3, recall 2/3.
    truth = [at(0), at(1), at(2)]
    found = [at(0, score=0.9), at(5, score=0.8), at(1, score=0.7)]
    got = curve(truth, found, metric)
    assert got.thresholds.tolist() == [0.9, 0.7]
    assert got.precision[:3] == start([1, 2 / 3])
    assert got.recall[:3] == start([1 / 3, 2 / 3])
    assert got.objects == 3
    # R40 leaves the first point out: 2/3 / 40. R11 is points 0, 4, 8 ...: 1 / 11.
    assert got.ap == pytest.approx({"R40": 100 * 2 / 3 / 40, "R11": 100 / 11})


def test_precision_is_the_best_at_or_beyond():
    # Alarm .95, hits .9 and .7: 1/2 at .9, 2/3 at .7, so 2/3 at both.
    got = curve([at(0), at(1), at(2)], [at(5, score=0.95), at(0, score=0.9), at(1, score=0.7)])
    assert got.precision[:3] == start([2 / 3, 2 / 3])


def test_overlap_must_exceed_the_threshold():
    # 1 - cut is the overlap. Pedestrians need more than 0.5 (0.25 where loose), cars more than 0.7 (0.5).
    for kind, limit, loose in (("Pedestrian", 0.5, 0.25), ("Cyclist", 0.5, 0.25), ("Car", 0.7, 0.5)):
        for metric in ("bbox", "bev", "3d"):
            for mode, least in (("strict", limit), ("loose", limit if metric == "bbox" else loose)):
                for overlap_, hit in ((least + 0.01, 1), (least - 0.01, 0)):
                    found = [at(0, kind, score=1.0, cut=1 - overlap_)]
                    got = curve([at(0, kind)], found, metric, kind, overlap=mode)
                    assert got.recall[0] == hit, (kind, metric, mode, overlap_)
    half = [at(0, "Pedestrian", score=1.0, cut=0.5)]
    assert curve([at(0, "Pedestrian")], half, "bbox", "Pedestrian").recall[0] == 0  # exactly 0.5 is not enough


@pytest.mark.parametrize("neighbour,name", [("Van", "Car"), ("Person_sitting", "Pedestrian")])
def test_neighbouring_class_is_neutral(neighbour, name):
    # A detection on the neighbour counts neither way; on any other class it is an alarm: 1/1 or 1/2.
    found = [at(0, name, score=0.5), at(1, name, score=0.9)]
    assert curve([at(0, name), at(1, neighbour)], found, name=name).precision[0] == 1
    assert curve([at(0, name), at(1, "Truck")], found, name=name).precision[0] == 0.5
    assert curve([at(0, name), at(1, neighbour)], found[:1], name=name).recall[0] == 1  # nor is it a miss
    assert (
        curve(
            [at(0, "Cyclist"), at(1, neighbour)],
            [at(0, "Cyclist", score=0.5), at(1, "Cyclist", score=0.9)],
            name="Cyclist",
        ).precision[0]
        == 0.5
    )


def test_dont_care_excuses_in_the_image_only():
    # 70 % of a detection's own area has to lie in the area: 45 of 60 px do, 40 of 60 do not.
    for width, precision in ((45, 1), (40, 0.5)):
        truth, found = [at(0), care(1, width)], [at(0, score=0.5), at(1, score=0.9)]
        assert curve(truth, found, "bbox").precision[0] == precision
        assert curve(truth, found, "bev").precision[0] == curve(truth, found, "3d").precision[0] == 0.5
    # the share is of the detection, not of the union: a huge area excuses as well
    assert curve([at(0), care(1, 5000)], [at(0, score=0.5), at(1, score=0.9)]).precision[0] == 1


def test_difficulties_by_height_occlusion_and_truncation():
    # what makes an object valid at (easy, moderate, hard)
    cases = [
        ({"height": 40.0}, (0, 1, 1)),
        ({"height": 40.1}, (1, 1, 1)),
        ({"height": 25.0}, (0, 0, 0)),
        ({"height": 25.1}, (0, 1, 1)),
        ({"occluded": 1}, (0, 1, 1)),
        ({"occluded": 2}, (0, 0, 1)),
        ({"occluded": 3}, (0, 0, 0)),
        ({"truncated": 0.15}, (1, 1, 1)),
        ({"truncated": 0.16}, (0, 1, 1)),
        ({"truncated": 0.3}, (0, 1, 1)),
        ({"truncated": 0.31}, (0, 0, 1)),
        ({"truncated": 0.5}, (0, 0, 1)),
        ({"truncated": 0.51}, (0, 0, 0)),
    ]
    for changes, valid in cases:
        curves = kitti_curves({"a": [at(0, **changes)]}, {})["Car"]["bbox"]
        assert tuple(curves[d].objects for d in DIFFICULTIES) == valid, changes


def test_an_object_out_of_the_difficulty_is_neutral():
    # The occluded car is found: neither a hit nor an alarm in easy (1 threshold), a hit in moderate (2).
    truth, found = [at(0), at(1, occluded=1)], [at(0, score=0.5), at(1, score=0.9)]
    assert curve(truth, found).precision[:2] == start([1], 2)
    assert curve(truth, found, difficulty="moderate").precision[:2] == start([1, 1], 2)


def test_low_detections_are_no_alarms():
    # height < 40: 39.9 px is passed over in easy (not in moderate), 40 px is an alarm
    for height, easy, moderate in ((39.9, 1, 0.5), (40.0, 0.5, 0.5), (24.9, 1, 1)):
        found = [at(0, score=0.5), at(5, score=0.9, height=height)]
        assert curve([at(0)], found).precision[0] == easy
        assert curve([at(0)], found, difficulty="moderate").precision[0] == moderate


def test_a_low_detection_of_any_class_can_take_an_object():
    # The official code marks low detections before it looks at their class. The car is 41 px high, the detection 39 (an
    # overlap of .95): nothing hit, nothing missed, no threshold at all; without it the car is a miss.
    for kind in ("Car", "Cyclist"):
        case = kitti_cases({"a": [at(0, height=41.0)]}, {"a": [at(0, kind, score=0.9, height=39.0)]})
        assert [c.item() for c in case["Car", "bbox", "easy"].count(np.array([0.0]))] == [0, 0, 0, 0]
    tall = kitti_cases({"a": [at(0, height=41.0)]}, {"a": [at(0, "Cyclist", score=0.9, height=40.0)]})
    assert [c.item() for c in tall["Car", "bbox", "easy"].count(np.array([0.0]))] == [0, 0, 1, 0]


def test_first_pass_goes_by_score_second_by_overlap():
    # One car, two detections: .9 overlaps by .8, .5 by 1. The threshold is .9 (by score), where only it is looked at.
    found = [at(0, score=0.9, cut=0.2), at(0, score=0.5, alpha=np.pi)]
    got = kitti_curves({"a": [at(0)]}, {"a": found})["Car"]
    assert got["bbox"]["easy"].thresholds.tolist() == [0.9]
    assert got["aos"]["easy"].precision[0] == 1
    # With a second car found at .4, the threshold .4 looks at all: the first car takes the detection with overlap 1,
    # turned round, and the surer one is an alarm: hits 2, alarms 1, similarity 0 + 1.
    case = kitti_cases({"a": [at(0), at(1)]}, {"a": [*found, at(1, score=0.4)]})["Car", "bbox", "easy"]
    assert [c[0].tolist() for c in case.count(np.array([0.9, 0.4]))] == [[1, 2], [0, 1], [1, 0], pytest.approx([1, 1])]


def test_second_pass_prefers_a_valid_detection_to_a_low_one():
    # The car is 48 px high. Low: 39.5 px, overlap .82, first in the file; valid: 48 px, overlap .75.
    car = at(0, height=48.0)
    low, valid = at(0, score=0.9, height=39.5), at(0, score=0.8, height=48.0, cut=0.25)
    case = kitti_cases({"a": [car]}, {"a": [low, valid]})["Car", "bbox", "easy"]
    assert [c.item() for c in case.count(np.array([0.0]))] == pytest.approx([1, 0, 0, 1])
    assert len(case.hits()) == 0  # by score the low one comes first and takes the car


def test_orientation_by_hand():
    # Differences of alpha 0, a quarter and half a turn: similarity 1, 1/2, 0. Scores in that order:
    # 1, (1 + 1/2) / 2, (1 + 1/2 + 0) / 3; an alarm at .6 divides by 4.
    truth = [at(k) for k in range(3)]
    found = [at(0, score=0.9), at(1, score=0.8, alpha=np.pi / 2), at(2, score=0.7, alpha=np.pi), at(9, score=0.75)]
    curves = kitti_curves({"a": truth}, {"a": found})["Car"]
    assert curves["aos"]["easy"].precision[:4] == start([1, 0.75, 1.5 / 4], 4)
    assert curves["aos"]["easy"].ap["R40"] == pytest.approx(100 * (0.75 + 0.375) / 40)
    assert curves["bbox"]["easy"].precision[:4] == start([1, 1, 3 / 4], 4)


def test_orientation_is_not_scored_without_angles():
    scores = evaluate_kitti({"a": [at(0)]}, {"a": [at(0, score=0.9), at(5, "Cyclist", score=0.1, alpha=-10)]})
    assert np.isnan(scores["Car"]["aos"]["R40"]["easy"])
    assert scores["Car"]["bbox"]["R11"]["easy"] == pytest.approx(100 / 11)


def test_boxes_stand_on_their_origin():
    # y points down: the object spans [-2, 0], the detection [-2, -.8]: 1.2 / 2 = .6 > .5. Were y the middle, they would
    # span [-1, 1] and [-1.4, -.2]: .33.
    truth = replace(at(0, "Pedestrian", y=0.0), height=2.0)
    found = replace(truth, height=1.2, y=-0.8, score=1.0)
    assert curve([truth], [found], "3d", "Pedestrian").recall[0] == 1
    assert curve([truth], [replace(found, y=-1.1)], "3d", "Pedestrian").recall[0] == 0  # .9 / 2.3
    assert curve([truth], [replace(found, y=-1.1)], "bev", "Pedestrian").recall[0] == 1


def test_types_compare_without_case():
    truth = [at(0, "car"), at(1, "VAN"), replace(care(2), type="dontcare")]
    found = [at(0, "CAR", score=0.1), at(1, "cAr", score=0.2), at(2, "Car", score=0.3)]
    assert curve(truth, found).precision[0] == 1


def test_thresholds_are_the_scores_closest_to_every_fortieth():
    # 80 hits of 80: recall (i + 1) / 80 comes closest to k / 40 at i = 2 k - 1; the first is i = 0.
    scores = np.linspace(1, 0, 80)
    assert recall_thresholds(scores, 80).tolist() == scores[[0, *range(1, 80, 2)]].tolist()
    # 20 hits of 80 reach a quarter: i = 0, 1, 3 ... 19, eleven points
    assert recall_thresholds(scores[:20], 80).tolist() == scores[[0, *range(1, 20, 2)]].tolist()
    assert recall_thresholds(scores[:0], 0).tolist() == []


def test_within_scores_one_range_of_distance():
    truth = [at(0), at(1, z=40.0)]
    found = [at(0, score=0.5), at(1, z=40.0, score=0.9), at(5, z=40.0, score=0.8), at(6, score=0.7)]
    near = curve(truth, found, "3d", within=(0, 30))
    assert (near.objects, near.precision[0]) == (1, 0.5)  # the alarm at 40 m is not blamed, that at 20 m is
    far = curve(truth, found, "3d", within=(30, 50))
    assert (far.objects, far.precision[0], far.thresholds.tolist()) == (1, 1, [0.9])


# --- rotated overlap against shapely ----------------------------------------------------------------------------


def columns(labels):
    return np.array([(b.x, b.y, b.z, b.height, b.width, b.length, b.rotation_y) for b in labels])


def test_rotated_overlap_agrees_with_shapely():
    rng = np.random.default_rng(0)
    a, b = [], []
    for k in range(1500):
        size, turn = rng.uniform(0.3, 6, (2, 3)), rng.uniform(-7, 7, 2)
        if k % 5 == 0:  # edges in parallel, corners upon edges, one inside the other, the same box
            size[1], turn[1] = size[0] * rng.choice([0.5, 1, 2]), turn[0] + rng.integers(4) * np.pi / 2
        place = rng.uniform(-3, 3, (2, 3)) * (0 if k % 10 == 0 else 1) + (0, 0, 20)
        a.append(make("Car", tuple(size[0]), place[0], turn[0]))
        b.append(make("Car", tuple(size[1]), place[1], turn[1]))
    bev, volume = rotated_ious(columns(a), columns(b))
    np.testing.assert_allclose(bev, [overlap("bev", x, y) for x, y in zip(a, b, strict=True)], atol=1e-12)
    np.testing.assert_allclose(volume, [overlap("3d", x, y) for x, y in zip(a, b, strict=True)], atol=1e-12)
    assert (bev > 0).mean() > 0.5 and np.isclose(bev, 1).sum() > 10


def test_rotated_overlap_in_closed_form():
    # Two squares of side 2, one turned by 45 degrees: a regular octagon, 8 (sqrt 2 - 1). Side by side: none.
    a = np.array([[0, 0, 0, 1, 2, 2, 0.0]] * 4)
    b = a.copy()
    b[0, 6], b[1, 0], b[2, 0], b[3, 3] = np.pi / 4, 2.0, 1.0, -1
    np.testing.assert_allclose(shared_ground(a, b), [8 * (np.sqrt(2) - 1), 0, 2, 0], atol=1e-14)
    # rotation_y turns x towards -z: a long box at 45 degrees meets a small one at (+, -), not at (+, +)
    long, small = np.array([[0, 0, 0, 1, 0.2, 8, np.pi / 4]] * 2), np.array([[2, 0, -2, 1, 0.2, 0.2, 0.0]] * 2)
    small[1, 2] = 2
    np.testing.assert_allclose(shared_ground(long, small) > 1e-12, [True, False])


# --- the slow implementation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode,seed,objects,noise", [("strict", 0, 8, 0.5), ("loose", 1, 12, 1), ("loose", 2, 3, 1.5)])
def test_agrees_with_the_slow_implementation(mode, seed, objects, noise):
    truth, found = random_frames(seed, 14, objects, objects + 2, noise)
    curves = kitti_curves(truth, found, mode)
    seen = 0
    for name, metric, difficulty in kitti_cases(truth, found, mode):
        k = ("Car", "Pedestrian", "Cyclist").index(name)
        least = kitti_match.OVERLAPS[mode][metric][k]
        slow = slow_curve(truth, found, name, metric, difficulty, least, (0.7, 0.5, 0.5)[k])
        got = curves[name][metric][difficulty]
        np.testing.assert_allclose(got.recall, slow["recall"], atol=1e-12, err_msg=f"{name} {metric} {difficulty}")
        np.testing.assert_allclose(got.precision, slow["precision"], atol=1e-12)
        if metric == "bbox":
            np.testing.assert_allclose(curves[name]["aos"][difficulty].precision, slow["aos"], atol=1e-12)
        seen += bool(((got.precision > 0) & (got.precision < 1)).any())
    assert seen >= 9  # the comparison is about something


# --- what must always hold --------------------------------------------------------------------------------------


def perfect(truth):
    rng = np.random.default_rng(0)
    return {
        f: [replace(b, score=float(rng.random())) for b in labels if b.type != "DontCare"]
        for f, labels in truth.items()
    }


def test_a_perfect_detector_has_100_with_41_objects_and_no_warning():
    truth = {f"{k}": [at(0), at(1, "Pedestrian"), at(2, "Cyclist"), care(3)] for k in range(41)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = evaluate_kitti(truth, perfect(truth))
    assert all(
        v == pytest.approx(100) for c in scores.values() for k in c.values() for p in k.values() for v in p.values()
    )


@pytest.mark.parametrize("n", [1, 2, 40])
def test_fewer_objects_bound_the_score_and_are_warned_about(n):
    truth = {f"{k}": [at(0)] for k in range(n)}
    with pytest.warns(UserWarning, match=f"Car easy {n}, Car moderate {n}, .* Cyclist hard 0.*100 \\(n - 1\\) / 40"):
        scores = evaluate_kitti(truth, perfect(truth))
    assert scores["Car"]["3d"]["R40"]["easy"] == pytest.approx(100 * (n - 1) / 40)
    assert scores["Car"]["3d"]["R11"]["easy"] == pytest.approx(100 * -(-n // 4) / 11)
    assert scores["Cyclist"]["3d"]["R40"]["hard"] == 0


def flat(scores):
    return [v for c in scores.values() for k in c.values() for p in k.values() for v in p.values()]


def test_order_of_frames_and_detections_does_not_matter():
    truth, found = random_frames(3, 40, ties=False)
    # among low detections the first of the file is taken, officially: leave them out
    found = {f: [d for d in labels if d.bbox[3] - d.bbox[1] >= 40] for f, labels in found.items()}
    rng = np.random.default_rng(0)
    names = list(rng.permutation(list(truth)))
    shuffled = {f: [found[f][i] for i in rng.permutation(len(found[f]))] for f in rng.permutation(names)}
    want = flat(evaluate_kitti(truth, found))
    np.testing.assert_allclose(flat(evaluate_kitti({f: truth[f] for f in names}, shuffled)), want, atol=1e-9)
    assert max(want) > 10


def test_duplicates_lower_precision():
    truth, found = random_frames(4, 60, noise=0.4, ties=False)
    double = {f: [*labels, *(replace(d, score=d.score - 1e-6) for d in labels)] for f, labels in found.items()}
    once, twice = (kitti_curves(truth, f)["Car"] for f in (found, double))
    for metric in ("bbox", "bev", "3d"):
        for difficulty in DIFFICULTIES:
            a, b = once[metric][difficulty], twice[metric][difficulty]
            assert b.ap["R40"] < a.ap["R40"] - 1
            assert b.recall[:3] == pytest.approx(a.recall[:3], abs=0.05)


def test_any_increasing_change_of_the_scores_leaves_the_result():
    truth, found = random_frames(5, 30)
    other = {f: [replace(d, score=np.exp(d.score) + 7) for d in labels] for f, labels in found.items()}
    assert flat(evaluate_kitti(truth, other)) == flat(evaluate_kitti(truth, found))


def test_work_in_chunks_changes_nothing(monkeypatch):
    truth, found = random_frames(9, 30)
    want = flat(evaluate_kitti(truth, found))
    monkeypatch.setattr(kitti_match, "CHUNK", 40)
    monkeypatch.setattr(rotated_iou, "CHUNK", 7)
    assert flat(evaluate_kitti(truth, found)) == want


def test_resamples_of_frames():
    truth, found = random_frames(6, 12, noise=0.5)
    names = list(truth)
    weights = np.array([[1.0] * 12, [2, 0] * 6, [0] * 12])
    double = {f"{f}{k}": f for f in names[::2] for k in "ab"}  # frames 0, 2, 4 ... twice
    cases = kitti_cases(truth, found)
    plain = kitti_curves(truth, found)
    copied = kitti_curves({k: truth[f] for k, f in double.items()}, {k: found[f] for k, f in double.items()})
    for key in (("Car", "3d", "moderate"), ("Pedestrian", "bbox", "hard"), ("Car", "bev", "easy")):
        got = bootstrap_kitti(cases[key], weights)
        for points in ("R11", "R40"):
            want = [c[key[0]][key[1]][key[2]].ap[points] for c in (plain, copied)]
            assert got[points][:2] == pytest.approx(want, abs=1e-9)
            assert np.isnan(got[points][2])
    with pytest.raises(InputError, match=r"weights have shape \(1, 3\)"):
        bootstrap_kitti(cases["Car", "3d", "easy"], np.ones((1, 3)))


def test_nothing_to_find_nothing_found():
    one, sure = [at(0)], [at(0, score=1.0)]
    for truth, found in (({"a": []}, {}), ({"a": []}, {"a": sure}), ({"a": one}, {"a": []}), ({}, {})):
        assert set(flat(evaluate_kitti(truth, found))) == {0.0}


def test_boxes_without_3d_overlap_nothing_in_3d():
    flat_box = {"height": -1, "width": -1, "length": -1, "x": -1000, "y": -1000, "z": -1000, "rotation_y": -10}
    found = replace(at(0, score=1.0), **flat_box)
    got = {metric: curve([at(0), care(1)], [found], metric).recall[0] for metric in ("bbox", "bev", "3d")}
    assert got == {"bbox": 1, "bev": 0, "3d": 0}


# --- faults -----------------------------------------------------------------------------------------------------


def test_wrong_arguments():
    with pytest.raises(InputError, match="overlap is 'medium', expected one of strict, loose"):
        kitti_curves({}, {}, "medium")
    with pytest.raises(InputError, match="detections of frame 'b', not one of the 1 of the ground truth"):
        evaluate_kitti({"a": []}, {"b": []})
    with pytest.raises(InputError, match="frame 'a', object 2: z is nan, expected a finite number"):
        evaluate_kitti({"a": []}, {"a": [at(0, score=0.1), at(0, score=0.2, z=float("nan"))]})
    with pytest.raises(InputError, match="frame 'a', object 1: score is None, expected"):
        evaluate_kitti({"a": []}, {"a": [at(0)]})


LINE = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"


@pytest.mark.parametrize(
    "gt,pred,message",
    [
        ({"1": LINE[:-6]}, {"1": ""}, "gt/1.txt:1: 14 fields, expected 15"),
        ({"1": LINE}, {"1": f"{LINE} 0.5\n{LINE}"}, "pred/1.txt:2: 15 fields, expected 16"),
        ({"1": LINE}, {"1": f"{LINE} nan"}, "pred/1.txt:1: score is 'nan', expected a number"),
        ({"1": LINE.replace("46.70", "inf")}, {"1": ""}, "gt/1.txt:1: z is 'inf', expected a number"),
        ({"1": LINE}, {"1": "", "7": ""}, "pred/7.txt: detections of an unknown frame, expected one of the 1 frames"),
        ({"1": LINE}, {}, "pred: no detection files, expected one <frame>.txt per frame"),
        ({}, {"1": ""}, "gt: no label files"),
    ],
)
def test_faults_of_files_are_one_line(tmp_path, gt, pred, message):
    for folder, files in (("gt", gt), ("pred", pred)):
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / f"{name}.txt").write_text(text)
    done = CliRunner().invoke(main, ["eval", "kitti", "--gt", f"{tmp_path}/gt", "--pred", f"{tmp_path}/pred"])
    assert done.exit_code == 1
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_types_of_files_are_taken_as_officially(tmp_path):
    # "car" and "CAR" are cars; a type that KITTI lacks is no fault, even one called "none" by a class without neighbour
    for folder, kinds, score in (("gt", ("car", "none"), ""), ("pred", ("CAR", "bus", "Cyclist"), " 0.5")):
        lines = [LINE.replace("Car", kind) + score for kind in kinds]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.txt").write_text("\n".join(lines))
    truth = kitti.read_ground_truth(tmp_path / "gt")
    cases = kitti_cases(truth, kitti.read_detections(tmp_path / "pred", truth))
    counts = {
        name: [c.item() for c in cases[name, "bbox", "moderate"].count(np.zeros(1))] for name in ("Car", "Cyclist")
    }
    assert counts == {"Car": [1, 0, 0, 1], "Cyclist": [0, 1, 0, 0]}  # hits, alarms, misses, similarity


def test_missing_folder(tmp_path):
    done = CliRunner().invoke(main, ["eval", "kitti", "--gt", str(tmp_path / "none"), "--pred", str(tmp_path)])
    assert done.exit_code == 1 and "none: no such folder" in done.stderr


# --- files and the command --------------------------------------------------------------------------------------


def test_command_writes_what_the_functions_say(tmp_path, caplog):
    truth, found = random_frames(7, 30)
    write_frames(tmp_path / "gt", truth)
    write_frames(tmp_path / "pred", {f: v for f, v in found.items() if f != "000004"})
    (tmp_path / "pred" / "000005.txt").write_text("")
    arguments = ["--gt", f"{tmp_path}/gt", "--pred", f"{tmp_path}/pred", "--overlap", "loose"]
    done = CliRunner().invoke(main, ["eval", "kitti", *arguments, "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0
    assert "1 of 30 frames have no detection file" in done.stderr and "the first is 000004" in done.stderr
    assert "fewer than 41 objects to detect (" in done.stderr
    files = {f.stem: f for f in (tmp_path / "gt").iterdir()}
    real = {name: read_labels(files[name]) for name in sorted(files)}
    guess = {name: read_labels(tmp_path / "pred" / f"{name}.txt", scores=True) for name in files if name != "000004"}
    want = evaluate_kitti(real, guess, "loose")
    assert json.loads((tmp_path / "out.json").read_text()) == want
    assert f"{want['Car']['3d']['R40']['moderate']:.2f}" in done.stdout
    assert list(want) == ["Car", "Pedestrian", "Cyclist"] and list(want["Car"]) == ["bbox", "bev", "3d", "aos"]
    # a list of frames narrows the ground truth
    (tmp_path / "val.txt").write_text("000000\n000005\n")
    done = CliRunner().invoke(main, ["eval", "kitti", *arguments, "--frames", str(tmp_path / "val.txt")])
    assert done.exit_code == 0 and "pred: skipped 27 frames, not asked for" in caplog.text
    write_frames(tmp_path / "two", {f: found[f] for f in ("000000", "000005")})
    two = ["--gt", f"{tmp_path}/gt", "--pred", f"{tmp_path}/two", "--frames", str(tmp_path / "val.txt")]
    done = CliRunner().invoke(main, ["eval", "kitti", *two])
    assert done.exit_code == 0 and "2 frames, overlap strict" in done.stdout and "no detection file" not in done.stderr


def test_unscored_orientation_is_null_in_the_file(tmp_path):
    write_frames(tmp_path / "gt", {"1": [at(0)]})
    write_frames(tmp_path / "pred", {"1": [at(0, score=1.0, alpha=-10)]})
    kitti.kitti_main(tmp_path / "gt", tmp_path / "pred", json_out=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["Car"]["aos"]["R40"]["easy"] is None


def test_real_labels_found_by_themselves(real_data):
    folder = Path(real_data) / "kitti" / "training" / "label_2"
    truth = kitti.read_ground_truth(folder)
    curves = kitti_curves(truth, perfect(truth))
    valid = {name: [curves[name]["3d"][d].objects for d in DIFFICULTIES] for name in curves}
    # counted in the six files by eye: cars are 22, 33, 103, 31 and 21 px high, the cyclist's occlusion is 3
    assert valid == {"Car": [1, 3, 3], "Pedestrian": [2, 2, 2], "Cyclist": [0, 0, 0]}
    for name in curves:
        for kind in ("bbox", "bev", "3d", "aos"):
            for d in DIFFICULTIES:
                n = curves[name][kind][d].objects
                assert curves[name][kind][d].precision[:n] == pytest.approx(np.ones(n))


# --- speed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_frame", [8, 500])
def test_sixty_frames_take_two_seconds(per_frame):
    """500 detections in all, and 500 in every frame; measured far below, the limit is for a busy machine."""
    truth, found = random_frames(8, 60, 8, per_frame)
    kitti_curves({"a": truth["000000"]}, {})
    start = time.process_time()
    kitti_curves(truth, found)
    assert time.process_time() - start < 2
