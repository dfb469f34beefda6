"""What must hold of each project, found as the command line finds them."""

import dataclasses
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from kdnb.errors import InputError
from kdnb.experiment import Arm, Experiment, TrainSettings
from kdnb.options import PROFILES, load_settings
from kdnb.projects import find_projects

PROJECTS = find_projects()
each = pytest.mark.parametrize("kind", PROJECTS.values(), ids=list(PROJECTS))


def test_all_seven_are_found_in_order():
    assert [name[:2] for name in PROJECTS] == ["00", "01", "02", "03", "04", "05", "06"]
    assert all(issubclass(kind, Experiment) for kind in PROJECTS.values())


@each
def test_its_profiles_are_valid_and_add_to_the_shared_settings(kind):
    prepared = PROFILES if kind.project[:2] in ("01", "03", "05", "06") else ("smoke", "lite", "full")
    for profile in prepared:
        assert isinstance(load_settings(kind.settings_class, profile), TrainSettings)
    redeclared = set(TrainSettings.model_fields) & set(vars(kind.settings_class).get("__annotations__", {}))
    assert not redeclared, f"{redeclared} are fields of TrainSettings already"


def pretrained_values(settings):
    for name, value in settings:
        if isinstance(value, BaseModel):
            yield from pretrained_values(value)
        elif name in ("pretrained", "clip_weights"):
            yield value


@each
def test_a_finished_run_is_read_back_without_pretrained_weights(kind):
    settings = load_settings(kind.settings_class, "full")
    assert not any(pretrained_values(settings.offline()))


class Labelled(Experiment):
    """Ten items, few of them labelled."""

    def __init__(self, batch):
        self.settings, self.run = SimpleNamespace(batch=batch, few_labels=3), SimpleNamespace(seed=0)
        self.data = SimpleNamespace(train=range(10))


Labelled.__abstractmethods__ = frozenset()


@pytest.mark.parametrize("batch", [8, 7])
def test_with_few_labels_the_labelled_half_of_a_batch_is_the_smaller_one(batch):
    taught = Arm(("kd",), teacher="teacher", labels=2)
    (labelled, count), (others, rest) = Labelled(batch).pools(taught)
    assert len(labelled) == 6 and sorted([*labelled, *others]) == list(range(10))
    assert (count, rest) == (batch // 2, batch - batch // 2)
    assert Labelled(batch).pools(dataclasses.replace(taught, terms=())) == [(labelled, batch)]
    assert Labelled(batch).pools(Arm()) == [(list(range(10)), batch)]
    assert set(Labelled(batch).labelled(1)) < set(labelled)


def test_a_network_that_is_trained_needs_steps():
    toy = Labelled(8)
    toy.settings.student_steps, toy.settings.teacher_steps = 10, 0
    assert toy.steps(Arm(longer=1.5)) == 15
    with pytest.raises(InputError, match="setting 'teacher_steps' is 0, expected 1 or more"):
        toy.steps(Arm(network="teacher"))


def test_a_project_that_lacks_a_method_cannot_be_made():
    class Unfinished(Experiment):
        arms = {}

    with pytest.raises(TypeError, match="abstract method.*predict"):
        Unfinished(None, None, None)
