"""Regions of a COCO root, or of a rendered street, to train, validate and test on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdnb.datasets.coco import COCORegionText, Region
from kdnb.datasets.region_views import RegionViews
from kdnb.errors import InputError
from kdnb.world.export_coco import rendered_coco

MIN_SIDE = 20.0  # of a box, in pixels of an image whose longer side is 640
CONTEXT = 1.2  # side of a crop over the longer side of its box
VALIDATION = 0.125  # share of the training images, the last ones, held out
SMALL = 64  # pixels across; larger crops of photographs are cut when they are needed


@dataclass
class RegionSplits:
    """Crops of three splits. ``key`` identifies the splits and how they were made.

    Attributes:
        train, validation: crops of two parts of train2017, split by image.
        test: crops of val2017.
    """

    key: str
    train: RegionViews
    validation: RegionViews
    test: RegionViews


def rendered_regions(
    root: str | Path, train_images: int, test_images: int, size: tuple[int, int], crop: int
) -> RegionSplits:
    """``RegionSplits`` of a street rendered below ``root`` with images of ``size`` (width, height)."""
    folder = rendered_coco(root, train=train_images, val=test_images, size=size)
    return split_regions(folder, crop, keep_crops=True)


def read_regions(folder: str | Path, crop: int, most_regions: int = 0) -> RegionSplits:
    """``RegionSplits`` of a COCO root: at most ``most_regions`` to train on and a quarter to test on; 0 takes all."""
    return split_regions(Path(folder), crop, crop <= SMALL, most_regions)


def split_regions(folder: Path, crop: int, keep_crops: bool, most_regions: int = 0) -> RegionSplits:
    """Validation is the last images of train2017. val2017 is the test set, and nothing is ever selected on it.

    Raises:
        InputError: a split has no regions; and as ``COCORegionText`` does.
    """
    regions, test = (COCORegionText(folder, split, min_side=MIN_SIDE, context=CONTEXT) for split in ("train", "val"))
    if most_regions:  # before any crop is cut
        regions.regions = some_images(regions.regions, most_regions)
        test.regions = some_images(test.regions, max(1, most_regions // 4))
    images = sorted({region.image_id for region in regions.regions})
    held_out = set(images[len(images) - round(len(images) * VALIDATION) :])
    parts = [
        [i for i, region in enumerate(regions.regions) if (region.image_id in held_out) is out] for out in (False, True)
    ]
    if not all(parts) or not len(test):
        counts = f"{len(parts[0])}, {len(parts[1])} and {len(test)}"
        raise InputError(f"{folder}: {counts} regions to train, validate and test on; expected some of each")
    key = f"{folder.resolve().parent.name}-{len(regions)}-{crop}-{CONTEXT}-{MIN_SIDE}"
    train, validation = (RegionViews(regions, crop, part) for part in parts)
    splits = RegionSplits(key, train, validation, RegionViews(test, crop))
    if keep_crops:
        train.precompute(("plain", "left", "right"))
        validation.precompute(("plain",))
        splits.test.precompute(("plain",))
    return splits


def some_images(regions: list[Region], most: int) -> list[Region]:
    """At most ``most`` regions in their order: those of whole images in a fixed random order, of one at least."""
    of_image: dict[int, list[Region]] = {}
    for region in regions:
        of_image.setdefault(region.image_id, []).append(region)
    images, kept, count = list(of_image), set(), 0
    for k in np.random.default_rng(0).permutation(len(images)):
        count += len(of_image[images[k]])
        if kept and count > most:
            break
        kept.add(images[k])
    return [region for region in regions if region.image_id in kept]


def regions_of(crops: RegionViews) -> list[Region]:
    """The regions that are cropped, in order."""
    return [crops.data.regions[i] for i in crops.indices]
