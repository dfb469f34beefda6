"""Commands mean exactly one thing, twins differ in one attribute alone, and expressions say what they mean."""

import re
from collections import Counter

import numpy as np
import pytest

from kdnb.datasets.talk2car_files import names_colour, names_side
from kdnb.world.annotate import annotate
from kdnb.world.camera import render, scene_camera
from kdnb.world.commands import commands, is_referable, phrase, templates
from kdnb.world.phrases import describe, side_of
from kdnb.world.referring import (
    COLOURS_ALIKE,
    RIDDEN,
    TARGETS,
    Expression,
    Referent,
    alike,
    clear_side,
    expressions,
    matches,
    referents,
    singles_out,
    twin_of,
)
from kdnb.world.scene import CAST, Thing, build, make_scene
from kdnb.world.twins import stage_twins

SIZE = (240, 135)
SCENES = 200


def pcg(*seed):
    return np.random.Generator(np.random.PCG64(list(seed)))


@pytest.fixture(scope="module")
def images():
    """(referents, commands) of 200 streets of all splits, three in four with a twin put in."""
    out = []
    for k in range(SCENES):
        rng = pcg(7, k)
        scene = make_scene(3, ("train", "val", "test")[k % 3], k)
        if k % 4:
            scene = stage_twins(scene, ("colour", "side")[k % 2], rng, *SIZE)
        candidates = referents(annotate(scene, render(scene, *SIZE, supersample=1)), SIZE[0])
        out.append((candidates, commands(candidates, rng)))
    return out


def ref(noun, colour, x, distance, wide=20, high=20, bottom=None, **more):
    """A referent whose box is centred at x in an image 200 wide; farther things stand higher up."""
    bottom = 100 - distance if bottom is None else bottom
    thing = Thing(1, noun, {"colour": colour}, np.array([distance, 0, 1.0]), np.ones(3), 0.0, "lane")
    fields = {"pixels": 200, "visible": 1.0, "cut": 0.0} | more
    return Referent(
        noun, colour, (x - wide / 2, bottom - high, x + wide / 2, bottom), 200, distance, thing=thing, **fields
    )


# --- what an expression fits ------------------------------------------------------------------------------------


def test_matches_by_type_colour_side():
    red, blue, white, van = (
        ref("car", "red", 30, 10),
        ref("car", "blue", 170, 12),
        ref("car", "white", 100, 20),
        ref("van", "red", 150, 15),
    )
    candidates = [red, blue, white, van]
    assert matches(Expression("car"), candidates) == [red, blue, white]
    assert matches(Expression("car", "red"), candidates) == [red]
    assert matches(Expression("car", side="right"), candidates) == [blue]
    assert matches(Expression("car", "red", "right"), candidates) == []
    assert matches(Expression("car", "red"), candidates, loose=True) == [red, van]  # a van may be called a car
    assert matches(Expression("car", side="right"), candidates, loose=True) == [blue, van]
    assert not singles_out(Expression("car", "red"), red, candidates) and singles_out(
        Expression("car", "blue"), blue, candidates
    )


@pytest.mark.parametrize(("a", "b"), [("white", "silver"), ("black", "brown"), ("red", "orange"), ("yellow", "golden")])
def test_colours_that_light_may_confuse_do_not_single_out(a, b):
    first, second = ref("car", a, 30, 10), ref("car", b, 170, 12)
    assert matches(Expression("car", a), [first, second]) == [first]
    assert not singles_out(Expression("car", a), first, [first, second])


def test_something_between_two_sides_is_on_both():
    near = ref("car", "red", 84, 10)  # 0.42 of the width: in the middle, but nearly left
    assert matches(Expression("car", side="middle"), [near]) == [near] and clear_side(near) is None
    for side, fits in (("left", True), ("middle", True), ("right", False)):
        assert (matches(Expression("car", side=side), [near], loose=True) == [near]) is fits


