"""`assay`: the list of commands, and what the shell and the user see when one ends."""

import importlib
import importlib.metadata
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from .exits import EXIT_CODES, Exit

COMMANDS = {
    "demo": "See what an audit does: poison real handwritten digits, find them, repair, and "
    "prove it.",
    "dataset": "Find poisoned samples in a training set, given a small set that you trust.",
    "models": "Find the model that hides a backdoor, among two or more that do the same task.",
    "training": "Let several providers train, and find the one who left the recipe.",
    "prompts": "Find out whether a prompt that somebody tuned for a CLIP hides a backdoor.",
    "report": "Render a stored run as a report; nothing is computed again.",
    "runs": "List, show and resume runs.",
    "doctor": "See whether everything that audits need is there.",
}
"""Each is the attribute of that name of the module of that name, imported when it is asked for: all
of them take seconds to import, and help should not."""

_WrongUsage: Any = typer.BadParameter.__base__
"""What typer raises on options it cannot parse; it has moved between typer's versions."""


class _Imported(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        found = getattr(importlib.import_module(f".{name}", __package__), name)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(epilog=EXIT_CODES)(found)
            found = alone
        return typer.main.get_command(found)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Imported()

    def format_commands(self, _: Any, formatter: Any) -> None:
        """Write what each is for, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run a command and exit; the user sees a line, never a traceback."""
        arguments = sys.argv[1:] if args is None else list(args)
        options["standalone_mode"] = False
        try:
            code = super().main(arguments, *rest, **options)
        except _WrongUsage as error:
            error.show()
            code = _failed(Exit.USAGE, error, arguments)
        except (KeyboardInterrupt, typer.Abort):
            code = Exit.INTERRUPTED
        except SystemExit:  # typer's answer when the reader of a pipe has gone
            code = Exit.ERROR
        except BaseException as error:  # whatever it is, the user gets a sentence
            if os.environ.get("ASSAY_DEBUG") == "1":
                raise
            code = _explained(error, arguments)
        sys.exit(code or Exit.NOTHING_FLAGGED)


def _explained(error: BaseException, arguments: Sequence[str]) -> Exit:
    from .ends import in_one_line, of_error

    if not isinstance(error, Exception):  # a panic of a library in Rust
        error = RuntimeError(f"{type(error).__name__}: {error}")
    typer.echo(f"error: {in_one_line(error)}", err=True)
    return _failed(of_error(error), error, arguments)


def _failed(code: Exit, error: Exception, arguments: Sequence[str]) -> Exit:
    if "--json" in arguments:
        from .output import write_error

        write_error(error, code)
    return code


app = typer.Typer(
    cls=_Commands,
    help="Audit outsourced machine learning for hidden backdoors.",
    epilog=f"{EXIT_CODES} Set ASSAY_DEBUG=1 to see where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"assay {importlib.metadata.version('assay')}")
        raise typer.Exit
    return wanted


@app.callback()
def _before(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Do nothing: typer wants a place for options that are not a command's."""


def main() -> None:
    """Run the command line; a polite kill counts as Ctrl-C, so that it leaves a resumable run."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
