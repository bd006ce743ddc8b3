"""The table of a grid: a row for every policy of every combination, its measures over seeds, and differences of rows.

All values are recomputed from what the stages keep for each problem, so a table may be made at any time, of the cells
that have finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from traceward.ablation.grid import ARM, BEST, MEASURES, Grid, Labels
from traceward.ablation.sharing import Placed
from traceward.evaluation.statistics import Estimate, over_seeds
from traceward.workflows.results import policy_part

SCHEMA = 1

Run: TypeAlias = tuple[Sequence[float], Sequence[float]]  # numerators and denominators, one per problem


@dataclass(frozen=True, slots=True)
class Row:
    """labels: axis -> point, and the arm; an axis on which nothing of the row depends is left out.

    runs: measure -> seed -> its values by problem.   judge: whose reranking and localisation stands in the row.
    """

    labels: Labels
    judge: str | None
    problems: tuple[Any, ...]
    cells: Mapping[int, str]
    runs: Mapping[str, Mapping[int, Run]]
    values: Mapping[str, Estimate]

    def answers_to(self, name: str) -> bool:
        """Whether `name` is a label of the row."""
        return name in self.labels.values()


def grid_table(grid: Grid, cells: Sequence[Placed], room: Path, failures: Mapping[str, str]) -> dict[str, Any]:
    """Everything that grid.json holds. Rows stand from the highest `sort` down, those without a value last."""
    found = rows(cells, room)
    sort = grid.settings.sort
    found.sort(key=lambda row: -row.values[sort].value if sort in row.values else float("inf"))
    measures = tuple(dict.fromkeys((sort, *grid.settings.measures)))
    return {
        "schema": SCHEMA,
        "grid": grid.name,
        "axes": {name: list(points) for name, points in grid.axes.items()},
        "measures": list(measures),
        "sort": sort,
        "commits": sorted({part.commit(room) or "" for cell in cells for part in cell.parts.values()}),
        "cells": len(cells),
        "finished": sum(cell.done(room) for cell in cells),
        "rows": [_row_as_json(row) for row in found],
        "differences": differences(found, grid.settings.compare, sort=sort),
        "removed": [{"labels": one.labels, "reason": one.reason} for one in grid.removed],
        "failed": [{"part": name, "reason": reason} for name, reason in failures.items()],
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "labels": row.labels,
        "judge": row.judge,
        "seeds": list(row.cells),
        "cells": list(row.cells.values()),
        "values": {name: _as_json(value, row.runs[name]) for name, value in row.values.items()},
    }


def estimate_of(runs: Mapping[int, Run], *, minus: Mapping[int, Run] | None = None) -> dict[str, Any]:
    """The mean over seeds, or of the paired difference, with its interval and what it is for each seed."""
    others = None if minus is None else [minus[seed] for seed in runs]
    return _as_json(over_seeds(list(runs.values()), minus=others, seed=0), runs, minus)


def _as_json(value: Estimate, runs: Mapping[int, Run], minus: Mapping[int, Run] | None = None) -> dict[str, Any]:
    by_seed = [_ratio(run) - (0.0 if minus is None else _ratio(minus[seed])) for seed, run in runs.items()]
    return {**_interval(value), "by_seed": by_seed}


def _interval(value: Estimate) -> dict[str, float]:
    return {"value": value.value, "low": value.low, "high": value.high, "seeds": value.n}


def _ratio(run: Run) -> float:
    return sum(run[0]) / sum(run[1])


def rows(cells: Sequence[Placed], room: Path) -> list[Row]:
    """A row for each policy of each combination of labels, as far as its seeds have finished.

    Policies that are the same work in several combinations are one row, without the labels that differ.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[int, tuple[Placed, str]]] = {}
    for cell in cells:
        for arm, stage in _policies(cell):
            key = (*cell.cell.labels.items(), (ARM, arm))
            groups.setdefault(key, {})[cell.cell.seed] = (cell, stage)
    same: dict[tuple[tuple[int, str], ...], list[tuple[tuple[str, str], ...]]] = {}
    for key, by_seed in groups.items():
        same.setdefault(tuple((seed, cell.parts[stage].name) for seed, (cell, stage) in by_seed.items()), []).append(
            key
        )
    found = []
    for keys in same.values():
        shared = set(keys[0]).intersection(*keys[1:])
        labels = {axis: label for axis, label in keys[0] if (axis, label) in shared}
        found.append(_row(labels, {seed: _Read(*where, room) for seed, where in groups[keys[0]].items()}))
    return [row for row in found if row.values]


