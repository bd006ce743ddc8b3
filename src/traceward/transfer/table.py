"""The numbers of a matrix: for every pair of places what the reward and its rivals are worth there.

All values are recomputed from what the stages keep for each problem, so a table may be made at any time, of the pairs
that have finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceward.ablation.sharing import Part
from traceward.ablation.table import Run, estimate_of
from traceward.transfer.matrix import Matrix

SCHEMA = 1
# gain: over what costs nothing.  over_sft_logprob: over what SFT on the same demonstrations gives.
FLOORS = {"rerank": "expected_random", "localise": "chance"}
OURS, RIVAL = "reward", "sft_logprob"


@dataclass(frozen=True, slots=True)
class Pair:
    """A reward learned at one place and used at another, with one seed. needs: the parts it waits for."""

    learn: str
    use: str
    seed: int
    part: Part
    needs: tuple[Part, ...]


class MatrixTable:
    """What transfer.json holds. A cell is computed again only when another of its seeds has finished."""

    def __init__(self, matrix: Matrix, pairs: Sequence[Pair], room: Path) -> None:
        self.matrix, self.room = matrix, room
        self.parts = {part.name: part for pair in pairs for part in (*pair.needs, pair.part)}
        self.cells: dict[tuple[str, str], list[Pair]] = {}
        for pair in pairs:
            self.cells.setdefault((pair.learn, pair.use), []).append(pair)
        self.known: dict[tuple[str, ...], dict[str, Any]] = {}

    def __call__(self, failures: Mapping[str, str]) -> dict[str, Any]:
        """The table of now."""
        cells = [self._cell(learn, use, pairs) for (learn, use), pairs in self.cells.items()]
        wanted = [pair for pairs in self.cells.values() for pair in pairs]
        # Two places that sample alike are one piece of work, which is called by the first of them.
        about = {pair.part.name: f"{pair.learn} → {pair.use}, seed {pair.seed}" for pair in reversed(wanted)}
        return {
            "schema": SCHEMA,
            "matrix": self.matrix.name,
            "learn": list(self.matrix.learn),
            "use": list(self.matrix.use),
            "seeds": list(self.matrix.seeds),
            "commits": sorted({part.commit(self.room) or "" for part in self.parts.values()}),
            "wanted": len(wanted),
            "finished": sum(len(cell["seeds"]) for cell in cells),
            "cells": cells,
            "failed": [{"part": part, "pair": about.get(part), "reason": why} for part, why in failures.items()],
        }

    def _cell(self, learn: str, use: str, pairs: Sequence[Pair]) -> dict[str, Any]:
        done = [pair for pair in pairs if pair.part.found(self.room) is not None]
        key = tuple(pair.part.name for pair in done)
        if key not in self.known:
            self.known[key] = measures({pair.seed: pair.part.found(self.room) or {} for pair in done})
        return {"learn": learn, "use": use, **self.known[key]}


def measures(found: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Of what the stage `transfer` left, by seed: means over seeds with intervals over seeds and problems.

    rerank, localise: method -> value.  *_gain: reward - random pick, reward - chance, paired.  *_over_sft_logprob:
    reward - SFT log-prob, paired. localise and its differences are empty or None where nothing was wrong.
    """
    runs = {measure: _runs(found, measure) for measure in FLOORS}
    values: dict[str, Any] = {
        "seeds": list(found),
        "problems": max((len(part["rerank_by_problem"][OURS]) for part in found.values()), default=0),
        "wrong_traces": sum(part.get("localise", {}).get("traces", 0) for part in found.values()),
        "through_text": any(part["through_text"] for part in found.values()),
    }
    for measure, floor in FLOORS.items():
        by_method = runs[measure]
        values[measure] = {method: estimate_of(of) for method, of in by_method.items()}
        for name, other in (("gain", floor), (f"over_{RIVAL}", RIVAL)):
            both = OURS in by_method and other in by_method
            values[f"{measure}_{name}"] = estimate_of(by_method[OURS], minus=by_method[other]) if both else None
    return values


def _runs(found: Mapping[int, Mapping[str, Any]], measure: str) -> dict[str, dict[int, Run]]:
    """Method -> seed -> values by problem; without the seeds in which nothing was measured."""
    runs: dict[str, dict[int, Run]] = {}
    for seed, part in found.items():
        columns = dict(part.get(f"{measure}_by_problem", {}))
        weights = columns.pop("wrong_traces", None)  # localisation counts traces, reranking problems
        for method, shares in columns.items():
            runs.setdefault(method, {})[seed] = (shares, weights or [1.0] * len(shares))
    return runs
