"""Rewards used where they were not learned, one thing changed at a time: tasks, backbones, sizes.

The matrices are benchmarks/transfer/*.toml. Their base models are pre-trained on student traces first and kept below
--runs; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _bases import make_base
from _record import RESULTS, record

from traceward.transfer.run import TABLE, run_matrix
from traceward.workflows.pool import in_worker

MATRICES = Path(__file__).resolve().parent / "transfer"
AXES = ("tasks", "backbones", "sizes")
MEASURES = ("rerank_gain", "localise_gain", "rerank_over_sft_logprob", "localise_over_sft_logprob")
QUICK = (
    "data.demonstrations=8",
    "data.validation=4",
    "data.test=6",
    "sft.steps=3",
    "critic.warmup_updates=2",
    "critic.rollouts_per_question=2",
    "adversarial.max_new_tokens=24",
    "evaluation.samples=2",
)
QUICK_STEPS = 6  # of pre-training

Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axis", action="append", choices=AXES, help="which to run; all of them by default")
    parser.add_argument("--seed", type=int, help="this one alone; a later call without it runs the others")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-transfer"), help="where the runs are kept")
    chosen = parser.parse_args()
    suffix = "-quick" if chosen.quick else ""
    before = RESULTS / f"transfer{suffix}.json"
    details = json.loads(before.read_text(encoding="utf-8"))["details"] if before.exists() else {}
    for axis in chosen.axis or AXES:
        matrix = with_bases(axis, (chosen.runs / f"bases{suffix}").resolve(), quick=chosen.quick)
        out = chosen.runs / f"{axis}{suffix}"
        seed = 0 if chosen.quick and chosen.seed is None else chosen.seed
        found = run_matrix(matrix, out=out, seed=seed, overrides=QUICK if chosen.quick else ())
        table = json.loads((found / TABLE).read_text(encoding="utf-8"))
        command = f"python benchmarks/transfer.py --axis {axis}" + ("" if seed is None else f" --seed {seed}")
        details[axis] = {"command": command, **table}
        summary = {name: value for axis, table in details.items() for name, value in summarise(axis, table).items()}
        seeds = sorted({seed for table in details.values() for seed in table["seeds"]})
        print(record("transfer", seeds=seeds, summary=summary, details=details, quick=chosen.quick))


def with_bases(axis: str, bases: Path, *, quick: bool) -> Path:
    """The matrix of an axis with the places of its bases, which are made where they are not there yet."""
    text = (MATRICES / f"{axis}.toml").read_text(encoding="utf-8")
    bases.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(re.findall(r'"bases/([\w-]+)"', text)):
        if not (bases / name).exists():
            in_worker(make_base, name, bases / name, QUICK_STEPS if quick else None)
    recipes = f'recipe = "{MATRICES.parent.parent}/recipes/'
    path = bases / f"{axis}.toml"
    path.write_text(
        text.replace('"bases/', f'"{bases}/').replace('recipe = "../../recipes/', recipes), encoding="utf-8"
    )
    return path


def summarise(axis: str, table: dict[str, Any]) -> dict[str, float | None]:
    """Of every pair the gains and leads in points, and how many pairs of two places are surely above 0."""
    found: dict[str, float | None] = {}
    for cell in table["cells"]:
        for measure in MEASURES:
            for key, end in (("value", ""), ("low", "_low"), ("high", "_high")):
                value = cell[measure]
                name = f"{axis}.{cell['learn']}.{cell['use']}.{measure}{end}"
                found[name] = None if value is None else round(100 * value[key], 2)
    away = [cell for cell in table["cells"] if cell["learn"] != cell["use"]]
    for measure in MEASURES:
        found[f"{axis}.{measure}_above_0"] = sum(bool(cell[measure]) and cell[measure]["low"] > 0 for cell in away)
    return {**found, f"{axis}.pairs": len(away)}


if __name__ == "__main__":
    main()
