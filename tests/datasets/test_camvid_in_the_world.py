"""CamVid against noise: each damaged file gives what it holds or one line, never a traceback; the cases people meet."""

import io

import numpy as np
import pytest
from damage import damaged, quietly
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdnb.datasets.camvid import CLASSES, COLOURS, VOID, CamVid, check_camvid
from kdnb.datasets.camvid_files import read_ids, read_label
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


def test_predictions_of_void_are_told_so(tmp_path):
    for name in ("gt", "pred"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(IDS))
    with pytest.raises(InputError, match="expected 0 to 10: a prediction has a class for every pixel, and 11 is void"):
        evaluate_folders(tmp_path / "gt", tmp_path / "pred")
