import unicodedata
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex

from kdnb.metrics.classification import calibration_error, confusion, reliability
from kdnb.viz import cars as pictures
from kdnb.viz.hangul import drawable
from kdnb.viz.style import ORANGE, declare_roles

CLASSES = ["sedan_2012", "sedan_2018", "suv_2012", "suv_2018"]
BODIES = ["sedan", "sedan", "suv", "suv"]
#         named: 0, 1, 2, 3
MATRIX = [[6, 4, 0, 0], [2, 8, 0, 0], [0, 1, 9, 0], [0, 0, 1, 19]]


def texts(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter that the font lacks is a warning
        figure.draw_without_rendering()
    words = [text for ax in figure.axes for text in (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label)]
    words += [text for ax in figure.axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    words += figure.texts
    return [text.get_text() for text in words] + legend(figure)


def legend(figure):
    places = (*figure.legends, *(ax.get_legend() for ax in figure.axes))
    return [text.get_text() for place in places if place for text in place.get_texts()]


def picture(height, width, value=100):
    return np.full((3, height, width), value, np.uint8)


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("서울", "seoul"),
        ("한글", "hangeul"),
        ("빛", "bit"),
        ("쏘나타_2019", "ssonata_2019"),
        ("라브4_5세대", "rabeu4_5sedae"),
        ("닭", "dak"),
        ("의왕", "uiwang"),
        ("힣", "hit"),
        ("Audi_TT", "Audi_TT"),
    ],
)
def test_korean_names_are_romanised_composed_or_not(name, read):
    assert drawable(name) == drawable(unicodedata.normalize("NFD", name)) == read


# --- data -------------------------------------------------------------------------------------------------------


def test_a_class_sheet_stretches_no_picture_and_can_be_drawn_in_korean():
    figure = pictures.class_sheet({"라브4_4세대_2013": picture(40, 100), "suv_2018": picture(90, 60)}, columns=2)
    said = texts(figure)
    assert "rabeu4 4sedae 2013\n100×40" in said and "suv 2018\n60×90" in said
    for ax, aspect in zip(figure.axes, (2.5, 2 / 3), strict=True):
        box = ax.get_window_extent()
        assert box.width / box.height == pytest.approx(aspect, rel=1e-3)


def test_a_class_sheet_says_what_it_leaves_out():
    figure = pictures.class_sheet({f"class_{k}": picture(20, 30) for k in range(9)}, columns=4, most=5)
    assert sum(bool(ax.images) for ax in figure.axes) == 5
    assert figure.get_suptitle() == "the first 5 of 9 classes"
    assert pictures.class_sheet({"one": picture(20, 30)}).get_suptitle() == ""


def test_the_fold_split_counts_every_image_once():
    folds, labels = [0, 1, 0, 1, 1, 0], [0, 0, 2, 2, 2, 3]
    assert pictures.fold_counts(folds, labels, 4).tolist() == [[1, 0, 1, 1], [1, 0, 2, 0]]
    figure = pictures.fold_split({"stratified": folds, "shuffled": [0, 0, 0, 1, 1, 1]}, labels, CLASSES)
    said = texts(figure)
    assert {"stratified", "shuffled", "fold 1 (3)", "fold 2 (3)", "suv_2018"} <= set(said)
    assert len({ax.images[0].get_clim() for ax in figure.axes if ax.images}) == 1  # both on one scale
    assert np.asarray(figure.axes[1].images[0].get_array()).tolist() == [[2, 0, 1, 0], [0, 0, 2, 1]]


def test_hundreds_of_classes_have_numbers_instead_of_names():
    names = [f"class_{k}" for k in range(400)]
    labels = np.arange(2000) % 400
    for figure in (pictures.fold_split({"split": labels % 5}, labels, names), pictures.confusion(np.eye(400), names)):
        said = texts(figure)
        assert "class_0" not in said and any(text.endswith("class, its number") for text in said)


