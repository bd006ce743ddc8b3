"""Which reward trains the better policy, in three regimes: python benchmarks/objectives.py [PHASE ...] [--quick]

Phases, each a grid in benchmarks/objectives/: `search` (SFT's length and learning rate), `screening` (every reward at
20 demonstrations), then the regimes `20`, `100` and `style` with five seeds, and `sft` (SFT as it is best at greedy
decoding, in each regime). All by default; about eight core-hours. A grid that was stopped goes on where it was, and
phases measured before, also elsewhere, stay in the results file.

What a regime compares is chosen on validation problems: SFT by `search`, and of the policies of each label source the
one that is best there. The summary is of test problems; `low` is the end of a 95 % paired interval.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _record import RESULTS, record

from traceward.ablation.run import run_grid

GRIDS = Path(__file__).resolve().parent / "objectives"
# SFT's settings are those with the highest validation pass@1 in phase `search`; a hundred demonstrations take a longer
# warm-up (docs/LOG.md), also chosen on validation problems.
REGIMES = {
    "20": ("data.demonstrations=20", "sft.steps=120"),
    "100": ("data.demonstrations=100", "sft.steps=120", "sft.learning_rate=1e-3", "critic.warmup_updates=160"),
    "style": ("data.demonstrations=100", "data.style=result-first", "sft.steps=60", "sft.learning_rate=2e-3"),
}
PHASES = ("search", "screening", *REGIMES, "sft")
QUICK = (
    "run.seed=0",
    "data.questions=60",
    "data.validation=10",
    "data.test=10",
    "sft.steps=5",
    "critic.warmup_updates=2",
    "adversarial.steps=1",
    "adversarial.questions_per_step=4",
    "evaluation.samples=2",
    "evaluation.policy_samples=1",
)
SORT = "validation_pass_at_1"
SOURCES = ("demonstrations", "agreement")
KEYS = {"pass1": "pass_at_1", "greedy": "greedy"}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phases", nargs="*", choices=PHASES, help="which to run; all of them by default")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-objectives"), help="where the runs are kept")
    chosen = parser.parse_args()
    suffix = "-quick" if chosen.quick else ""
    before = RESULTS / f"objectives{suffix}.json"
    details = json.loads(before.read_text(encoding="utf-8"))["details"] if before.exists() else {}
    for phase in chosen.phases or PHASES:
        grid = GRIDS / f"{'regimes' if phase in REGIMES else phase}.toml"
        changes = (*REGIMES.get(phase, ()), *(QUICK if chosen.quick else ()))
        directory = run_grid(grid, out=chosen.runs / f"{phase}{suffix}", overrides=changes)
        table = json.loads((directory / "grid.json").read_text(encoding="utf-8"))
        run = {"command": f"python benchmarks/objectives.py {phase}"}
        details[phase] = run | {key: value for key, value in table.items() if key != "cells"}
        if phase in REGIMES:
            details[phase]["judges"] = {source: judges(directory, best(table["rows"], source)) for source in SOURCES}
        summary: dict[str, float | None] = {}
        for regime in REGIMES:
            summary |= summarise(regime, details[regime]) if regime in details else {}
            summary |= sft_for_greedy(regime, details["sft"]) if "sft" in details else {}
        seeds = sorted({seed for table in details.values() for row in table["rows"] for seed in row["seeds"]})
        print(record("objectives", seeds=seeds, summary=summary, details=details, quick=chosen.quick))


def summarise(regime: str, table: dict[str, Any]) -> dict[str, float | None]:
    """The figures of one regime, in percent."""
    rows = {source: best(table["rows"], source) for source in SOURCES}
    sft, outcome = (one(table["rows"], arm) for arm in ("sft", "outcome"))
    chosen = max(rows.values(), key=lambda row: row["values"][SORT]["value"])
    gain = difference(table, chosen, sft, "pass_at_1")
    found = {
        f"sft_pass1_{regime}": value(sft, "pass_at_1"),
        f"sft_greedy_{regime}": value(sft, "greedy"),
        f"demos_only_pass1_{regime}": value(rows["demonstrations"], "pass_at_1"),
        f"agreement_pass1_{regime}": value(rows["agreement"], "pass_at_1"),
        f"best_greedy_{regime}": value(chosen, "greedy"),
        f"outcome_pass1_{regime}": value(outcome, "pass_at_1"),
        f"best_minus_sft_{regime}": percent(gain["value"]),
        f"best_minus_sft_{regime}_low": percent(gain["low"]),
    }
    if regime == "100":
        found |= {
            f"{measure}_minus_sft_logprob": percent(difference(table, rows["demonstrations"], sft, measure)["value"])
            for measure in ("rerank", "localise")
        }
    return found


def judges(directory: Path, row: Row) -> dict[str, dict[str, float]]:
    """Of the reward of a row, and of every rival on the same samples: best of 8 and first error, in percent, means over
    seeds."""
    results = [
        json.loads((directory / "cells" / cell / "results.json").read_text(encoding="utf-8")) for cell in row["cells"]
    ]
    found = {}
    for measure, key in (("rerank", "rerank"), ("localise", "localise_hit_at_1")):
        names = [name for name, shown in results[0][key].items() if name != "n" and shown is not None]
        found[measure] = {name: percent(fmean(result[key][name] for result in results)) for name in names}
    return found


def sft_for_greedy(regime: str, table: dict[str, Any]) -> dict[str, float | None]:
    """SFT as it is best at greedy decoding."""
    sft = one([row for row in table["rows"] if row["labels"]["regime"] == regime], "sft")
    return {f"sft_for_greedy_{name}_{regime}": value(sft, key) for name, key in KEYS.items()}


def one(rows: list[Row], arm: str) -> Row:
    """The row of an arm that no reward trains."""
    (found,) = (row for row in rows if row["labels"]["arm"] == arm)
    return found


def best(rows: list[Row], source: str) -> Row:
    """Of the policies that a reward of this label source trained, the best on validation problems."""
    able = (row for row in rows if row["judge"] == "reward" and row["labels"].get("labels") == source)
    return max(able, key=lambda row: row["values"][SORT]["value"])


def difference(table: dict[str, Any], left: Row, right: Row, measure: str) -> dict[str, float]:
    """left - right, paired."""
    (found,) = (d for d in table["differences"] if (d["a"], d["b"]) == (left["labels"], right["labels"]))
    return found["values"][measure]


def value(row: Row, measure: str) -> float:
    return percent(row["values"][measure]["value"])


def percent(share: float) -> float:
    return round(100 * share, 2)


if __name__ == "__main__":
    main()
