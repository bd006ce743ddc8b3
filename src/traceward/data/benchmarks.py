"""Sets of traces whose first errors people have marked: how a file of one is told, and what its rows hold besides.

A row is a trace row (`traces.py`) whose `source` is `NAME` or `NAME/SUBSET`; the names are those of `Benchmark`.
PRMBench rows also list `error_steps`, every wrong step from 0; verify-then-generate rows an `error_category`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from traceward.data.jsonl import Faults
from traceward.data.traces import TraceRecord


class Benchmark(StrEnum):
    """The sets that are known, by the name before the slash in `source`."""

    PROCESSBENCH = "ProcessBench"  # Zheng et al. 2024, arXiv 2412.06559
    MR_BEN = "Mr-Ben"  # Zeng et al. 2024, arXiv 2406.13975
    BIG_BENCH_MISTAKE = "BIG-Bench-Mistake"  # Tyen et al. 2023, arXiv 2311.08516
    PRMBENCH = "PRMBench"  # Song et al. 2025, arXiv 2501.03124
    MR_GSM8K = "MR-GSM8K"  # Zeng et al. 2023, arXiv 2312.17080
    VERIFY_THEN_GENERATE = "verify-then-generate"  # Daheim et al. 2024, arXiv 2407.09136


ORIGINAL = "original"  # PRMBench: the solutions before an error was put in


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a trace belongs.   error_steps: every wrong step, where the benchmark marks them all."""

    benchmark: Benchmark
    subset: str
    error_steps: tuple[int, ...] = ()


def recognise(records: Sequence[TraceRecord], path: str | Path) -> list[Entry | None]:
    """The entry of each record, None where it is of no known benchmark.

    Raises DataError naming every row whose `error_steps` are not steps of its trace or do not begin at `first_error`.
    """
    faults = Faults(path)
    found: list[Entry | None] = []
    names = {str(benchmark): benchmark for benchmark in Benchmark}
    for record in records:
        source = record.raw.get("source")
        name, _, subset = source.partition("/") if isinstance(source, str) else ("", "", "")
        if name not in names:
            found.append(None)
            continue
        benchmark = names[name]
        if benchmark is Benchmark.VERIFY_THEN_GENERATE:
            subset = str(record.raw.get("error_category") or "")
        try:
            steps = _error_steps(record) if benchmark is Benchmark.PRMBENCH else ()
        except ValueError as error:
            faults.add(record.line, "error_steps", str(error))
            steps = ()
        found.append(Entry(benchmark, subset or "all", steps))
    faults.raise_if_any()
    return found


def _error_steps(record: TraceRecord) -> tuple[int, ...]:
    listed = record.raw.get("error_steps")
    if listed is None and record.first_error in (-1, None):
        return ()
    whole = isinstance(listed, list) and all(isinstance(step, int) and not isinstance(step, bool) for step in listed)
    if not isinstance(listed, list) or not whole:
        raise ValueError(f"must be a list of whole numbers: got {listed!r}; list every wrong step, counting from 0")
    units = len(record.trace.steps) + (record.trace.answer is not None)
    if any(not 0 <= step < units for step in listed):
        raise ValueError(f"must lie between 0 and {units - 1}: got {listed}; count steps from 0")
    if min(listed, default=-1) != record.first_error:
        raise ValueError(f"must begin at first_error = {record.first_error}: got {listed}; mend one of the two")
    return tuple(sorted(set(listed)))
