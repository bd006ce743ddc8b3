"""`traceward train GRID.toml`: every cell of a grid, by the stages of `traceward train` in the same worker processes.

    shared/STAGE-KEY/   a stage as a run directory of its own; see traceward.ablation.sharing
    cells/NAME/         a cell as a run directory of links, with its results.json: `traceward report` takes it
    grid.json           the table, rewritten while cells finish
    report.html

A stage that has finished is never run again: the same command goes on, and a changed grid runs only what is new.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from traceward.ablation.grid import load_grid
from traceward.ablation.sharing import Placed, link, place
from traceward.ablation.table import grid_table
from traceward.ablation.work import SHARED, Named, each_once, make_directory, refuse_failures, work_on
from traceward.data.jsonl import write_json
from traceward.data.tasks.registry import Task
from traceward.errors import ConfigError
from traceward.training.distribution import launched
from traceward.training.run_directory import RunDirectory, command_line
from traceward.workflows.results import write_results
from traceward.workflows.train import changes, check


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

    task_of = each_once()
    grid = load_grid(path, changes(data, seed, overrides), check=lambda recipe: check(recipe, task_of(recipe)))
    if launched():
        raise ConfigError("a grid must be run by one process: got several; launch `traceward train` on its recipes")
    directory = Path(out or Path("runs") / grid.name)
    make_directory(directory, (SHARED, "cells"), what="grid")
    cells = place(grid.cells, lambda recipe: task_of(recipe).record)
    parts: dict[str, Named] = {}
    for cell in cells:
        about = " · ".join([*cell.cell.labels.values(), f"seed {cell.cell.seed}"])
        for part in cell.parts.values():
            parts.setdefault(part.name, (part, about))

    def write(failures: Mapping[str, str]) -> None:
        write_json(directory / "grid.json", grid_table(grid, cells, directory / SHARED, failures))

    workers = max(cell.cell.recipe.run.workers for cell in cells)
    failures = work_on(directory / SHARED, parts, workers=workers, write=write)
    for cell in cells:
        if cell.done(directory / SHARED):
            _assemble(directory, cell, task_of(cell.cell.recipe))
    write(failures)
    refuse_failures(failures, parts, directory / "grid.json")
    return directory


def _assemble(directory: Path, placed: Placed, task: Task) -> None:
    """A finished cell as a run directory, its results gathered as those of any run."""
    run = RunDirectory(directory / "cells" / placed.name)
    wanted = placed.cell.recipe.model_dump(mode="json")
    config = run.path / "config.json"
    if (run.path / "results.json").exists() and json.loads(config.read_text(encoding="utf-8")) == wanted:
        return
    shutil.rmtree(run.path, ignore_errors=True)  # links, or another grid's cell of the same name
    link(run.path, [directory / SHARED / part.name for part in placed.parts.values()])
    write_json(config, wanted)
    run.write_manifest(command=command_line(), data=task.record, seed=placed.cell.seed)
    write_results(run, task, seconds=None)