# --- scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("higher", "kept", "words"),
    [(False, 2, "log loss, nats (lower is better)"), (True, 1, "accuracy, % (higher is better)")],
)
def test_a_curve_marks_the_state_that_was_kept(higher, kept, words):
    figure = pictures.learning_curves(
        {"fold_1": [(1, 0.9), (2, 0.6), (3, 0.7)]}, words.split(",")[0], higher_is_better=higher
    )
    line, best = figure.axes[0].lines
    assert list(line.get_ydata()) == [0.9, 0.6, 0.7] and list(best.get_xdata()) == [kept]
    assert f"validation {words}" in texts(figure) and legend(figure) == ["fold 1", "state that was kept"]


def test_the_gain_is_drawn_where_both_students_have_a_score():
    scores = {
        "baseline": [(10, 50.0), (20, 60.0)],
        "distilled": [(10, 58.0), (20, 65.0)],
        "long_baseline": [(10, 40.0), (30, 70.0), (90, 75.0)],
        "long_distilled": [(10, 45.0), (60, 72.0), (90, 74.0)],
    }
    declare_roles({"long_baseline": "alone", "long_distilled": "distilled"})
    pairs = [("baseline", "distilled"), ("long_baseline", "long_distilled")]
    figure = pictures.accuracy_against_steps(scores, pairs)
    above, below = figure.axes
    short, long, zero = below.lines
    assert list(zip(short.get_xdata(), short.get_ydata(), strict=True)) == [(10, 8), (20, 5)]
    assert list(zip(long.get_xdata(), long.get_ydata(), strict=True)) == [(10, 5), (90, -1)]
    assert list(zero.get_ydata()) == [0, 0] and (short.get_ls(), long.get_ls()) == ("-", "--")
    said = texts(figure)
    assert {"long distilled − long baseline", "training steps", "validation accuracy, %", "gain, points"} <= set(said)
    loss = texts(pictures.accuracy_against_steps(scores, pairs, metric="log loss"))
    assert {"validation log loss, nats", "difference, nats"} <= set(loss)


def test_meta_data_are_compared_on_folds_that_all_experiments_have():
    scores = {"A": {1: 0.9, 2: 1.0}, "D": {1: 0.7, 2: 0.6, 3: 0.1, 4: 0.1, 5: 0.1}}
    figure = pictures.meta_gain(scores)
    said = texts(figure)
    assert {"0.950", "0.650", "A\nnothing", "D\nboth", "mean of folds 1, 2", "fold 5"} <= set(said)
    dots = {(*line.get_xdata(), *line.get_ydata()): line.get_mfc() for line in figure.axes[0].lines}
    assert dots[1, 0.1] == "none" and dots[1, 0.7] != "none"
    none = pictures.meta_gain({"A": {1: 70.0}, "B": {2: 75.0}}, metric="accuracy")
    assert not any("mean" in text for text in texts(none)) and "validation accuracy, %" in texts(none)


def test_reliability_bars_stand_at_their_confidence():
    table = {"confidence": [np.nan, np.nan, 0.6, 0.9], "accuracy": [np.nan, np.nan, 0.5, 0.7], "count": [0, 0, 25, 75]}
    figure = pictures.reliability_diagrams({"baseline": table, "distilled": table})
    said = texts(figure)
    assert {"baseline\ncalibration error 17.5 %", "share that is right", "images, %"} <= set(said)  # .25*.1 + .75*.2
    above, below = figure.axes[0], figure.axes[2]
    bars = [(bar.get_x(), round(bar.get_height(), 3)) for bar in above.patches]
    assert bars == [(0, 0), (0.25, 0), (0.5, 0.5), (0.75, 0.7)]
    assert [bar.get_height() for bar in below.patches] == [0, 0, 25, 75]
    assert to_hex(above.patches[0].get_facecolor()).upper() == ORANGE


def test_scores_of_the_library_can_be_drawn_as_they_come():
    probabilities = np.random.default_rng(0).dirichlet(np.full(4, 0.3), size=200)
    labels = np.arange(200) % 4
    figure = pictures.reliability_diagrams({"ensemble": reliability(probabilities, labels)})
    assert f"ensemble\ncalibration error {calibration_error(probabilities, labels):.1f} %" in texts(figure)
    counts = confusion(probabilities, labels)
    a, b, share = pictures.closest_pairs(counts, 1)[0]
    named = probabilities.argmax(1)
    mixed = ((labels == a) & (named == b)) | ((labels == b) & (named == a))
    assert share == pytest.approx(100 * mixed.sum() / 100)  # fifty images of each class