def test_order_counts_from_the_camera_and_asks_for_clear_distances():
    row = [ref("car", None, 150, d) for d in (6, 10, 20)]
    for order, which in (("closest", 0), ("first", 0), ("second", 1), ("third", 2), ("last", 2)):
        assert singles_out(Expression("car", order=order), row[which], row[::-1])
    level = [ref("car", None, 150, d) for d in (6, 10, 10.5)]
    assert matches(Expression("car", order="second"), level) == [level[1]]
    assert not singles_out(Expression("car", order="second"), level[1], level)
    assert matches(Expression("car", order="closest"), row[:1]) == []  # nothing to compare with
    assert not singles_out(Expression("car", order="last"), row[2], [*row, ref("van", None, 20, 30)])


def test_relation_needs_one_anchor_and_one_thing_in_line():
    truck, car, other = ref("truck", "white", 150, 10, wide=50), ref("car", "red", 150, 20), ref("car", "red", 30, 20)
    expression = Expression("car", relation=("behind", Expression("truck", "white")))
    assert matches(expression, [truck, car, other]) == [car] and singles_out(expression, car, [truck, car, other])
    front = ref("car", "blue", 155, 5)  # "behind" may be along the street: then this is the one
    assert matches(expression, [truck, car, front]) == [car] and not singles_out(expression, car, [truck, car, front])
    beside = Expression("person", relation=("next to", Expression("car")))
    near, far = ref("person", "red", 52, 20, wide=8), ref("person", "red", 150, 8, wide=8)
    assert singles_out(beside, near, [other, near, far])


def test_words():
    expression = Expression("car", relation=("behind", Expression("truck", "white", "right")))
    assert str(expression) == "car behind the white truck on the right" and expression.attributes == ("relation",)
    assert str(Expression("car", "red", "right", "second")) == "second red car on the right"
    assert str(Expression("person", "red", "middle")) == "person in red in the middle"
    assert str(Expression("bicycle", "red")) == "rider in red on the bicycle"
    assert str(Expression("bicycle", side="left")) == "bicycle on the left"


@pytest.mark.parametrize("category", [name for name in CAST if name in TARGETS and name not in RIDDEN])
def test_an_expression_of_type_and_colour_reads_as_a_description_elsewhere(category):
    (_, _, attributes), *_ = build(category, pcg(0))
    thing = Thing(1, category, attributes, np.array([9.0, 0, 1]), np.ones(3), np.pi)
    assert str(Expression(category, attributes["colour"])) == describe(thing)


def test_every_wording_fits_every_expression():
    for noun in TARGETS:
        for place in ("lane", "oncoming", "parked", "side street", "crossing", "pavement"):
            for expression in (
                Expression(noun),
                Expression(noun, "red"),
                Expression(noun, side="left"),
                Expression(noun, relation=("behind", Expression("bus"))),
            ):
                for k in range(5):
                    text = phrase(expression, place, pcg(k))
                    assert f"the {expression}" in text and "{" not in text and text == text.lower()
                    if expression.attributes in (("colour",), ()):
                        assert names_colour(text) == bool(expression.colour)
                    if expression.attributes == ("colour",):
                        assert not names_side(text)
                    if expression.side:
                        assert text.count("left") == 1 and "right" not in text
    assert len(set(templates("car", "parked"))) >= 15


# --- streets ----------------------------------------------------------------------------------------------------


def test_a_command_means_exactly_one_thing(images):
    """By the expression, strictly and loosely, and by going through the things once more without its code."""
    for candidates, chosen in images:
        for m in chosen:
            expression = m.expression
            assert singles_out(expression, m.target, candidates) and is_referable(m.target)
            if "order" in expression.attributes or "relation" in expression.attributes:
                continue
            fits = [
                r
                for r in candidates
                if r.noun == expression.noun
                and expression.colour in (None, r.colour)
                and expression.side in (None, side_of(r.box, SIZE[0]))
            ]
            assert len(fits) == 1 and fits[0] is m.target, m.text


def test_the_text_says_what_the_expression_says(images):
    for _, chosen in images:
        for m in chosen:
            assert f"the {m.expression}" in m.text
            for value in (m.expression.colour, m.expression.side, m.expression.order):
                assert value is None or re.search(rf"\b{value}\b", m.text), m.text


