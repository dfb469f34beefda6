import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from kdnb.viz import segmentation as pictures
from kdnb.viz.segmentation_scores import labels_worth
from kdnb.viz.style import GREEN, ORANGE

CLASSES = ["sky", "road", "car"]
PALETTE = np.array([(10, 20, 30), (40, 50, 60), (70, 80, 90), (0, 0, 0)], np.uint8)
VOID = 3


@pytest.fixture
def items():
    torch.manual_seed(0)
    labels = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]])
    return [
        {"image": torch.randint(0, 255, (3, 2, 4), dtype=torch.uint8), "label": labels, "name": name}
        for name in ("a", "b")
    ]


def texts(figure):
    figure.draw_without_rendering()
    words = [text for ax in figure.axes for text in (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label)]
    words += [text for ax in figure.axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    return [text.get_text() for text in words] + legend(figure)


def legend(figure):
    places = (*figure.legends, *(ax.get_legend() for ax in figure.axes))
    return [text.get_text() for place in places if place for text in place.get_texts()]


# --- pixels -----------------------------------------------------------------------------------------------------


def test_shares_count_labelled_pixels_only():
    label = torch.tensor([[0, 0, 1, 3]])
    first, second = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 0, 0, 2]])
    assert pictures.share_right(first, label, VOID) == pytest.approx(200 / 3)
    assert pictures.disagreement(first, second, label, VOID) == pytest.approx(200 / 3)
    nothing = torch.full_like(label, VOID)
    assert np.isnan(pictures.share_right(first, nothing, VOID))
    assert pictures.disagreement(first, second, nothing, VOID) == 0


def test_changes_tell_who_is_right():
    label, before, after = np.array([[0, 0, 0, 0, 3]]), np.array([[1, 0, 1, 0, 0]]), np.array([[2, 1, 0, 0, 1]])
    names = list(pictures.CHANGES)
    became = [names[k] for k in pictures.changes(before, after, label, VOID)[0]]
    assert became == ["both wrong", "only {before} right", "only {after} right", "both right", "void"]


# --- figures ----------------------------------------------------------------------------------------------------


def test_the_legend_has_a_name_for_every_colour():
    figure = pictures.palette_legend(CLASSES, PALETTE)
    assert texts(figure)[:4] == ["sky", "road", "car", "void"]
    drawn = [patch.get_facecolor()[:3] for patch in figure.axes[0].patches]
    assert np.allclose(drawn, PALETTE / 255)


def test_shares_are_ordered_and_a_class_that_a_split_lacks_is_no_error():
    shares = {"train": {"sky": 30.0, "road": 69.5, "car": 0.5}, "test": {"sky": 50.0, "road": 50.0, "car": 0.0}}
    figure = pictures.class_shares(shares, CLASSES, PALETTE)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["car (0.5 %)", "sky (30 %)", "road (70 %)"]
    assert legend(figure) == ["train", "test"]
    figure.draw_without_rendering()


def test_samples_show_each_picture_above_its_labels(items):
    figure = pictures.samples([*items, items[0]], CLASSES, PALETTE, columns=2)
    shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(shown) == 6 and len(figure.axes) == 8
    assert (shown[2] == PALETTE[items[0]["label"].numpy()]).all()  # below the first picture
    assert legend(figure) == [*CLASSES, "void"]


def test_arms_stand_beside_the_truth_with_what_became_of_the_pixels(items):
    truth = items[0]["label"].numpy()
    wrong = np.where(truth == 0, 1, truth)  # 2 of 6 labelled pixels
    found = {"teacher": [truth, truth], "baseline": [wrong, truth], "distilled": [truth, wrong]}
    figure = pictures.side_by_side(items, found, CLASSES, PALETTE)
    said = texts(figure)
    assert {
        "distilled\nagainst baseline",
        "only distilled right",
        "67 % right",
        "won 33 %, lost 0 %",
        "won 0 %, lost 33 %",
    } <= set(said)
    first, second = (figure.axes[k].images[0].get_array()[0, 0] / 255 for k in (5, 11))
    assert np.allclose(first, to_rgb(GREEN), atol=0.01) and np.allclose(second, to_rgb(ORANGE), atol=0.01)


def test_cosines_frame_the_closest_pair_and_share_one_scale():
    def report(closest):
        cosine = torch.tensor([[1.0, 0.1, 0.0], [0.1, 1.0, closest], [0.0, closest, 1.0]])
        return {"cosine": cosine, "mean_off_diagonal": -0.001, "max_off_diagonal": closest, "effective_rank": 2.5}

    figure = pictures.prompt_cosines({"label": report(0.4), "bag_of_words": report(0.8)}, CLASSES)
    said = texts(figure)
    assert "bag of words: effective rank 2.5 of 3\nmean 0.00, closest 0.80 (road, car)" in said
    frames = [{patch.get_xy() for patch in ax.patches} for ax in figure.axes[:2]]
    assert frames == [{(1.5, 0.5), (0.5, 1.5)}] * 2
    scales = [image.get_clim() for ax in figure.axes[:2] for image in ax.images]
    assert scales == [pytest.approx((0.0, 0.8))] * 2
    single = pictures.prompt_cosines({kind: report(0.2) for kind in ("label", "sentence", "more")}, CLASSES)
    single.draw_without_rendering()  # an odd number leaves one place empty


def test_a_class_that_does_not_occur_has_no_marker():
    ious = {"baseline": {"sky": 80.0, "road": 60.0, "car": float("nan")}, "distilled": {"sky": 82.0, "road": 70.0}}
    figure = pictures.iou_by_class(ious, {"sky": 30.0, "road": 70.0, "car": 0.0})
    said = texts(figure)
    assert said.count("not in the test frames") == 1 and "road (70 %)" in said
    markers = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    assert np.isnan(markers["baseline"][0]) and list(markers["distilled"][1:]) == [82, 70]


def test_what_labels_are_worth_is_read_off_the_line_over_their_logarithm():
    scores = {8: [40.0, 44.0], 32: [50.0], 128: [60.0]}
    assert labels_worth(scores, 46.0) == pytest.approx(16)  # half-way from 42 to 50 is twice 8
    assert labels_worth(scores, 60.0) == pytest.approx(128) and labels_worth(scores, 61.0) is None
    assert labels_worth(scores, 12.0) == 8
    assert labels_worth({8: [40.0], 16: [30.0], 32: [50.0]}, 45.0) == pytest.approx(16 * 2**0.75)


@pytest.mark.parametrize(
    ("taught", "words"),
    [
        (46.0, "8 labels with the teacher are worth about 16 without"),
        (90.0, "8 labels with the teacher are worth more than 128 without"),
        (30.0, None),
    ],
)
def test_the_curve_says_what_the_teacher_is_worth(taught, words):
    alone = {8: [40.0, 44.0], 32: [50.0], 128: [60.0]}
    figure = pictures.labels_curve({"baseline": alone, "distilled": {8: [taught], 32: [95.0]}}, {"teacher": 77.0})
    said = [text for text in texts(figure) if "worth" in text]
    assert said == ([words] if words else [])
    assert {"teacher", "baseline", "distilled", "8", "32", "128"} <= set(texts(figure))
    assert list(figure.axes[0].lines[0].get_ydata()) == [42, 50, 60]
