"""``kdnb eval``: predictions in their official formats, scored by the official rules."""

import click

from kdnb.cli.places import new_file

JSON = click.option("--json", "json_out", metavar="FILE", callback=new_file, help="Also write the result here.")
KITTI_PREDICTIONS = (
    "<frame>.txt with 16 fields a line, the last the score. "
    "A frame without a file counts as one without detections, with a warning."
)
KITTI_OVERLAP = "IoU for Car, Pedestrian, Cyclist: 0.7 0.5 0.5; loose: 0.5 0.25 0.25 in bev and 3d."
CAMVID_PREDICTIONS = "Predictions: a PNG of ids 0 to 10 under each label's name."


@click.group("eval")
def command() -> None:
    """Score predictions by the official rules."""


@command.command("voc")
@click.option("--devkit", required=True, metavar="DIR", help="VOCdevkit, or the folder around it.")
@click.option("--split", default="test", show_default=True)
@click.option("--pred", required=True, metavar="DIR", help="Holds comp4_det_<split>_<class>.txt.")
@click.option("--metric", type=click.Choice(["07", "area"]), default="07", show_default=True)
@click.option("--year", metavar="YEAR", help="Such as 2012; else 2007, or the only one there.")
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
    """AP50 and its kin by the official rule, in percent, of all commands and by kind."""
    from kdnb.metrics.grounding import talk2car_main

    talk2car_main(commands, pred, json_out)


@command.command("kitti")
@click.option("--gt", required=True, metavar="DIR", help="label_2, or any folder of <frame>.txt with 15 fields a line.")
@click.option("--pred", required=True, metavar="DIR", help=KITTI_PREDICTIONS)
@click.option(
    "--overlap", type=click.Choice(["strict", "loose"]), default="strict", show_default=True, help=KITTI_OVERLAP
)
@click.option("--frames", metavar="FILE", help="Score only those listed, such as ImageSets/val.txt.")
@JSON
def eval_kitti(gt: str, pred: str, overlap: str, frames: str | None, json_out: str | None) -> None:
    """AP of 2D, bird's-eye-view and 3D boxes and of the orientation, R40 and R11, in percent.

    As officially, types compare without case, and other types than KITTI's are no fault.
    """
    from kdnb.metrics.kitti import kitti_main

    kitti_main(gt, pred, overlap, json_out, frames)


@command.command("camvid")
@click.option(
    "--gt",
    required=True,
    metavar="DIR",
    help="A CamVid root, or a folder of labels, such as testannot: ids 0 to 10, 11 is void.",
)
@click.option("--pred", required=True, metavar="DIR", help=CAMVID_PREDICTIONS)
@JSON
def eval_camvid(gt: str, pred: str, json_out: str | None) -> None:
    """mIoU, pixel accuracy and IoU per class by one confusion matrix over all frames, in percent, without void."""
    from kdnb.metrics.camvid_read import camvid_main

    camvid_main(gt, pred, json_out)


@command.command("cars")
@click.option("--solution", required=True, metavar="CSV", help="ID and label.")
@click.option("--submission", required=True, metavar="CSV", help="ID and a column per class; rows in any order.")
@JSON
def eval_cars(solution: str, submission: str, json_out: str | None) -> None:
    """Log loss, and accuracy, top-5, macro F1 and calibration error in percent; doubled classes count as one."""
    from kdnb.metrics.cars_read import cars_main

    cars_main(solution, submission, json_out)
