"""``kdnb publish``: from a run to the committed notebook."""

import click

from kdnb.errors import InputError


@click.command("publish")
@click.argument("number", metavar="[NN]", required=False)
@click.option("--run", "run_folder", metavar="DIR", help="The run folder; by default the newest lite run.")
@click.option("--results", default="results", show_default=True, metavar="DIR", help="Where run folders lie.")
@click.option("--repo", metavar="OWNER/NAME", help="The course's home on GitHub: for set-up cells and badges, of all.")
def command(number: str | None, run_folder: str | None, results: str, repo: str | None) -> None:
    """Put the outputs of a run into the committed notebook, clean of widgets, progress bars and this machine.

    With --repo also, or only, tell all notebooks where the course lives.
    """
    from kdnb import course
    from kdnb.notebooks import notebooks_folder, read_notebook
    from kdnb.publish import check_shape, publish

    if not (number or repo):
        raise InputError("nothing to publish, expected the number of a notebook, or --repo owner/name")
    if number:
        path = publish(number, run_folder, results)
        click.echo(f"published: {path}")
        for problem in check_shape(read_notebook(path), path.stem[:2]):
            click.echo(f"  but: {problem}")
    if repo:
        course.set_repository(repo, notebooks_folder().parent / "pyproject.toml")
    for path in course.refresh_notebooks():
        click.echo(f"set-up, badges and links renewed: {path}")
