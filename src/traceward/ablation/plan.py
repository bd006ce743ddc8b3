"""`traceward plan` of a grid: the memory of each row, and the tokens of all stages, those that cells share once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from traceward.ablation.grid import Grid, Labels, load_grid
from traceward.ablation.sharing import place
from traceward.config import Recipe
from traceward.errors import ConfigError
from traceward.workflows.plan import RunPlan, StageTokens, make_plan


@dataclass(frozen=True, slots=True)
class Row:
    """Cells that differ by their seed alone.   seeds: how many they are.   plan: of the first."""

    labels: Labels
    seeds: int
    plan: RunPlan


@dataclass(frozen=True, slots=True)
class GridPlan:
    """A grid's plan.   parts: tokens of the stages that train, by the name of the work; equal work is there once."""

    grid: Grid
    rows: Sequence[Row]
    parts: Mapping[str, StageTokens]
    tokens_per_second: float | None

    @property
    def fullest(self) -> Row:
        """The one that needs most memory."""
        return max(self.rows, key=lambda row: row.plan.needed_gib)

    @property
    def tokens(self) -> int:
        """Of all stages that train."""
        return sum(part.tokens for part in self.parts.values())

    @property
    def hours(self) -> float | None:
        """At the stated throughput, one stage after the other; None without one."""
        return None if self.tokens_per_second is None else self.tokens / self.tokens_per_second / 3600

    def as_json(self) -> dict[str, Any]:
        """Numbers of the table, and the plan of every row."""
        return {
            "rows": [{"labels": row.labels, "seeds": row.seeds, **row.plan.as_json()} for row in self.rows],
            "needed_gib": self.fullest.plan.needed_gib,
            "stages": len(self.parts),
            "tokens": self.tokens,
            "hours": self.hours,
        }


def make_grid_plan(path: str | Path, *, overrides: Sequence[str] = (), **options: Any) -> GridPlan:
    """options: those of `make_plan`. Raises ConfigError where a row does not fit, naming it and what to change."""
    grid = load_grid(path, overrides, check=_any_data)
    rows: dict[tuple[str, ...], Row] = {}
    parts: dict[str, StageTokens] = {}
    for placed in place(grid.cells):
        labels = placed.cell.labels
        key = tuple(labels.values())
        try:
            row = rows.get(key) or Row(labels, 0, make_plan(placed.cell.recipe, **options))
        except ConfigError as error:
            raise ConfigError(f"{path}, {' · '.join(key)}: {error}") from error
        rows[key] = replace(row, seeds=row.seeds + 1)
        for stage in row.plan.stages:
            name = placed.parts[stage.stage].name
            parts[name] = max(stage, parts.get(name, stage), key=lambda one: one.tokens)
    return GridPlan(grid, [*rows.values()], parts, options.get("tokens_per_second"))


def _any_data(_recipe: Recipe) -> None:
    """A plan reads no data."""
