"""Words for the street: each category has one, and sides, sizes and relations mean what they say."""

import numpy as np
import pytest

from kdnb.errors import InputError
from kdnb.world import phrases
from kdnb.world.scene import CAST, Thing, build


def thing(category, attributes=None, centre=(10.0, 0.0, 0.8), yaw=0.0):
    return Thing(1, category, attributes or {}, np.array(centre), np.ones(3), yaw)


@pytest.mark.parametrize("category", CAST)
def test_everything_the_street_builds_has_a_word_and_a_colour(category):
    for part, _, attributes in build(category, np.random.default_rng(0)):
        one = thing(part, attributes)
        assert phrases.noun(one).isalpha()
        assert phrases.colour_of(one) in attributes.values()
        assert phrases.noun(one) in phrases.describe(one) and phrases.colour_of(one) in phrases.describe(one)


@pytest.mark.parametrize(
    ("category", "attributes", "words"),
    [
        ("car", {"colour": "red", "body": "suv"}, "red car"),
        ("tram", {"colour": "cream"}, "cream tram"),
        ("person", {"colour": "red", "trousers": "navy"}, "person in red"),
        ("rider", {"colour": "pink"}, "rider in pink"),
        ("potted plant", {"colour": "orange"}, "plant in an orange pot"),
        ("dog", {}, "dog"),
    ],
)
def test_describe(category, attributes, words):
    assert phrases.describe(thing(category, attributes)) == words


def test_a_truck_has_the_colour_of_the_side_one_sees():
    paint = {"colour": "red", "cargo": "white"}
    assert phrases.colour_of(thing("truck", paint, yaw=np.pi)) == "red"  # comes towards the camera
    assert phrases.colour_of(thing("truck", paint, yaw=0.0)) == "white"  # drives away
    assert phrases.colour_of(thing("truck", paint, yaw=np.pi / 2)) == "white"
    assert phrases.colour_of(thing("truck", paint, centre=(0, 10, 1.5), yaw=-np.pi / 2)) == "red"


def test_articles():
    assert phrases.with_article("orange car") == "an orange car"
    assert phrases.with_article("red car") == "a red car"


def test_size_is_cocos_on_cocos_images_and_does_not_depend_on_resolution():
    for size in ((640, 480), (480, 640), (640, 427)):
        assert phrases.size_word(32**2 - 1, *size) == "small"
        assert phrases.size_word(32**2, *size) == "large"
    assert phrases.size_word(92, 192, 144) == "small" and phrases.size_word(93, 192, 144) == "large"


def test_sides():
    sides = [phrases.side_of((x - 5, 0, x + 5, 9), 100) for x in (10, 39.9, 40, 60, 60.1, 95)]
    assert sides == ["left", "left", "middle", "middle", "right", "right"]
    assert phrases.with_side("red car", "left") == "red car on the left"
    assert phrases.with_side("dog", "middle") == "dog in the middle"
    with pytest.raises(InputError, match="'above', expected one of left, middle, right"):
        phrases.with_side("dog", "above")


def test_relations():
    low, far, beside = (10, 10, 30, 30), (15, 5, 30, 20), (34, 8, 50, 32)
    assert phrases.relation(far, 12.0, low, 5.0) == "behind"
    assert phrases.relation(low, 5.0, far, 12.0) == "in front of"
    assert phrases.relation(low, 5.0, beside, 5.5) == "next to"
    assert phrases.relation(beside, 5.5, low, 5.0) == "next to"
    assert phrases.relation(low, 5.0, far, 5.2) is None  # one over the other at the same distance
    assert phrases.relation(low, 5.0, beside, 9.0) is None  # beside it in the image, not in the street
    assert phrases.relation(low, 5.0, (90, 10, 99, 30), 5.0) is None  # too far to the side
    assert phrases.relation(low, 5.0, (32, 40, 50, 60), 5.0) is None  # no height in common
