"""Real text from nothing: python benchmarks/gsm8k.py DATA [--quick] [--runs DIRECTORY]

Runs recipes/gsm8k-tiny.toml on DATA, a directory with GSM8K's train.jsonl and test.jsonl (or .gz). The figure is the
AUROC of the discriminator on length- and end-matched pairs of held-out questions, beside its length/end control.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _record import record

from traceward.workflows.train import run_recipe

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "gsm8k-tiny.toml"
QUICK = (
    "data.demonstrations=200",
    "data.test=40",
    "policy.scratch.steps=20",
    "critic.demonstrations=40",
    "critic.warmup_updates=10",
    "adversarial.steps=2",
    "evaluation.pairs=20",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a directory with train.jsonl[.gz] and test.jsonl[.gz]")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-gsm8k"), help="where the run is kept")
    chosen = parser.parse_args()
    out = chosen.runs / ("quick" if chosen.quick else "seed-0")
    run = run_recipe(RECIPE, out=out, data=chosen.data, seed=0, overrides=QUICK if chosen.quick else ())
    found = json.loads((run / "results.json").read_text(encoding="utf-8"))
    summary = {f"pairs.{name}": value for name, value in found["discriminator"].items() if name != "note"}
    summary |= {f"seconds.{name}": value for name, value in found["seconds"].items()}
    print(record("gsm8k", seeds=[0], summary=summary, details=found, quick=chosen.quick))


if __name__ == "__main__":
    main()
