"""The VOC score against arithmetic done by hand, a slow independent implementation, and real annotation files."""

import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kdnb.datasets.voc_files import VOC_CLASSES, write_detections
from kdnb.errors import InputError
from kdnb.metrics.voc import bootstrap_map, evaluate_voc, match_table, read_detections, read_ground_truth, voc_main

SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "voc" / "VOCdevkit"
CAR = 7
METRICS = ["07", "area"]


def best_seconds(call, times=3):
    """The fastest of a few calls: what the code needs, whatever else the machine is doing."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.fixture
def sample():
    if not SAMPLE.is_dir():
        pytest.skip("needs the real samples in ../shared/data")
    return SAMPLE


def official(box):
    """0-based edges of official corners (xmin, ymin, xmax, ymax)."""
    return [box[0] - 1, box[1] - 1, box[2], box[3]]


def truth(*boxes, difficult=None, label=CAR):
    difficult = [False] * len(boxes) if difficult is None else difficult
    return {
        "boxes": np.array([official(b) for b in boxes], float).reshape(-1, 4),
        "labels": np.full(len(boxes), label),
        "difficult": np.array(difficult, bool),
    }


def found(*rows, label=CAR):
    """``rows``: (score, official corners)."""
    return {
        "boxes": np.array([official(b) for _, b in rows], float).reshape(-1, 4),
        "labels": np.full(len(rows), label),
        "scores": np.array([s for s, _ in rows], float),
    }


def ap(ground_truth, detections, metric="area", **kwargs):
    return evaluate_voc(ground_truth, detections, metric, **kwargs)["AP"]["car"]


A, B, FAR = (1, 1, 10, 10), (21, 1, 30, 10), (61, 61, 70, 70)


# ---------------------------------------------------------------- by hand


def test_precision_and_recall_by_hand():
    # Three objects. By score: hit, miss, hit, miss, miss; one object is never found.
    #   rank        1     2     3     4     5
    #   precision   1     1/2   2/3   2/4   2/5
    #   recall      1/3   1/3   2/3   2/3   2/3
    ground_truth = {"a": truth(A, B), "b": truth(A)}
    detections = {"a": found((0.9, A), (0.8, FAR), (0.6, FAR)), "b": found((0.7, A), (0.5, FAR))}
    # Envelope: 1 up to recall 1/3, 2/3 up to 2/3, 0 beyond: (1 + 2/3) / 3.
    assert ap(ground_truth, detections, "area") == pytest.approx(100 * 5 / 9)
    # 11 points: recall 0, .1, .2, .3 -> 1; .4, .5, .6 -> 2/3; .7 ... 1 -> 0: (4 + 3 * 2/3) / 11.
    assert ap(ground_truth, detections, "07") == pytest.approx(100 * 6 / 11)
    assert evaluate_voc(ground_truth, detections)["mAP"] == pytest.approx(100 * 6 / 11)


def test_eleven_points_are_those_of_public_evaluators():
    # They ask recall >= arange(0, 1.1, 0.1), of which three are a rounding above 0.3, 0.6, 0.7. Hits at ranks 1, 2, 3
    # of 10 objects: recall 0.3 misses 0.30000000000000004, which leaves the points 0, .1, .2 -> 3 / 11.
    boxes = [(1 + 20 * i, 1, 10 + 20 * i, 10) for i in range(10)]
    detections = {"a": found(*((0.9 - i / 10, boxes[i]) for i in range(3)))}
    assert ap({"a": truth(*boxes)}, detections, "07") == pytest.approx(100 * 3 / 11)
    # 7 of 10: points 0 ... 0.6 -> 7 / 11. 5 of 10: 0 ... 0.5 -> 6 / 11.
    for hits, points in ((7, 7), (5, 6)):
        detections = {"a": found(*((0.9 - i / 10, boxes[i]) for i in range(hits)))}
        assert ap({"a": truth(*boxes)}, detections, "07") == pytest.approx(100 * points / 11)


def test_a_detection_whose_right_is_left_of_its_left_matches_nothing():
    object_, turned = (11, 11, 30, 30), (30, 11, 11, 30)
    both = (30, 30, 11, 11)  # its width times its height is positive again
    for metric in METRICS:
        assert ap({"a": truth(object_)}, {"a": found((0.9, turned), (0.8, both))}, metric) == 0
        assert ap({"a": truth(object_)}, {"a": found((0.9, object_), (0.8, turned))}, metric) == pytest.approx(100)


def test_envelope_takes_the_best_precision_further_on():
    # miss, hit, hit: precision 0, 1/2, 2/3; recall 0, 1/2, 1. The envelope is 2/3 everywhere.
    detections = {"a": found((0.9, FAR), (0.8, A), (0.7, B))}
    for metric in METRICS:
        assert ap({"a": truth(A, B)}, detections, metric) == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize(("corners", "hit"), [((1, 1, 10, 20), False), ((1, 1, 10, 19), True)])
def test_overlap_must_exceed_one_half(corners, hit):
    # Object 10 x 10 (with the +1). 10 x 20: IoU 100 / 200 = 0.5 exactly, a miss. 10 x 19: 100 / 190, a hit.
    assert ap({"a": truth(A)}, {"a": found((0.9, corners))}) == (100 if hit else 0)


def test_widths_count_both_ends():
    # Corners (1, 1, 3, 1) and (2, 1, 4, 1): 3 pixels each, 2 shared: IoU 2 / 4 = 0.5, a miss; at 0.49 a hit.
    # Without the +1 the boxes would have no height at all, and no overlap.
    ground_truth, detections = {"a": truth((1, 1, 3, 1))}, {"a": found((0.9, (2, 1, 4, 1)))}
    assert ap(ground_truth, detections) == 0 and ap(ground_truth, detections, iou=0.49) == 100
    # Corners (1, 1, 4, 4) and (1, 1, 4, 6): 16 / 24 with the +1, 9 / 15 = 0.6 without: 0.65 tells them apart.
    assert ap({"a": truth((1, 1, 4, 4))}, {"a": found((0.9, (1, 1, 4, 6)))}, iou=0.65) == 100


def test_second_match_is_a_false_positive():
    # hit A, A again (false), hit B: precision 1, 1/2, 2/3 -> (1 + 2/3) / 2.
    detections = {"a": found((0.9, A), (0.8, A), (0.7, B))}
    assert ap({"a": truth(A, B)}, detections) == pytest.approx(100 * 5 / 6)


def test_the_surer_detection_takes_the_object_wherever_it_stands():
    low_first = {"a": found((0.2, A), (0.9, A))}
    row = match_table({"a": truth(A)}, low_first).rows["car"]
    assert row.scores.tolist() == [0.9, 0.2] and row.tp.tolist() == [True, False]


def test_best_overlap_counts_even_if_taken():
    # Objects P = columns 1-10 and Q = columns 4-13, ten rows. Detection 1 is P. Detection 2 is columns 2-11: it
    # overlaps P 9/11 and Q 8/12, both above 0.5. P is the better and taken: a false positive, although Q is free
    # (COCO's rule would give it Q). So: hit, miss, one of two found: area 1/2.
    p, q = (1, 1, 10, 10), (4, 1, 13, 10)
    assert ap({"a": truth(p, q)}, {"a": found((0.9, p), (0.8, (2, 1, 11, 10)))}) == pytest.approx(50)


def test_of_equal_overlaps_the_first_object_is_taken():
    # Two identical objects: both detections go to the first, the second is a false positive, as officially.
    assert ap({"a": truth(A, A)}, {"a": found((0.9, A), (0.8, A))}) == pytest.approx(50)
    for difficult, expected in (([True, False], 0), ([False, True], 100)):
        assert ap({"a": truth(A, A, difficult=difficult)}, {"a": found((0.9, A))}) == expected


def test_difficult_objects_count_neither_way():
    # B is difficult: it need not be found, and finding it (twice) does no harm.
    ground_truth = {"a": truth(A, B, difficult=[False, True])}
    for rows in ([(0.9, A)], [(0.95, B), (0.9, A), (0.8, B)]):
        for metric in METRICS:
            assert ap(ground_truth, {"a": found(*rows)}, metric) == pytest.approx(100)
    # The best overlap decides: a detection nearer to a difficult object does not fall back to the easy one.
    p, q = (1, 1, 10, 10), (4, 1, 13, 10)
    assert ap({"a": truth(p, q, difficult=[True, False])}, {"a": found((0.9, (2, 1, 11, 10)))}) == 0


def test_class_without_objects_is_nan_and_left_out_of_the_mean():
    ground_truth = {"a": truth(A), "b": truth(B, difficult=[True], label=2)}
    detections = {"a": found((0.9, A)), "b": found((0.9, B), label=1)}
    result = evaluate_voc(ground_truth, detections)
    assert result["AP"]["car"] == result["mAP"] == 100
    assert all(np.isnan(value) for name, value in result["AP"].items() if name != "car")
    assert np.isnan(evaluate_voc({"a": truth()}, {})["mAP"])


def test_nothing_found_is_zero_and_images_do_not_mix():
    assert evaluate_voc({"a": truth(A)}, {})["mAP"] == 0
    assert ap({"a": truth(A), "b": truth()}, {"b": found((0.9, A))}) == 0
    assert ap({"a": truth(A)}, {"a": found((0.9, A), label=CAR + 1)}) == 0


def test_equal_scores_keep_their_order():
    for rows, expected in (([A, FAR], 100), ([FAR, A], 50)):
        assert ap({"a": truth(A)}, {"a": found(*((0.5, box) for box in rows))}) == pytest.approx(expected)


def test_tensors_do_as_well_as_arrays():
    arrays = truth(A, B), found((0.9, A), (0.8, FAR))
    tensors = [{"a": {key: torch.as_tensor(value) for key, value in item.items()}} for item in arrays]
    assert ap(*tensors) == ap({"a": arrays[0]}, {"a": arrays[1]}) == pytest.approx(50)


@pytest.mark.parametrize("spoil", ["scores", "boxes"])
def test_nan_is_refused(spoil):
    detections = {"a": found((0.9, A))}
    detections["a"][spoil][0] = np.nan
    with pytest.raises(InputError, match="image 'a': found a box or score that is not finite"):
        evaluate_voc({"a": truth(A)}, detections)


def test_unknown_image_label_metric_and_lengths_are_refused():
    with pytest.raises(InputError, match="'z'"):
        evaluate_voc({"a": truth(A)}, {"z": found((0.9, A))})
    with pytest.raises(InputError, match="label 21"):
        evaluate_voc({"a": truth(A)}, {"a": found((0.9, A), label=21)})
    with pytest.raises(InputError, match="'coco'"):
        evaluate_voc({"a": truth(A)}, {}, "coco")
    with pytest.raises(InputError, match="differ in length"):
        evaluate_voc({"a": truth(A)}, {"a": found((0.9, A)) | {"scores": np.ones(2)}})


# ---------------------------------------------------------------- against an independent implementation


def slow_evaluation(ground_truth, detections, metric, iou):
    """The official procedure, loop by loop, on official corners with the +1."""
    result = {}
    for label, name in enumerate(VOC_CLASSES, start=1):
        rows, taken, total = [], {}, 0
        for item in ground_truth.values():
            total += sum(lab == label and not hard for lab, hard in zip(item["labels"], item["difficult"], strict=True))
        for image, item in detections.items():
            for box, lab, score in zip(item["boxes"], item["labels"], item["scores"], strict=True):
                if lab == label:
                    rows.append((float(score), image, [box[0] + 1, box[1] + 1, box[2], box[3]]))
        rows.sort(key=lambda row: -row[0])  # Python's sort is stable
        tp, fp, precision, recall = 0, 0, [], []
        for _, image, d in rows:
            best, best_index = -1.0, None
            item = ground_truth[image]
            for index, box in enumerate(item["boxes"]):
                if item["labels"][index] != label:
                    continue
                g = [box[0] + 1, box[1] + 1, box[2], box[3]]
                w, h = min(d[2], g[2]) - max(d[0], g[0]) + 1, min(d[3], g[3]) - max(d[1], g[1]) + 1
                if w > 0 and h > 0:
                    size = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (d, g)]
                    overlap = w * h / (sum(size) - w * h)
                    if overlap > best:
                        best, best_index = overlap, index
            if best > iou:
                if item["difficult"][best_index]:
                    continue
                if (image, best_index) in taken:
                    fp += 1
                else:
                    taken[image, best_index] = True
                    tp += 1
            else:
                fp += 1
            precision.append(tp / (tp + fp))
            recall.append(tp / total if total else float("nan"))
        if not total:
            result[name] = float("nan")
        elif metric == "07":
            curve = list(zip(precision, recall, strict=True))
            best = [max((p for p, r in curve if r >= point), default=0) for point in np.arange(0, 1.1, 0.1)]
            result[name] = 100 * sum(best) / 11
        else:
            r, p = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
            for i in range(len(p) - 2, -1, -1):
                p[i] = max(p[i], p[i + 1])
            result[name] = 100 * sum((r[i] - r[i - 1]) * p[i] for i in range(1, len(r)))
    return result


def random_case(seed, images=12, classes=4, per_image=8, ties=True):
    """Crowded integer boxes so that every rule is met: ties, doubles, difficult, several candidates."""
    rng = np.random.default_rng(seed)
    ground_truth, detections = {}, {}
    for i in range(images):
        n, m = rng.integers(0, 5), rng.integers(0, per_image)
        corner = rng.integers(0, 30, (n, 2))
        boxes = np.concatenate([corner, corner + rng.integers(5, 30, (n, 2))], 1).astype(float)
        ground_truth[f"{i:06d}"] = {
            "boxes": boxes,
            "labels": rng.integers(1, classes + 1, n),
            "difficult": rng.random(n) < 0.25,
        }
        if not m or (not n and rng.random() < 0.5):
            continue
        if n:
            pick = rng.integers(0, n, m)
            boxes_d, labels = boxes[pick] + rng.integers(-4, 5, (m, 4)), ground_truth[f"{i:06d}"]["labels"][pick]
        else:
            boxes_d, labels = np.tile([1.0, 1, 20, 20], (m, 1)), rng.integers(1, classes + 1, m)
        scores = np.round(rng.random(m), 1) if ties else rng.random(m)
        detections[f"{i:06d}"] = {"boxes": boxes_d, "labels": labels, "scores": scores}
    return ground_truth, detections


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
def test_equals_the_slow_implementation(metric, iou):
    for seed in range(15):
        case = random_case(seed)
        fast, slow = evaluate_voc(*case, metric, iou), slow_evaluation(*case, metric, iou)
        np.testing.assert_allclose([fast["AP"][n] for n in VOC_CLASSES], [slow[n] for n in VOC_CLASSES], atol=1e-9)
        assert fast["mAP"] == pytest.approx(np.nanmean(list(slow.values())))


# ---------------------------------------------------------------- bootstrap


@pytest.mark.parametrize("metric", METRICS)
def test_bootstrap_with_every_image_once_is_the_score_itself(metric):
    for seed in range(10):
        ground_truth, detections = random_case(seed)
        table = match_table(ground_truth, detections)
        once = bootstrap_map(table, np.ones((1, len(ground_truth)), int), metric)
        assert once.shape == (1,) and once[0] == evaluate_voc(ground_truth, detections, metric)["mAP"]


@pytest.mark.parametrize("metric", METRICS)
def test_bootstrap_equals_scoring_physical_copies_of_the_images(metric):
    rng = np.random.default_rng(1)
    for seed in range(10):
        ground_truth, detections = random_case(seed, ties=False)
        images = list(ground_truth)
        weights = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), 6)
        fast = bootstrap_map(match_table(ground_truth, detections), weights, metric)
        for row, value in zip(weights, fast, strict=True):
            copies = [(f"{image}#{k}", image) for image, times in zip(images, row, strict=True) for k in range(times)]
            slow = evaluate_voc(
                {new: ground_truth[old] for new, old in copies},
                {new: detections[old] for new, old in copies if old in detections},
                metric,
            )
            assert value == pytest.approx(slow["mAP"], abs=1e-9, nan_ok=True)


def test_bootstrap_refuses_weights_of_another_shape():
    with pytest.raises(InputError, match=r"expected \(resamples, 12 images\)"):
        bootstrap_map(match_table(*random_case(0)), np.ones((3, 5)))


def test_bootstrap_is_fast():
    ground_truth, detections = random_case(0, images=150, classes=8, per_image=70)
    assert sum(len(d["scores"]) for d in detections.values()) > 4000
    table = match_table(ground_truth, detections)
    weights = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), 1000)
    assert best_seconds(lambda: bootstrap_map(table, weights)) < 1


# ---------------------------------------------------------------- files


def write_files(folder, lines_of):
    folder.mkdir(exist_ok=True)
    for name in VOC_CLASSES:
        (folder / f"comp4_det_test_{name}.txt").write_text(lines_of.get(name, ""))
    return folder


def test_written_detections_are_read_back(tmp_path):
    ground_truth, detections = random_case(3, ties=False)
    for item in detections.values():
        item["boxes"] = item["boxes"] + np.random.default_rng(0).random(item["boxes"].shape)
    detections = {f"2007/{k}": {key: torch.as_tensor(v).float() for key, v in d.items()} for k, d in detections.items()}
    write_detections(tmp_path, VOC_CLASSES, detections)
    assert len(list(tmp_path.iterdir())) == 20  # one per class, also when empty, and nothing temporary
    back = read_detections(tmp_path, images=ground_truth)
    for image, item in detections.items():
        mine = back[image.removeprefix("2007/")]
        order = np.argsort(item["labels"].numpy(), kind="stable")
        np.testing.assert_allclose(mine["boxes"], item["boxes"].numpy()[order], atol=1e-6)
        for key in ("labels", "scores"):
            assert np.array_equal(mine[key].astype(np.float32), item[key].numpy()[order])
    direct = {k.removeprefix("2007/"): d for k, d in detections.items()}
    for metric in METRICS:
        assert evaluate_voc(ground_truth, back, metric)["mAP"] == evaluate_voc(ground_truth, direct, metric)["mAP"]


def test_written_lines_have_official_corners(tmp_path):
    write_detections(tmp_path, VOC_CLASSES, {"7": {"boxes": [[0, 0, 40, 30.5]], "labels": [7], "scores": [0.25]}})
    assert (tmp_path / "comp4_det_test_car.txt").read_text() == "7 0.25 1 1 40 30.5\n"


def test_write_refuses_ids_that_collide_and_labels_without_class(tmp_path):
    one = {"boxes": [[0, 0, 4, 4]], "labels": [1], "scores": [1]}
    with pytest.raises(InputError, match="2007/5 and 2012/5"):
        write_detections(tmp_path, VOC_CLASSES, {"2007/5": one, "2012/5": one})
    with pytest.raises(InputError, match="label 3, expected 1 to 2"):
        write_detections(tmp_path, ("a", "b"), {"5": one | {"labels": [3]}})


def test_equal_scores_rank_by_line_also_across_images(tmp_path):
    # hit, miss, miss, hit line by line; image by image it would be hit, miss, miss, hit too, but of a, a, b, b.
    ground_truth = {"a": truth(A), "b": truth(B, A)}
    lines = "a 0.5 1 1 10 10\nb 0.5 61 61 70 70\na 0.5 61 61 70 70\nb 0.5 1 1 10 10\n"  # A, far, far, A
    detections = read_detections(write_files(tmp_path / "d", {"car": lines}))
    assert match_table(ground_truth, detections).rows["car"].tp.tolist() == [True, False, False, True]
    assert match_table(ground_truth, detections).rows["car"].image.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("000001 0.5 1 1 10", "found 5 columns, expected 6"),
        ("000001 0.5 1 1 10 10 3", "found 7 columns"),
        ("000001 nan 1 1 10 10", "score is 'nan'"),
        ("000001 0.5 1 inf 10 10", "ymin is 'inf'"),
        ("000001 0.5 1 1 ten 10", "xmax is 'ten'"),
        ("000009 0.5 1 1 10 10", "unknown image '000009', expected one of the 1 images"),
    ],
)
def test_faulty_detection_lines(tmp_path, line, what):
    folder = write_files(tmp_path / "d", {"car": f"000001 0.9 1 1 10 10\n{line}\n"})
    with pytest.raises(InputError) as caught:
        read_detections(folder, images=["000001"])
    assert f"comp4_det_test_car.txt:2: {what}" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_unknown_and_double_files(tmp_path):
    folder = write_files(tmp_path / "d", {})
    (folder / "comp4_det_test_dog.txt").unlink()
    with pytest.raises(InputError, match="comp4_det_<set>_dog.txt: no such file"):
        read_detections(folder)
    (folder / "comp4_det_test_dgo.txt").touch()
    with pytest.raises(InputError, match="unknown class 'dgo'.*nearest: 'dog'"):
        read_detections(folder)
    (folder / "comp4_det_test_dgo.txt").rename(folder / "comp4_det_val_car.txt")
    with pytest.raises(InputError, match="a second file for class 'car'"):
        read_detections(folder)
    with pytest.raises(InputError, match="no such folder"):
        read_detections(tmp_path / "none")


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_detections_of_the_real_sample_score_100(sample, tmp_path, metric, capsys):
    ground_truth = read_ground_truth(sample, "2007", "test")
    assert len(ground_truth) == 40 and sum(len(item["labels"]) for item in ground_truth.values()) == 209
    detections = {
        image: {"boxes": item["boxes"], "labels": item["labels"], "scores": np.ones(len(item["labels"]))}
        for image, item in ground_truth.items()
    }
    write_detections(tmp_path / "pred", VOC_CLASSES, detections)
    result = voc_main(sample, "test", tmp_path / "pred", metric, tmp_path / "score.json")
    assert result["mAP"] == 100
    written = json.loads((tmp_path / "score.json").read_text())
    assert set(written) == {"AP", "mAP"} and written["mAP"] == 100
    assert written["AP"]["sheep"] is None and written["AP"]["person"] == 100
    assert "mAP" in capsys.readouterr().out and sorted(p.name for p in tmp_path.iterdir()) == ["pred", "score.json"]


def test_damaged_detections_of_the_real_sample_equal_the_slow_implementation(sample):
    ground_truth = read_ground_truth(sample, "2007", "trainval")
    rng = np.random.default_rng(0)
    detections = {}
    for image, item in ground_truth.items():
        boxes = np.concatenate([item["boxes"] + rng.normal(0, 12, item["boxes"].shape) for _ in range(3)])
        labels = np.where(rng.random(len(boxes)) < 0.1, 15, np.tile(item["labels"], 3))
        detections[image] = {"boxes": boxes, "labels": labels, "scores": rng.random(len(boxes))}
    for metric in METRICS:
        fast = evaluate_voc(ground_truth, detections, metric)
        slow = slow_evaluation(ground_truth, detections, metric, 0.5)
        np.testing.assert_allclose(list(fast["AP"].values()), list(slow.values()), atol=1e-9)
        assert 20 < fast["mAP"] < 95


def test_a_class_file_is_needed_only_where_there_are_objects(sample, tmp_path):
    write_detections(tmp_path, VOC_CLASSES, {})
    (tmp_path / "comp4_det_test_sheep.txt").unlink()
    assert voc_main(sample, "test", tmp_path, "07")["mAP"] == 0
    (tmp_path / "comp4_det_test_person.txt").unlink()
    with pytest.raises(InputError, match="person.txt: no such file"):
        voc_main(sample, "test", tmp_path, "07")


def test_four_hundred_images_from_files_in_half_a_second(tmp_path):
    main = tmp_path / "VOCdevkit" / "VOC2007"
    (main / "Annotations").mkdir(parents=True)
    (main / "ImageSets/Main").mkdir(parents=True)
    ground_truth, detections = random_case(0, images=400, classes=20, per_image=25)
    for image, item in ground_truth.items():
        objects = "".join(
            f"<object><name>{VOC_CLASSES[label - 1]}</name><difficult>{int(hard)}</difficult><bndbox>"
            f"<xmin>{box[0] + 1:g}</xmin><ymin>{box[1] + 1:g}</ymin><xmax>{box[2]:g}</xmax><ymax>{box[3]:g}</ymax>"
            "</bndbox></object>"
            for box, label, hard in zip(item["boxes"], item["labels"], item["difficult"], strict=True)
        )
        size = "<size><width>80</width><height>80</height></size>"
        (main / "Annotations" / f"{image}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    (main / "ImageSets/Main/test.txt").write_text("\n".join(ground_truth) + "\n")
    write_detections(tmp_path / "pred", VOC_CLASSES, detections)
    score = partial(voc_main, main.parent, "test", tmp_path / "pred", "area", tmp_path / "score.json")
    assert best_seconds(score) < 0.5
    result = score()
    assert result["AP"] == pytest.approx(slow_evaluation(ground_truth, detections, "area", 0.5))