def _policies(placed: Placed) -> list[tuple[str, str]]:
    """(arm, the stage that measures it); a cell without arms has one row, of its reward."""
    arms = [str(arm) for arm in placed.cell.recipe.run.arms]
    named = [(name, next(s for s in placed.parts if s.replace(":", "-") == policy_part(name))) for name in arms]
    return [*named, ("base", "measure:base")] if arms else [("reward only", "reward")]


@dataclass(frozen=True, slots=True)
class _Read:
    """The policy of one cell, and what the stages found of it."""

    cell: Placed
    stage: str
    room: Path

    @property
    def judge(self) -> str | None:
        """Whose scores go with the policy: of the reward it was trained by; or its own."""
        part, reward = self.cell.parts[self.stage], self.cell.parts["reward"]
        if reward.name in (part.name, *part.inputs):
            return "reward"
        return {"measure:base": "base_logprob", "measure:sft": "sft_logprob"}.get(self.stage)

    def part(self, stage: str) -> dict[str, Any]:
        """A stage's part; empty before it has finished."""
        return self.cell.parts[stage].found(self.room) or {}

    def runs(self) -> dict[str, Run]:
        """Measure -> values by problem, of what is there."""
        found: dict[str, Run] = {}
        measured = self.part(self.stage)
        for prefix, values in (("", measured), ("validation_", measured.get("validation", {}))):
            for name in ("pass_at_1", "greedy"):
                if shares := values.get(f"{name}_by_problem"):
                    found[prefix + name] = (shares, [1.0] * len(shares))
        judged, judge = self.part("judge"), self.judge
        if shares := judged.get("rerank_by_problem", {}).get(judge):
            found["rerank"] = (shares, [1.0] * len(shares))
        hits = judged.get("localise_by_problem", {})
        if judge in hits:
            found["localise"] = (hits[judge], hits["wrong_traces"])
        auroc = self.part("reward").get("held_out_auroc") if judge == "reward" else None
        return found if auroc is None else {**found, "held_out_auroc": ([auroc], [1.0])}


def _row(labels: Labels, reads: Mapping[int, _Read]) -> Row:
    by_seed = {seed: read.runs() for seed, read in reads.items()}
    runs = {m: {seed: found[m] for seed, found in by_seed.items() if m in found} for m in MEASURES}
    first = next(iter(reads.values()))
    data = first.cell.cell.recipe.data
    return Row(
        labels=labels,
        judge=first.judge,
        problems=(data.task, data.path, data.validation, data.test),
        cells={seed: read.cell.name for seed, read in reads.items() if by_seed[seed]},
        runs=runs,
        values={m: over_seeds(list(found.values()), seed=0) for m, found in runs.items() if found},
    )


def differences(found: Sequence[Row], compare: Sequence[tuple[str, str]], *, sort: str) -> list[dict[str, Any]]:
    """a - b for every pair of rows that answer to a pair of names and agree on all other labels that both have."""
    pairs: list[tuple[Row, Row]] = []
    for a, b in compare:
        for right in (row for row in found if row.answers_to(b)):
            lefts = [row for row in found if _comparable(row, right, (a, b))]
            named = [row for row in lefts if row.answers_to(a)]
            if not named and a == BEST:
                able = [row for row in lefts if row.judge == "reward" and sort in row.values]
                named = sorted(able, key=lambda row: -row.values[sort].value)[:1]
            pairs += [(left, right) for left in named]
    return [_difference(left, right) for left, right in pairs]


def _comparable(left: Row, right: Row, names: tuple[str, str]) -> bool:
    a, b = names
    shared = left.labels.keys() & right.labels.keys()
    # Whatever the rows are picked by may differ; the best of several may have any arm and any labels of its own.
    free = {axis for axis in shared if left.labels[axis] == a or right.labels[axis] == b}
    agree = all(left.labels[axis] == right.labels[axis] for axis in shared - free)
    return left is not right and left.problems == right.problems and agree


def _difference(left: Row, right: Row) -> dict[str, Any]:
    values = {}
    for measure in left.values.keys() & right.values.keys():
        seeds = [seed for seed in left.runs[measure] if seed in right.runs[measure]]
        if seeds:
            ours, theirs = ([row.runs[measure][seed] for seed in seeds] for row in (left, right))
            values[measure] = _interval(over_seeds(ours, minus=theirs, seed=0))
    return {"a": left.labels, "b": right.labels, "values": values}
