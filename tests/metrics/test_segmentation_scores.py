"""Scores of a class per pixel, against torchmetrics, slow ways and closed forms; and the evaluator of folders."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassJaccardIndex

from kdnb.cli import main
from kdnb.datasets.camvid import CLASSES, COLOURS, VOID
from kdnb.errors import InputError
from kdnb.metrics.camvid_read import evaluate_folders
from kdnb.metrics.segmentation import (
    bootstrap_miou,
    boundary_iou,
    calibration_error,
    class_iou,
    confusion,
    scores_from,
)


def frames(count=5, classes=11, seed=0, height=30, width=40):
    """Predictions (N, H, W) that are right in about half of the pixels, and labels with void."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (count, height, width))
    pred = np.where(rng.uniform(size=label.shape) < 0.5, label, rng.integers(0, classes, label.shape))
    label[rng.uniform(size=label.shape) < 0.1] = VOID
    return pred, label


# --- IoU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [11, 8])  # all there; three absent
def test_scores_are_torchmetrics(classes):
    pred, label = frames(classes=classes)
    scores = scores_from(confusion(pred, label))
    p, t = torch.tensor(pred), torch.tensor(label)
    each = MulticlassJaccardIndex(11, average="none", ignore_index=VOID)(p, t)
    assert scores["mIoU"] == pytest.approx(100 * float(MulticlassJaccardIndex(11, ignore_index=VOID)(p, t)), abs=1e-4)
    right = MulticlassAccuracy(11, average="micro", ignore_index=VOID)(p, t)
    assert scores["pixel_accuracy"] == pytest.approx(100 * float(right), abs=1e-4)
    assert list(scores["iou"]) == list(CLASSES)
    for k, value in enumerate(scores["iou"].values()):
        assert np.isnan(value) if k >= classes else value == pytest.approx(100 * float(each[k]), abs=1e-4)


def test_a_class_only_predicted_counts_as_zero_as_in_torchmetrics():
    pred, label = np.zeros((4, 4), int), np.zeros((4, 4), int)
    pred[0, 0] = 3
    scores = scores_from(confusion(pred, label))
    assert scores["iou"]["sky"] == 93.75 and scores["iou"]["road"] == 0 and scores["mIoU"] == 93.75 / 2
    theirs = MulticlassJaccardIndex(11, ignore_index=VOID)(torch.tensor(pred), torch.tensor(label))
    assert scores["mIoU"] == pytest.approx(100 * float(theirs))


def test_one_matrix_over_the_set_is_not_the_mean_over_images():
    """A car of 1 pixel missed in one image and one of 15 found in another: 15/16, not the mean of 0 and 1."""
    label, pred = np.zeros((2, 4, 4), int), np.zeros((2, 4, 4), int)
    label[0, 0, 0] = 8
    label[1].flat[:15] = pred[1].flat[:15] = 8
    scores = scores_from(confusion(pred, label))
    assert scores["iou"]["car"] == 100 * 15 / 16 and scores["iou"]["sky"] == pytest.approx(100 * 16 / 17)


def test_confusion_counts_pairs_and_adds_up():
    pred, label = frames(3)
    matrix = confusion(torch.tensor(pred), torch.tensor(label).to(torch.uint8))
    slow = np.zeros((11, 11), int)
    for p, t in zip(pred.ravel(), label.ravel(), strict=True):
        if t != VOID:
            slow[t, p] += 1
    assert matrix.dtype == np.int64 and (matrix == slow).all()
    assert (sum(confusion(p, t) for p, t in zip(pred, label, strict=True)) == matrix).all()
    assert confusion(pred[:1], np.full_like(label[:1], VOID)).sum() == 0


def test_confusion_refuses_what_is_no_class():
    ok = np.zeros((2, 2), int)
    for pred, label, message in (
        (ok[:1], ok, r"prediction is \(1, 2\), expected \(2, 2\)"),
        (ok + 11, ok, "prediction holds 11"),
        (ok - 1, ok, "prediction holds -1"),
        (ok, ok + 255, "label holds 255"),
    ):
        with pytest.raises(InputError, match=message):
            confusion(pred, label)
    assert confusion(ok + 200, ok + VOID).sum() == 0  # whatever is said about void


def test_bootstrap_scores_each_resample_as_a_set_of_its_own():
    pred, label = frames(6, seed=2)
    label[:3][label[:3] == 9] = VOID  # class 9 is in three frames only, so some resamples lack it
    pred[:3][pred[:3] == 9] = 0
    matrices = np.stack([confusion(p, t) for p, t in zip(pred, label, strict=True)])
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=20)
    weights[0], weights[1] = 1, [2, 2, 2, 0, 0, 0]
    values = bootstrap_miou(matrices, weights)
    for weight, value in zip(weights, values, strict=True):
        drawn = np.repeat(np.arange(6), weight)
        assert value == pytest.approx(scores_from(confusion(pred[drawn], label[drawn]))["mIoU"])
    assert values[0] == scores_from(matrices.sum(0))["mIoU"]
    assert np.isnan(class_iou(matrices[:3].sum(0))[9]) and np.isfinite(values).all()


