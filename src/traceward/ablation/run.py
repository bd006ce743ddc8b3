"""`traceward train GRID.toml`: every cell of a grid, by the stages of `traceward train` in the same worker processes.

    shared/STAGE-KEY/   a stage as a run directory of its own; see traceward.ablation.sharing
    cells/NAME/         a cell as a run directory of links, with its results.json: `traceward report` takes it
    grid.json           the table, rewritten while cells finish
    report.html

A stage that has finished is never run again: the same command goes on, and a changed grid runs only what is new.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from traceward.ablation.grid import Grid, load_grid
from traceward.ablation.sharing import Part, Placed, link, place, prepare
from traceward.ablation.table import grid_table
from traceward.config import DataSettings, Recipe, RunSettings
from traceward.data.jsonl import write_json
from traceward.data.tasks.registry import Task
from traceward.errors import ConfigError, RunError, TracewardError
from traceward.training.distribution import launched
from traceward.training.run_directory import RunDirectory, command_line, source_commit
from traceward.workflows.inputs import load_task
from traceward.workflows.pool import Job, work
from traceward.workflows.progress import StageProgress
from traceward.workflows.results import write_results
from traceward.workflows.train import changes, check

logger = logging.getLogger(__name__)

TABLE_EVERY = 60.0  # seconds between two tables while cells finish: the intervals take a while


def run_grid(
    path: str | Path,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Run a grid to its end and return its directory; grid.json lies in it.

    Raises ConfigError, DataError or RunError before anything is trained where the input breaks a rule, and RunError at
    the end where stages failed: the table then holds the other cells.
    """

    @cache
    def task_of(data: DataSettings, seed: int) -> Task:
        return load_task(Recipe(data=data, run=RunSettings(seed=seed)))

    grid = load_grid(path, changes(data, seed, overrides), check=lambda r: check(r, task_of(r.data, r.run.seed)))
    directory = _make(Path(out or Path("runs") / grid.name))
    cells = place(grid.cells, lambda recipe: task_of(recipe.data, recipe.run.seed).record)
    parts: dict[str, tuple[Part, Placed]] = {}
    for cell in cells:
        for part in cell.parts.values():
            parts.setdefault(part.name, (part, cell))
    failures: dict[str, str] = {}
    written = time.monotonic()

    def begin(job: Job) -> None:
        prepare(job.directory.parent, parts[job.directory.name][0])

    def advance(_name: str) -> None:
        nonlocal written
        if time.monotonic() - written > TABLE_EVERY:
            _write(directory, grid, cells, failures)
            written = time.monotonic()

    def fail(name: str, error: Exception) -> None:
        failures[name] = str(error) if isinstance(error, TracewardError) else repr(error)
        text = failures[name] if isinstance(error, TracewardError) else "".join(traceback.format_exception(error))
        print(f"{name}: {text}", file=sys.stderr)

    jobs = _jobs(directory / "shared", parts)
    done = sum(job.done for job in jobs.values())
    _say_if_older(directory / "shared", [part for name, (part, _) in parts.items() if jobs[name].done])
    with StageProgress(len(jobs), done) as progress:
        workers = max(cell.cell.recipe.run.workers for cell in cells)
        work(jobs, progress, workers=workers, before=begin, after=advance, failed=fail)
    for cell in cells:
        if cell.done(directory / "shared"):
            _assemble(directory, cell, task_of(cell.cell.recipe.data, cell.cell.seed))
    _write(directory, grid, cells, failures)
    if failures:
        first = next(iter(failures.items()))
        raise RunError(
            f"every stage must end well: got {len(failures)} that failed, first {first[0]}: {first[1]}; mend the grid, "
            f"or run the same command to try them again (the table of the others is in {directory / 'grid.json'})"
        )
    return directory


def _say_if_older(room: Path, parts: Sequence[Part]) -> None:
    """Finished stages are kept whatever the code is now; a table over several versions says so."""
    others = {part.commit(room) for part in parts} - {source_commit()}
    if others:
        made_by = ", ".join(sorted(commit or "no commit" for commit in others))
        logger.warning(
            "grid must be of one version of the code to compare: got finished stages by %s in %s; they are kept",
            made_by,
            room,
        )


def _make(directory: Path) -> Path:
    """The grid's directory. Raises RunError for one that holds anything else, ConfigError in a launched process."""
    if launched():
        raise ConfigError("a grid must be run by one process: got several; launch `traceward train` on its recipes")
    kinds = ("shared", "cells")
    if directory.exists() and any(directory.iterdir()) and not all((directory / kind).is_dir() for kind in kinds):
        raise RunError(f"grid directory must be new, empty or a grid's: got {directory}; choose a new --out")
    try:
        for kind in kinds:
            (directory / kind).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"grid directory must be writable: got '{error}'; choose another --out") from error
    return directory


def _jobs(room: Path, parts: dict[str, tuple[Part, Placed]]) -> dict[str, Job]:
    """A job for every part, called like it."""
    found = {}
    for name, (part, first) in parts.items():
        about = " · ".join([*first.cell.labels.values(), f"seed {first.cell.seed}"])
        found[name] = Job(room / name, part.stage, part.waits, about)
    return found


def _assemble(directory: Path, placed: Placed, task: Task) -> None:
    """A finished cell as a run directory, its results gathered as those of any run."""
    run = RunDirectory(directory / "cells" / placed.name)
    wanted = placed.cell.recipe.model_dump(mode="json")
    config = run.path / "config.json"
    if (run.path / "results.json").exists() and json.loads(config.read_text(encoding="utf-8")) == wanted:
        return
    shutil.rmtree(run.path, ignore_errors=True)  # links, or another grid's cell of the same name
    link(run.path, [directory / "shared" / part.name for part in placed.parts.values()])
    write_json(config, wanted)
    run.write_manifest(command=command_line(), data=task.record, seed=placed.cell.seed)
    write_results(run, task, seconds=None)


def _write(directory: Path, grid: Grid, cells: list[Placed], failures: dict[str, str]) -> None:
    write_json(directory / "grid.json", grid_table(grid, cells, directory / "shared", failures))
