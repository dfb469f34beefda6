"""Views of frames: image and label stay on top of each other, unlabelled frames are all void."""

import pytest
import torch

from kdnb.datasets.camvid import VOID
from kdnb.datasets.segmentation import CROPS, VIEWS, SegmentationViews, collate
from kdnb.errors import InputError


class Frames:
    """Two frames of vertical stripes, 4 columns each, whose grey tells their class; ``read`` counts."""

    def __init__(self, height=48, width=64):
        self.label = (torch.arange(width) // 4 % 11).expand(height, width).clone()
        self.label[height // 2 :] = 10 - self.label[height // 2 :]
        self.read = 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.read += 1
        label = self.label.roll(3 * index, 1)
        return {"name": f"frame{index}", "image": (20 * label).byte().expand(3, *label.shape), "label": label}


def test_plain_is_the_frame_and_flip_its_mirror():
    frames = Frames()
    views, item = SegmentationViews(frames, (48, 64)), Frames()[1]
    plain, flip = views[1, "plain"], views[1, "flip"]
    assert (plain["image"] == item["image"]).all() and (plain["label"] == item["label"]).all()
    assert (flip["image"] == item["image"].flip(-1)).all() and (flip["label"] == item["label"].flip(-1)).all()
    assert plain["image"].dtype == torch.uint8 and plain["label"].dtype == torch.int64
    assert (plain["id"], plain["view"], plain["index"], plain["labelled"]) == ("frame1", "plain", 1, True)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [(20, 30), (25, 37), (110, 150)])
def test_image_and_label_stay_aligned(view, size):
    """Of a bright disc on black, the pixels more than half bright are those labelled: resampling moves neither."""
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    moved = []
    for cx, cy, radius in ((60, 50, 25), (77, 62, 14)):
        label = ((rows - cy) ** 2 + (columns - cx) ** 2 < radius**2).long()
        frame = {"name": "disc", "image": (200 * label).byte().expand(3, 96, 128), "label": label}
        sample = SegmentationViews([frame], size)[0, view]
        assert sample["image"].shape == (3, *size) and sample["label"].shape == size
        bright, shown = sample["image"][0] > 100, sample["label"] == 1
        assert shown.any() and (bright == shown).float().mean() > 0.99  # but for the steps of a curved edge
        weights = torch.stack([bright.float(), shown.float()])
        for axis, length in ((1, size[0]), (2, size[1])):
            place = (weights.sum(3 - axis) * torch.arange(length)).sum(1) / weights.sum((1, 2))
            moved.append(float((place[0] - place[1]).abs()))
    assert sum(moved) / 4 < 0.15  # pixels between their middles; with torch's "nearest" it is 0.45


def test_labels_are_resized_about_the_middle():
    frames = Frames(36, 99)
    small = SegmentationViews(frames, (12, 33))[0, "plain"]["label"]
    assert (small == frames.label[1::3, 1::3]).all()  # the middle one of 3 x 3 pixels


def test_crops_are_where_their_table_says():
    frames = Frames(40, 80)
    for view, (left, top, side) in CROPS.items():
        height, width = round(40 * side), round(80 * side)
        x, y = round(80 * left), round(40 * top)
        sample = SegmentationViews(frames, (height, width))[0, view]
        assert (sample["label"] == frames.label[y : y + height, x : x + width]).all()
        assert (sample["image"][0] == 20 * sample["label"]).all()
        assert left + side <= 1 and top + side <= 1


def test_unlabelled_frames_show_nothing_of_their_labels():
    views = SegmentationViews(Frames(), (24, 32), labelled={1})
    assert (views[0, "plain"]["label"] == VOID).all() and not views[0, "plain"]["labelled"]
    assert (views[1, "crop1"]["label"] != VOID).all() and views[1, "crop1"]["labelled"]
    batch = collate([views[0, "flip"], views[1, "plain"]])
    assert batch["labelled"].tolist() == [False, True] and batch["indices"].tolist() == [0, 1]
    assert batch["images"].shape == (2, 3, 24, 32) and batch["labels"].shape == (2, 24, 32)
    assert batch["ids"] == ["frame0", "frame1"] and batch["views"] == ["flip", "plain"]


def test_kept_samples_are_read_once_and_handed_out_as_copies():
    frames = Frames()
    views = SegmentationViews(frames, (24, 32))
    for _ in range(2):
        for view in ("plain", "flip"):
            sample = views[0, view]
            assert sample["image"].any() and sample["label"].any()
            sample["image"].zero_(), sample["label"].zero_()
    assert frames.read == 1
    loose = SegmentationViews(frames, (24, 32), keep=False)
    assert loose[0, "plain"] is not loose[0, "plain"] and frames.read == 3


def test_faults_in_one_line():
    for call, message in (
        (lambda: SegmentationViews(Frames(), (24, 32))[0, "crop9"], "unknown view 'crop9'"),
        (lambda: SegmentationViews(Frames(), (24, 0)), r"expected \(height, width\)"),
        (lambda: SegmentationViews(Frames(), (24, 32), {2}), "labelled frame 2 is not in the set"),
    ):
        with pytest.raises(InputError, match=message):
            call()
