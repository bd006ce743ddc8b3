"""Does training with the shipped defaults collapse? python benchmarks/stability.py [--quick] [--runs DIRECTORY] [--workers N]

Fifteen adversarial runs, five seeds at each granularity, from the SFT policy of 20 demonstrations. A run has collapsed
when its final pass@1 on the test problems lies below its start's by more than two standard errors of the paired
difference over problems.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _record import record
from objectives import GRIDS, QUICK

from traceward.ablation.run import run_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-stability"), help="where the runs are kept")
    parser.add_argument("--workers", type=int, default=0, help="processes at once; 0: one per core, two at most")
    chosen = parser.parse_args()
    out = chosen.runs.with_name(chosen.runs.name + ("-quick" if chosen.quick else ""))
    changes = (f"run.workers={chosen.workers}", *(QUICK if chosen.quick else ()))
    directory = run_grid(GRIDS / "stability.toml", out=out, overrides=changes)
    found = [judged(path.parent) for path in sorted(directory.glob("cells/*/results.json"))]
    summary: dict[str, float | None] = {"runs": len(found), "collapsed": sum(run["collapsed"] for run in found)}
    print(record("stability", seeds=[0, 1, 2, 3, 4], summary=summary, details={"runs": found}, quick=chosen.quick))


def judged(cell: Path) -> dict[str, Any]:
    """One run: its start and its end on the same test problems."""
    start, end = (
        json.loads((cell / "parts" / f"{part}.json").read_text(encoding="utf-8"))
        for part in ("measure-sft", "adversarial")
    )
    change = np.subtract(end["pass_at_1_by_problem"], start["pass_at_1_by_problem"])
    error = change.std(ddof=1) / np.sqrt(change.size)
    return {
        "cell": cell.name,
        "start": start["pass_at_1"],
        "end": end["pass_at_1"],
        "start_greedy": start["greedy"],
        "end_greedy": end["greedy"],
        "change": float(change.mean()),
        "standard_error": float(error),
        "collapsed": bool(change.mean() < -2 * error),
    }


if __name__ == "__main__":
    main()
