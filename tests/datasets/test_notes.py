"""All checkers say in one way what they skipped, and end alike."""

from pathlib import Path

import pytest

from kdnb.datasets.camvid import CamVidReport
from kdnb.datasets.cars import CarsReport
from kdnb.datasets.coco import COCOReport
from kdnb.datasets.kitti_check import KittiReport
from kdnb.datasets.notes import skipped, some
from kdnb.datasets.talk2car import Talk2CarReport
from kdnb.datasets.voc import VOCReport

REPORTS = [
    CarsReport(Path("cars")),
    CamVidReport(Path("camvid"), "segnet"),
    COCOReport(Path("coco")),
    KittiReport(Path("kitti")),
    Talk2CarReport(Path("talk2car")),
    VOCReport(Path("voc")),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_every_report_ends_alike(report):
    assert report.summary().endswith("\nno faults") and "note" not in report.summary()
    report.notes, report.faults = ["DIR: skipped 1 file, in no list: a~"], ["a.txt:1: x, expected y"]
    assert report.summary().split("\n")[-3:] == [
        "note: DIR: skipped 1 file, in no list: a~",
        "a.txt:1: x, expected y",
        "1 fault",
    ]
    report.faults = report.faults * 2
    assert report.summary().endswith("\n2 faults")


def test_what_was_skipped_is_counted_and_named():
    assert skipped("DIR", ["a~"], "in no list") == "DIR: skipped 1 file, in no list: a~"
    assert skipped("DIR", ["a~"], "in no list", of=3) == "DIR: skipped 1 of 3 files, in no list: a~"
    names = [f"{k}.png" for k in range(9)]
    assert skipped("DIR", names, "no frame's", "image") == (
        "DIR: skipped 9 images, no frame's: 0.png, 1.png, 2.png, 3.png, 4.png and 4 more"
    )
    assert some([Path("a/b"), "", "x" * 99], 3) == f"a/b, (without a name), {'x' * 80}"
