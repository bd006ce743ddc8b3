"""Public sets into JSONL, row by row: python benchmarks/data.py DATA [--quick]

DATA is a directory with one directory for each set, gsm8k, mmlu_pro and math; those that are there are read as
`traceward data` reads them, once as they are and once with lengths counted by the tokenizer that ships with the package
(it cuts text finer than those of large models: the limits are ours, not the paper's). Every row is kept, known
(a question whose worked solution another row holds) or refused; where that does not add up the script ends with an
error. `seconds` are of the clock, and grow with what else the machine does; `cpu_seconds` do not. On a sample of train,
the share of rows that each kind of the set's corruption packs applies to. No row of DATA is written to the results.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _record import record

from traceward.config import resolve
from traceward.data.corruptions import REGISTRY
from traceward.records import Demonstration
from traceward.workflows import DataSet
from traceward.workflows.data import DataResult, prepare_set

SETS = (DataSet.GSM8K, DataSet.MMLU_PRO, DataSet.MATH)
TOKENIZER, MAX_PROMPT, MAX_COMPLETION = "builtin:stories", 600, 1600
SAMPLE = 1000  # rows of train that corruptions are tried on
SHOWN = ("rows", "kept", "known", "refused", "seconds", "cpu_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory with gsm8k, mmlu_pro and math, or some of them")
    parser.add_argument(
        "--quick", action="store_true", help="the first set that is there, to see that the script works"
    )
    chosen = parser.parse_args()
    found = {name: chosen.data / name.replace("-", "_") for name in SETS}
    there = {name: place for name, place in found.items() if place.is_dir()}
    if not there:
        parser.error(f"DATA must hold gsm8k, mmlu_pro or math: got {chosen.data}; check the path")
    details: dict[str, Any] = {}
    for name, place in list(there.items())[: 1 if chosen.quick else None]:
        details[str(name)] = measured(name, place)
        print(name, {key: details[str(name)]["plain"][key] for key in SHOWN}, flush=True)
    summary = {f"{name}.{key}": cell["plain"][key] for name, cell in details.items() for key in SHOWN}
    for name, cell in details.items():
        summary |= {f"{name}.counted.{key}": cell["counted"][key] for key in ("kept", "refused", "seconds")}
        summary |= {f"{name}.corrupted": cell["corruptions"]["any"]}
    print(record("data", seeds=[0], summary=summary, details=details, quick=chosen.quick))


def measured(name: DataSet, place: Path) -> dict[str, Any]:
    """One set: as it is, with lengths counted, and what corruptions find in it."""
    with tempfile.TemporaryDirectory() as room:
        started = time.process_time()
        plain = prepare_set(name, str(place), out=Path(room) / "plain")
        cpu = time.process_time() - started
        counted = prepare_set(
            name,
            str(place),
            out=Path(room) / "counted",
            tokenizer=TOKENIZER,
            max_prompt=MAX_PROMPT,
            max_completion=MAX_COMPLETION,
        )
    limits = {"tokenizer": TOKENIZER, "max_prompt": MAX_PROMPT, "max_completion": MAX_COMPLETION}
    return {
        "plain": {"cpu_seconds": round(cpu, 3), **checked(plain)},
        "counted": {**limits, **checked(counted)},
        "corruptions": corrupted(name, plain.prepared.parts["train"]),
    }


def checked(found: DataResult) -> dict[str, Any]:
    """The numbers, once they add up."""
    numbers = found.as_json()
    for part in (numbers, *numbers["sources"]):
        refused = part["refused"] if isinstance(part["refused"], int) else sum(part["refused"].values())
        assert part["rows"] == part["kept"] + part["known"] + refused
    assert sum(numbers["written"].values()) == numbers["kept"]
    return numbers


def corrupted(name: DataSet, items: tuple[Demonstration, ...]) -> dict[str, float]:
    """Share of a sample that each kind of the set's packs applies to, and some kind at all."""
    kinds = resolve({"data": {"task": str(name), "path": "data"}}, where=str(name)).critic.corruption_kinds
    rng = random.Random(0)
    some = rng.sample(items, min(SAMPLE, len(items)))
    counts: Counter[str] = Counter()
    for item in some:
        hits = [kind for kind in kinds if REGISTRY[kind](item.problem, item.trace, rng) is not None]
        counts.update(hits)
        counts["any"] += bool(hits)
    return {kind: counts[kind] / len(some) for kind in (*kinds, "any")}


if __name__ == "__main__":
    main()
