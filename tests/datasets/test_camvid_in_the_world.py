"""CamVid against noise: each damaged file gives what it holds or one line, never a traceback; the cases people meet."""

import io

import numpy as np
import pytest
from damage import damaged, quietly
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdnb.datasets.camvid import CLASSES, COLOURS, VOID, CamVid, check_camvid, write_predictions
from kdnb.datasets.camvid_files import read_codes, read_ids, read_label
from kdnb.errors import InputError
from kdnb.metrics.camvid_read import evaluate_folders

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SIZE = (6, 9)
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 12, SIZE).astype(np.uint8)
PAINTED = np.array(list(COLOURS.values()), np.uint8)[RNG.integers(0, 32, SIZE)]


def png(array, palette=None):
    image, file = Image.fromarray(array), io.BytesIO()
    if palette is not None:
        image.putpalette(palette)
    image.save(file, "PNG")
    return file.getvalue()


LABELS = {
    "grey": ("segnet", png(IDS)),
    "palette": ("segnet", png(IDS, np.repeat(np.arange(12, dtype=np.uint8), 3).tolist())),
    "colour": ("colour", png(PAINTED)),
    "cityscapes": ("kitti", png(IDS)),
    "kaggle": ("kaggle", png(PAINTED)),
    "codes": ("fastai", png(RNG.integers(0, 32, SIZE).astype(np.uint8))),
}


@pytest.mark.parametrize("kind", LABELS)
@given(data=st.data())
@FEW
def test_a_damaged_label_is_a_label_or_one_line(kind, data, tmp_path_factory):
    layout, content = LABELS[kind]
    path = tmp_path_factory.getbasetemp() / f"damaged {kind}.png"
    path.write_bytes(data.draw(damaged(content)))
    label, ids = quietly(lambda: read_label(path, layout)), quietly(lambda: read_ids(path))
    assert label is None or (label.dtype == np.uint8 and label.max() <= VOID and label.ndim == 2)
    assert ids is None or ids.dtype == np.uint8


