"""Rows of our own in the layout of the sets that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward.data.benchmarks import Benchmark, Entry, recognise
from traceward.data.traces import read_traces
from traceward.errors import DataError

STEPS = ["Two pens and two pens are five pens.", "Five pens cost ten."]
ROW: dict[str, Any] = {"id": "x", "question": "What do two and two pens cost?", "steps": STEPS, "first_error": 0}
ROWS: list[tuple[dict[str, Any], Entry | None]] = [
    ({"source": "ProcessBench/gsm8k", "generator": "m"}, Entry(Benchmark.PROCESSBENCH, "gsm8k")),
    ({"source": "Mr-Ben/medicine", "subject": "s"}, Entry(Benchmark.MR_BEN, "medicine")),
    (
        {"source": "BIG-Bench-Mistake/word_sorting", "instruction": "Sort."},
        Entry(Benchmark.BIG_BENCH_MISTAKE, "word_sorting"),
    ),
    ({"source": "PRMBench/circular", "error_steps": [1, 0]}, Entry(Benchmark.PRMBENCH, "circular", (0, 1))),
    ({"source": "PRMBench/original", "error_steps": [], "first_error": -1}, Entry(Benchmark.PRMBENCH, "original")),
    ({"source": "PRMBench/original", "first_error": -1}, Entry(Benchmark.PRMBENCH, "original")),
    ({"source": "MR-GSM8K/POT", "solution_correct": False}, Entry(Benchmark.MR_GSM8K, "POT")),
    (
        {"source": "verify-then-generate", "error_category": "Unit error"},
        Entry(Benchmark.VERIFY_THEN_GENERATE, "Unit error"),
    ),
    ({"source": "verify-then-generate"}, Entry(Benchmark.VERIFY_THEN_GENERATE, "all")),
    ({"source": "my own"}, None),
    ({}, None),
]


def recognised(tmp_path: Path, *rows: dict[str, Any]) -> list[Entry | None]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**ROW, **row}) + "\n" for row in rows), encoding="utf-8")
    return recognise(read_traces(path), path)


def test_each_set_is_told_by_its_source(tmp_path: Path) -> None:
    assert recognised(tmp_path, *(row for row, _ in ROWS)) == [entry for _, entry in ROWS]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"error_steps": [0, 2]}, r"rows.jsonl:2: error_steps: must lie between 0 and 1: got \[0, 2\]"),
        ({"error_steps": [1]}, r"must begin at first_error = 0: got \[1\]"),
        ({"error_steps": [], "first_error": 1}, r"must begin at first_error = 1: got \[\]"),
        ({"error_steps": [0], "first_error": -1}, r"must begin at first_error = -1"),
        ({"error_steps": "0"}, "must be a list of whole numbers: got '0'"),
        ({"error_steps": [True]}, "must be a list of whole numbers"),
        ({}, "must be a list of whole numbers: got None"),
    ],
)
def test_wrong_error_steps_are_named_with_their_line(tmp_path: Path, row: dict[str, Any], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        recognised(tmp_path, {}, {"source": "PRMBench/circular", **row})
