"""``kdnb doctor``: what this machine lacks."""

import click


@click.command("doctor")
@click.pass_context
def command(context: click.Context) -> None:
    """Check this machine: Python, packages, torch and torchvision, device, disk, memory, kernel, browser."""
    from kdnb.doctor import examine

    lines, healthy = examine()
    click.echo("\n".join(lines))
    context.exit(0 if healthy else 1)