# --- answers ----------------------------------------------------------------------------------------------------


def test_agreement_is_symmetric_and_all_must_agree():
    found = {"fold_1": [0, 1, 2, 3], "fold_2": [0, 1, 2, 0], "fold_3": [0, 1, 0, 3]}
    matrix, unanimous = pictures.agreement(found)
    assert matrix.tolist() == [[100, 75, 75], [75, 100, 50], [75, 50, 100]]
    assert unanimous.tolist() == [True, True, False, False]


def test_agreement_tells_what_a_common_answer_is_worth():
    found = {"fold_1": [0, 1, 2, 3], "fold_2": [0, 1, 2, 0], "fold_3": [0, 1, 0, 3]}
    figure = pictures.fold_agreement(found, truth=[0, 0, 2, 1])
    said = texts(figure)
    assert "all 3 agree on 50 % of the images\nright there: 50 %; elsewhere, mean fold: 33 %" in said
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["75", "75", "75", "50", "75", "50"]
    assert np.isnan(np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)).diagonal().all()
    alike = texts(pictures.fold_agreement({"a": [1, 2], "b": [1, 2]}, truth=[1, 0]))
    assert "all 2 agree on 100 % of the images\nright there: 50 %; elsewhere, mean fold: no image" in alike
    assert "all 2 agree on 100 % of the images" in texts(pictures.fold_agreement({"a": [1, 2], "b": [1, 2]}))


def test_soft_labels_tick_the_truth_and_say_where_it_is():
    rows = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
    items = [{"image": picture(20, 40), "label": 1}, {"image": picture(40, 20), "label": None}]
    figure = pictures.soft_labels(items, {"T = 1": rows, "distilled": rows[::-1]}, CLASSES, most=2)
    said = texts(figure)
    assert said.count("✓ sedan_2018") == 1  # as second of the first row; in the second column it comes third
    assert "✓ at place 3: 0.200" in said and {"T = 1", "distilled", "probability", "0.50"} <= set(said)
    bars = [(bar.get_width(), to_hex(bar.get_facecolor()).upper()) for bar in figure.axes[1].patches]
    assert bars == [(0.5, pictures.WRONG), (0.3, pictures.RIGHT)]


# --- mix-ups ----------------------------------------------------------------------------------------------------


def test_the_closest_pairs_count_both_directions():
    assert pictures.closest_pairs(MATRIX, 3) == [
        (0, 1, pytest.approx(100 * 6 / 20)),
        (1, 2, pytest.approx(5)),
        (2, 3, pytest.approx(100 / 30)),
    ]
    assert len(pictures.closest_pairs(MATRIX, 99)) == 6
    empty = pictures.closest_pairs(np.zeros((3, 3)), 1)  # classes that do not occur
    assert empty == [(0, 1, 0.0)]


def test_a_confusion_shows_mistakes_only_and_how_many_stay_within_a_group():
    figure = pictures.confusion(MATRIX, CLASSES, BODIES)
    said = texts(figure)
    assert "88 % of the mistakes stay within a frame" in said and {"named class", "true class"} <= set(said)
    shown = np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)
    assert np.isnan(shown.diagonal()).all() and shown[0, 1] == 40 and shown[3, 2] == 5
    assert [(frame.get_xy(), frame.get_width()) for frame in figure.axes[0].patches] == [
        ((-0.5, -0.5), 2),
        ((1.5, 1.5), 2),
    ]
    assert pictures.confusion(MATRIX, CLASSES).axes[0].get_title() == ""


def test_generations_are_ordered_by_the_first_arm():
    figure = pictures.closest_generations({"baseline": MATRIX, "distilled": np.diag([10, 10, 10, 20])}, CLASSES, most=2)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["sedan_2018 / suv_2012", "sedan_2012 / sedan_2018"]
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines["baseline"] == pytest.approx([5, 30]) and lines["distilled"] == [0, 0]
    assert legend(figure) == ["baseline", "distilled"]
    texts(figure)
