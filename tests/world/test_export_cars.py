"""The rendered car competition: its layout, determinism, and what tells models apart."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.cars import Cars, check_cars
from kdnb.errors import InputError
from kdnb.world import export_cars as export
from kdnb.world.camera import render
from kdnb.world.car_models import MODELS, SOLD, TYPICAL, model_car
from kdnb.world.close_up import crop_camera, make_close_up
from kdnb.world.export_cars import export_cars, labels_of_test, rendered_cars
from kdnb.world.vehicles import BODIES, TRIMS

SMALL = {"train_per_class": 5, "test": 10, "size": (48, 36), "workers": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return export_cars(tmp_path_factory.mktemp("cars") / "set", **SMALL)


def test_the_layout_is_the_competitions(root):
    cars = Cars(root)
    assert len(cars.classes) == 24 == len(MODELS) and cars.classes == sorted(model.name for model in MODELS)
    assert {"sedan_2011", "suv_2019"} < set(cars.classes) and len(cars.train) == 120
    assert (root / "test.csv").read_text().splitlines()[1] == "TEST_00000,./test/TEST_00000.jpg"
    sample = (root / "sample_submission.csv").read_text().splitlines()
    assert sample[0] == ",".join(["ID", *cars.classes]) and sample[1] == "TEST_00000" + ",0" * 24 and len(sample) == 11
    names = [model.name for model in MODELS]
    assert [cars.classes[cars.solution[i]] for i in cars.test_ids] == [names[k] for k in labels_of_test(10, 0)]
    assert not check_cars(root).faults


def test_test_cars_are_spread_evenly():
    counts = np.bincount(labels_of_test(1000, 3), minlength=24)
    assert set(counts) == {41, 42} and labels_of_test(1000, 3) != labels_of_test(1000, 4)


def test_sizes_and_aspect_ratios_vary_within_the_limit(root):
    sizes = []
    for path, _ in Cars(root).train:
        with Image.open(path) as image:
            sizes.append(image.size)
    sizes = np.array(sizes)
    assert (sizes <= (48, 36)).all() and len({tuple(size) for size in sizes.tolist()}) > 40
    aspect = sizes[:, 0] / sizes[:, 1]
    assert aspect.min() < 1.6 and aspect.max() > 2.2


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(root, tmp_path):
    place = [model.name for model in MODELS].index("sedan_2011")
    for path, label, split, index in (
        (root / "train/sedan_2011/sedan_2011_0002.jpg", place, "train", 5 * place + 2),
        (root / "test/TEST_00003.jpg", labels_of_test(10, 0)[3], "test", 3),
    ):
        for seed in (0, 1):  # rendered alone, after none of the others
            export._render((tmp_path / f"{seed}.jpg", label, seed, split, index, (48, 36)))
        assert (tmp_path / "0.jpg").read_bytes() == path.read_bytes() != (tmp_path / "1.jpg").read_bytes()


def test_each_model_is_seen_whole_and_nearly_alone():
    for k, model in enumerate(MODELS[::5]):
        scene, attributes = make_close_up(2, "test", k, model)
        view = render(scene, camera=crop_camera(scene, (64, 48)))
        own = view.instance == 1
        assert own.mean() > 0.3 and own.sum() > 4 * np.sum(view.instance > 1)
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        assert rows[0] > 0 and columns[0] > 0 and columns[-1] < view.instance.shape[1] - 1
        assert rows[-1] < view.instance.shape[0] - 1 and attributes["model"] == model.name


def test_no_two_models_are_alike():
    assert len({model.name for model in MODELS}) == len(MODELS) == 4 * len(BODIES)
    for one in MODELS:
        shapes = [(m.length, m.height, m.belt, m.rake) for m in MODELS if m.body == one.body and m is not one]
        assert len(shapes) == 3 and (one.length, one.height, one.belt, one.rake) not in shapes
    # windscreen and rear window lean less than the cabin is long: a roof remains
    assert min((m.end - m.start) * m.length - m.rake - m.rear for m in MODELS) > 0.3
    assert {model.trim for model in MODELS if model.body == "suv"} == set(TRIMS)


def test_paint_and_trim_follow_the_models_shares():
    model = MODELS[5]
    rng = np.random.Generator(np.random.PCG64(0))
    cars = [model_car(rng, model)[1] for _ in range(1500)]
    shares = [np.mean([car["colour"] == colour for car in cars]) for colour in SOLD]
    assert shares == pytest.approx(model.colours, abs=0.04) and min(shares) > 0 and max(model.colours) < 0.6
    own = np.mean([car["trim"] == model.trim for car in cars])
    assert own == pytest.approx(TYPICAL + (1 - TYPICAL) / len(TRIMS), abs=0.04)


def test_a_drawn_set_is_drawn_once(monkeypatch, tmp_path):
    monkeypatch.setattr(export, "MODELS", MODELS[:2])
    settings = {**SMALL, "test": 1}
    place = rendered_cars(tmp_path, **settings)
    stamp = (place / "solution.csv").stat().st_mtime_ns
    assert rendered_cars(tmp_path, **settings) == place and (place / "solution.csv").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="unknown setting folds"):
        rendered_cars(tmp_path, folds=5)


@pytest.mark.parametrize("wrong", [{"train_per_class": 4}, {"test": 0}, {"size": (16, 96)}, {"seed": -1}])
def test_wrong_settings_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="expected at least 5 and 1 images"):
        export_cars(tmp_path / "x", **wrong)
    assert not list(tmp_path.iterdir())


def test_kdnb_data_make_cars(root):
    done = CliRunner().invoke(main, ["data", "make", "cars", "--out", str(root), "--train", "5"])
    assert done.exit_code == 1 and "already exists, expected a new folder" in done.stderr
