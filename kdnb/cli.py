"""The command line: ``kdnb run | data | eval | report | bench | publish | doctor``.

Everything heavy is imported inside the commands, so that ``kdnb --help`` answers at once.
"""

import re

import click

from kdnb.errors import InputError

PROFILES = click.Choice(["smoke", "lite", "full"])


class Course(click.Group):
    """A group whose commands end with one line and status 1 when the input is wrong."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except InputError as error:
            click.echo(f"kdnb: {error}", err=True)
            context.exit(1)


@click.group(cls=Course, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kdnb", message="kdnb %(version)s")
def main():
    """Knowledge distillation for driving perception: the course's notebooks and the tools around them."""


def parse_seeds(context, option, text):
    """'0,1,2' as [0, 1, 2]."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise click.BadParameter(f"{text!r}, expected whole numbers with commas between them: 0,1,2")
    return list(dict.fromkeys(int(seed) for seed in text.split(",")))


def parse_size(context, option, text):
    """'160x128' as (160, 128), width and height."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise click.BadParameter(f"{text!r}, expected width x height in pixels: 160x128")
    return int(match[1]), int(match[2])


@main.command()
@click.argument("numbers", metavar="[NN]...", nargs=-1)
@click.option("--profile", type=PROFILES, default="lite", show_default=True)
@click.option("--seeds", default="0", show_default=True, metavar="0,1,2", callback=parse_seeds)
@click.option("--out", default="results", show_default=True, metavar="DIR", help="Where the run folders go.")
@click.option("-p", "extra", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter of the notebook.")
@click.option("--timeout", type=click.IntRange(min=1), metavar="SECONDS", help="Limit for a single cell.")
@click.pass_context
def run(context, numbers, profile, seeds, out, extra, timeout):
    """Execute notebooks (all of them, or those with the numbers NN), one at a time."""
    from kdnb import notebooks
    from kdnb.report import summary_table

    extra = {name: notebooks.parse_parameter(name, value) for name, value in extra}
    out = extra.get("RESULTS") or out
    paths = notebooks.find_notebooks(numbers)
    if not paths:
        raise InputError(f"no notebooks in {notebooks.notebooks_folder()}, expected NN_name.ipynb")
    steps = notebooks.plan(paths, profile, seeds, out, extra)
    executions = [notebooks.execute(path, parameters, out, timeout) for path, parameters in steps]
    click.echo("\n" + summary_table(executions))
    failures = [done for done in executions if done.error]
    for done in failures:
        click.echo(
            f"\n{done.name}, {done.profile}, seed {done.seed} failed; kept as {done.notebook}\n{done.error}", err=True
        )
    context.exit(1 if failures else 0)


# --- data -------------------------------------------------------------------------------------------------------


@main.group()
def data():
    """Make, check or download a data set in its official layout."""


@data.group("make")
def data_make():
    """Draw a data set."""


@data_make.command("voc")
@click.option("--out", required=True, metavar="DIR", help="Gets VOCdevkit/VOC2007/ inside.")
@click.option("--train", type=click.IntRange(min=1), default=800, show_default=True, help="Images in trainval.")
@click.option("--test", type=click.IntRange(min=1), default=150, show_default=True, help="Images in test.")
@click.option("--size", default="160x128", show_default=True, metavar="WxH", callback=parse_size)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def data_make_voc(out, train, test, size, seed):
    """Draw street scenes as a PASCAL VOC devkit."""
    from kdnb.world.export_voc import export_voc

    click.echo(f"drawn: {export_voc(out, train, test, size, seed) or out}")


@data_make.command("coco")
@click.option("--out", required=True, metavar="DIR", help="A new folder; gets annotations/, train2017/ and val2017/.")
@click.option("--train", type=click.IntRange(min=1), default=600, show_default=True, help="Pictures in train2017.")
@click.option("--val", type=click.IntRange(min=1), default=200, show_default=True, help="Pictures in val2017.")
@click.option("--size", default="192x144", show_default=True, metavar="WxH", callback=parse_size)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def data_make_coco(out, train, val, size, seed):
    """Draw street scenes as a COCO 2017 set, with masks and captions."""
    from kdnb.world.export_coco import export_coco

    click.echo(f"drawn: {export_coco(out, train, val, size, seed)}")


@data_make.command("talk2car")
@click.option("--out", required=True, metavar="DIR", help="Gets commands/, images/ and centernet_bboxes.json inside.")
@click.option("--train", type=click.IntRange(min=1), default=480, show_default=True, help="Pictures in train.")
@click.option("--val", type=click.IntRange(min=1), default=80, show_default=True, help="Pictures in val.")
@click.option("--test", type=click.IntRange(min=1), default=140, show_default=True, help="Pictures in test.")
@click.option("--size", default="320x180", show_default=True, metavar="WxH", callback=parse_size)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def data_make_talk2car(out, train, val, test, size, seed):
    """Draw street scenes with commands that mean one thing, as Talk2Car."""
    from kdnb.world.export_talk2car import export_talk2car

    click.echo(f"drawn: {export_talk2car(out, train, val, test, size, seed=seed)}")


@data_make.command("kitti")
@click.option("--out", required=True, metavar="DIR", help="A new folder; gets training/, testing/ and ImageSets/.")
@click.option("--train", type=click.IntRange(min=1), default=300, show_default=True, help="Frames in train.")
@click.option("--val", type=click.IntRange(min=1), default=40, show_default=True, help="Frames in val.")
@click.option("--test", type=click.IntRange(min=1), default=60, show_default=True, help="Frames in test.")
@click.option("--size", default="828x250", show_default=True, metavar="WxH", callback=parse_size)
@click.option("--beams", type=click.IntRange(min=2), default=32, show_default=True, help="Of the LiDAR, KITTI: 64.")
@click.option(
    "--sector",
    type=click.FloatRange(20, 180),
    default=45,
    show_default=True,
    help="Degrees the LiDAR turns to either side; 180 is a whole scan.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def data_make_kitti(out, train, val, test, size, beams, sector, seed):
    """Draw drives along the street as KITTI object: images, LiDAR, calibration, labels."""
    from kdnb.world.export_kitti import export_kitti

    click.echo(f"drawn: {export_kitti(out, train, val, test, size, beams, sector, seed)}")


@data_make.command("camvid")
@click.option("--out", required=True, metavar="DIR", help="A new folder; gets images, labels and the lists of splits.")
@click.option("--train", type=click.IntRange(min=1), default=500, show_default=True, help="Frames in train.")
@click.option("--val", type=click.IntRange(min=1), default=60, show_default=True, help="Frames in val.")
@click.option("--test", type=click.IntRange(min=1), default=100, show_default=True, help="Frames in test.")
@click.option("--size", default="160x120", show_default=True, metavar="WxH", callback=parse_size)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--layout",
    type=click.Choice(["segnet", "colour"]),
    default="segnet",
    show_default=True,
    help="Ids of 11 classes as SegNet's release, or the original's colours of 32.",
)
def data_make_camvid(out, train, val, test, size, seed, layout):
    """Draw drives through a town as CamVid: images and a class for every pixel."""
    from kdnb.world.export_camvid import export_camvid

    click.echo(f"drawn: {export_camvid(out, train, val, test, size, seed, layout)}")


@data_make.command("cars")
@click.option("--out", required=True, metavar="DIR", help="A new folder; gets train/, test/ and the CSV files.")
@click.option("--train", type=click.IntRange(min=5), default=50, show_default=True, help="Images of each model.")
@click.option("--test", type=click.IntRange(min=1), default=1000, show_default=True, help="Images in test.")
@click.option("--size", default="128x96", show_default=True, metavar="WxH", callback=parse_size, help="At most.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def data_make_cars(out, train, test, size, seed):
    """Draw cars of 24 models close by, as the competition on used cars (Dacon 236493)."""
    from kdnb.world.export_cars import export_cars

    click.echo(f"drawn: {export_cars(out, train, test, size, seed)}")


@data.group("check")
def data_check():
    """Read a data set and report counts and faults."""


@data_check.command("voc")
@click.argument("folder", metavar="DIR")
@click.pass_context
def data_check_voc(context, folder):
    """Count the objects per class of a VOC devkit and name every fault with file and line."""
    from kdnb.datasets.voc import check_voc

    report = check_voc(folder)
    click.echo(report.summary())
    context.exit(1 if report.faults else 0)


@data_check.command("coco")
@click.argument("folder", metavar="DIR")
@click.pass_context
def data_check_coco(context, folder):
    """Count the instances per category of a COCO root and name every fault with file and key."""
    from kdnb.datasets.coco import check_coco

    report = check_coco(folder)
    click.echo(report.summary())
    context.exit(1 if report.faults else 0)


@data_check.command("talk2car")
@click.argument("folder", metavar="DIR")
@click.pass_context
def data_check_talk2car(context, folder):
    """Count commands, pictures and proposals of a Talk2Car folder and name every fault with file and command."""
    from kdnb.datasets.talk2car import check_talk2car

    report = check_talk2car(folder)
    click.echo(report.summary())
    context.exit(1 if report.faults else 0)


@data_check.command("kitti")
@click.argument("folder", metavar="DIR")
@click.pass_context
def data_check_kitti(context, folder):
    """Count frames, objects and those that count per class and difficulty of a KITTI root, and name every fault."""
    from kdnb.datasets.kitti_check import check_kitti

    report = check_kitti(folder)
    click.echo(report.summary())
    context.exit(1 if report.faults else 0)


@data_check.command("camvid")
@click.argument("folder", metavar="DIR")
@click.pass_context
def data_check_camvid(context, folder):
    """Count pixels and frames per class of a CamVid root (or KITTI semantic) and name every fault with its pixel."""
    from kdnb.datasets.camvid import check_camvid

    report = check_camvid(folder)
    click.echo(report.summary())
    context.exit(1 if report.faults else 0)


@data_check.command("cars")
@click.argument("folder", metavar="DIR")
@click.pass_context
def data_check_cars(context, folder):
    """Count the images per class of a competition's folder (or open.zip) and name every fault with its file."""
    from kdnb.datasets.cars import check_cars

    report = check_cars(folder)
    click.echo(report.summary())
    context.exit(1 if report.faults else 0)


@data.group("get")
def data_get():
    """Download a real data set from its makers."""


@data_get.command("voc")
@click.option("--out", required=True, metavar="DIR")
def data_get_voc(out):
    """Download VOC2007 and VOC2012 (2.8 GB) and unpack them; a second call resumes."""
    from kdnb.datasets.voc import download_voc

    click.echo(f"ready: {download_voc(out)}")


@data_get.command("coco")
@click.option("--out", required=True, metavar="DIR")
def data_get_coco(out):
    """Download COCO 2017 train, val and annotations (19 GB) and unpack them; a second call resumes."""
    from kdnb.datasets.coco import download_coco

    click.echo(f"ready: {download_coco(out)}")


# --- eval, report, bench ----------------------------------------------------------------------------------------


@main.group("eval")
def evaluate():
    """Score detections by the official rules."""


@evaluate.command("voc")
@click.option("--devkit", required=True, metavar="DIR", help="VOCdevkit, or the folder around it.")
@click.option("--split", default="test", show_default=True)
@click.option("--pred", required=True, metavar="DIR", help="Holds comp4_det_<split>_<class>.txt.")
@click.option("--metric", type=click.Choice(["07", "area"]), default="07", show_default=True)
@click.option("--json", "json_out", metavar="FILE", help="Also write the result here.")
def eval_voc(devkit, split, pred, metric, json_out):
    """Average precision per class and its mean, in percent."""
    from kdnb.metrics.voc import voc_main

    voc_main(devkit, split, pred, metric, json_out)


@evaluate.command("talk2car")
@click.option("--commands", required=True, metavar="FILE", help="<split>_commands.json, with boxes.")
@click.option("--pred", required=True, metavar="FILE", help="{command token: [x, y, w, h]} in 1600x900.")
@click.option("--json", "json_out", metavar="FILE", help="Also write the result here.")
def eval_talk2car(commands, pred, json_out):
    """AP50 and its kin by the official rule, in percent, of all commands and by kind."""
    from kdnb.metrics.grounding import talk2car_main

    talk2car_main(commands, pred, json_out)


@evaluate.command("kitti")
@click.option("--gt", required=True, metavar="DIR", help="label_2, or any folder of <frame>.txt with 15 fields a line.")
@click.option(
    "--pred",
    required=True,
    metavar="DIR",
    help="<frame>.txt with 16 fields a line, the last the score. "
    "A frame without a file counts as one without detections, with a warning.",
)
@click.option(
    "--overlap",
    type=click.Choice(["strict", "loose"]),
    default="strict",
    show_default=True,
    help="IoU for Car, Pedestrian, Cyclist: 0.7 0.5 0.5; loose: 0.5 0.25 0.25 in bev and 3d.",
)
@click.option("--frames", metavar="FILE", help="Score only those listed, such as ImageSets/val.txt.")
@click.option("--json", "json_out", metavar="FILE", help="Also write the result here.")
def eval_kitti(gt, pred, overlap, frames, json_out):
    """AP of 2D, bird's-eye-view and 3D boxes and of the orientation, R40 and R11, in percent.

    As officially, types compare without case, and other types than KITTI's are no fault.
    """
    from kdnb.metrics.kitti import kitti_main

    kitti_main(gt, pred, overlap, json_out, frames)


@evaluate.command("camvid")
@click.option("--gt", required=True, metavar="DIR", help="Labels, such as testannot: ids 0 to 10, 11 is void.")
@click.option("--pred", required=True, metavar="DIR", help="Predictions: a PNG of ids 0 to 10 under each label's name.")
@click.option("--json", "json_out", metavar="FILE", help="Also write the result here.")
def eval_camvid(gt, pred, json_out):
    """mIoU, pixel accuracy and IoU per class by one confusion matrix over all frames, in percent, without void."""
    from kdnb.metrics.camvid_read import camvid_main

    camvid_main(gt, pred, json_out)


@evaluate.command("cars")
@click.option("--solution", required=True, metavar="CSV", help="ID and label.")
@click.option("--submission", required=True, metavar="CSV", help="ID and a column per class; rows in any order.")
@click.option("--json", "json_out", metavar="FILE", help="Also write the result here.")
def eval_cars(solution, submission, json_out):
    """Log loss, and accuracy, top-5, macro F1 and calibration error in percent; doubled classes count as one."""
    from kdnb.metrics.cars_read import cars_main

    cars_main(solution, submission, json_out)


@main.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option("--out", default="report", show_default=True, metavar="PREFIX", help="Writes PREFIX.md and PREFIX.html.")
def report_command(folders, out):
    """Merge runs of several seeds into a table with intervals and verdicts."""
    from kdnb.report import report

    markdown, page = report(folders, out)
    click.echo(markdown.read_text(encoding="utf-8"))
    click.echo(f"written: {markdown} and {page}")


@main.command()
@click.argument("number", metavar="[NN]", default="03")
def bench(number):
    """Time a plain training step against a distilling one, with a live and with a cached teacher."""
    if number.zfill(2) not in ("01", "03"):
        raise InputError(f"no bench for {number!r}, expected 01 or 03")
    from kdnb.projects import coco_bench, voc_bench

    click.echo((coco_bench if number.zfill(2) == "01" else voc_bench).bench_table())


# --- publish, doctor --------------------------------------------------------------------------------------------


@main.command()
@click.argument("number", metavar="[NN]", required=False)
@click.option("--run", "run_folder", metavar="DIR", help="The run folder; by default the newest lite run.")
@click.option("--results", default="results", show_default=True, metavar="DIR", help="Where run folders lie.")
@click.option("--repo", metavar="OWNER/NAME", help="The course's home on GitHub: for set-up cells and badges, of all.")
def publish(number, run_folder, results, repo):
    """Put the outputs of a run into the committed notebook, clean of widgets, progress bars and this machine.

    With --repo also, or only, tell all notebooks where the course lives.
    """
    from kdnb import course
    from kdnb.notebooks import notebooks_folder, read_notebook
    from kdnb.publish import check_shape
    from kdnb.publish import publish as publish_notebook

    if not (number or repo):
        raise InputError("nothing to publish, expected the number of a notebook, or --repo owner/name")
    if number:
        path = publish_notebook(number, run_folder, results)
        click.echo(f"published: {path}")
        for problem in check_shape(read_notebook(path), path.stem[:2]):
            click.echo(f"  but: {problem}")
    if repo:
        course.set_repository(repo, notebooks_folder().parent / "pyproject.toml")
    for path in course.refresh_notebooks():
        click.echo(f"set-up, badges and links renewed: {path}")


@main.command()
@click.pass_context
def doctor(context):
    """Check this machine: Python, packages, torch and torchvision, device, disk, memory, kernel, browser."""
    from kdnb.doctor import examine

    lines, healthy = examine()
    click.echo("\n".join(lines))
    context.exit(0 if healthy else 1)


if __name__ == "__main__":
    main()
