import io

import numpy as np
import pytest
import torch

from kdnb.metrics.grounding import NAMES
from kdnb.viz.grounding import (
    attention_sheet,
    commands_sheet,
    iou_curve,
    predictions_sheet,
    slice_bars,
    weight_map,
)
from kdnb.viz.style import declare_roles


@pytest.fixture(scope="module")
def items():
    torch.manual_seed(0)
    picture = torch.randint(0, 255, (3, 45, 80), dtype=torch.uint8)
    proposals = torch.tensor([[4.0, 4, 24, 24], [30, 10, 60, 40]])
    plain = {
        "image": picture,
        "command": "stop at the van",
        "box": proposals[0],
        "twin_box": None,
        "proposals": proposals,
    }
    return [plain, plain | {"command": "park near the car " * 12, "twin_box": proposals[1]}]


def drawn(figure):
    """The figure's pixels; drawing is where layout and artists fail."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=40)
    return buffer.getvalue()


def legend(figure):
    return [
        text.get_text()
        for where in (*figure.legends, *(a.get_legend() for a in figure.axes))
        if where
        for text in where.get_texts()
    ]


def titles(figure):
    return [axes.get_title().strip() for axes in figure.axes]


def test_commands_stand_below_their_pictures_and_a_twin_is_explained_only_where_there_is_one(items):
    sheet = commands_sheet(items, columns=3)
    assert sheet.axes[0].get_xlabel() == "stop at the van" and "\n" in sheet.axes[1].get_xlabel()
    assert "its twin, which differs in one thing only" in legend(sheet)
    assert len(legend(commands_sheet(items[:1]))) == 2
    without = [{key: item[key] for key in ("image", "command", "box")} | {"box": None} for item in items]
    assert drawn(commands_sheet(without)) != drawn(sheet)


def test_predictions_say_right_above_one_half_only(items):
    box = [item["box"] for item in items]
    sheet = predictions_sheet(
        items, {"baseline": box, "distilled": box}, {"baseline": [0.5, 0.1], "distilled": [0.51, 1.0]}
    )
    assert titles(sheet) == [
        "baseline: IoU 0.50 ✗",
        "distilled: IoU 0.51 ✓",
        "baseline: IoU 0.10 ✗",
        "distilled: IoU 1.00 ✓",
    ]
    assert drawn(sheet) != drawn(
        predictions_sheet(
            items, {"baseline": box, "distilled": box[::-1]}, {"baseline": [0.5, 0.1], "distilled": [0.51, 0.0]}
        )
    )


def test_an_arm_without_scores_or_answers_is_drawn_all_the_same(items):
    sheet = predictions_sheet(items, {"random": [items[0]["box"], None]}, {})
    assert titles(sheet) == ["random", "random: no answer"]
    assert drawn(sheet)
    assert drawn(attention_sheet(items, {"distilled": [None, torch.tensor([0.4, 0.6])]}))


def test_the_largest_weight_shows_where_proposals_overlap():
    proposals = np.array([[0.0, 0, 4, 4], [2, 2, 6, 6], [-3, 0, 1, 1]])
    tint = weight_map((8, 8), proposals, np.array([0.7, 0.2, 0.1]))
    assert tint[3, 3] == 0.7 and tint[5, 5] == 0.2 and tint[0, 0] == 0.7 and np.isnan(tint[7, 7])


def test_attention_has_one_labelled_scale(items):
    weights = {"baseline": [torch.tensor([0.5, 0.5])] * 2, "distilled": [torch.tensor([0.9, 0.1])] * 2}
    sheet = attention_sheet(items, weights)
    assert sheet.axes[-1].get_ylabel().startswith("attention to a proposal")
    assert sheet.axes[-1].get_ylim()[1] == pytest.approx(0.9)
    assert drawn(sheet) != drawn(attention_sheet(items, weights | {"baseline": [torch.tensor([0.1, 0.9])] * 2}))


def test_bars_have_the_scores_and_chance_is_drawn_only_where_it_is_known():
    scores = {"baseline": {"all": 50.0, "side": None, "twin_side": 40.0}, "distilled": {"all": 70.0, "side": None}}
    figure = slice_bars(scores, {"all": 6.5})
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [50, 0, 40, 70, 0, 0]
    assert legend(figure) == ["baseline", "distilled", "chance"]
    assert "no such\ncommand" in [text.get_text() for text in axes.texts]
    assert legend(slice_bars({"baseline": scores["baseline"]})) == ["baseline"]
    assert drawn(figure)


def test_the_curve_goes_through_every_threshold():
    scores = {"baseline": dict.fromkeys(NAMES, 30.0), "distilled_projection": {"AP50": 60.0, "AP55": None}}
    declare_roles({"distilled_projection": "distilled"})
    figure = iou_curve(scores)
    first, second = figure.axes[0].lines
    assert first.get_xdata()[[0, -1]].tolist() == [0.5, 0.95] and set(first.get_ydata()) == {30.0}
    assert second.get_ydata()[0] == 60 and np.isnan(second.get_ydata()[1:]).all() and second.get_linestyle() == "--"
    assert drawn(figure)
