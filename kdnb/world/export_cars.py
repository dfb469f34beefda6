"""The street's cars as a competition on car models: a folder of JPEGs per class, unlabelled test images, CSV files.

The layout is that of Dacon 236493 ("HAI", classification of used cars): https://dacon.io/competitions/official/236493.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdnb.errors import InputError
from kdnb.files import atomic_folder
from kdnb.world.camera import render
from kdnb.world.car_models import MODELS
from kdnb.world.close_up import crop_camera, make_close_up
from kdnb.world.export import render_all, rendered

QUALITY = 90  # of the JPEGs


def _render(job):
    """Render and write one car."""
    path, model, seed, split, index, size = job
    scene, _ = make_close_up(seed, split, index, MODELS[model])
    Image.fromarray(render(scene, camera=crop_camera(scene, size)).image).save(path, quality=QUALITY)


def labels_of_test(count: int, seed: int) -> list[int]:
    """Classes of the test cars: all models equally often (but for a remainder), in random order."""
    order = np.random.Generator(np.random.PCG64([seed, 8])).permutation(count)
    return (order % len(MODELS)).tolist()


def export_cars(
    out: str | Path,
    train_per_class: int = 50,
    test: int = 1000,
    size: tuple[int, int] = (128, 96),
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write a competition's folder into the new folder ``out`` and return its path.

    The folder appears when it is complete: ``train/<class>/*.jpg``, ``test/TEST_00000.jpg``, ``test.csv``
    (ID, img_path), ``sample_submission.csv`` (ID and a column of zeros per class) and, as an addition of ours,
    ``solution.csv`` (ID, label). Training and test cars are sampled
    independently from the same models, colours, lights and streets: no shift between the parts.

    Args:
        train_per_class: images of each of the 24 models.
        test: images in test, spread evenly over the models.
        size: largest (width, height) in pixels; the images are loose crops around the car, so that sizes
            and aspect ratios vary with the car's length and yaw.
        workers: processes, by default one per usable core; the result does not depend on it.

    Raises:
        InputError: fewer than 5 images a class (five folds need one each), no test image, a size below 32 pixels, a
            negative seed, or an existing folder.
    """
    if train_per_class < 5 or test < 1 or min(size) < 32 or seed < 0:
        raise InputError(
            f"export_cars: train_per_class={train_per_class}, test={test}, size={tuple(size)}, "
            f"seed={seed}, expected at least 5 and 1 images, 32 pixels and a seed from 0"
        )
    with atomic_folder(Path(out)) as build:
        _fill(build, train_per_class, test, tuple(size), seed, workers)
    return Path(out)


def _fill(root: Path, per_class, test, size, seed, workers):
    names = [model.name for model in MODELS]
    jobs = []
    for k, name in enumerate(names):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        jobs += [(folder / f"{name}_{n:04d}.jpg", k, seed, "train", k * per_class + n, size) for n in range(per_class)]
    (root / "test").mkdir()
    labels, ids = labels_of_test(test, seed), [f"TEST_{n:05d}" for n in range(test)]
    jobs += [(root / "test" / f"{ids[n]}.jpg", labels[n], seed, "test", n, size) for n in range(test)]
    render_all(_render, jobs, workers)
    columns = ["ID", *sorted(names)]
    _write_csv(root / "test.csv", ["ID,img_path", *(f"{name},./test/{name}.jpg" for name in ids)])
    _write_csv(root / "sample_submission.csv", [",".join(columns), *(name + ",0" * len(names) for name in ids)])
    _write_csv(root / "solution.csv", ["ID,label", *(f"{i},{names[k]}" for i, k in zip(ids, labels, strict=True))])


def _write_csv(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def rendered_cars(root: str | Path, **settings: Any) -> Path:
    """The folder for these settings of export_cars, rendered only when ``root`` does not hold it yet.

    Raises InputError as export_cars does, and for an unknown setting.
    """
    known = {"train_per_class": 50, "test": 1000, "size": (128, 96), "seed": 0}
    return rendered(root, "cars", export_cars, known, settings)
