"""The winning rewards against SFT and outcome RL at 30 M parameters, on stories of 5 to 8 steps. For one GPU; a quarter
of an hour on an H100.

The base is pre-trained on students' traces first. SFT's settings, and then one learning rate for all policies, are
chosen on validation problems with seed 0; what is reported is of test problems. A run that was stopped goes on, and
what is measured so far is in the results file.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from _bases import make_base
from _record import record
from objectives import QUICK, SORT, difference, one, percent, value

from traceward.ablation.grid import load_grid
from traceward.ablation.run import run_grid
from traceward.config import Recipe
from traceward.data.jsonl import write_json
from traceward.workflows.pool import in_worker

GRID = Path(__file__).resolve().with_suffix(".toml")
BASE, QUICK_BASE = "llama-30m", "llama"
RATES = "adversarial.learning_rate = [2e-5, 6e-5]"
SFT = [(60, 1e-4), (120, 4e-5), (120, 1e-4), (120, 3e-4)]  # steps, learning rate
QUICK_STEPS = 6  # of pre-training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-larger"), help="where the runs are kept")
    chosen = parser.parse_args()
    room = chosen.runs.with_name(chosen.runs.name + ("-quick" if chosen.quick else "")).resolve()
    room.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if not (room / "base").exists():
        in_worker(make_base, *((QUICK_BASE, room / "base", QUICK_STEPS) if chosen.quick else (BASE, room / "base")))
    changes = [f"policy.path='{room}/base'", *(QUICK if chosen.quick else ())]
    if not (room / "sft.json").exists():
        in_worker(search_sft, room, load_grid(GRID, changes, check=lambda _: None).cells[0].recipe)
    search = json.loads((room / "sft.json").read_text(encoding="utf-8"))
    best = max(search, key=lambda row: row["validation"]["pass_at_1"])
    changes = [f"sft.steps={best['steps']}", f"sft.learning_rate={best['learning_rate']}", *changes]
    rates = grid_of(GRID.read_text(encoding="utf-8"), room, [*changes, "run.seed=0"])
    rate = max(rates["axes"]["adversarial.learning_rate"], key=lambda rate: validation(rates, rate))
    details: dict[str, Any] = {"sft_search": search, "rates": rates}

    def write(seeds: dict[str, Any]) -> None:
        found = {**details, "seeds": seeds, "learning_rate": rate, "seconds": round(time.monotonic() - began)}
        of = sorted({seed for row in seeds["rows"] for seed in row["seeds"]})
        print(record("larger", seeds=of, summary=summarise(seeds), details=found, quick=chosen.quick), flush=True)

    text = GRID.read_text(encoding="utf-8").replace(RATES, f"adversarial.learning_rate = [{rate}]")
    write(grid_of(text, room, [*changes, "run.seed=0"]))
    if not chosen.quick:
        write(grid_of(text, room, changes))


def grid_of(text: str, room: Path, changes: list[str]) -> dict[str, Any]:
    """The table of a grid; what another one of the same room has run is not run again."""
    path = room / "grid.toml"
    path.write_text(re.sub(r'"\.\./recipes/', f'"{GRID.parent.parent}/recipes/', text), encoding="utf-8")
    table = json.loads((run_grid(path, out=room / "runs", overrides=changes) / "grid.json").read_text(encoding="utf-8"))
    return {key: value for key, value in table.items() if key != "cells"}


def search_sft(room: Path, recipe: Recipe) -> None:
    """SFT of each length and learning rate, on validation problems."""
    from traceward.data.formats import encode
    from traceward.loading import load_policy
    from traceward.training.baselines import supervised_fine_tune
    from traceward.workflows.inputs import load_task, quiet
    from traceward.workflows.measure import correct_shares

    quiet()
    task = load_task(recipe)
    rows = []
    for steps, rate in SFT:
        model, tokenizer = load_policy(room / "base", room / "base")
        traces = [encode(d.problem, d.trace, recipe.data.format, tokenizer) for d in task.demonstrations]
        settings = recipe.sft.model_copy(update={"steps": min(steps, recipe.sft.steps), "learning_rate": rate})
        supervised_fine_tune(model, tokenizer, traces, settings, room / "sft-search", seed=recipe.run.seed)
        found = {
            name: fmean(correct_shares(model, tokenizer, task, task.validation, recipe, n=n, temperature=temperature))
            for name, n, temperature in (("pass_at_1", 4, 1.0), ("greedy", 1, 0.0))
        }
        rows.append({"steps": steps, "learning_rate": rate, "validation": found})
    write_json(room / "sft.json", rows)


def validation(table: dict[str, Any], rate: str) -> float:
    """Mean over the policies that a learning rate trained."""
    rows = [row for row in table["rows"] if row["labels"].get("adversarial.learning_rate") == rate]
    return fmean(row["values"][SORT]["value"] for row in rows if row["labels"]["arm"] in ("adversarial", "outcome"))


def summarise(table: dict[str, Any]) -> dict[str, float | None]:
    """Percent of test problems; `low` is the end of a 95 % paired interval."""
    rows = {arm: one(table["rows"], arm) for arm in ("sft", "outcome")}
    for row in table["rows"]:
        if row["labels"]["arm"] == "adversarial":
            rows[row["labels"]["labels"]] = row
    found: dict[str, float | None] = {}
    for name, row in rows.items():
        found |= {f"{name}_pass1": value(row, "pass_at_1"), f"{name}_greedy": value(row, "greedy")}
    for name in ("demonstrations", "agreement"):
        gain = difference(table, rows[name], rows["sft"], "pass_at_1")
        found |= {f"{name}_minus_sft": percent(gain["value"]), f"{name}_minus_sft_low": percent(gain["low"])}
    return found


if __name__ == "__main__":
    main()
