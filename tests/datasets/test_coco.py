"""The COCO reader, its views and its checker: against pycocotools on real files, and against every fault."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb.datasets import coco as coco_module
from kdnb.datasets.coco import COCORegionText, category_text, check_coco, download_coco, find_coco, full_text
from kdnb.datasets.region_views import GREY, VIEWS, RegionViews, collate, cut, side_in, window
from kdnb.errors import InputError

WIDTH, HEIGHT = 64, 48


def entry(number, bbox, category=3, image=7, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
        **more,
    }


def write_root(root):
    """One split of two 64x48 images, the second without objects."""
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "width": WIDTH, "height": HEIGHT} for number in (7, 8)]
    rng = np.random.default_rng(0)
    for image in images:
        noise = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
        Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(root / "train2017" / image["file_name"], quality=95)
    annotations = [
        entry(1, [4, 6, 20, 10], attributes={"colour": "red"}),
        entry(2, [30, 20, 1.5, 3], 1),
        entry(3, [40, 30, 10, 12], 1, iscrowd=1),
        entry(4, [10.5, 20, 8, 16], 1),
        entry(5, [30, 5, 20, 20], 3, attributes={"colour": "blue", "visible": 0.2}),
        entry(6, [0, 0, 0, 9], 3),
    ]
    categories = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 3, "name": "car"}]
    captions = [{"id": k, "image_id": 7, "caption": f"Sentence {k}.\n"} for k in range(5)]
    write(root, "instances", {"images": images, "annotations": annotations, "categories": categories})
    write(root, "captions", {"images": images, "annotations": captions})
    return root


def write(root, what, content):
    (root / f"annotations/{what}_train2017.json").write_text(json.dumps(content))


def read(root, what):
    return json.loads((root / f"annotations/{what}_train2017.json").read_text())


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "coco")


def error_of(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- regions and texts


def test_regions_texts_and_what_is_left_out(root):
    data = COCORegionText(root)
    assert len(data) == 2
    car, person = data.regions
    assert (car.id, car.image_id, car.file) == ("train/1", 7, root / "train2017/000000000007.jpg")
    assert car.box == (4, 6, 24, 16) and person.box == (10.5, 20, 18.5, 36)
    assert car.size == "large" and person.size == "large"  # 200 and 128 pixels of 64x48 are 20000 and 12800 of 640x480
    assert category_text(car) == "a photo of a large car"
    assert full_text(car) == "a photo of a large red car"
    assert full_text(person) == category_text(person) == "a photo of a large person"


def test_dropped_counts_and_thresholds(root):
    assert COCORegionText(root).dropped == Counter(crowd=1, tiny=2, hidden=1)
    assert COCORegionText(root, min_side=80).dropped == Counter(crowd=1, tiny=2, hidden=1)
    assert COCORegionText(root, min_side=81).dropped == Counter(crowd=1, tiny=3, hidden=1)  # 8 of 64 are 80 of 640
    everything = COCORegionText(root, min_side=0, min_visible=0)
    assert everything.dropped == Counter(crowd=1, tiny=1, hidden=0)  # a box of no width never is a region
    assert [r.id for r in everything.regions] == ["train/1", "train/2", "train/4", "train/5"]


def test_size_is_relative_to_the_image(root):
    content = read(root, "instances")
    content["annotations"] = [entry(k, [0, 0, 6, 6], area=area) for k, area in ((1, 10.2), (2, 10.3))]
    write(root, "instances", content)
    assert [r.size for r in COCORegionText(root).regions] == ["small", "large"]  # 32² / 10² = 10.24


def test_captions(root):
    data = COCORegionText(root)
    assert data.captions(7) == [f"Sentence {k}." for k in range(5)] and data.captions(8) == []
    assert "captions_train2017.json: has no image 9" in error_of(lambda: data.captions(9))


def test_root_is_found_from_the_folder_around_it(root):
    assert find_coco(root) == find_coco(root.parent) == root


@pytest.mark.parametrize("split", ["train", "val"])
def test_counts_of_the_real_sample(real_data, split, capsys):
    from pycocotools.coco import COCO

    folder = real_data / "coco"
    theirs = COCO(str(folder / f"annotations/instances_{split}2017.json"))
    ours = COCORegionText(folder, split, min_side=0)
    assert len(theirs.imgs) == 50
    kept = [one for one in theirs.anns.values() if not one["iscrowd"]]
    assert len(ours) == len(kept) and ours.dropped["crowd"] == len(theirs.anns) - len(kept)
    assert [r.category for r in ours.regions] == [theirs.cats[one["category_id"]]["name"] for one in kept]
    for region, one in zip(ours.regions, kept, strict=True):
        x, y, w, h = one["bbox"]
        assert np.allclose(region.box, (x, y, x + w, y + h), atol=1)
        image = theirs.imgs[one["image_id"]]
        if max(image["width"], image["height"]) == 640:
            assert region.size == ("small" if one["area"] < 32**2 else "large")
    texts = {c["image_id"]: [] for c in read_captions_of(folder, split)}
    for c in read_captions_of(folder, split):
        texts[c["image_id"]].append(c["caption"].split())
    assert all([s.split() for s in ours.captions(number)] == expected for number, expected in texts.items())


def read_captions_of(folder, split):
    return json.loads((folder / f"annotations/captions_{split}2017.json").read_text())["annotations"]


def test_check_of_the_real_sample(real_data, capsys):
    from pycocotools.coco import COCO

    report = check_coco(real_data / "coco")
    assert report.faults == [] and report.images == {"train": 50, "val": 50}
    for split in ("train", "val"):
        data = COCO(str(real_data / f"coco/annotations/instances_{split}2017.json"))
        for number, category in data.cats.items():
            ids = data.getAnnIds(catIds=[number], iscrowd=False)
            assert report.counts[split][category["name"]] == len(ids)
        assert report.crowds[split] == len(data.getAnnIds(iscrowd=True))
        assert report.captions[split] == len(read_captions_of(real_data / "coco", split))
    assert "no faults" in str(report)


def test_crops_of_real_photographs(real_data):
    data = COCORegionText(real_data / "coco", "val")
    views = RegionViews(data, crop=16).precompute()
    assert len(views) == len(data) > 100
    assert all(views[(index, view)]["image"].float().std() > 1 for index in range(0, len(data), 9) for view in VIEWS)


def test_a_drawn_root_reads_like_any_other(tmp_path):
    from kdnb.world.export_coco import export_coco

    folder = export_coco(tmp_path / "street", train=6, val=1, workers=1)
    data = COCORegionText(folder, "train")
    assert len(data) > 15 and check_coco(folder).faults == []
    assert all(region.attributes["colour"] in full_text(region) for region in data.regions)
    assert all(len(data.captions(region.image_id)) == 5 for region in data.regions)


# ---------------------------------------------------------------- views


def test_side_of_each_view():
    assert [side_in(view) for view in VIEWS] == [None, None, "left", "right", "right", "left"]
    assert "'top', expected one of plain" in error_of(lambda: side_in("top"))


@pytest.mark.parametrize("box", [(10, 10, 30, 18), (10, 10, 14, 30), (0, 0, 64, 48)])
def test_windows_are_square_and_show_the_object_where_they_say(box):
    longer = max(box[2] - box[0], box[3] - box[1])
    for crop, context in (("plain", 1.2), ("left", 2.2), ("right", 2.2)):
        x1, y1, x2, y2 = window(box, crop, 1.2)
        assert np.allclose([x2 - x1, y2 - y1], longer * context)
        assert x1 <= box[0] and x2 >= box[2] and y1 <= box[1] and y2 >= box[3]
        assert np.isclose(box[1] - y1, y2 - box[3])
        middle = (x1 + x2) / 2
        assert {"plain": True, "left": box[2] < middle, "right": box[0] > middle}[crop]


def test_cut_is_exact_grey_outside_and_an_average_when_smaller():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    inside = cut(image, (4, 5, 12, 13), 8)
    assert np.array_equal(inside, image[5:13, 4:12].transpose(2, 0, 1))
    over = cut(image, (-4, 14, 4, 22), 8)
    assert (over[:, :, :4] == GREY).all() and (over[:, 6:] == GREY).all()
    assert np.array_equal(over[:, :6, 4:], image[14:20, :4].transpose(2, 0, 1))
    assert (cut(image, (100, 100, 108, 108), 8) == GREY).all()
    small = cut(image, (0, 0, 20, 20), 2).astype(float)
    assert np.abs(small.mean((1, 2)) - image[:20, :20].mean((0, 1))).max() < 12  # antialiased: no single pixels


def test_views_flip_and_are_the_same_precomputed(root):
    data = COCORegionText(root, keep_in_memory=True)
    live, kept = RegionViews(data, crop=24), RegionViews(data, crop=24).precompute()
    for index in range(len(data)):
        for view in VIEWS:
            sample = live[(index, view)]
            assert {k: sample[k] for k in ("id", "view", "region")} == {
                "id": data.regions[index].id,
                "view": view,
                "region": index,
            }
            assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, 24, 24)
            assert torch.equal(sample["image"], kept[(index, view)]["image"])
        for crop in ("plain", "left", "right"):
            assert torch.equal(live[(index, crop)]["image"].flip(-1), live[(index, f"{crop}_flip")]["image"])
    kept[(0, "plain")]["image"].zero_()
    assert torch.equal(kept[(0, "plain")]["image"], live[(0, "plain")]["image"])


def test_indices_count_in_the_data_set_and_others_are_refused(root):
    data = COCORegionText(root)
    views = RegionViews(data, indices=[1]).precompute()
    assert len(views) == 1 and views[(1, "left")]["id"] == "train/4"
    assert "region 0 is not among the 1 used" in error_of(lambda: views[(0, "plain")])
    assert "unknown view 'flip'" in error_of(lambda: views[(1, "flip")])


def test_batches_are_what_the_engine_and_the_teacher_cache_expect(root):
    views = RegionViews(COCORegionText(root), crop=8)
    batch = collate([views[(1, "left")], views[(0, "plain_flip")]])
    assert batch["ids"] == ["train/4", "train/1"] and batch["views"] == ["left", "plain_flip"]
    assert batch["images"].shape == (2, 3, 8, 8) and batch["regions"].tolist() == [1, 0]


def test_images_are_decoded_once_when_kept(root, monkeypatch):
    read_image, reads = coco_module.read_image, []
    monkeypatch.setattr(coco_module, "read_image", lambda path: reads.append(path) or read_image(path))
    RegionViews(COCORegionText(root)).precompute()
    assert len(reads) == 1
    data = COCORegionText(root, keep_in_memory=True)
    data.image(0)
    shutil.rmtree(root / "train2017")
    assert data.image(1).shape == (HEIGHT, WIDTH, 3) and len(reads) == 2


def test_speed(root):
    """5,000 regions in 6 views in 15 CPU-seconds are 3 ms a region; a busy machine gets twice that."""
    content = read(root, "instances")
    content["annotations"] = [entry(k, [k % 30, k % 20, 20, 14]) for k in range(200)]
    write(root, "instances", content)
    views = RegionViews(COCORegionText(root, keep_in_memory=True))
    start = time.process_time()
    views.precompute()
    for index in range(200):
        for view in VIEWS:
            views[(index, view)]
    assert (time.process_time() - start) / 200 < 0.006


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("folder", "what"),
    [("absent", "nothing"), ("empty", "folder without"), ("a.txt", "a file"), ("half", "without an instances file")],
)
def test_data_that_is_no_coco_root(tmp_path, folder, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half/annotations").mkdir(parents=True)
    (tmp_path / "a.txt").touch()
    message = error_of(lambda: COCORegionText(tmp_path / folder))
    assert folder in message and what in message
    for part in ("annotations/instances_train2017.json", "annotations/captions_train2017.json", "train2017/*.jpg"):
        assert part in message


def test_unknown_and_missing_splits(root):
    assert "split is 'test', expected one of train, val" in error_of(lambda: COCORegionText(root, "test"))
    assert "instances_val2017.json: no such file" in error_of(lambda: COCORegionText(root, "val"))


def put(table, k, key, value):
    """An edit of the JSON; ``value`` None takes the key away."""

    def edit(content):
        if value is None:
            del content[table][k][key]
        else:
            content[table][k][key] = value
        return content

    return edit


BAD_INSTANCES = [
    (
        put("annotations", 0, "bbox", [50, 6, 20, 10]),
        "annotations[0].bbox is [50, 6, 20, 10], expected a box inside the 64 x 48 image 000000000007.jpg",
    ),
    (put("annotations", 0, "bbox", [-2, 6, 20, 10]), "annotations[0].bbox is [-2, 6, 20, 10], expected a box inside"),
    (put("annotations", 0, "bbox", [4, 6, 20, -1]), "annotations[0].bbox is [4, 6, 20, -1], expected [x, y, width"),
    (put("annotations", 0, "bbox", [4, 6, 20]), "annotations[0].bbox is [4, 6, 20], expected [x, y, width, height]"),
    (put("annotations", 0, "bbox", [4, "6", 20, 1]), "annotations[0].bbox is [4, '6', 20, 1], expected"),
    (put("annotations", 0, "bbox", [4, float("nan"), 20, 1]), "annotations[0].bbox is [4, nan, 20, 1], expected"),
    (put("annotations", 0, "bbox", None), "annotations[0].bbox is missing, expected a list"),
    (put("annotations", 3, "category_id", 2), "annotations[3].category_id is 2, expected the id of an entry of 'cat"),
    (put("annotations", 3, "image_id", 9), "annotations[3].image_id is 9, expected the id of an entry of 'images'"),
    (put("annotations", 3, "id", 1), "annotations[3].id 1 is used before"),
    (put("annotations", 3, "area", "big"), "annotations[3].area is 'big', expected a number"),
    (put("annotations", 3, "iscrowd", "no"), "annotations[3].iscrowd is 'no', expected 0 or 1"),
    (put("annotations", 0, "attributes", {"colour": 3}), "annotations[0].attributes is {'colour': 3}, expected an obj"),
    (put("annotations", 0, "attributes", ["red"]), "annotations[0].attributes is ['red'], expected an object"),
    (put("categories", 1, "name", " "), "categories[1].name is ' ', expected a text that is not empty"),
    (put("images", 1, "id", 7), "images[1].id 7 is used before"),
    (put("images", 1, "file_name", None), "images[1].file_name is missing, expected a text"),
    (lambda content: {**content, "annotations": [5]}, "annotations[0] is 5, expected an object with the keys id"),
    (lambda content: {**content, "images": {}}, "found a dict as 'images', expected a list"),
    (lambda content: {"images": [], "annotations": []}, "found no key 'categories', expected a list of that name"),
    (lambda content: [], "holds a list, expected an object with the keys images, annotations, categories"),
]


@pytest.mark.parametrize(("edit", "what"), BAD_INSTANCES, ids=[what[:40] for _, what in BAD_INSTANCES])
def test_faulty_instances_name_file_and_key(root, edit, what):
    write(root, "instances", edit(read(root, "instances")))
    message = error_of(lambda: COCORegionText(root))
    assert message.startswith(f"{root}/annotations/instances_train2017.json: ") and what in message
    assert message in check_coco(root).faults


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (put("annotations", 2, "caption", ""), "annotations[2].caption is '', expected a text that is not empty"),
        (put("annotations", 2, "caption", " \n"), "annotations[2].caption is ' \\n', expected a text"),
        (put("annotations", 2, "caption", None), "annotations[2].caption is missing"),
        (
            put("annotations", 2, "image_id", 99),
            "annotations[2].image_id is 99, expected the id of an entry of 'images'",
        ),
    ],
)
def test_faulty_captions_name_file_and_key(root, edit, what):
    write(root, "captions", edit(read(root, "captions")))
    message = error_of(lambda: COCORegionText(root).captions(7))
    assert message.startswith(f"{root}/annotations/captions_train2017.json: ") and what in message
    assert message in check_coco(root).faults


@pytest.mark.parametrize("text", ["", "{", "<xml>", "\udcff"])
@pytest.mark.parametrize("what", ["instances", "captions"])
def test_json_that_is_none(root, what, text):
    (root / f"annotations/{what}_train2017.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    call = (lambda: COCORegionText(root)) if what == "instances" else (lambda: COCORegionText(root).captions(7))
    message = error_of(call)
    assert f"{what}_train2017.json: is not JSON (" in message
    assert message in check_coco(root).faults


def test_missing_captions_file(root):
    (root / "annotations/captions_train2017.json").unlink()
    assert "captions_train2017.json: no such file" in error_of(lambda: COCORegionText(root).captions(7))


def test_missing_image_is_found_before_training(root):
    (root / "train2017/000000000008.jpg").unlink()
    message = error_of(lambda: COCORegionText(root))
    assert "train2017/000000000008.jpg: no such image" in message and check_coco(root).faults == [message]
    shutil.rmtree(root / "train2017")
    assert "000000000007.jpg: no such image" in error_of(lambda: COCORegionText(root))


def test_truncated_jpeg_and_wrong_size(root):
    data, path = COCORegionText(root), root / "train2017/000000000007.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = error_of(lambda: data.image(0))
    assert "000000000007.jpg: cannot be decoded" in message and check_coco(root).faults == [message]
    assert error_of(lambda: RegionViews(data).precompute()) == message
    Image.new("RGB", (30, 20)).save(path)
    assert "000000000007.jpg: is 30 x 20, expected 64 x 48" in error_of(lambda: data.image(0))


def test_rounded_official_boxes_are_cut_to_the_image(root):
    write(root, "instances", put("annotations", 0, "bbox", [-0.4, 40, 64.9, 8.3])(read(root, "instances")))
    assert COCORegionText(root).regions[0].box == (0, 40, 64, 48)


def test_check_reports_every_fault_and_still_counts_the_rest(root):
    content = read(root, "instances")
    content["annotations"][0]["bbox"] = [60, 6, 20, 10]
    content["annotations"][1]["category_id"] = 77
    write(root, "instances", content)
    captions = read(root, "captions")
    captions["annotations"][4]["caption"] = ""
    write(root, "captions", captions)
    (root / "train2017/000000000008.jpg").unlink()
    report = check_coco(root)
    expected = ["annotations[0].bbox", "annotations[1].category_id", "annotations[4].caption", "000000000008.jpg"]
    assert len(report.faults) == len(expected)
    assert all(part in fault for part, fault in zip(expected, report.faults, strict=True))
    assert report.images == {"train": 2} and report.counts["train"] == {"person": 1, "car": 2}
    assert report.crowds == {"train": 1} and report.captions == {"train": 4}
    assert "4 faults" in str(report)


def test_command_line(root, capsys):
    from click.testing import CliRunner

    from kdnb.cli import main

    good = CliRunner().invoke(main, ["data", "check", "coco", str(root)])
    assert good.exit_code == 0 and "no faults" in good.output
    (root / "train2017/000000000008.jpg").unlink()
    bad = CliRunner().invoke(main, ["data", "check", "coco", str(root)])
    assert bad.exit_code == 1 and "1 fault" in bad.output
    made = root.parent / "made"
    result = CliRunner().invoke(
        main, ["data", "make", "coco", "--out", str(made), "--train", "1", "--val", "1", "--size", "64x48"]
    )
    assert result.exit_code == 0 and (made / "annotations/captions_val2017.json").is_file()


def test_download_verifies_unpacks_and_does_nothing_twice(root, tmp_path, monkeypatch):
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    downloads = []

    def fetch(url, target, checksum):
        downloads.append((url.rsplit("/", 1)[-1], len(checksum)))
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(packed, target))

    monkeypatch.setattr(coco_module, "download", fetch)
    assert len(COCORegionText(download_coco(tmp_path / "got"))) == 2
    assert downloads == [("annotations_trainval2017.zip", 32), ("val2017.zip", 32), ("train2017.zip", 32)]
    download_coco(tmp_path / "got")
    assert len(downloads) == 3
