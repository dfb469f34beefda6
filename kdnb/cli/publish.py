"""``kdnb publish``: from runs to the committed notebook, and to the evidence and tables in git."""

from pathlib import Path

import click

from kdnb.errors import InputError


@click.command("publish")
@click.argument("what", metavar="[NN | RUN...]", nargs=-1)
@click.option("--run", "run_folder", metavar="DIR", help="The run folder; by default the newest lite run.")
@click.option("--results", default="results", show_default=True, metavar="DIR", help="The folder with the run folders.")
@click.option("--evidence", is_flag=True, help="Copy the numbers of the runs RUN... to data/evidence; update tables.")
@click.option("--unfinished", is_flag=True, help="With --evidence: also runs that lack some of their arms.")
@click.option("--students", is_flag=True, help="Ship the students of the run RUN: files, card, teacher's answers.")
@click.option("--data", metavar="DIR", help="With --students: the root of the data set that the run was trained on.")
@click.option("--repo", metavar="OWNER/NAME", help="The course's repository on GitHub, for set-up cells and badges.")
def command(
    what: tuple[str, ...],
    run_folder: str | None,
    results: str,
    evidence: bool,
    unfinished: bool,
    students: bool,
    data: str | None,
    repo: str | None,
) -> None:
    """Copy the outputs of a run into the committed notebook NN, without widgets, progress bars and local paths.

    With --evidence, copy what git keeps of finished runs instead, and write the README's table of photographs. With
    --students, write the students of a run on photographs to data/students. With --repo, also (or only) write the
    repository's address into all notebooks.
    """
    from kdnb import course
    from kdnb.notebooks import notebooks_folder

    root = notebooks_folder().parent
    if not (what or repo or evidence):
        raise InputError(
            "nothing to publish, expected the number of a notebook, --evidence or --students with a run, or --repo "
            "owner/name"
        )
    if evidence and students:
        raise InputError("--evidence and --students together, expected one of them")
    if students:
        _publish_students(what, data, root)
    elif evidence:
        _publish_evidence(what, root, unfinished)
    elif len(what) > 1:
        raise InputError(f"{len(what)} notebooks to publish, expected one, or --evidence before folders of runs")
    elif what:
        _publish_notebook(what[0], run_folder, results)
    if repo:
        course.set_repository(repo, root / "pyproject.toml")
    if what and not (evidence or students) or repo:
        for path in course.refresh_notebooks():
            click.echo(f"set-up, badges and links renewed: {path}")


def _publish_notebook(number: str, run_folder: str | None, results: str) -> None:
    from kdnb.notebooks import read_notebook
    from kdnb.publish import check_shape, publish

    path = publish(number, run_folder, results)
    click.echo(f"published: {path}")
    for problem in check_shape(read_notebook(path), path.stem[:2]):
        click.echo(f"  but: {problem}")


def _publish_evidence(runs: tuple[str, ...], root: Path, unfinished: bool) -> None:
    from kdnb.evidence_files import keep, write_tables
    from kdnb.report import read_run

    for folder in keep(runs, root, unfinished):
        click.echo(f"published: {folder}")
        if str(read_run(folder).provenance.get("commit")).endswith("-dirty"):
            click.echo("  but: files differed from the commit that the run names")
    for path in write_tables(root):
        click.echo(f"written: {path}")


def _publish_students(runs: tuple[str, ...], data: str | None, root: Path) -> None:
    from kdnb.projects import find_projects
    from kdnb.report import read_run
    from kdnb.students.shipping import ship
    from kdnb.students.show import STRIP, write_photo_strip
    from kdnb.students.student import SHIPPED, kind_of

    if len(runs) != 1:
        raise InputError(f"--students with {len(runs)} runs, expected the folder of one")
    project = read_run(runs[0]).project
    paths = ship(find_projects()[kind_of(project).project].resume(runs[0], data))
    if all((SHIPPED / f"{number}_distilled.safetensors").is_file() for number, *_ in STRIP):
        paths.append(write_photo_strip(root / "notebooks" / "images" / "photographs.jpg"))
    for path in paths:
        click.echo(f"written: {path}")
