"""`assay`: the list of commands, and what the shell and the user see when one ends."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from .dataset import dataset
from .demo import demo
from .doctor import doctor
from .ends import EXIT_CODES, Exit, in_one_line, of_error
from .models import models
from .output import say, write_error
from .prompts import prompts
from .report import report
from .runs import runs
from .training import training

_WrongUsage: Any = typer.BadParameter.__base__
"""What typer raises on options it cannot parse; it has moved between typer's versions."""


class _Commands(TyperGroup):
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
        except Exception as error:  # whatever it is, the user gets a sentence
            if os.environ.get("ASSAY_DEBUG") == "1":
                raise
            say(f"error: {in_one_line(error)}")
            code = _failed(of_error(error), error, arguments)
        sys.exit(code or Exit.NOTHING_FLAGGED)


def _failed(code: Exit, error: Exception, arguments: Sequence[str]) -> Exit:
    if "--json" in arguments:
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
for command in (demo, dataset, models, prompts, report, doctor):
    app.command(epilog=EXIT_CODES)(command)
app.add_typer(training)
app.add_typer(runs)


def main() -> None:
    """Run the command line; a polite kill counts as Ctrl-C, so that it leaves a resumable run."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
