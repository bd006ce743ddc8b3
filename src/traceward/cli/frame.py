"""The application, the options that verbs share, and what stands around the work of a verb."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traceward import __version__
from traceward.environment import pin_threads
from traceward.errors import ConfigError, RunError
from traceward.training.distribution import launched
from traceward.workflows import TooLong

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED = ("train", "demo")  # the verbs whose work several launched processes divide

app = typer.Typer(
    name="traceward",
    help="Learn a reward for reasoning from worked solutions alone; train, rerank, find the first wrong step.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Reward = Annotated[Path, typer.Option(help="Directory of a saved reward.")]
Base = Annotated[str | None, typer.Option(help="Model whose log-prob is shown beside the reward.")]
Sft = Annotated[str | None, typer.Option(help="Fine-tuned model whose log-prob is shown beside the reward.")]
Rows = Annotated[Path | None, typer.Option(help="Where the rows go, .jsonl or .jsonl.gz; left out: stdout.")]
Results = Annotated[Path | None, typer.Option("--json", help="Write the table's numbers as JSON.")]
Traces = Annotated[Path, typer.Argument(help="Traces, .jsonl or .jsonl.gz.", show_default=False)]
Long = Annotated[TooLong, typer.Option(help="What to do with a trace that is longer than the model's context.")]
Policy = Annotated[str, typer.Option(help="Model directory, hub name, or builtin:stories.", show_default=False)]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"traceward {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options before the verb."""
    verb = context.invoked_subcommand
    if launched() and verb not in SHARED:
        raise ConfigError(f"traceward {verb} must run in one process: got several; launch {' or '.join(SHARED)} only")


# ---- around the verbs ------------------------------------------------------------------------------------------------


@contextmanager
def work() -> Iterator[Callable[[str, int, int], None]]:
    """The heavy part of a verb, with the progress that it may report to."""
    pin_threads()
    from traceward.tables import bars

    with bars() as progress:
        yield progress


def ready(*outputs: Path | None) -> None:
    """Tell before the work, not after it, that a result cannot be written."""
    for path in outputs:
        if path is not None and not path.absolute().parent.is_dir():
            raise RunError(f"output must go to an existing directory: got '{path}'; make its directory first")


def page_of(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of runs."""
    from traceward.report.build import build_report

    return build_report(runs, out)


def say(**paths: Path) -> None:
    """What was written, a line each."""
    for name, path in paths.items():
        typer.echo(f"{name}: {path}")
