"""The parts of an experiment in worker processes: what has finished is kept, what fails is told, and the table of all
is rewritten on the way."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from traceward.ablation.sharing import Part, prepare
from traceward.config import DataSettings, Recipe
from traceward.data.tasks.registry import Task
from traceward.errors import RunError, TracewardError
from traceward.training.run_directory import source_commit
from traceward.workflows.inputs import load_task
from traceward.workflows.pool import Job, work
from traceward.workflows.progress import StageProgress

logger = logging.getLogger(__name__)

TABLE_EVERY = 60.0  # seconds between two tables while parts finish: the intervals take a while
SHARED = "shared"  # where parts are, below an experiment's directory

Named = tuple[Part, str]  # a part, and what tells it from its like


def each_once() -> Callable[[Recipe], Task]:
    """The task of a recipe; equal data are read once."""
    found: dict[tuple[DataSettings, int], Task] = {}

    def task_of(recipe: Recipe) -> Task:
        key = (recipe.data, recipe.run.seed)
        if key not in found:
            found[key] = load_task(recipe)
        return found[key]

    return task_of


def make_directory(directory: Path, kinds: Sequence[str], *, what: str) -> None:
    """The directory of an experiment. Raises RunError for one that holds anything else."""
    if directory.exists() and any(directory.iterdir()) and not all((directory / kind).is_dir() for kind in kinds):
        raise RunError(f"{what} directory must be new, empty or a {what}'s: got {directory}; choose a new --out")
    try:
        for kind in kinds:
            (directory / kind).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{what} directory must be writable: got '{error}'; choose another --out") from error


def work_on(
    room: Path,
    parts: Mapping[str, Named],
    *,
    workers: int,
    write: Callable[[Mapping[str, str]], None],
) -> dict[str, str]:
    """Run every part below `room` that has not finished; returns why those failed that did, by name.

    write: makes the table of what has finished, given the failures so far; it is called from time to time.
    """
    failures: dict[str, str] = {}
    written = time.monotonic()

    def begin(job: Job) -> None:
        prepare(room, parts[job.directory.name][0])

    def advance(_name: str) -> None:
        nonlocal written
        if time.monotonic() - written > TABLE_EVERY:
            write(failures)
            written = time.monotonic()

    def fail(name: str, error: Exception) -> None:
        failures[name] = str(error) if isinstance(error, TracewardError) else repr(error)
        text = failures[name] if isinstance(error, TracewardError) else "".join(traceback.format_exception(error))
        print(f"{_label(name, parts)}: {text}", file=sys.stderr)

    jobs = {name: Job(room / name, part.stage, part.waits, about) for name, (part, about) in parts.items()}
    finished = [part for name, (part, _) in parts.items() if jobs[name].done]
    _say_if_older(room, finished)
    with StageProgress(len(jobs), len(finished)) as progress:
        work(jobs, progress, workers=workers, before=begin, after=advance, failed=fail)
    return failures


def refuse_failures(failures: Mapping[str, str], parts: Mapping[str, Named], table: Path) -> None:
    """End an experiment whose stages did not all end well: a RunError that names the first."""
    for name, reason in failures.items():
        raise RunError(
            f"every stage must end well: got {len(failures)} that failed, first {_label(name, parts)}: {reason}; mend "
            f"it, or run the same command to try them again (the table of the others is in {table})"
        )


def _label(name: str, parts: Mapping[str, Named]) -> str:
    return f"{name} ({parts[name][1]})"


def _say_if_older(room: Path, parts: Sequence[Part]) -> None:
    """Finished stages are kept whatever the code is now; a table over several versions says so."""
    others = {part.commit(room) for part in parts} - {source_commit()}
    if others:
        made_by = ", ".join(sorted(commit or "no commit" for commit in others))
        logger.warning(
            "stages must be of one version of the code to compare: got finished ones by %s in %s; they are kept",
            made_by,
            room,
        )
