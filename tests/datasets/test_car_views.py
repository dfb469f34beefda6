"""Views of cars: what is random, what never changes, numbers of the original image, and unknown labels."""

import math
import time

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.datasets.car_views import CarViews, augmentation, collate, colour_matrix, meta_constants, warp
from kdnb.errors import InputError

SIZE = (24, 32)
MIDDLE = (torch.tensor([2.0, 0.5, 0.5, 0.5]), torch.tensor([0.5, 0.1, 0.2, 0.25]))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Three images of two classes: smooth, of unlike shapes and colours; the last has no label."""
    root, made = tmp_path_factory.mktemp("cars"), []
    for k, (width, height, label) in enumerate(((96, 48, 0), (60, 60, 1), (120, 40, None))):
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        colours = [40 + 30 * k + 100 * x, 90 - 25 * k + 120 * y, 90 + 40 * k + 60 * x * y]
        path = root / f"class{label or 0}" / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.stack(colours, -1).round().astype(np.uint8)).save(path)
        made.append((path, label))
    return made


def original(items, index):
    return torch.from_numpy(np.array(Image.open(items[index][0]))).permute(2, 0, 1)


# --- views ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("size", [(24, 32), (33, 33), (64, 48)])
def test_plain_is_the_whole_image_squeezed_into_the_size(items, index, size):
    image = CarViews(items, size, "A")[index, "plain"]["image"]
    assert image.shape == (3, *size) and image.dtype == torch.uint8
    small = torch.nn.functional.interpolate(
        original(items, index)[None].float(), size, mode="bilinear", antialias=True
    )[0]
    assert (image.float() - small).abs().mean() < 1.5  # grey levels; a quarter of a pixel is 1 of them here


def test_flip_is_the_mirror_of_plain(items):
    views = CarViews(items, SIZE, "D", constants=MIDDLE)
    plain, flip = views[1, "plain"], views[1, "flip"]
    assert torch.equal(flip["image"], plain["image"].flip(-1)) and torch.equal(flip["meta"], plain["meta"])
    assert not torch.equal(flip["image"], plain["image"])


def test_an_augmentation_hangs_on_index_and_number_alone(items):
    names = [f"aug{number}" for number in range(6)]
    first, second = CarViews(items, SIZE, "A"), CarViews(items, SIZE, "A", keep=False)
    forwards = {(i, name): first[i, name]["image"] for i in range(3) for name in names}
    torch.manual_seed(7), np.random.seed(7)
    backwards = {(i, name): second[i, name]["image"] for i in (2, 1, 0) for name in reversed(names)}
    assert all(torch.equal(forwards[key], backwards[key]) for key in forwards)
    assert len({image.numpy().tobytes() for image in forwards.values()}) == len(forwards)


def test_augmentations_are_mild_and_use_their_whole_range():
    samples = [augmentation(index, number) for index in range(40) for number in range(50)]
    places = np.array([place for place, _, _ in samples])
    wide, high = np.hypot(places[:, 0], places[:, 3]), np.hypot(places[:, 1], places[:, 4])
    assert 0.62 < (wide * high).min() < 0.66 and 0.97 < (wide * high).max() <= 1
    angles = np.degrees(np.arctan2(places[:, 3], places[:, 0]))
    assert 7.5 < angles.max() <= 8 and -8 <= angles.min() < -7.5
    # the window lies within the image before it is turned
    assert (np.abs(places[:, 2]) <= 1 - wide + 1e-9).all() and (np.abs(places[:, 5]) <= 1 - high + 1e-9).all()
    assert 0.45 < np.mean([flip for _, flip, _ in samples]) < 0.55


def test_a_window_shows_the_part_of_the_image_it_says():
    """A ramp in x and y tells from its pixels where they came from."""
    x, y = np.meshgrid(np.arange(200), np.arange(100))
    ramp = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    angle, wide, high, right, down = math.radians(5), 0.6, 0.7, 0.2, -0.1
    place = (
        wide * math.cos(angle),
        -high * math.sin(angle),
        right,
        wide * math.sin(angle),
        high * math.cos(angle),
        down,
    )
    view = np.asarray(warp(ramp, (50, 80), place, False)).astype(float)
    v, u = np.meshgrid((np.arange(50) + 0.5) / 25 - 1, (np.arange(80) + 0.5) / 40 - 1, indexing="ij")
    x = (1 + place[0] * u + place[1] * v + right) * 100 - 0.5  # of a pixel's middle
    y = (1 + place[3] * u + place[4] * v + down) * 50 - 0.5
    assert np.abs(view[..., 0] - x).max() <= 0.51 and np.abs(view[..., 1] - y).max() <= 0.51
    mirrored = np.asarray(warp(ramp, (50, 80), place, True))
    assert (mirrored == view[:, ::-1]).all()


@pytest.mark.parametrize("changes", [(1.2, 1.0, 1.0), (1.0, 0.8, 1.0), (1.0, 1.0, 0.0), (0.9, 1.2, 1.3)])
def test_colours_change_as_their_names_say(changes):
    brightness, contrast, saturation = changes
    colour = np.array([90.0, 140.0, 120.0])
    image = Image.fromarray(np.tile(colour.astype(np.uint8), (2, 2, 1)))
    grey = colour @ [0.299, 0.587, 0.114]
    expected = ((saturation * colour + (1 - saturation) * grey) * brightness - 127.5) * contrast + 127.5
    assert np.allclose(np.asarray(image.convert("RGB", colour_matrix(*changes)))[0, 0], expected, atol=0.51)


def test_an_augmented_view_takes_less_than_half_a_millisecond(items):
    views, times = CarViews(items, (64, 64), "D", constants=MIDDLE), []
    for number in range(60):
        start = time.process_time()
        views[number % 3, f"aug{number}"]
        times.append(time.process_time() - start)
    assert sorted(times)[20] < 5e-4  # seconds; the machine may be busy


# --- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("experiment", "columns"), [("A", []), ("B", [0]), ("C", [1, 2, 3]), ("D", [0, 1, 2, 3])])
def test_numbers_are_those_of_the_original_image(items, experiment, columns):
    views = CarViews(items, SIZE, experiment, constants=MIDDLE)
    image = original(items, 2)
    numbers = torch.tensor([120 / 40, *(image.double().mean((1, 2)) / 255).tolist()])
    expected = ((numbers - MIDDLE[0]) / MIDDLE[1])[columns]
    for view in ("plain", "flip", "aug3"):
        assert torch.allclose(views[2, view]["meta"], expected, atol=1e-5) and views[2, view]["meta"].ndim == 1
        assert views[2, view]["meta"].dtype == torch.float32


def test_constants_standardise_the_images_they_are_of(items):
    views = CarViews(items, SIZE, "D", constants=meta_constants(items))
    meta = torch.stack([views[i, "plain"]["meta"] for i in range(3)])
    assert torch.allclose(meta.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(meta.std(0, unbiased=False), torch.ones(4), atol=1e-4)
    few = meta_constants(items, most=2)[0]  # the first and the last
    assert few[0].item() == pytest.approx((2 + 3) / 2)


def test_where_all_images_have_one_shape_another_one_does_not_burst(items):
    mean, spread = meta_constants(items[:1] * 3)
    meta = CarViews(items, SIZE, "B", constants=(mean, spread))[2, "plain"]["meta"]
    assert meta.item() == pytest.approx(3 - 2)


# --- labels and batches -----------------------------------------------------------------------------------------


def test_labels_that_may_not_be_used_are_minus_one(items):
    views = CarViews(items, SIZE, "A", labelled=[1])
    assert [views[i, "plain"]["label"] for i in range(3)] == [-1, 1, -1]
    assert [views[i, "plain"]["labelled"] for i in range(3)] == [False, True, False]
    views = CarViews(items, SIZE, "A")
    assert [views[i, "plain"]["labelled"] for i in range(3)] == [True, True, False]  # the third has none


def test_a_batch_names_what_it_holds(items):
    views = CarViews(items, SIZE, "D", labelled=[0], constants=MIDDLE)
    batch = collate([views[2, "aug1"], views[0, "plain"]])
    assert batch["ids"] == ["class0/2.png", "class0/0.png"] and batch["views"] == ["aug1", "plain"]
    assert batch["images"].shape == (2, 3, *SIZE) and batch["images"].dtype == torch.uint8
    assert batch["meta"].shape == (2, 4) and batch["indices"].tolist() == [2, 0]
    assert batch["labels"].tolist() == [-1, 0] and batch["labelled"].tolist() == [False, True]
    assert collate([CarViews(items, SIZE, "A")[0, "plain"]])["meta"].shape == (1, 0)


def test_images_are_read_once_also_for_another_experiment(items, monkeypatch):
    import kdnb.datasets.car_views as module

    read, real = [], module.read_car
    monkeypatch.setattr(module, "read_car", lambda path: (read.append(path), real(path))[1])
    views = CarViews(items, SIZE, "A")
    views[0, "plain"], views[0, "aug2"]
    other = views.like("D", labelled=[1], constants=MIDDLE)
    assert len(other[0, "flip"]["meta"]) == 4 and not other[0, "flip"]["labelled"]
    assert len(views[0, "flip"]["meta"]) == 0 and views[0, "flip"]["labelled"]  # and leaves this one as it is
    assert len(read) == 1
    sample = views[0, "plain"]
    sample["image"].zero_()
    assert views[0, "plain"]["image"].any()
    loose = CarViews(items, SIZE, "A", keep=False)
    loose[0, "plain"], loose[0, "plain"]
    assert len(read) == 3


def test_faults_in_one_line(items, tmp_path):
    broken = tmp_path / "TEST_00007.jpg"
    broken.write_bytes(b"no image")
    faults = [
        (lambda: CarViews(items, (24, 0), "A"), r"expected \(height, width\)"),
        (lambda: CarViews(items, SIZE, "E"), "experiment is 'E', expected one of A, B, C, D"),
        (lambda: CarViews(items, SIZE, "B"), "experiment B needs constants"),
        (lambda: CarViews(items, SIZE, "A", labelled=[1, 3]), "labelled image 3 is not in the set"),
        (lambda: CarViews(items, SIZE, "A")[0, "augment"], "unknown view 'augment'"),
        (lambda: CarViews(items, SIZE, "A")[0, "3"], "unknown view '3'"),
        (lambda: CarViews([(broken, 0)], SIZE, "A")[0, "plain"], "TEST_00007.jpg"),
        (lambda: meta_constants([]), "no training image"),
    ]
    for call, message in faults:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_real_cars_are_grey_and_of_one_shape(real_data):
    """Thumbnails of the real sample: three equal channels in a view that stays within the image."""
    paths = sorted((real_data / "cars").rglob("train/*/*.jpg"))[::300]
    views = CarViews([(path, 0) for path in paths], (64, 64), "D", constants=MIDDLE)
    for index in range(len(paths)):
        image = views[index, "flip"]["image"]
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2]) and image.float().std() > 5
