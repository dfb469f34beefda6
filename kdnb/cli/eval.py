"""``kdnb eval``: predictions in their official formats, scored by the official rules."""

import click

from kdnb.cli.places import new_file

JSON = click.option("--json", "json_out", metavar="FILE", callback=new_file, help="Also write the result here.")
KITTI_PREDICTIONS = (
    "<frame>.txt with 16 fields per line, the last one the score. "
    "A frame without a file counts as a frame without detections, with a warning."
)
KITTI_OVERLAP = "IoU for Car, Pedestrian, Cyclist: 0.7 0.5 0.5; loose: 0.5 0.25 0.25 in bev and 3d."
CAMVID_PREDICTIONS = "Predictions: for each label a PNG of the same name, with ids 0 to 10."


@click.group("eval")
def command() -> None:
    """Score predictions by the official rules."""


@command.command("voc")
@click.option("--devkit", required=True, metavar="DIR", help="VOCdevkit, or the folder that contains it.")
@click.option("--split", default="test", show_default=True)
@click.option("--pred", required=True, metavar="DIR", help="The folder with comp4_det_<split>_<class>.txt.")
@click.option("--metric", type=click.Choice(["07", "area"]), default="07", show_default=True)
@click.option("--year", metavar="YEAR", help="For example 2012; by default the only year there is, or 2007.")
@JSON
def eval_voc(devkit: str, split: str, pred: str, metric: str, year: str | None, json_out: str | None) -> None:
    """Average precision per class and its mean, in percent."""
    from kdnb.metrics.voc import voc_main

    voc_main(devkit, split, pred, metric, json_out, year)


@command.command("talk2car")
@click.option("--commands", required=True, metavar="FILE", help="<split>_commands.json, with boxes.")
@click.option("--pred", required=True, metavar="FILE", help="{command token: [x, y, w, h]} in 1600x900.")
@JSON
def eval_talk2car(commands: str, pred: str, json_out: str | None) -> None:
    """AP50 and related scores by the official rule, in percent, for all commands and for each kind."""
    from kdnb.metrics.grounding import talk2car_main

    talk2car_main(commands, pred, json_out)


@command.command("kitti")
@click.option("--gt", required=True, metavar="DIR", help="label_2, or a folder of <frame>.txt with 15 fields per line.")
@click.option("--pred", required=True, metavar="DIR", help=KITTI_PREDICTIONS)
@click.option(
    "--overlap", type=click.Choice(["strict", "loose"]), default="strict", show_default=True, help=KITTI_OVERLAP
)
@click.option("--frames", metavar="FILE", help="Score only the frames listed here, for example ImageSets/val.txt.")
@JSON
def eval_kitti(gt: str, pred: str, overlap: str, frames: str | None, json_out: str | None) -> None:
    """AP of 2D, bird's-eye-view and 3D boxes and of the orientation, R40 and R11, in percent.

    Like the official tool, it ignores the case of types and accepts types that are not KITTI's.
    """
    from kdnb.metrics.kitti import kitti_main

    kitti_main(gt, pred, overlap, json_out, frames)


@command.command("camvid")
@click.option(
    "--gt",
    required=True,
    metavar="DIR",
    help="A CamVid root, or a folder of labels, for example testannot: ids 0 to 10; 11 is void.",
)
@click.option("--pred", required=True, metavar="DIR", help=CAMVID_PREDICTIONS)
@JSON
def eval_camvid(gt: str, pred: str, json_out: str | None) -> None:
    """mIoU, pixel accuracy and IoU per class from one confusion matrix over all frames, in percent, without void."""
    from kdnb.metrics.camvid_read import camvid_main

    camvid_main(gt, pred, json_out)


@command.command("cars")
@click.option("--solution", required=True, metavar="CSV", help="The columns ID and label.")
@click.option("--submission", required=True, metavar="CSV", help="The columns ID and one per class; rows in any order.")
@JSON
def eval_cars(solution: str, submission: str, json_out: str | None) -> None:
    """Log loss; accuracy, top-5, macro F1 and calibration error in percent. Duplicate classes count as one."""
    from kdnb.metrics.cars_read import cars_main

    cars_main(solution, submission, json_out)
