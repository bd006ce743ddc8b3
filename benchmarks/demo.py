"""The main job with every rival, three seeds: python benchmarks/demo.py [--quick] [--runs DIRECTORY]

Each seed is two runs of the demo's recipe: from 20 demonstrations with all policies, and from 100 (keys `d100.`) with
all rewards of the comparison table. The summary holds the mean over seeds under the keys of results.json, and `.low` /
`.high`, the range over seeds.
A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _record import record

from traceward.workflows.demo import QUICK, RECIPE
from traceward.workflows.train import run_recipe

ARMS = ["sft", "majority_consensus", "sft_logprob_consensus", "reward_frozen", "adversarial", "outcome"]
VARIANTS = [
    f"{head}:{granularity}" for head in ("log-ratio", "scalar") for granularity in ("sparse", "interval", "dense")
]
VARIANTS += ["log-ratio:interval:no-corruptions", "log-ratio:interval:no-operator-flip"]
SECTIONS = ("rerank", "localise_hit_at_1", "policy_pass_at_1", "policy_greedy", "calibration")


def overrides(demonstrations: int, *, arms: bool, quick: bool) -> list[str]:
    """The demo's recipe with everything measured."""
    changed = [
        f"data.demonstrations={demonstrations}",
        f"run.arms={json.dumps(ARMS if arms else ['sft'])}",
        f"run.variants={json.dumps([] if arms else VARIANTS)}",
    ]
    return changed + list(QUICK) if quick else changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-demo"), help="where the runs are kept")
    chosen = parser.parse_args()
    seeds = [0] if chosen.quick else [0, 1, 2]
    found: dict[str, list[dict[str, Any]]] = {"20": [], "100": []}
    for seed in seeds:
        for count, arms in (("20", True), ("100", False)):
            out = chosen.runs / f"demonstrations-{count}-seed-{seed}{'-quick' if chosen.quick else ''}"
            run = run_recipe(RECIPE, out=out, seed=seed, overrides=overrides(int(count), arms=arms, quick=chosen.quick))
            found[count].append(json.loads((run / "results.json").read_text(encoding="utf-8")))
    summary = summarise(found["20"]) | {f"d100.{key}": value for key, value in summarise(found["100"]).items()}
    print(record("demo", seeds=seeds, summary=summary, details=found, quick=chosen.quick))


def summarise(results: list[dict[str, Any]]) -> dict[str, float | None]:
    """Mean, lowest and highest over seeds of every figure; None where a seed lacks it."""
    rows: dict[str, list[float | None]] = {}
    for result in results:
        for section in SECTIONS:
            for name, value in (result[section] or {}).items():
                if isinstance(value, dict):  # calibration's probabilities: tables, not figures
                    continue
                rows.setdefault(f"{section}.{name}", []).append(value)
        for variant in result["variants"]:
            for measure in ("rerank", "localise_hit_at_1", "auroc"):
                rows.setdefault(f"variants.{variant['name']}.{measure}", []).append(variant[measure])
        rows.setdefault("seconds.total", []).append(result["seconds"]["total"])
    summary: dict[str, float | None] = {}
    for name, values in rows.items():
        known = [value for value in values if value is not None]
        whole = len(known) == len(results)
        summary[name] = sum(known) / len(known) if whole else None
        if whole and len(known) > 1:
            summary |= {f"{name}.low": min(known), f"{name}.high": max(known)}
    return summary


if __name__ == "__main__":
    main()