def test_twins_differ_in_the_one_attribute_that_is_named(images):
    twins = [m for _, chosen in images for m in chosen if m.twin]
    for m in twins:
        other = m.twin_referent
        same_side = clear_side(other) == clear_side(m.target)
        assert other is not m.target and other.noun == m.target.noun and m.expression.attributes == (m.twin,)
        assert is_referable(other) and None not in (clear_side(other), clear_side(m.target))
        if m.twin == "colour":
            assert same_side and not alike(other.colour, m.target.colour, COLOURS_ALIKE)
            assert names_colour(m.text) and not names_side(m.text)
        else:
            assert not same_side and other.colour == m.target.colour
            assert names_side(m.text) and not names_colour(m.text)


def test_there_are_enough_twins_of_both_kinds_and_enough_else(images):
    chosen = [m for _, of_image in images for m in of_image]
    kinds = Counter(m.twin for m in chosen)
    assert kinds["colour"] + kinds["side"] >= 0.4 * len(chosen) and min(kinds["colour"], kinds["side"]) >= 40
    kinds = Counter(m.expression.attributes for m in chosen if not m.twin)
    assert len(kinds) >= 6 and sum("relation" in s for s in kinds) and sum("order" in s for s in kinds)
    assert len({m.target.noun for m in chosen}) >= 7
    assert sum(bool(of_image) for _, of_image in images) >= 0.97 * SCENES


def test_most_pairs_are_meant_both_ways(images):
    """A model that does not listen cannot do better than half on them."""
    twins = [m for _, of_image in images for m in of_image if m.twin]
    both = sum(any(o.target is m.twin_referent for o in of_image) for _, of_image in images for m in of_image if m.twin)
    assert both >= 0.9 * len(twins)


def test_twin_of_needs_the_named_attribute_alone():
    red, blue = ref("car", "red", 170, 10), ref("car", "blue", 160, 20)
    far = ref("car", "red", 30, 10)
    assert twin_of(Expression("car", "red"), red, [red, blue]) == ("colour", blue)
    assert twin_of(Expression("car", "red"), red, [red, far]) == (None, None)
    assert twin_of(Expression("car", side="right"), red, [red, far]) == ("side", far)
    assert twin_of(Expression("car", "red", "right"), red, [red, far, blue]) == (None, None)
    assert Expression("car", "red") in expressions(red, [red, blue])


# --- staging ----------------------------------------------------------------------------------------------------


def test_staging_adds_one_thing_where_nothing_stands():
    changed = 0
    for k in range(20):
        before = make_scene(3, "train", k)
        after = stage_twins(before, "colour", pcg(1, k), *SIZE)
        if after is before:
            continue
        changed += 1
        assert len(after.things) == len(before.things) + 1 and after.things[:-1] == before.things
        new = after.things[-1]
        assert new.instance == len(after.things)
        left = set(after.solids.instance.tolist())
        for thing in before.things:  # kerbs touch: two centres apart by less than half their widths would not
            if thing.instance in left:
                apart = np.hypot(*(thing.centre - new.centre)[:2])
                assert apart > (thing.size[1] + new.size[1]) / 2
        own = after.solids.take(after.solids.instance == new.instance)
        low, high = own.corners.reshape(-1, 3).min(0), own.corners.reshape(-1, 3).max(0)
        assert (low <= new.centre).all() and (new.centre <= high).all()
        box = scene_camera(after, *SIZE).bounds(own.corners)
        assert box[:, 0].min() < SIZE[0] and box[:, 2].max() > 0
    assert changed >= 10


def test_no_rider_loses_his_bicycle():
    for k in range(20):
        scene = stage_twins(make_scene(3, "test", k), "side", pcg(2, k), *SIZE)
        left = set(scene.solids.instance.tolist())
        assert all((t.instance in left) == (t.partner in left) for t in scene.things if t.partner)


def test_a_rider_and_what_is_ridden_are_one_thing(images):
    ridden = [r for candidates, _ in images for r in candidates if r.noun == "bicycle"]
    assert ridden and all(r.thing.category == "bicycle" for r in ridden)
    assert all(r.box[3] - r.box[1] > 0.8 * (r.box[2] - r.box[0]) for r in ridden if r.visible > 0.95 and r.cut == 0)


def test_staging_is_deterministic():
    scenes = [stage_twins(make_scene(3, "train", 4), "side", pcg(9), *SIZE) for _ in range(2)]
    assert np.array_equal(scenes[0].solids.centre, scenes[1].solids.centre)
