"""`traceward transfer MATRIX.toml`: every reward learned once, every place's samples made once, every pair judged.

    shared/STAGE-KEY/   a stage as a run directory of its own; see traceward.ablation.sharing
    transfer.json       the table, rewritten while pairs finish
    report.html

A stage that has finished is never run again: the same command goes on, and a changed matrix runs only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from traceward.ablation.sharing import Part, part_beside, parts_of
from traceward.ablation.work import SHARED, Named, each_once, make_directory, refuse_failures, work_on
from traceward.config import Recipe
from traceward.data.jsonl import write_json
from traceward.transfer.matrix import LEARNING, USING, Matrix, load_matrix
from traceward.transfer.table import MatrixTable, Pair
from traceward.workflows.pool import in_worker
from traceward.workflows.train import check
from traceward.workflows.transfer import LEARNED, TUNED, USED, refuse_misfits

TABLE = "transfer.json"


def run_matrix(
    path: str | Path, *, out: str | Path | None = None, seed: int | None = None, overrides: Sequence[str] = ()
) -> Path:
    """Run a matrix to its end and return its directory; transfer.json lies in it.

    Raises ConfigError or DataError before anything is trained where the input breaks a rule, and RunError at the end
    where stages failed: the table then holds the other pairs.
    """
    task_of = each_once()
    matrix = load_matrix(path, overrides, seed=seed)
    places = [*matrix.learn.values(), *matrix.use.values()]
    for recipe in (recipe for by_seed in places for recipe in by_seed.values()):
        check(recipe, task_of(recipe))
    directory = Path(out or Path("runs") / matrix.name)
    make_directory(directory, (SHARED,), what="matrix")
    parts, pairs = plan_matrix(matrix, lambda recipe: task_of(recipe).record)
    table = MatrixTable(matrix, pairs, directory / SHARED)

    def write(failures: Mapping[str, str]) -> None:
        write_json(directory / TABLE, table(failures))

    if waiting := [pair for pair in pairs if pair.part.found(directory / SHARED) is None]:
        first = matrix.seeds[0]  # no seed changes the form of test problems
        rows = {pair.learn: matrix.learn[pair.learn][first] for pair in waiting}
        in_worker(refuse_misfits, rows, {pair.use: matrix.use[pair.use][first] for pair in waiting})
    workers = max(recipe.run.workers for by_seed in places for recipe in by_seed.values())
    failures = work_on(directory / SHARED, parts, workers=workers, write=write)
    write(failures)
    refuse_failures(failures, parts, directory / TABLE)
    return directory


def plan_matrix(matrix: Matrix, data: Callable[[Recipe], Mapping[str, Any]]) -> tuple[dict[str, Named], list[Pair]]:
    """All parts by name with what tells them apart, in the order they are started: seed by seed, so that every cell has
    a value soon; and the pairs of places.

    data: the fingerprints of a recipe's data.
    """
    parts: dict[str, Named] = {}
    pairs: list[Pair] = []

    def stages_of(recipe: Recipe, wanted: Sequence[str], about: str) -> dict[str, Part]:
        found = {stage: part for stage, part in parts_of(recipe, data(recipe)).items() if stage in wanted}
        for part in found.values():
            parts.setdefault(part.name, (part, about))
        return found

    for seed in matrix.seeds:
        learned = {n: stages_of(each[seed], LEARNING, f"{n} · seed {seed}") for n, each in matrix.learn.items()}
        used = {n: stages_of(each[seed], USING, f"{n} · seed {seed}") for n, each in matrix.use.items()}
        for learn, mine in learned.items():
            for use, theirs in used.items():
                beside = {LEARNED: mine["reward"], TUNED: mine["sft"], USED: theirs["samples"]}
                part = part_beside("transfer", matrix.use[use][seed], beside)
                parts.setdefault(part.name, (part, f"{learn} → {use} · seed {seed}"))
                pairs.append(Pair(learn, use, seed, part, (*mine.values(), *theirs.values())))
    return parts, pairs
