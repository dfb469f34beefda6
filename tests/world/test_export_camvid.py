"""The CamVid set: both layouts agree, each pixel has the class of what it shows, all classes occur."""

import numpy as np
import pytest
from PIL import Image
from street_points import visible_points

from kdnb.datasets.camvid import CamVid, check_camvid
from kdnb.datasets.camvid_classes import CLASSES, COLOURS, SEGNET_GROUPS, VOID, class_id
from kdnb.errors import InputError
from kdnb.world import export_camvid as camvid
from kdnb.world import furniture, palette
from kdnb.world.camera import Camera, render
from kdnb.world.drive import make_drive
from kdnb.world.scene import Scene, Stage
from kdnb.world.solids import SEMANTICS, solids

SMALL = {"train": 3, "val": 1, "test": 2, "size": (96, 72), "workers": 1}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("camvid")
    return {layout: camvid.export_camvid(folder / layout, layout=layout, **SMALL) for layout in camvid.LAYOUTS}


def ids_of(scene, view):
    return camvid.IDS[camvid.label(scene, view)]


def test_layouts_are_the_official_ones(roots):
    lines = (roots["segnet"] / "test.txt").read_text().splitlines()
    assert lines[1] == "/SegNet/CamVid/test/test_00001.png /SegNet/CamVid/testannot/test_00001.png" and len(lines) == 2
    with Image.open(roots["segnet"] / "trainannot/train_00000.png") as label:
        assert label.mode == "L" and label.size == (96, 72)
    colours = (roots["colour"] / "label_colors.txt").read_text().splitlines()
    assert len(colours) == 32 and "64 128 64\tAnimal" in colours
    assert (roots["colour"] / "701_StillsRaw_full/val_00000.png").is_file()
    assert (roots["colour"] / "LabeledApproved_full/val_00000_L.png").is_file()


def test_ids_and_colours_are_the_official_ones():
    official = {name: (class_id(SEGNET_GROUPS[name]), *rgb) for name, rgb in COLOURS.items()}
    assert official == camvid.CLASSES


def test_both_layouts_hold_the_same(roots):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        ids, colours = CamVid(roots["segnet"], split), CamVid(roots["colour"], split)
        assert ids.names == colours.names and len(ids) == count
        for a, b in zip(ids, colours, strict=True):
            assert (a["image"] == b["image"]).all() and (a["label"] == b["label"]).all()
    assert not check_camvid(roots["segnet"]).faults and not check_camvid(roots["colour"]).faults


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(roots, tmp_path):
    again = camvid.export_camvid(tmp_path / "again", **{**SMALL, "train": 1})
    other = camvid.export_camvid(tmp_path / "other", **{**SMALL, "train": 1}, seed=1)
    for folder in ("train", "trainannot"):
        first, second, third = (
            (root / folder / "train_00000.png").read_bytes() for root in (roots["segnet"], again, other)
        )
        assert first == second != third


def test_road_users_have_the_class_of_their_instance():
    category = {
        "car": "car",
        "van": "car",
        "truck": "car",
        "tram": "car",
        "trailer": "car",
        "person": "pedestrian",
        "sitting person": "pedestrian",
        "cyclist": "bicyclist",
    }
    classes = set()
    for k in range(6):
        scene = make_drive(0, "test", k, town=True)
        view = render(scene, 120, 90, supersample=1)
        ids = ids_of(scene, view)
        for name in ("car", "pedestrian", "bicyclist"):
            own = [thing.instance for thing in scene.things if category[thing.category] == name]
            assert ((ids == CLASSES.index(name)) == np.isin(view.instance, own)).all()
            classes |= {name} if np.isin(view.instance, own).any() else set()
    assert len(classes) == 3


def test_ground_has_the_class_of_the_plan():
    scene = make_drive(0, "train", 2, town=True)
    view = render(scene, 120, 90, supersample=1)
    ids = ids_of(scene, view)
    rows, columns = np.nonzero((view.instance == 0) & np.isfinite(view.depth) & (view.depth < 60))
    points = visible_points(view)[rows, columns]
    low = np.abs(points[:, 2]) < 1e-3
    assert low.sum() > 3000
    kind = np.array(SEMANTICS)[scene.street.ground(*scene.street.from_ego(*points[low, :2].T))]
    wanted = {"road": "road", "lane mark": "road", "pavement": "pavement", "grass": "tree"}
    agree = ids[rows, columns][low] == [CLASSES.index(wanted[name]) for name in kind]
    assert agree.mean() > 0.995  # what stands on the ground starts there