# --- boundaries -------------------------------------------------------------------------------------------------


def slow_boundary_iou(pred, label, share):
    """Cheng et al. as written: a mask without its erosion; void of the truth made void in the prediction."""

    def rim(mask, steps):
        around = np.lib.stride_tricks.sliding_window_view(np.pad(mask, steps), (2 * steps + 1,) * 2)
        return mask & ~around.all((2, 3))

    both, either = np.zeros(11), np.zeros(11)
    for p, t in zip(pred, label, strict=True):
        p = np.where(t == VOID, VOID, p)
        steps = max(1, round(share * float(np.hypot(*t.shape))))
        for k in range(11):
            rims = [rim(mask, steps) for mask in (p == k, t == k)]
            both[k] += (rims[0] & rims[1]).sum()
            either[k] += (rims[0] | rims[1]).sum()
    return 100 * np.mean([b / e for b, e in zip(both, either, strict=True) if e])


def blobs(seed, count=3):
    """Frames of large areas, the prediction shifted by a few pixels, with a patch of void."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, 9, (count, 5, 6)), np.ones((1, 12, 14), int))
    pred = np.roll(label, (2, -3), (1, 2))
    label[:, 20:35, 30:50] = VOID
    return pred, label


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_boundary_iou_is_the_paper_s(share):
    pred, label = blobs(0)
    value = boundary_iou(pred, torch.tensor(label), share=share)
    assert value == pytest.approx(slow_boundary_iou(pred, label, share))
    assert 10 < value < scores_from(confusion(pred, label))["mIoU"]  # wrong edges show here more than in the areas


def test_boundary_iou_closed_form():
    """A square of 20 found as one of 24, in an image of diagonal 100, so d is 2: no pixel of their rims is shared."""
    label, pred = np.full((80, 60), 1), np.full((80, 60), 1)
    label[30:50, 20:40] = pred[28:52, 18:42] = 8
    frame = 80 * 60 - 76 * 56  # the image's edge, a boundary of the building in both
    building = frame / (frame + (24**2 - 20**2) + (28**2 - 24**2))
    assert boundary_iou([pred], [label]) == pytest.approx(100 * (0 + building) / 2)
    assert scores_from(confusion(pred, label))["iou"]["car"] == pytest.approx(100 * 20**2 / 24**2)
    assert boundary_iou([label], [label]) == 100


def test_what_is_said_about_void_makes_no_boundary():
    pred, label = blobs(1)
    noisy = np.where(label == VOID, np.random.default_rng(0).integers(0, 11, label.shape), pred)
    assert boundary_iou(noisy, label) == boundary_iou(pred, label)
    assert boundary_iou(np.where(label == VOID, 5, label), label) == 100
    assert np.isnan(boundary_iou(pred[:1], np.full_like(label[:1], VOID)))
    two_sizes = boundary_iou([pred[0], pred[1][:30]], [label[0], label[1][:30]])
    assert 0 < two_sizes < 100
    with pytest.raises(InputError, match="expected"):
        boundary_iou([pred[0][:5]], [label[0]])


# --- calibration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_is_torchmetrics(bins):
    _, label = frames(4)
    logits = torch.randn(4, 11, *label.shape[1:], generator=torch.Generator().manual_seed(0))
    logits += 2.0 * torch.nn.functional.one_hot(torch.tensor(label).clamp(max=10), 11).permute(0, 3, 1, 2)
    probabilities = logits.softmax(1)
    theirs = MulticlassCalibrationError(11, n_bins=bins, ignore_index=VOID)(probabilities, torch.tensor(label))
    assert calibration_error(probabilities, label, bins) == pytest.approx(100 * float(theirs), abs=1e-3)
    assert calibration_error((p for p in probabilities), (t for t in label), bins) > 1  # one frame at a time


def test_calibration_closed_form():
    """80 % sure and right in 3 of 4 known pixels: 5 points off; void says nothing."""
    probabilities = np.zeros((1, 11, 1, 5))
    probabilities[0, 2], probabilities[0, 7] = 0.8, 0.2
    assert calibration_error(probabilities, [[[2, 2, 2, 5, VOID]]]) == pytest.approx(5, abs=1e-4)
    assert np.isnan(calibration_error(probabilities, [[[VOID] * 5]]))
    with pytest.raises(InputError, match="probabilities are"):
        calibration_error(probabilities, [[[2, 2]]])


# --- folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    pred, label = frames(3, classes=8)
    for k in range(3):
        for name, ids in (("gt", label[k]), ("pred", pred[k])):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(ids.astype(np.uint8)).save(tmp_path / name / f"frame{k}.png")
    return tmp_path, pred, label


def test_evaluator_writes_what_the_arrays_score(folders):
    root, pred, label = folders
    result = CliRunner().invoke(
        main,
        ["eval", "camvid", "--gt", str(root / "gt"), "--pred", str(root / "pred"), "--json", str(root / "scores.json")],
    )
    assert result.exit_code == 0, result.output
    written, scores = json.loads((root / "scores.json").read_text()), scores_from(confusion(pred, label))
    assert set(written) == {"mIoU", "pixel_accuracy", "iou"} and list(written["iou"]) == list(CLASSES)
    assert written["mIoU"] == scores["mIoU"] and written["pixel_accuracy"] == scores["pixel_accuracy"]
    assert written["iou"]["sky"] == scores["iou"]["sky"] and written["iou"]["bicyclist"] is None
    assert "bicyclist          -" in result.output and f"{scores['mIoU']:.2f}" in result.output


def test_evaluator_reads_colours_too(folders):
    root, pred, label = folders
    names = ("Sky", "Wall", "TrafficCone", "LaneMkgsDriv", "ParkingBlock", "VegetationMisc", "Misc_Text", "Fence")
    table = np.zeros((12, 3), np.uint8)
    table[: len(names)] = [COLOURS[name] for name in names]
    for k in range(3):
        Image.fromarray(table[label[k]]).save(root / "gt" / f"frame{k}.png")
    assert evaluate_folders(root / "gt", root / "pred")["mIoU"] == scores_from(confusion(pred, label))["mIoU"]


def test_evaluator_on_real_labels(real_data, tmp_path):
    """Each of five frames is scored with the frame before it as prediction; torchmetrics reads them by itself."""
    folder = real_data / "camvid" / "valannot"
    if not folder.is_dir():
        pytest.skip("needs the real CamVid frames in ../shared/data")
    paths = sorted(folder.glob("*.png"))[:6]
    ids = torch.stack([torch.tensor(np.array(Image.open(path).convert("L"))).long() for path in paths])
    metric, (gt, pred) = MulticlassJaccardIndex(11, ignore_index=VOID), (tmp_path / "gt", tmp_path / "pred")
    gt.mkdir(), pred.mkdir()
    for path, truth, before in zip(paths[1:], ids[1:], ids, strict=False):
        guess = torch.where(before == VOID, 3, before)
        metric.update(guess[None], truth[None])
        (gt / path.name).symlink_to(path)
        Image.fromarray(guess.byte().numpy()).save(pred / path.name)
    assert evaluate_folders(gt, pred)["mIoU"] == pytest.approx(100 * float(metric.compute()), abs=1e-4)
    with pytest.raises(InputError, match="has id 11, expected 0 to 10"):  # labels are no predictions: they hold void
        evaluate_folders(folder, folder)


def test_evaluator_faults_in_one_line(folders):
    root, pred, label = folders
    gt, found = root / "gt", root / "pred"

    def error():
        result = CliRunner().invoke(main, ["eval", "camvid", "--gt", str(gt), "--pred", str(found)])
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        return result.stderr

    Image.fromarray(pred[1].astype(np.uint8)[:20]).save(found / "frame1.png")
    assert f"{found / 'frame1.png'}: 40 x 20 pixels, expected 40 x 30 as {gt / 'frame1.png'}" in error()
    Image.fromarray(np.where(label[1] == VOID, VOID, pred[1]).astype(np.uint8)).save(found / "frame1.png")
    assert f"{found / 'frame1.png'}: pixel (" in error() and "has id 11, expected 0 to 10" in error()
    Image.fromarray(np.full((30, 40), VOID, np.uint8)).save(gt / "frame0.png")
    assert f"{gt / 'frame0.png'}: every pixel is void" in error()
    (found / "frame0.png").unlink()
    assert f"{found / 'frame0.png'}: no such prediction, expected one for {gt / 'frame0.png'}" in error()
    (gt / "frame0.png").unlink()
    Image.fromarray(pred[0].astype(np.uint8)).save(found / "frame9.png")
    assert f"{found / 'frame9.png'}: prediction without label, expected {gt / 'frame9.png'}" in error()
    (found / "frame9.png").unlink()
    colours = np.zeros((30, 40, 3), np.uint8)
    colours[3, 4] = (1, 2, 3)
    Image.fromarray(colours).save(gt / "frame1.png")
    assert f"{gt / 'frame1.png'}: pixel (4, 3) has colour (1, 2, 3), expected one of CamVid's 32" in error()
    (gt / "frame1.png").write_text("x")
    assert f"{gt / 'frame1.png'}: not an image" in error()
    for path in gt.iterdir():
        path.unlink()
    assert f"{gt}: no labels (a folder), expected a PNG per frame" in error()
