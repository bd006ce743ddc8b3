"""Every recipe as a dry run: python benchmarks/recipes.py [--data DIRECTORY] [--runs DIRECTORY] [--quick]

Each recipe of recipes/, grids included, runs from its first stage to its report on tiny random models and a few rows,
as `traceward train --dry-run` does. DIRECTORY may hold gsm8k, mmlu_pro and medreason, as `traceward data` reads them;
recipes of these sets then run on their rows, others on rows of ours. The figure is how many ended. Recipes of a matrix
are for `traceward transfer` and are left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from _record import record

from traceward.ablation.grid import is_grid
from traceward.ablation.run import run_grid
from traceward.config import Recipe
from traceward.report.build import build_report
from traceward.transfer.matrix import is_matrix
from traceward.workflows import DataSet
from traceward.workflows.data import prepare_set
from traceward.workflows.dry_run import dry_run, first_recipe
from traceward.workflows.train import plan, run_recipe

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
SETS = (DataSet.GSM8K, DataSet.MMLU_PRO, DataSet.MEDREASON)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a directory with gsm8k, mmlu_pro or medreason")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-recipes"), help="where runs are kept")
    parser.add_argument("--quick", action="store_true", help="one recipe, to see that the script works")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.runs, ignore_errors=True)
    given = prepared(chosen.data, chosen.runs / "data") if chosen.data else {}
    paths = [p for p in sorted(RECIPES.rglob("*.toml")) if p.parent.name != "parts" and not is_matrix(p)]
    if chosen.quick:
        paths = [path for path in paths if path.stem == "gsm8k-qwen3-4b"]
    details: dict[str, Any] = {}
    for path in paths:
        name = path.relative_to(RECIPES).as_posix()
        details[name] = tried(path, given, chosen.runs / name.removesuffix(".toml"))
        print(name, details[name]["error"] or f"{details[name]['seconds']:.0f} s", flush=True)
    summary = {
        "recipes": float(len(details)),
        "dry_runs_passed": float(sum(found["error"] is None for found in details.values())),
        "on_real_rows": float(sum(found["rows"] is not None for found in details.values())),
        "seconds": round(sum(found["seconds"] for found in details.values()), 1),
    }
    print(record("recipes", seeds=[0], summary=summary, details=details, quick=chosen.quick))


def prepared(data: Path, room: Path) -> dict[str, Path]:
    """The sets that are there, as recipes take them."""
    there = {str(name): data / name.replace("-", "_") for name in SETS}
    room.mkdir(parents=True)
    for name, place in there.items():
        if place.is_dir():
            prepare_set(DataSet(name), str(place), out=room / name)
    return {name: room / name for name, place in there.items() if place.is_dir()}


def tried(path: Path, given: dict[str, Path], room: Path) -> dict[str, Any]:
    """One recipe: what stood in for what, how long it took, and the error that ended it."""
    started = time.monotonic()
    asked = ["data.path='nowhere'"] if path.stem == "gsm8k-tiny" else []
    found: dict[str, Any] = {"rows": None, "error": None}
    try:
        recipe: Recipe = first_recipe(path, overrides=asked)
        if recipe.data.task in given:
            asked = [f"data.path={str(given[recipe.data.task])!r}"]
            recipe, found["rows"] = first_recipe(path, overrides=asked), recipe.data.task
        made = dry_run(recipe, room / "stand-ins")
        run = run_grid if is_grid(path) else run_recipe
        build_report([run(path, out=room / "run", overrides=[*asked, *made.overrides])])
        own = str(recipe.data.path)
        notes = [note.replace(own, recipe.data.task) for note in made.notes]
        found |= {"stages": list(plan(recipe)), "notes": notes}
    except Exception as error:  # the next recipe is tried all the same
        found["error"] = f"{type(error).__name__}: {error}"
    return {**found, "seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    main()
