import time

import numpy as np
import pytest
import torch

from kdnb.errors import InputError
from kdnb.viz import explore_scene
from kdnb.viz.explore_scene import SceneExplorer, camera_at, cloud, in_light, key_of, with_cars
from kdnb.world.camera import render
from kdnb.world.drive import make_drive

STREET = 3


@pytest.fixture(scope="module")
def scene():
    return make_drive(0, "train", STREET)


@pytest.fixture
def explorer():
    return SceneExplorer([STREET, 1], size=(160, 96))


def cars_of(scene):
    return [thing for thing in scene.things if thing.category == "car"]


# --- the scene --------------------------------------------------------------------------------------------------


def test_all_cars_is_the_scene_itself(scene):
    camera = camera_at((160, 96), 1.65, 0, 80)
    same, own = (render(one, camera=camera) for one in (with_cars(scene, 99), scene))
    for part in ("image", "depth", "instance", "semantic"):
        assert np.array_equal(getattr(same, part), getattr(own, part))


def test_the_nearest_cars_stay_and_instances_count_on(scene):
    total = len(cars_of(scene))
    assert total >= 3
    fewer = with_cars(scene, 2)
    near = sorted(np.hypot(*car.centre[:2]) for car in cars_of(scene))
    assert sorted(np.hypot(*car.centre[:2]) for car in cars_of(fewer)) == pytest.approx(near[:2])
    assert [thing.instance for thing in fewer.things] == list(range(1, len(scene.things) - total + 3))
    assert set(fewer.solids.instance) == set(range(len(fewer.things) + 1))
    for thing in fewer.things:  # a thing's solids lie where the thing stands
        own = fewer.solids.centre[fewer.solids.instance == thing.instance]
        assert np.hypot(*(own.mean(0) - thing.centre)[:2]) < max(thing.size[:2])
    assert len(cars_of(scene)) == total  # the original is as it was


def test_a_light_is_the_middle_of_its_range(scene):
    look = in_light(scene.look, "evening")
    assert np.degrees(np.arcsin(look.sun[2])) == pytest.approx((12 + 21) / 2)
    assert np.arctan2(look.sun[1], look.sun[0]) == pytest.approx(np.arctan2(scene.look.sun[1], scene.look.sun[0]))
    assert np.linalg.norm(look.sun) == pytest.approx(1) and look.visibility == (90 + 170) / 2
    with pytest.raises(InputError, match="light is 'midnight', expected one of noon"):
        in_light(scene.look, "midnight")


def test_the_camera_is_where_it_is_said_to_be():
    """A point on the ground d metres ahead of a level camera of height h lies f h / d below the middle; a point at the
    edge of the field of view lies on the picture's edge."""
    camera = camera_at((320, 192), 2.0, 0, 90)
    uv, depth = camera.project(np.array([[10.0, 0, 0], [10.0, 10, 2]]))
    assert uv[0] == pytest.approx([160, 96 + 160 * 2 / 10]) and depth[0] == pytest.approx(10)
    assert uv[1] == pytest.approx([0, 96])
    down = camera_at((320, 192), 2.0, 45, 90)
    assert down.project(np.array([[2.0, 0, 0]]))[0][0] == pytest.approx([160, 96])


def test_the_lidar_stands_at_the_camera(scene):
    camera = camera_at((160, 96), 3.0, 0, 80)
    points = cloud(scene, camera, 16)
    ground = points[np.abs(points[:, 2]) < 0.15]
    assert len(ground) > 50  # seen from 3 m, the ground is at 0 in the ego frame
    assert 1.5 < len(cloud(scene, camera, 32)) / len(points) < 2.5


# --- pictures ---------------------------------------------------------------------------------------------------


def test_every_class_has_a_colour_of_its_own():
    assert set(explore_scene.COLOURS) == set(explore_scene.SEMANTICS)
    assert len(set(explore_scene.COLOURS.values())) == len(explore_scene.COLOURS)
    assert "road 75 %" in key_of(np.array([[2, 2], [2, 1]])) and "sky 25 %" in key_of(np.array([[2, 2], [2, 1]]))


def test_depth_is_brighter_farther_off_and_grey_in_the_sky():
    picture = explore_scene.depth_image(np.array([[4.0, 20.0, 50.0, np.inf]]))
    light = picture[0].astype(int).sum(1)
    assert light[0] < light[1] < light[2] and tuple(picture[0, 3]) == explore_scene.SKY


def test_from_above_puts_a_point_where_it_is():
    camera = camera_at((300, 181), 2.0, 0, 80)
    picture = explore_scene.from_above(np.array([[30.0, 9.0, 3.0]]), camera)
    assert tuple(picture[45, 150]) == tuple((255 * np.array(explore_scene.colormaps["cividis"](1.0)[:3])).astype(int))
    assert tuple(picture[135, 150]) == (255, 255, 255)  # nothing on the other side


# --- the explorer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("street", 1),
        ("light", "evening"),
        ("beams", 16),
        ("height", 6.0),
        ("pitch", 20.0),
        ("field", 40.0),
        ("cars", 1),
    ],
)
def test_every_control_changes_the_picture(explorer, control, value):
    before = explorer.screen.value
    getattr(explorer, control).value = value
    assert explorer.message.value == "" and explorer.screen.value != before


def test_panels_change_together(explorer):
    def panels():
        whole = explorer.render()
        return [whole[r * (96 + 30) + 24 :][:96, c * 166 :][:, :160] for r in (0, 1) for c in (0, 1, 2)]

    before = panels()
    explorer.cars.value = 0
    assert all((one != other).any() for one, other in zip(before, panels(), strict=True))
    before = panels()
    explorer.light.value = "misty morning"
    same = [np.array_equal(one, other) for one, other in zip(before, panels(), strict=True)]
    assert same == [False, True, True, True, False, True]  # light changes photographs, and nothing that is measured


def test_another_street_has_other_cars(explorer):
    explorer.cars.value = 1
    explorer.street.value = 1
    assert explorer.cars.value == explorer.cars.max == len(cars_of(make_drive(0, "train", 1)))


def test_faults_are_told_inside(explorer, monkeypatch):
    monkeypatch.setattr(explore_scene, "scan", lambda *a, **k: 1 / 0)
    explorer.height.value = 2.0
    assert "ZeroDivisionError" in explorer.message.value
    with pytest.raises(InputError, match="no streets"):
        SceneExplorer([])


def test_a_redraw_is_quick():
    explorer = SceneExplorer([STREET])
    torch.set_num_threads(1)
    start = time.process_time()
    explorer.pitch.value = 5
    assert time.process_time() - start < 0.7
