"""The look of arms: by declared role, told apart without colour, and with colours that colour-blind readers see."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle

from kdnb.errors import InputError
from kdnb.viz import style
from kdnb.viz.style import arm_colour, arm_hatch, arm_line, arm_marker, declare_roles

# Linear RGB as people without red or green cones see it: Machado, Oliveira and Fernandes 2009, table 1, severity 1.0.
EYES = {
    "trichromacy": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


FEW = [f"few_labels_{name}" for name in ("x2", "x5", "x10", "oof", "mse", "from_word", "from_template", "channel")]
ROLES = {
    "teacher": "teacher",
    **{name: "teacher" for name in ("weak_teacher", "body", "image_only")},
    "ensemble": "ensemble",
    **{f"fold_{k}": "member" for k in range(1, 31)},
    "baseline": "alone",
    "distilled": "distilled",
    "baseline_matched": "matched",
    **{f"{way}_baseline": "alone" for way in ("few_labels", "long", "projection", "regress", "inherited")},
    **{f"{way}_distilled": "distilled" for way in ("few_labels", "long", "projection", "regress", "inherited")},
    **{f"{few}_baseline": "alone" for few in FEW},
    **{f"{few}_distilled": "distilled" for few in FEW},
    "cosine_only": "distilled",
    "colour_only": "distilled",
    "matched_projection": "matched",
    **{name: "control" for name in ("random", "pkd", "teacher_swapped", "image_blanked", "full_captions")},
}
STANDARD = {
    "teacher": (style.BLUE, "s", "-", ""),
    "baseline": (style.ORANGE, "o", "-", ""),
    "distilled": (style.GREEN, "D", "-", ""),
    "baseline_matched": (style.VERMILION, "^", "--", ""),
    "few_labels_baseline": (style.ORANGE, "h", ":", "..."),
    "few_labels_distilled": (style.GREEN, "d", ":", "..."),
    "ground truth": (style.BLACK, "X", "-", ""),
}


@pytest.fixture(autouse=True)
def declared():
    declare_roles(ROLES)
    yield
    declare_roles({})


def look(arm):
    return arm_colour(arm), arm_marker(arm), arm_line(arm), arm_hatch(arm)


def test_no_two_arms_of_one_declaration_share_colour_and_marker():
    looks = [(arm_colour(arm), arm_marker(arm)) for arm in ROLES]
    assert len(set(looks)) == len(looks)
    assert all(MarkerStyle(marker) for _, marker in looks)
    assert all(colour != style.GREY for colour, _ in looks)


@pytest.mark.parametrize("roles", [ROLES, {}, {"long": "distilled", **{name: "control" for name in STANDARD}}])
def test_a_standard_arm_always_looks_the_same(roles):
    declare_roles(roles)
    assert {name: look(name) for name in STANDARD} == STANDARD


def test_another_declaration_replaces_the_arms_that_are_not_standard():
    assert arm_colour("pkd") == style.PINK
    declare_roles({"long_baseline": "control"})
    assert arm_colour("pkd") == style.GREY and arm_colour("long_baseline") == style.PINK


def test_an_arm_that_was_never_declared_is_grey_with_its_initials():
    assert look("something_else") == (style.GREY, "$se$", "-", "")
    assert look("few_labels_x7_distilled") == (style.GREY, "$X7$", ":", "...")
    assert arm_marker("few_labels") == "$F$" and arm_marker("swapped_teacher") == "$s$"


def test_an_unknown_role_is_one_line():
    with pytest.raises(InputError, match="arm big has the role 'master', expected one of teacher, ensemble, member"):
        declare_roles({"big": "master"})
    assert arm_colour("pkd") == style.PINK  # the roles declared before stay


def test_shapes_come_first_then_initials_then_numbers():
    declare_roles({name: "distilled" for name in ("a", "b", "c", "d", "e", "cosine_only", "colour_only")})
    assert [arm_marker(name) for name in ("a", "e", "cosine_only", "colour_only")] == ["*", "X", "$co$", "$co2$"]


def test_folds_go_from_pale_to_dark():
    names = [f"fold_{k}" for k in range(1, 6)]
    lightness = [lab(arm_colour(name), EYES["trichromacy"])[0] for name in names]
    assert lightness == sorted(lightness, reverse=True) and len(set(lightness)) == 5
    assert [arm_marker(name) for name in names] == list("osD^v")
    assert arm_colour("fold_6") == arm_colour("fold_1")


def test_alone_and_taught_differ_in_more_than_colour():
    """Under the same variant, as the pairs that a verdict compares are plotted."""
    pairs = [(arm, arm.replace("baseline", "distilled")) for arm in ROLES if arm.endswith("baseline")]
    shapes = [(a, b) for a, b in pairs if not arm_marker(b).startswith("$")]
    assert len(shapes) > 5
    assert [(a, b) for a, b in shapes if arm_marker(a) == arm_marker(b)] == []


def test_a_variant_has_a_line_of_its_own():
    names = ("distilled", "long_distilled", "few_labels_x2_distilled", "weak_teacher", "ensemble", "fold_2", "pkd")
    assert [arm_line(name) for name in names] == ["-", "--", ":", "-", "-", "-", "--"]


def test_bars_differ_in_colour_or_hatch():
    bars = [arm for arm in ROLES if "few_labels" not in arm and "fold" not in arm]
    assert len({(arm_colour(arm), arm_hatch(arm)) for arm in bars}) == len(bars)
    assert {arm_hatch(arm) for arm in ROLES if "few_labels" in arm} == {"..."}


@pytest.mark.parametrize("eyes", EYES)
def test_the_colours_of_roles_are_told_apart(eyes):
    """A difference of 10 in CIELAB is plain at a glance, 2.3 just visible (Mahy et al. 1994)."""
    arms = ("teacher", "baseline", "distilled", "pkd", "ensemble", "baseline_matched", "ground truth", "something else")
    places = {arm: lab(arm_colour(arm), EYES[eyes]) for arm in arms}
    apart = {pair: np.linalg.norm(places[pair[0]] - places[pair[1]]) for pair in itertools.combinations(arms, 2)}
    assert min(apart.values()) > 10, min(apart, key=apart.get)
    main = [apart[pair] for pair in itertools.combinations(("teacher", "baseline", "distilled"), 2)]
    assert min(main) > 30


def test_red_and_green_would_not_have_passed():
    red, green = (lab(colour, EYES["deuteranopia"]) for colour in ("#C06000", "#6E8B00"))
    assert np.linalg.norm(red - green) < 15 < np.linalg.norm(lab("#C06000", np.eye(3)) - lab("#6E8B00", np.eye(3)))


def lab(colour: str, eyes) -> np.ndarray:
    """sRGB → what these eyes make of it → CIELAB under D65, by the formulas of IEC 61966-2-1 and CIE 15."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(eyes) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / (0.9505, 1, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
