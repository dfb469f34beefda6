"""``kdnb report``: tables over several seeds."""

import click


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option("--out", default="report", show_default=True, metavar="PREFIX", help="Writes PREFIX.md and PREFIX.html.")
def command(folders: tuple[str, ...], out: str) -> None:
    """Merge runs of several seeds into a table with intervals and verdicts."""
    from kdnb.report import report

    markdown, page = report(folders, out)
    click.echo(markdown.read_text(encoding="utf-8"))
    click.echo(f"written: {markdown} and {page}")