def write_root(root):
    for split in ("train", "val", "test"):
        for folder, content in ((split, png(np.zeros((*SIZE, 3), np.uint8))), (f"{split}annot", png(IDS))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{split}0.png").write_bytes(content)
        (root / f"{split}.txt").write_bytes(LIST.replace(b"train", split.encode()))
    return root


LIST = b"/SegNet/CamVid/train/train0.png /SegNet/CamVid/trainannot/train0.png\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("camvid") / "camvid")


@pytest.mark.parametrize("name", ["train.txt", "train/train0.png", "trainannot/train0.png"])
@given(data=st.data())
@FEW
def test_a_damaged_file_is_a_fault_of_its_own(name, data, place):
    path = place / name
    good = path.read_bytes()
    path.write_bytes(data.draw(damaged(good)))
    try:
        report = quietly(lambda: check_camvid(place))
        assert report is not None and not any("\n" in fault or "cannot be checked" in fault for fault in report.faults)
        assert report.summary() and len(report.pixels["val"]) == 1
        camvid = quietly(lambda: CamVid(place, "train"))
        sample = quietly(lambda: camvid[0]) if camvid is not None else None
        assert sample is None or sample["label"].max() <= VOID
    finally:
        path.write_bytes(good)


@given(content=damaged(png(IDS % 11)), truth=st.booleans())
@FEW
def test_damaged_predictions_give_scores_or_one_line(content, truth, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged predictions"
    for name in ("gt", "pred"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "a.png").write_bytes(content if truth == (name == "gt") else png(IDS % 11))
    scores = quietly(lambda: evaluate_folders(folder / "gt", folder / "pred"))
    if scores is not None:
        assert 0 <= scores["mIoU"] <= 100 and 0 <= scores["pixel_accuracy"] <= 100
        known = [value for value in scores["iou"].values() if not np.isnan(value)]
        assert known and len(scores["iou"]) == len(CLASSES)


# --- Kaggle's and fast.ai's copies --------------------------------------------------------------------------------

DRIVES = {  # frames of CamVid's drives, by SegNet's splits
    "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"],
    "val": ["0016E5_07959"],
    "test": ["0001TP_008550", "Seq05VD_f00000"],
}
OF_DRIVES = "CamVid's drives make the splits, as in SegNet's lists"
STILL = png(np.zeros((*SIZE, 3), np.uint8))


def png_file(path, array):
    path.write_bytes(png(array))
    return path


def kaggle(root):
    """Splits are folders; labels are colours."""
    for split, names in DRIVES.items():
        for name in names:
            for file, content in ((f"{split}/{name}.png", STILL), (f"{split}_labels/{name}_L.png", png(PAINTED))):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_bytes(content)
    (root / "class_dict.csv").write_text("name,r,g,b\nAnimal,64,128,64\n")
    return root


def fastai(root):
    """All frames in one folder; labels are codes of the 32 classes, as the lines of codes.txt name them."""
    codes = (PAINTED[:, :, None] == list(COLOURS.values())).all(-1).argmax(-1)
    for name in sum(DRIVES.values(), []):
        for file, content in ((f"images/{name}.png", STILL), (f"labels/{name}_P.png", png(codes.astype(np.uint8)))):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(content)
    (root / "codes.txt").write_text("\n".join(COLOURS))
    (root / "valid.txt").write_text("\n".join(f"{name}.png" for name in DRIVES["val"]))
    return root


@pytest.mark.parametrize("make", [kaggle, fastai])
def test_a_copy_trains_is_checked_and_scores(make, tmp_path):
    root = make(tmp_path / "camvid")
    want = read_label(png_file(tmp_path / "a.png", PAINTED), "colour")
    for split, names in DRIVES.items():
        data = CamVid(tmp_path, split)
        assert data.layout == make.__name__ and data.names == names and (data[0]["label"].numpy() == want).all()
    report = check_camvid(root)
    assert not report.faults and {split: len(counts) for split, counts in report.pixels.items()} == {
        split: len(names) for split, names in DRIVES.items()
    }
    assert report.notes == ([] if make is kaggle else [f"{root / 'valid.txt'}: is not read; {OF_DRIVES}"])
    right = {item["name"]: item["label"].clamp(max=10).byte() for item in data}
    write_predictions(tmp_path / "pred", data, right)
    for gt in (tmp_path, root, data.frames[0].label.parent):
        scores = evaluate_folders(gt, tmp_path / "pred")
        assert scores["mIoU"] == pytest.approx(100) and scores["pixel_accuracy"] == 100


def test_codes_are_those_of_codes_txt(tmp_path):
    root = fastai(tmp_path / "camvid")
    label = root / "labels" / "0001TP_006690_P.png"
    names = [*COLOURS][::-1]
    (root / "codes.txt").write_bytes("\r\n".join([*names, ""]).encode("utf-16"))
    png_file(label, np.full(SIZE, names.index("Tree"), np.uint8))
    assert (CamVid(root, "train")[0]["label"] == CLASSES.index("tree")).all()
    (root / "codes.txt").write_text("Tree\nSky\n")
    png_file(label, np.full(SIZE, 2, np.uint8))
    with pytest.raises(InputError, match=rf"^{label}: pixel \(0, 0\) has id 2, expected 0 to 1$"):
        CamVid(root, "train")[0]
    (root / "codes.txt").write_text("Tree\nHeaven\n")
    fault = f"{root / 'codes.txt'}:2: found 'Heaven', expected the name of one of CamVid's classes"
    assert check_camvid(root).faults == [fault]  # once, not for each label
    (root / "codes.txt").unlink()
    png_file(label, np.full(SIZE, 26, np.uint8))
    assert (CamVid(root, "train")[0]["label"] == CLASSES.index("tree")).all()  # 26th of fast.ai's own names


@given(content=damaged("\n".join(COLOURS).encode()))
@FEW
def test_damaged_codes_are_codes_or_one_line(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged codes.txt"
    path.write_bytes(content)
    codes = quietly(lambda: read_codes(path))
    assert codes is None or (codes.dtype == np.uint8 and len(codes) and codes.max() <= VOID)


@pytest.mark.parametrize("make", [kaggle, fastai])
def test_faults_of_a_copy_are_named(make, tmp_path):
    root = make(tmp_path / "camvid")
    images, labels, ending = ("train", "train_labels", "_L") if make is kaggle else ("images", "labels", "_P")
    (root / images / "0006R0_f00930.png").unlink()
    (root / labels / f"0001TP_006690{ending}.png").unlink()
    (root / labels / "Thumbs.db").touch()
    report = check_camvid(root)
    assert report.faults == [
        f"frame 0006R0_f00930 has no image, expected {root / images / '0006R0_f00930.png'}",
        f"{root / images / '0001TP_006690.png'}: image without label, expected "
        f"{root / labels / f'0001TP_006690{ending}.png'}",
    ]
    assert f"{root / labels}: skipped 1 file, no frame's: Thumbs.db" in report.notes
    with pytest.raises(InputError, match="frame 0006R0_f00930 has no image"):
        CamVid(root, "train")
    for path in (root / labels).glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"^[^\n]*(labels \*_L|labels/\*_P)\.png[^\n]*$"):
        CamVid(root, "train")


def test_folders_of_another_set_are_not_fastais(tmp_path):
    """YOLO's data, too, lies in images/ and labels/."""
    for place in ("images/a.png", "labels/a.txt"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).touch()
    with pytest.raises(InputError, match=rf"^{tmp_path}: found a folder, expected a CamVid root .*labels/\*_P.png"):
        CamVid(tmp_path)


def test_predictions_of_void_are_told_so(tmp_path):
    for name in ("gt", "pred"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(IDS))
    with pytest.raises(InputError, match="expected 0 to 10: a prediction has a class for every pixel, and 11 is void"):
        evaluate_folders(tmp_path / "gt", tmp_path / "pred")
