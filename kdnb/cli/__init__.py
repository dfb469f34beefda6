"""The command line, one file a command: ``kdnb run | data | eval | predict | export | report | bench | publish | ...``.

Heavy imports are inside the commands, so that ``kdnb --help`` is fast.
"""

import errno
from typing import Any

import click

from kdnb.cli import bench, data, doctor, export, predict, publish, report, run
from kdnb.cli import eval as evaluate
from kdnb.errors import InputError, os_error_line

__all__ = ["main"]


class CommandLine(click.Group):
    """A group whose commands end with one line and status 1 when the input is wrong, or the system refuses a file."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"kdnb: {error}", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno == errno.EPIPE:  # who reads has seen enough: click ends quietly
                raise
            click.echo(f"kdnb: {os_error_line(error)}", err=True)
            ctx.exit(1)


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kdnb", message="kdnb %(version)s")
def main() -> None:
    """Knowledge distillation for driving perception: the course's notebooks and the tools around them."""


for module in (run, data, evaluate, predict, export, report, bench, publish, doctor):
    main.add_command(module.command)
