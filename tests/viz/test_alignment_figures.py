import numpy as np
import pytest
import torch

from kdnb.viz import alignment as pictures
from kdnb.viz import embedding_map
from kdnb.viz.style import GREEN

SENTENCES = [f"a photo of a {colour} car" for colour in ("red", "blue", "white", "black", "green", "yellow", "grey")]
RANKED = [(sentence, 0.9 - 0.2 * k) for k, sentence in enumerate(SENTENCES)]  # the last cosines are negative


def crops(count):
    return torch.randint(0, 255, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title, ax.yaxis.label, ax.xaxis.label)]


def heights(ax):
    return [round(bar.get_height()) for bar in ax.patches]


def test_a_sheet_shows_each_crop_once_unsmoothed_under_its_wrapped_title():
    figure = pictures.crop_sheet(crops(5), ["a photo of a small red motorcycle"] * 5, columns=3)
    shown = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(shown) == 5 and {image.get_interpolation() for image in shown} == {"nearest"}
    assert sum("motorcycle" in text and "\n" in text for text in texts(figure)) == 5


def test_a_ranking_ticks_what_is_true_and_tells_where_the_truth_is_when_it_comes_late():
    rows = [{"teacher": RANKED, "distilled": RANKED[::-1]}, {"teacher": RANKED}]
    figure = pictures.rankings(crops(2), rows, [{SENTENCES[0]}, SENTENCES[6]])
    said = texts(figure)
    assert said.count(f"✓ {SENTENCES[0]}") == 1 and said.count(SENTENCES[0]) == 1
    assert "first true sentence: place 7" in said and "no answer" in said and "0.90" in said
    assert len(figure.axes[1].patches) == pictures.FIRST
    pictures.rankings(crops(1), [{}], [set()]).draw_without_rendering()


def test_right_crops_are_framed_and_counted():
    found = {"teacher": [(c, k < 3) for k, c in enumerate(crops(9))], "distilled": [(crops(1)[0], False)]}
    figure = pictures.text_to_crops("a red car", found)
    framed = [ax for ax in figure.axes if ax.spines["left"].get_linewidth() == 4]
    assert len(framed) == 3 and framed[0].spines["left"].get_edgecolor()[:3] == pytest.approx(
        [int(GREEN[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )
    assert {"teacher\n3 of 8 right", "distilled\n0 of 1 right", "3 ✓", "4"} <= set(texts(figure))


def test_recall_bars_read_percent_and_leave_a_gap_for_what_is_missing():
    numbers = {
        "teacher": {"text_to_image_R@1": 90.0, "image_to_text_R@1": 80.0, "zero_shot_colour": 3.0},
        "baseline": {"text_to_image_R@1": 20.0, "image_to_text_R@1": float("nan")},
        "distilled": {},
    }
    ax = pictures.recall_bars(numbers).axes[0]
    assert heights(ax) == [90, 80, 20, 0, 0, 0] and [t.get_text() for t in ax.texts] == ["90", "80", "20"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["text → image\nR@1", "image → text\nR@1"]


def test_sizes_are_shown_apart():
    numbers = {"teacher": {"text_to_image_R@1": 1.0, "text_to_image_R@1_small": 40.0, "text_to_image_R@1_large": 60.0}}
    small, large = pictures.size_bars(numbers).axes
    assert (heights(small), heights(large)) == ([40], [60])
    assert "no such objects" in texts(pictures.size_bars({"teacher": {"text_to_image_R@1_small": 40.0}}))
    pictures.size_bars({}).draw_without_rendering()


def test_a_map_has_a_panel_per_arm_a_dot_per_image_and_a_word_per_text():
    random = np.random.default_rng(0)
    labels = [f"class {k % 11}" for k in range(30)]  # more than there are colours
    one = (random.normal(size=(30, 2)), labels, random.normal(size=(4, 2)), ["class 0", "class 1", "red", "blue"])
    figure = pictures.embedding_map({"teacher": one, "distilled": one})
    assert len(figure.axes) == 2 and len(figure.legends[0].get_texts()) == 12
    dots = sum(len(group.get_offsets()) for group in figure.axes[0].collections)
    assert dots == 30 + 4 and {"class 0", "red"} <= set(texts(figure))
    looks = {(tuple(g.get_facecolor()[0]), len(g.get_paths()[0].vertices)) for g in figure.axes[0].collections[:11]}
    assert len(looks) == 11
    pictures.embedding_map({"teacher": ([], [], [], [])}).draw_without_rendering()


def test_labels_that_name_colours_have_them_and_no_other_label_does():
    labels = ["black", "blue", "brown", "green", "grey", "orange", "red", "silver", "white", "yellow"]
    looks = embedding_map._label_looks(labels)
    assert list(looks) == labels and len(set(looks.values())) == len(labels) and looks["green"] == (GREEN, "o")


def test_words_do_not_cover_each_other_where_there_is_room():
    points = np.array([[0.0, 0], [0.02, 0.02], [1, 1]])
    figure = pictures.embedding_map({"teacher": (points, list("abc"), points, ["red car", "blue car", "white car"])})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent().extents for text in figure.axes[0].texts]
    assert len(boxes) == 3 and embedding_map._overlap(boxes[0], boxes[1]) == 0


def test_the_sweep_marks_the_best_and_what_was_not_run():
    said = texts(pictures.sweep([(0.1, 1, 50.0), (1, 1, 70.0), (1, 10, float("nan"))]))
    assert {"50.0", "70.0\nbest"} <= set(said) and said.count("not run") == 2
    assert texts(pictures.sweep([(1, 1, float("nan"))])).count("not run") == 1
