"""The command line: a verb parses its options, imports late, calls one function, and shows a table.

Rows go to --out, or to stdout; where rows take stdout, tables go to stderr. Errors that a user can mend are one line
on stderr and exit code 2; anything else is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from traceward.cli.frame import app, page_of, say
from traceward.cli.learn import demo, fit, train
from traceward.cli.locate import calibrate, localise
from traceward.cli.measure import evaluate, report, transfer
from traceward.cli.prepare import data, plan
from traceward.cli.publish import export
from traceward.cli.use import rerank, score, search
from traceward.environment import quieten
from traceward.errors import PausedError, TracewardError
from traceward.training.distribution import is_main

INTERRUPTED, MISUSED, PAUSED = 130, 2, 3
# Typer brings its own click or an installed one: this is the UsageError of either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

# In the order of --help.
for verb in (
    demo,
    data,
    plan,
    train,
    fit,
    score,
    rerank,
    search,
    localise,
    calibrate,
    evaluate,
    transfer,
    report,
    export,
):
    app.command()(verb)


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        code = app(list(arguments) or ["--help"], prog_name="traceward", standalone_mode=False)
    except PausedError as error:
        if is_main():
            if error.run is not None:
                say(run=error.run, report=page_of([error.run]), results=error.run / "results.json")
            typer.echo(f"traceward: paused: {error}", err=True)
        return PAUSED
    except TracewardError as error:
        from traceward.tables import error_text

        message = error_text(error)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        help_of = context.command_path if context else "traceward"
        message = f"{error.format_message().rstrip('.')}; see {help_of} --help"  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    else:
        return code if isinstance(code, int) else 0
    typer.echo(f"traceward: error: {message}", err=True)
    return MISUSED


def main() -> None:
    """The entry of the program."""
    quieten()
    sys.exit(run(sys.argv[1:]))
