"""The VOC set: official layout, right corners, complete or absent, fast."""

import multiprocessing
import os
import signal
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from kdnb.datasets.voc_files import VOC_CLASSES
from kdnb.errors import InputError
from kdnb.world import export_voc as voc
from kdnb.world.annotate import annotate
from kdnb.world.camera import render
from kdnb.world.scene import make_scene


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return voc.export_voc(tmp_path_factory.mktemp("voc"), train=24, test=6, workers=1)


def names(devkit, which):
    return (devkit / "VOC2007/ImageSets/Main" / f"{which}.txt").read_text().split()


def test_torchvision_reads_it(devkit):
    detection = pytest.importorskip("torchvision.datasets").VOCDetection
    for which, count in (("train", 21), ("val", 3), ("trainval", 24), ("test", 6)):
        data = detection(str(devkit.parent), year="2007", image_set=which)
        assert len(data) == count
        image, target = data[0]
        assert image.size == (160, 128)
        assert target["annotation"]["size"] == {"width": "160", "height": "128", "depth": "3"}
        assert target["annotation"]["filename"].removesuffix(".jpg") == names(devkit, which)[0]


def test_classes_are_the_official_ones():
    assert voc.CLASSES == VOC_CLASSES and set(voc.VOC_NAME.values()) <= set(VOC_CLASSES)


def test_sets_are_disjoint_and_cover(devkit):
    train, val, trainval, test = (names(devkit, w) for w in ("train", "val", "trainval", "test"))
    assert train + val == trainval and not set(trainval) & set(test)
    assert trainval + test == [f"{k:06d}" for k in range(1, 31)]
    assert sorted(p.stem for p in (devkit / "VOC2007/JPEGImages").iterdir()) == trainval + test


def test_corners_are_one_based_and_tight(devkit):
    for k, name in enumerate(names(devkit, "train")[:8]):
        scene = make_scene(0, "train", k)
        view = render(scene)
        annotations = [a for a in annotate(scene, view) if a.thing.category in voc.VOC_NAME]
        annotations = [a for a in annotations if a.pixels >= voc.FEWEST_PIXELS]
        written = ET.parse(devkit / f"VOC2007/Annotations/{name}.xml").findall("object")
        assert len(annotations) == len(written)
        for a, o in zip(annotations, written, strict=True):
            xmin, ymin, xmax, ymax = (int(o.find("bndbox").find(c).text) for c in ("xmin", "ymin", "xmax", "ymax"))
            rows, columns = np.nonzero(view.instance == a.thing.instance)
            assert (xmin, ymin, xmax, ymax) == (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
            assert 1 <= xmin <= xmax <= 160 and 1 <= ymin <= ymax <= 128
            hard = len(rows) < 60 or min(xmax - xmin, ymax - ymin) + 1 < 8 or a.occlusion > 0.7
            assert int(o.find("difficult").text) == hard
            assert o.find("pose").text in ("Left", "Right", "Frontal", "Rear")
            assert int(o.find("truncated").text) == (a.truncation > 0.15)


def test_images_are_what_render_returns(devkit):
    image = np.asarray(Image.open(devkit / "VOC2007/JPEGImages/000001.jpg")).astype(float)
    assert np.abs(image - render(make_scene(0, "train", 0)).image).mean() < 3


def test_class_lists_agree_with_annotations(devkit):
    for label in ("person", "car", "train", "cow"):
        for which in ("trainval", "test"):
            lines = (devkit / f"VOC2007/ImageSets/Main/{label}_{which}.txt").read_text().splitlines()
            assert [line.split()[0] for line in lines] == names(devkit, which)
            for line in lines:
                name, flag = line.split()
                objects = ET.parse(devkit / f"VOC2007/Annotations/{name}.xml").findall("object")
                hard = [o.find("difficult").text == "1" for o in objects if o.find("name").text == label]
                assert int(flag) == (-1 if not hard else 0 if all(hard) else 1)


def test_processes_do_not_change_the_result(devkit, tmp_path):
    other = voc.export_voc(tmp_path, train=24, test=6, workers=2)
    for path in sorted(p for p in devkit.rglob("*") if p.is_file()):
        assert path.read_bytes() == (other / path.relative_to(devkit)).read_bytes(), path


def test_an_existing_devkit_and_bad_settings_are_refused(devkit, tmp_path):
    with pytest.raises(InputError, match="already exists"):
        voc.export_voc(devkit.parent, train=8, test=1)
    with pytest.raises(InputError, match="at least 8 images"):
        voc.export_voc(tmp_path, train=2)
    with pytest.raises(InputError, match="unknown setting tests"):
        voc.rendered_voc(tmp_path, tests=3)


def _export_small(root):
    voc.rendered_voc(root, train=8, test=2, workers=1)


def _export_forever(root):
    voc.rendered_voc(root, train=4000, test=2, workers=1)


def test_cache_is_used_and_keyed_by_settings(tmp_path):
    first = voc.rendered_voc(tmp_path, train=8, test=2, workers=1)
    stamp = (first / "VOC2007/Annotations/000001.xml").stat().st_mtime_ns
    assert voc.rendered_voc(tmp_path, train=8, test=2) == first
    assert (first / "VOC2007/Annotations/000001.xml").stat().st_mtime_ns == stamp
    assert voc.rendered_voc(tmp_path, train=8, test=2, seed=1, workers=1) != first


def test_a_killed_build_leaves_nothing_that_looks_complete(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_export_forever, args=(tmp_path,))
    process.start()
    deadline = time.time() + 60
    while not list(tmp_path.glob("voc_*/.VOCdevkit_*/VOC2007/Annotations/*.xml")) and time.time() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(tmp_path.glob("voc_*/.VOCdevkit_*")) and not list(tmp_path.glob("voc_*/VOCdevkit"))
    _export_small(tmp_path)
    assert len(list(tmp_path.glob("voc_*/VOCdevkit"))) == 1


def test_two_builds_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_export_small, args=(tmp_path,)) for _ in range(2)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(120)
    assert [p.exitcode for p in processes] == [0, 0]
    (place,) = tmp_path.glob("voc_*")
    assert [p.name for p in place.iterdir()] == ["VOCdevkit"]
    assert len(list((place / "VOCdevkit/VOC2007/JPEGImages").iterdir())) == 10


def test_speed():
    """950 images in 55 CPU-seconds are 58 ms each; a busy machine gets four times that."""
    make_scene(0)
    start = time.process_time()
    for k in range(12):
        scene = make_scene(9, "train", k)
        voc.objects(annotate(scene, render(scene)))
    assert (time.process_time() - start) / 12 < 0.23


def test_streets_hold_enough_of_every_class():
    """A set of 800 images has 150 or more of each class, mostly large enough to learn."""
    counts, sizes = dict.fromkeys(set(voc.VOC_NAME.values()), 0), []
    scenes = 100
    for k in range(scenes):
        scene = make_scene(0, "train", k)
        for o in voc.objects(annotate(scene, render(scene, supersample=1))):
            if not o["difficult"]:
                counts[o["name"]] += 1
                sizes.append(np.sqrt((o["xmax"] - o["xmin"] + 1) * (o["ymax"] - o["ymin"] + 1)))
    assert min(counts.values()) >= 0.8 * 150 * scenes / 800, counts  # 100 scenes: a margin for chance
    assert 4 <= len(sizes) / scenes <= 7
    assert np.median(sizes) >= 22
