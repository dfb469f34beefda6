"""The look of arms: by role, told apart without colour, and with the colours that colour-blind readers see."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle

from kdnb.projects import (
    camvid_prompt_kd,
    car_kfold,
    coco_alignment,
    kitti_pseudo_lidar,
    primer,
    talk2car_grounding,
    voc_defeat,
)
from kdnb.projects.car_experiment import EXPERIMENTS
from kdnb.viz import style
from kdnb.viz.style import arm_colour, arm_hatch, arm_line, arm_marker

FOLDS = [f"fold_{number}" for number in range(1, 6)] + ["fold_1_A", "fold_1_B", "fold_1_C"]
ARMS = {
    "00": {
        *primer.TEACHERS,
        *primer.ARMS,
        *primer.ABLATION_ARMS,
        "few_labels_x2_baseline",
        "few_labels_x2_distilled",
        "few_labels_x10_baseline",
        "few_labels_x10_distilled",
        "baseline_matched",
    },
    "01": {"teacher", *coco_alignment.ARMS, *coco_alignment.ABLATION_ARMS, "baseline_matched"},
    "02": {*talk2car_grounding.ARMS},
    "03": {"teacher", *voc_defeat.ARMS, *voc_defeat.ABLATION_ARMS, "baseline_matched"},
    "04": {*kitti_pseudo_lidar.ARMS, *kitti_pseudo_lidar.ABLATION_ARMS, "baseline_matched", "depth", "ground truth"},
    "05": {
        *camvid_prompt_kd.TEACHERS,
        *camvid_prompt_kd.CHOSEN,
        *camvid_prompt_kd.ARMS,
        *camvid_prompt_kd.ABLATION_ARMS,
        "baseline_matched",
        "body",
    },
    "06": {*car_kfold.ARMS, *car_kfold.ABLATION_ARMS, *FOLDS, *EXPERIMENTS, "teacher", "ensemble", "baseline_matched"},
}

# Linear RGB as people without red or green cones see it: Machado, Oliveira and Fernandes 2009, table 1, severity 1.0.
SEEN_BY = {
    "everybody": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("project", ARMS)
def test_no_two_arms_of_a_project_share_colour_and_marker(project):
    looks = {}
    for arm in ARMS[project]:
        looks.setdefault((arm_colour(arm), arm_marker(arm)), []).append(arm)
    assert {look: arms for look, arms in looks.items() if len(arms) > 1} == {}


@pytest.mark.parametrize("project", ARMS)
def test_every_arm_has_a_role_and_a_marker_that_matplotlib_knows(project):
    assert [arm for arm in ARMS[project] if arm_colour(arm) == style.GREY] == []
    assert all(MarkerStyle(arm_marker(arm)) for arm in ARMS[project])
    assert arm_colour("something else") == style.GREY  # not taken for an arm that is taught


@pytest.mark.parametrize(
    ("colour", "marker", "line", "arm"),
    [
        (style.BLUE, "s", "-", "teacher"),
        (style.ORANGE, "o", "-", "baseline"),
        (style.GREEN, "D", "-", "distilled"),
        (style.VERMILION, "^", "--", "baseline_matched"),
    ],
)
def test_the_four_arms_of_every_project_look_as_they_always_did(colour, marker, line, arm):
    assert (arm_colour(arm), arm_marker(arm), arm_line(arm), arm_hatch(arm)) == (colour, marker, line, "")


@pytest.mark.parametrize(
    ("role", "arms"),
    [
        (
            style.BLUE,
            ["weak_teacher", "teacher_projection", "teacher_bag_of_words", "body", "image_only", "experiment_A"],
        ),
        (style.ORANGE, ["few_labels_x2_baseline", "baseline_from_scratch", "all_labels", "double_baseline"]),
        (
            style.GREEN,
            ["from_weak_teacher", "few_labels_from_image_only", "distilled_fold_1", "no_labels", "sweep_10_3"],
        ),
        (style.PINK, ["random_projection", "teacher_swapped", "teacher_image_blanked", "full_captions", "pkd"]),
    ],
)
def test_the_colour_is_the_role(role, arms):
    assert {arm_colour(arm) for arm in arms} == {role}


def test_alone_and_taught_differ_in_more_than_colour():
    """Under the same variant, as the pairs that a verdict compares are drawn."""
    arms = set.union(*ARMS.values())
    pairs = [(arm, arm.replace("baseline", "distilled")) for arm in arms if "baseline" in arm]
    pairs = [(a, b) for a, b in pairs if b in arms and "_x" not in a]  # those are points of one curve
    assert len(pairs) > 8
    assert [(a, b) for a, b in pairs if arm_marker(a) == arm_marker(b)] == []


def test_a_variant_has_a_line_of_its_own():
    names = ("distilled", "long_distilled", "few_labels_distilled", "teacher", "ensemble", "fold_2", "pkd")
    assert [arm_line(name) for name in names] == ["-", "--", ":", "-", "-", "-", "--"]


@pytest.mark.parametrize("project", ["01", "02"])
def test_bars_differ_in_colour_or_hatch(project):
    drawn = ARMS[project] - {*coco_alignment.ABLATION_ARMS}  # those are in a table
    assert len({(arm_colour(arm), arm_hatch(arm)) for arm in drawn}) == len(drawn)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_the_colours_of_roles_are_told_apart(eyes):
    """A difference of 10 in CIELAB is plain at a glance, 2.3 just visible (Mahy et al. 1994)."""
    colours = {
        role: arm_colour(role)
        for role in (
            "teacher",
            "baseline",
            "distilled",
            "pkd",
            "ensemble",
            "baseline_matched",
            "ground truth",
            "something else",
        )
    }
    places = {role: lab(colour, SEEN_BY[eyes]) for role, colour in colours.items()}
    apart = {pair: np.linalg.norm(places[pair[0]] - places[pair[1]]) for pair in itertools.combinations(colours, 2)}
    assert min(apart.values()) > 10, min(apart, key=apart.get)
    main = [apart[pair] for pair in itertools.combinations(("teacher", "baseline", "distilled"), 2)]
    assert min(main) > 30


def test_red_and_green_would_not_have_passed():
    red, green = (lab(colour, SEEN_BY["deuteranopia"]) for colour in ("#C06000", "#6E8B00"))
    assert np.linalg.norm(red - green) < 15 < np.linalg.norm(lab("#C06000", np.eye(3)) - lab("#6E8B00", np.eye(3)))


def lab(colour: str, seen) -> np.ndarray:
    """sRGB → what the eyes ``seen`` make of it → CIELAB under D65, by the formulas of IEC 61966-2-1 and CIE 15."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(seen) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / (0.9505, 1, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
