"""The `kuaka` command. Thin: it parses, calls, and turns every error into one line and its exit code.

Results go to stdout, progress and everything else to stderr. Exit codes: `pipeline.errors.ExitCode`.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.errors import ExitCode, KuakaError

app = typer.Typer(
    name="kuaka",
    help="Live migration of whole fleets of virtual machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Print results as a table or as JSON.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Ray cluster to use; without it a local one is started.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, max=64, help="Worker processes per host.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Live migration of whole fleets of virtual machines."""
    if version:
        typer.echo(f"kuaka {__version__}")
        raise typer.Exit


@app.command()
def migrate(
    spec: Annotated[Path, typer.Argument(help="Spec file (YAML).")],
    output: OutputOption = Output.TABLE,
    address: AddressOption = None,
    workers: WorkersOption = 2,
) -> None:
    """Migrate every virtual machine of SPEC."""
    # Imported here: Ray takes 0.3 s, which `kuaka --help` should not.
    from pipeline.fleet.command import run_spec
    from pipeline.fleet.spec_file import load_spec
    from pipeline.show import Progress, say, show_results

    loaded = load_spec(spec)
    with Progress() as progress:
        finished = run_spec(loaded, address=address, workers=workers, on_progress=progress.update, say=say)
    code = show_results(finished, as_json=output is Output.JSON)
    _end(code, abandoned=finished.abandoned)


def main() -> None:
    """Entry point: every `KuakaError` is one line on stderr and an exit code."""
    try:
        app()
    except KuakaError as error:
        sys.stderr.write(f"kuaka: {error}\n")
        _end(error.exit_code, abandoned=False)
    except KeyboardInterrupt:
        _end(ExitCode.INTERRUPTED, abandoned=False)


def _end(code: ExitCode, *, abandoned: bool) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if abandoned:
        # Something does not answer any more, and Ray's own end would wait for it.
        os._exit(code)
    sys.exit(code)
