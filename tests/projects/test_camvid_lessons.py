import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnb.projects.camvid_prompt_kd import lessons

CLASSES = 11


def test_only_the_mean_per_pixel_pulls_alike_at_every_size():
    """Logits that are the same in all pixels: the KL of one pixel, in numbers, is that of all of them."""
    student, teacher = torch.randn(2, 1, CLASSES, 1, 1, generator=torch.Generator().manual_seed(0)) * 4
    one = 25 * F.kl_div((student / 5).log_softmax(1), (teacher / 5).softmax(1), reduction="sum").item()
    everywhere = [logits.expand(1, CLASSES, 24, 32) for logits in (student, teacher)]
    table = lessons.kl_at_sizes(*everywhere, [(1, 1), (6, 8), (24, 32)])
    for size, pixels in (("1 x 1", 1), ("6 x 8", 48), ("24 x 32", 768)):
        row = table.loc[size]
        assert row["mean per pixel", "value"] == pytest.approx(0.1 * one, rel=1e-4)
        assert row["without the clamp", "value"] == pytest.approx(0.1 * one * pixels, rel=1e-4)
        assert row["as released", "value"] == pytest.approx(min(1, 0.1 * one * pixels), rel=1e-4)
    assert table.loc["24 x 32", ("as released", "pull")] == 0
    assert table["mean per pixel", "pull"].tolist() == pytest.approx([table.iloc[0]["mean per pixel", "pull"]] * 3)


class Reads(nn.Module):
    """Answers with the class that a pixel's red value names; its features are the pixel's class, with noise."""

    def feature_map(self, images):
        noise = torch.randn(images.shape[0], CLASSES, *images.shape[2:], generator=torch.Generator().manual_seed(0))
        return self(images)["logits"] + 0.4 * noise

    def forward(self, images):
        red = (images[:, 0].float() / 20).round().long().clamp(max=CLASSES - 1)
        return {"logits": F.one_hot(red, CLASSES).permute(0, 3, 1, 2).float()}


def checkered(seed):
    """A frame of squares of five pixels, each of a class, whose colour tells it; the uppermost are void."""
    classes = torch.randint(0, CLASSES, (10, 12), generator=torch.Generator().manual_seed(seed))
    label = classes.repeat_interleave(5, 0).repeat_interleave(5, 1)
    image = (20 * label).to(torch.uint8).expand(3, -1, -1)
    return {"image": image, "label": torch.where(torch.arange(50)[:, None] < 5, 11, label)}


def test_a_smaller_picture_costs_what_cannot_be_seen_in_it():
    items = [checkered(seed) for seed in range(2)]
    assert lessons.miou_at(Reads(), items, (50, 60)) == pytest.approx(100)
    assert lessons.miou_at(Reads(), items, (33, 40)) < 80


def test_a_hint_is_right_in_training_and_worth_nothing_on_test():
    train, test = ([checkered(seed) for seed in seeds] for seeds in (range(6), range(6, 9)))
    table = lessons.right_with_hint(Reads(), train, test)
    assert table.loc["features and truth", "train"] == 100
    honest, hinted = table.loc["features", "test"], table.loc["features and truth", "test"]
    assert 50 < honest < 100 and hinted < honest - 20
    features, classes = lessons.cells(Reads(), test, stride=1)
    assert len(features) == len(classes) == 3 * 45 * 60 and features.shape[1] == CLASSES + 1  # void left out
