"""``kdnb data make | check | get``: data sets in their official layouts. Each command comes from a line of a table."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
from click import Argument, Choice, Command, FloatRange, IntRange, Option


def parse_size(context: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    """'160x128' as (160, 128), width and height in pixels."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"{text!r}, expected width x height in pixels: 160x128")
    return int(width), int(height)


# --- options ----------------------------------------------------------------------------------------------------


def option(name: str, default: Any, help: str | None = None, **more: Any) -> Option:
    return Option([name, *more.pop("also", [])], default=default, show_default=True, help=help, **more)


def out(help: str | None = None) -> Option:
    return Option(["--out"], required=True, metavar="DIR", help=help)


def count(split: str, default: int, help: str, lowest: int = 1, **more: Any) -> Option:
    return option(f"--{split}", default, help, type=IntRange(min=lowest), **more)


def size(default: str, help: str | None = None) -> Option:
    return option("--size", default, help, metavar="WxH", callback=parse_size)


SEED = option("--seed", 0, type=IntRange(min=0))
BEAMS = option("--beams", 32, "Beams of the LiDAR; KITTI has 64.", type=IntRange(min=2))
SECTOR = option(
    "--sector", 45, "Degrees that the LiDAR scans to either side; 180 is a full circle.", type=FloatRange(20, 180)
)
LAYOUTS = "Ids of 11 classes like SegNet's release, or colours of 32 classes like the original release."
LAYOUT = option("--layout", "segnet", LAYOUTS, type=Choice(["segnet", "colour"]))

# --- tables -----------------------------------------------------------------------------------------------------

# Data set, help, options: those of kdnb.world.export_<name>.export_<name>.
MAKE: list[tuple[str, str, list[Option]]] = [
    (
        "voc",
        "Render street scenes as a PASCAL VOC devkit.",
        [
            out("The folder in which to create VOCdevkit/VOC2007/."),
            count("train", 800, "Images in trainval."),
            count("test", 150, "Images in test."),
            size("160x128"),
            SEED,
        ],
    ),
    (
        "coco",
        "Render street scenes as a COCO 2017 data set, with masks and captions.",
        [
            out("A new folder for annotations/, train2017/ and val2017/."),
            count("train", 600, "Images in train2017."),
            count("val", 200, "Images in val2017."),
            size("192x144"),
            SEED,
        ],
    ),
    (
        "talk2car",
        "Render street scenes with commands that each mean one object, in the layout of Talk2Car.",
        [
            out("The folder in which to create commands/, images/ and centernet_bboxes.json."),
            count("train", 480, "Images in train."),
            count("val", 80, "Images in val."),
            count("test", 140, "Images in test."),
            size("320x180"),
            SEED,
        ],
    ),
    (
        "kitti",
        "Render drives along the street in the layout of KITTI object: images, LiDAR, calibration, labels.",
        [
            out("A new folder for training/, testing/ and ImageSets/."),
            count("train", 300, "Frames in train."),
            count("val", 40, "Frames in val."),
            count("test", 60, "Frames in test."),
            size("828x250"),
            BEAMS,
            SECTOR,
            SEED,
        ],
    ),
    (
        "camvid",
        "Render drives through a town in the layout of CamVid: images, and a class for every pixel.",
        [
            out("A new folder for the images, labels and lists of splits."),
            count("train", 500, "Frames in train."),
            count("val", 60, "Frames in val."),
            count("test", 100, "Frames in test."),
            size("160x120"),
            SEED,
            LAYOUT,
        ],
    ),
    (
        "cars",
        "Render close-ups of cars of 24 models in the layout of the competition on used cars (Dacon 236493).",
        [
            out("A new folder for train/, test/ and the CSV files."),
            count("train", 50, "Images per model.", lowest=5, also=["train_per_class"]),
            count("test", 1000, "Images in test."),
            size("128x96", "The largest size."),
            SEED,
        ],
    ),
]

# Data set, the function that checks it, help.
CHECK = [
    ("voc", "voc:check_voc", "Count the objects per class of a VOC devkit and name every fault with file and line."),
    (
        "coco",
        "coco:check_coco",
        "Count the instances per category of a COCO root and name every fault with file and key.",
    ),
    (
        "talk2car",
        "talk2car:check_talk2car",
        "Count commands, images and proposals of a Talk2Car folder and name every fault with file and command.",
    ),
    (
        "kitti",
        "kitti_check:check_kitti",
        "Count frames, objects, and objects per class and difficulty of a KITTI root, and name every fault.",
    ),
    (
        "camvid",
        "camvid:check_camvid",
        "Count pixels and frames per class of a CamVid root (or KITTI semantic) and name every fault with its pixel.",
    ),
    (
        "cars",
        "cars:check_cars",
        "Count the images per class of a competition's folder (or open.zip) and name every fault with its file.",
    ),
]

# Data set, the function that downloads it, help.
GET = [
    ("voc", "voc:download_voc", "Download VOC2007 and VOC2012 (2.8 GB) and unpack them; a second call resumes."),
    (
        "coco",
        "coco:download_coco",
        "Download COCO 2017 train, val and annotations (19 GB) and unpack them; a second call resumes.",
    ),
    (
        "camvid",
        "camvid:download_camvid",
        "Download CamVid as SegNet released it (GitHub, not verified: prints the SHA-256) and unpack it as CamVid/.",
    ),
    (
        "kitti-sample",
        "get_kitti:download_kitti_sample",
        "Download ten frames of KITTI object, 30 MB of the official archives (CC BY-NC-SA 3.0, not verified: prints "
        "the SHA-256).",
    ),
]


# --- commands ---------------------------------------------------------------------------------------------------


def load(place: str) -> Callable[..., Any]:
    """The function of 'kdnb.datasets.voc:check_voc'; imported when its command runs."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def make_command(name: str, help: str, options: list[Option]) -> Command:
    def callback(out: str, **choices: Any) -> None:
        folder = load(f"kdnb.world.export_{name}:export_{name}")(out, **choices)
        click.echo(f"rendered: {folder}")

    return Command(name, callback=callback, params=list(options), help=help)


def check_command(name: str, place: str, help: str) -> Command:
    @click.pass_context
    def callback(context: click.Context, folder: str) -> None:
        report = load(f"kdnb.datasets.{place}")(folder)
        click.echo(report.summary())
        context.exit(1 if report.faults else 0)

    return Command(name, callback=callback, params=[Argument(["folder"], metavar="DIR")], help=help)


def get_command(name: str, place: str, help: str) -> Command:
    def callback(out: str) -> None:
        click.echo(f"ready: {load(f'kdnb.datasets.{place}')(out)}")

    return Command(name, callback=callback, params=[out()], help=help)


make = click.Group("make", help="Render a data set.", commands=[make_command(*line) for line in MAKE])
check = click.Group(
    "check", help="Read a data set and report counts and faults.", commands=[check_command(*line) for line in CHECK]
)
get = click.Group(
    "get", help="Download a real data set from its official site.", commands=[get_command(*line) for line in GET]
)
command = click.Group(
    "data", help="Render, check or download a data set in its official layout.", commands=[make, check, get]
)
