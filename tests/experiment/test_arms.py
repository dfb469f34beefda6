"""The order of arms follows from what they say."""

from dataclasses import replace

import pytest

from kdnb.errors import InputError
from kdnb.experiment import Arm
from kdnb.experiment.arms import in_order
from kdnb.projects.voc_defeat import VocDefeat

TAUGHT = Arm(("kd",), teacher="teacher")


class Declared(VocDefeat):
    """Arms without data or networks: only what they need is asked."""

    def __init__(self, **arms):
        self.known = {"teacher": Arm(network="teacher"), "baseline": Arm(), "distilled": TAUGHT, **arms}


def test_a_taught_arm_needs_its_teacher_and_the_pair_that_is_checked():
    assert Declared().needs("distilled") == ["teacher", "baseline"]
    declared = Declared(other=replace(TAUGHT, teacher="weak"), weak=Arm(network="teacher"))
    assert declared.needs("other") == ["teacher", "baseline", "weak"]
    assert declared.needs("baseline") == []


def test_a_start_and_members_come_first():
    declared = Declared(tuned=Arm(start_from="baseline"), best=Arm(members=("distilled", "tuned")))
    assert declared.needs("tuned") == ["baseline"]
    assert in_order(["best"], declared.needs) == ["teacher", "baseline", "distilled", "tuned", "best"]


def test_a_matched_arm_needs_what_the_other_one_needs():
    """Its steps are timed, which takes the teacher but not the other arm; of a chosen one, who was chosen."""
    declared = Declared(matched=Arm(matches="distilled"), best=Arm(members=("distilled",)), other=Arm(matches="best"))
    assert declared.needs("matched") == ["teacher", "baseline"]
    assert declared.needs("other") == ["best"]


def test_arms_that_need_each_other_are_refused():
    declared = Declared(a=Arm(start_from="b"), b=Arm(start_from="a"))
    with pytest.raises(InputError, match="arms need each other: a -> b -> a"):
        in_order(["a"], declared.needs)


def test_an_unknown_arm_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match="unknown arm 'distiled', expected one of teacher, baseline, distilled"):
        Declared().needs("distiled")


def test_roles():
    arms = {"distilled": TAUGHT, "teacher": Arm(network="teacher"), "alone": Arm(), "matched": Arm(matches="distilled")}
    assert all(arm.shown_as() == role for role, arm in arms.items())
    assert replace(TAUGHT, role="control").shown_as() == "control"
