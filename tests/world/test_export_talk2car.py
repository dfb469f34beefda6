"""The Talk2Car set: official layout and fields, boxes where things are, honest proposals, complete or absent."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from kdnb.datasets.talk2car import Talk2Car, check_talk2car
from kdnb.errors import InputError
from kdnb.metrics.grounding import chance, iou, slices, upper_bound
from kdnb.world import export_talk2car as t2c
from kdnb.world.camera import scene_camera
from kdnb.world.proposals import propose
from kdnb.world.scene import make_scene

FIELDS = {
    "scene_token",
    "sample_token",
    "translation",
    "size",
    "rotation",
    "command",
    "obj_name",
    "box_token",
    "command_token",
    "2d_box",
    "t2c_img",
}
SMALL = {"train": 16, "val": 4, "test": 8, "size": (320, 180)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return t2c.export_talk2car(tmp_path_factory.mktemp("t2c") / "set", **SMALL, workers=1)


def rows(root, split):
    return json.loads((root / f"commands/{split}_commands.json").read_text())


def test_layout_and_fields_are_the_official_ones(root, real_data):
    official = json.loads((real_data / "talk2car/commands/val_commands.json").read_text())
    assert set(official["commands"][0]) == FIELDS
    for split, images in (("train", 16), ("val", 4), ("test", 8)):
        content = rows(root, split)
        assert set(content) == set(official)
        assert content["scene_tokens"] == list(dict.fromkeys(c["scene_token"] for c in content["commands"]))
        assert len(content["scene_tokens"]) == images <= len(content["commands"]) <= 2 * images
        for row in content["commands"]:
            assert set(row) == FIELDS | {"twin", "twin_box"}
            for key, example in official["commands"][0].items():
                assert type(row[key]) is type(example), key
                if isinstance(example, list):
                    assert [type(v) for v in row[key]] == [type(v) for v in example], key
            assert re.fullmatch(rf"img_{split}_\d+\.jpg", row["t2c_img"])
            assert re.fullmatch("[0-9a-f]{32}", row["command_token"])
    tokens = [c["command_token"] for split in SMALL if split != "size" for c in rows(root, split)["commands"]]
    assert len(set(tokens)) == len(tokens)


def test_the_reader_and_the_checker_find_no_fault(root):
    report = check_talk2car(root)
    assert not report.faults and report.counts["train"]["images"] == 16
    item = Talk2Car(root, "test")[0]
    assert Image.open(item["image_path"]).size == (320, 180) and item["proposals"].shape == (16, 4)


def test_boxes_are_where_the_thing_is_seen(root):
    for k in (0, 1, 2):
        view, _, chosen, _ = t2c.sample_image(0, "train", k, (320, 180))
        written = [c for c in rows(root, "train")["commands"] if c["t2c_img"] == f"img_train_{k}.jpg"]
        assert [c["command"] for c in written] == [m.text for m in chosen]
        for row, m in zip(written, chosen, strict=True):
            ids = [i for i in (m.target.thing.instance, m.target.thing.partner) if i]
            y, x = np.nonzero(np.isin(view.instance, ids))
            corners = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * 5
            assert row["2d_box"] == [*corners[:2], *(corners[2:] - corners[:2])]
        image = np.asarray(Image.open(root / f"images/img_train_{k}.jpg")).astype(float)
        assert np.abs(image - view.image).mean() < 3


def test_3d_boxes_are_in_the_cameras_frame():
    scene = make_scene(0, "train", 3)
    camera = scene_camera(scene, 320, 180)
    for thing in scene.things:
        w, *axis = t2c.rotation_quaternion(thing, camera)
        forward = np.array([np.cos(thing.yaw), np.sin(thing.yaw), 0])
        for own, ego in (([1, 0, 0], forward), ([0, 0, 1], np.array([0, 0, 1.0]))):
            turned = own + 2 * w * np.cross(axis, own) + 2 * np.cross(axis, np.cross(axis, own))
            assert np.allclose(turned, camera.rotation @ ego, atol=1e-6)
        assert np.isclose(w * w + np.dot(axis, axis), 1)


def test_translation_projects_into_the_2d_box(root):
    for k, row in enumerate(rows(root, "train")["commands"][:10]):
        x, y, z = row["translation"]
        assert z > 0 and row["size"][2] < 4, k
        left, top, width, height = row["2d_box"]
        assert -0.5 * width < 800 * (1 + x / z / 0.667 / 1.0) - left < 1.5 * width  # about: lenses differ by 10 %


def test_twins_are_written_as_boxes(root):
    twins = [c for c in rows(root, "train")["commands"] if c["twin"]]
    assert twins and all(len(c["twin_box"]) == 4 and c["twin_box"] != c["2d_box"] for c in twins)
    assert all(c["twin_box"] is None for c in rows(root, "train")["commands"] if not c["twin"])


# --- proposals --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proposed():
    """(truth (N, 4), proposals (16, 4), scores (16,), targets) of 40 images, in rendered pixels."""
    out = []
    for k in range(40):
        _, candidates, chosen, rng = t2c.sample_image(5, "val", k, (240, 135))
        proposals = propose(candidates, 240, 135, 16, rng)
        boxes = np.array([p["bbox"] for p in proposals])
        boxes[:, 2:] += boxes[:, :2]
        visible = [r for r in candidates if r.noun in t2c.NAMES and r.pixels >= 20]
        out.append(
            (
                np.array([r.box for r in visible]),
                boxes,
                np.array([p["score"] for p in proposals]),
                np.array([m.target.box for m in chosen]),
            )
        )
    return out


def test_proposals_are_imperfect_and_rarely_miss(proposed):
    best = np.concatenate([iou(truth[:, None], boxes[None]).max(1) for truth, boxes, *_ in proposed])
    assert 0.92 <= (best > 0.5).mean() < 1
    assert best[best > 0.5].max() < 0.97 and np.ptp(np.percentile(best[best > 0.5], [5, 95])) > 0.2
    for _, boxes, scores, _ in proposed:
        assert boxes.shape == (16, 4) and (boxes[:, 2:] > boxes[:, :2]).all()
        assert boxes.min() >= 0 and (boxes <= [240, 135, 240, 135]).all() and (scores > 0).all() and (scores < 1).all()


def test_one_proposal_hits_a_thing_and_its_place_in_the_list_says_nothing(proposed):
    places, hits = [], []
    for _, boxes, _, targets in proposed:
        for box in targets:
            hit = np.flatnonzero(iou(boxes, box) > 0.5)
            hits.append(len(hit))
            places += hit.tolist()
    assert max(hits) <= 3 and 0.9 <= np.mean(hits) <= 1.3
    assert 4.5 < np.mean(places) < 10.5


def test_scores_help_but_do_not_tell(proposed):
    """True ones score higher on average, and false ones overlap them in score, as a detector's do."""
    true = np.concatenate([s[iou(t[:, None], b[None]).max(0) > 0.5] for t, b, s, _ in proposed])
    false = np.concatenate([s[iou(t[:, None], b[None]).max(0) <= 0.5] for t, b, s, _ in proposed])
    assert true.mean() > false.mean() + 0.2 and np.percentile(false, 95) > np.percentile(true, 5)