def kit_of(name, rng):
    return {
        "lamp post": lambda: furniture.lamp_post(rng),
        "sign": lambda: furniture.sign(rng),
        "signal": lambda: furniture.signal(rng),
        "tree": lambda: furniture.tree(rng, 1.5),
        "pickets": lambda: furniture.fence(rng, 4, "pickets"),
        "boards": lambda: furniture.fence(rng, 4, "boards"),
        "hedge": lambda: furniture.fence(rng, 4, "hedge"),
        "house": lambda: furniture.building(rng, (0.5, 0.3, 0.2), (0.8, 0.8, 0.7), 5, 5),
    }[name]()[0]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("lamp post", {"pole"}),
        ("sign", {"pole", "sign"}),
        ("signal", {"pole", "sign"}),
        ("tree", {"tree"}),
        ("pickets", {"fence"}),
        ("boards", {"fence"}),
        ("hedge", {"tree"}),
        ("house", {"building"}),
    ],
)
def test_a_thing_beside_the_road_is_labelled_where_it_is_seen_and_nowhere_else(name, classes):
    empty = make_drive(0, "train", 0)
    stage, camera = Stage(), Camera(120, 90, 110, 110, 60, 45, 1.65)
    stage.scenery(kit_of("house", np.random.default_rng(3)), 60.0, 0.0, np.pi / 2)  # something to see it against
    scenes = []
    for kit in (None, kit_of(name, np.random.default_rng(1))):
        if kit:
            stage.scenery(kit, 9.0, 0.5, np.pi / 2 if name in ("house", "pickets", "boards", "hedge") else 0.0)
        scenes.append(Scene(solids(stage.placed), [], empty.street, empty.look, 1.65, 0.0, 1.0, empty.seed))
    (before, ids_before), (after, ids_after) = (
        (view, ids_of(scene, view)) for scene in scenes for view in [render(scene, camera=camera, supersample=1)]
    )
    shown = after.depth != before.depth
    assert shown.sum() > 15 and {CLASSES[k] for k in np.unique(ids_after[shown])} == classes
    assert (ids_after[~shown] == ids_before[~shown]).all()
    if name in ("sign", "signal"):  # the plate above, the post below
        rows = {c: np.nonzero(shown & (ids_after == CLASSES.index(c)))[0].mean() for c in classes}
        assert rows["sign"] < rows["pole"]
    if name == "pickets":  # one looks through between them
        top, bottom, left, right = (f(axis) for axis in np.nonzero(shown) for f in (np.min, np.max))
        assert not shown[top : bottom + 1, left : right + 1].all()


def test_the_bonnet_is_void_and_children_and_vans_have_colours_of_their_own():
    classes, bonnet = set(), None
    for k in range(12):
        scene = make_drive(0, "train", k, town=True)
        view = render(scene, 120, 90, supersample=1)
        names = camvid.label(scene, view)
        classes |= {camvid.NAMES[n] for n in np.unique(names)}
        if (names[-1] == camvid.NAMES.index("Void")).mean() > 0.3:
            bonnet = camvid.IDS[names]
    assert (
        {"Car", "SUVPickupTruck", "Truck_Bus", "Pedestrian", "Child", "LaneMkgsDriv", "TrafficLight", "SignSymbol"}
        <= classes
        <= set(COLOURS)
    )
    assert bonnet is not None and (bonnet[-1] == VOID).any() and not (bonnet[:60] == VOID).mean() > 0.02


def test_every_class_occurs_often():
    for split in ("train", "test"):
        frames = []
        for k in range(12):
            scene = make_drive(0, split, k, town=True)
            view = render(scene, 160, 120, supersample=1)
            frames.append(np.bincount(ids_of(scene, view).ravel(), minlength=12)[:11] >= 20)
        assert (np.mean(frames, 0) >= 0.4).all(), dict(zip(CLASSES, np.mean(frames, 0), strict=True))


def test_town_only_adds():
    plain, town = make_drive(0, "test", 3), make_drive(0, "test", 3, town=True)
    assert [t.category for t in plain.things] == [t.category for t in town.things]
    assert all((a.centre == b.centre).all() for a, b in zip(plain.things, town.things, strict=True))
    assert {thing.instance for thing in town.things} == set(np.unique(town.solids.instance)) - {0}
    test_looks = {palette.sample_look(np.random.default_rng(k), "test").light for k in range(20)}
    assert town.look.light in test_looks and not test_looks & set(palette.LIGHTS["train"])


def test_rendered_once_and_faults_in_one_line(tmp_path, monkeypatch):
    root = camvid.rendered_camvid(tmp_path, **SMALL)
    monkeypatch.setattr(camvid, "render_all", None)  # nothing is rendered again
    assert camvid.rendered_camvid(tmp_path, **{**SMALL, "workers": 2}) == root and root.name.startswith("camvid_")
    for settings, message in (
        ({"layout": "cityscapes"}, "layout is 'cityscapes', expected one of segnet, colour"),
        ({"val": 0}, "val=0"),
        ({"size": (160, 20)}, "32 pixels"),
        ({"colours": 3}, "unknown setting colours"),
    ):
        with pytest.raises(InputError, match=message) as error:
            camvid.rendered_camvid(tmp_path, **{**SMALL, **settings})
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="already exists"):
        camvid.export_camvid(root, **SMALL)