def test_upper_bound_and_chance_of_a_set(root):
    data = [Talk2Car(root, split) for split in ("train", "val", "test")]
    items = [d[k] for d in data for k in range(len(d))]
    assert upper_bound(items) >= 90 and 5 <= chance(items) <= 9
    twin = np.concatenate([slices(d.commands)["twin"] for d in data])
    assert twin.mean() > 0.25  # 28 images: a margin for chance


# --- whole, deterministic, refused ------------------------------------------------------------------------------


def test_processes_do_not_change_the_result(root, tmp_path):
    other = t2c.export_talk2car(tmp_path / "other", **SMALL, workers=2)
    files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert all((root / f).read_bytes() == (other / f).read_bytes() for f in files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (320, 200)}, "size is 320x200, expected 16 to 9"),
        ({"size": (64, 36)}, "expected 16 to 9 from 160x90"),
        ({"train": 0}, "train=0"),
        ({"proposals": 0}, "proposals=0"),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        t2c.export_talk2car(tmp_path / "set", **settings)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_and_an_unknown_setting_are_refused(root, tmp_path):
    with pytest.raises(InputError, match="already exists"):
        t2c.export_talk2car(root, 1, 1, 1, workers=1)
    with pytest.raises(InputError, match="unknown setting images"):
        t2c.rendered_talk2car(tmp_path, images=3)


def test_cache_is_keyed_by_settings(tmp_path):
    few = {"train": 1, "val": 1, "test": 1, "size": (160, 90), "workers": 1}
    first = t2c.rendered_talk2car(tmp_path, **few)
    stamp = (first / "centernet_bboxes.json").stat().st_mtime_ns
    assert t2c.rendered_talk2car(tmp_path, **few) == first
    assert (first / "centernet_bboxes.json").stat().st_mtime_ns == stamp
    assert t2c.rendered_talk2car(tmp_path, **{**few, "seed": 1}) != first


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(t2c, "propose", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        t2c.export_talk2car(tmp_path / "set", 1, 1, 1, workers=1)
    assert not list(tmp_path.iterdir())
