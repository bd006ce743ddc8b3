"""Human labels, from demonstrations of our own: python benchmarks/real_labels.py DATA [TASK ...] [--quick]

DATA is BIG-Bench-Mistake in the schema of docs/data.md; TASK is one of its tasks, all three by default. For each, a
base is pre-trained on students' traces of the matching world, SFT and a reward are fitted to experts' demonstrations
(recipes/WORLD.toml), and thresholds are tuned on students' marked traces. Only then DATA is read: none of its traces
and labels has any part in what is fitted or chosen. What was done before, also of another task, is kept.

Labels speak of the listed steps, so the grid is these; the answer line behind them is read and left out. `constant` is
the index that is best on DATA itself. `checker` is the exact verdict, so where it differs it is from the people.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _record import RESULTS, record

from traceward.builtin.pretrain import make_base
from traceward.data.formats import Format, encode
from traceward.data.jsonl import write_jsonl
from traceward.data.tasks.registry import VALIDATION_STREAM
from traceward.data.tasks.world import World
from traceward.data.tasks.worlds import WORLDS
from traceward.data.traces import TraceRecord, read_traces
from traceward.evaluation.localise import (
    CHANCE,
    CONSTANT,
    NO_ERROR,
    LabelledTrace,
    localise_table,
    suspicions,
    tune_threshold,
)
from traceward.evaluation.official import F1, OVERALL, official_table
from traceward.loading import load_tokenizer
from traceward.workflows.score import Scorer, open_scorers, read_scores
from traceward.workflows.train import run_recipe

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TASKS = {"tracking_shuffled_objects": "swaps", "multistep_arithmetic": "arithmetic", "word_sorting": "sorting"}
ENDS = {"": "value", ".low": "low", ".high": "high"}
MARKED = {"swaps": 400, "arithmetic": 400, "sorting": 100}  # students' traces that thresholds are tuned on
# The test is DATA: of the recipe's own test problems and samples only as many as it must have.
NO_TEST = ("data.test=2", "evaluation.samples=2", "evaluation.policy_samples=1")
QUICK_STEPS, QUICK_TRACES = 3, 12
QUICK = (
    "data.demonstrations=8",
    "data.validation=4",
    "sft.steps=2",
    "critic.warmup_updates=2",
    "critic.rollouts_per_question=1",
    "adversarial.max_new_tokens=40",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="BIG-Bench-Mistake, .jsonl or .jsonl.gz")
    parser.add_argument("tasks", nargs="*", type=known, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--quick", action="store_true", help="a small run, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-real-labels"), help="bases and runs go there")
    chosen = parser.parse_args()
    if not chosen.data.is_file():
        parser.error(f"DATA must be a file: got {chosen.data}; check the path")
    name = "real_labels-quick" if chosen.quick else "real_labels"
    before = RESULTS / f"{name}.json"
    details = json.loads(before.read_text(encoding="utf-8"))["details"] if before.exists() else {}
    room = chosen.runs / ("quick" if chosen.quick else "full")
    for task in chosen.tasks or TASKS:
        run, base = fitted(TASKS[task], room, quick=chosen.quick)
        details[task] = measured(task, chosen.data, run, base, quick=chosen.quick)
        summary = {key: value for task, found in details.items() for key, value in summarise(task, found).items()}
        print(record("real_labels", seeds=[0], summary=summary, details=details, quick=chosen.quick))


def known(task: str) -> str:
    """Checked here, as argparse takes no task at all for one that is not among its choices."""
    if task not in TASKS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(TASKS)}: got {task}")
    return task


def fitted(name: str, room: Path, *, quick: bool) -> tuple[Path, Path]:
    """The run of a world's recipe with its SFT and reward, and the base it starts from; what is there is not made
    again."""
    base, run = room / "bases" / name, room / name
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        make_base([name], base, steps=QUICK_STEPS if quick else None)
    overrides = [f"policy.path={str(base)!r}", *NO_TEST, *(QUICK if quick else ())]
    return run_recipe(RECIPES / f"{name}.toml", out=run, seed=0, overrides=overrides), base


def measured(task: str, data: Path, run: Path, base: Path, *, quick: bool) -> dict[str, Any]:
    """Tables of every method on the task's traces in DATA, with thresholds from students' marked traces."""
    scorers = open_scorers(run / "reward", base=str(base), sft=str(run / "policies" / "sft"))
    world = WORLDS[TASKS[task]]
    tuned_on = marked_file(world, run, QUICK_TRACES if quick else MARKED[world.name], base)
    tuning = labelled(scorers, read_traces(tuned_on), tuned_on)
    thresholds = {
        method: tune_threshold([item.suspicion[method] for item in tuning], [item.first_error for item in tuning])
        for method in tuning[0].suspicion
    }
    records = [r for r in read_traces(data) if r.raw.get("source") == f"BIG-Bench-Mistake/{task}"]
    records = records[:QUICK_TRACES] if quick else records
    items = labelled(scorers, records, data)
    hits, students = localise_table(items, seed=0), localise_table(tuning, seed=0)
    official = official_table(F1, {task: items}, thresholds=thresholds, seed=0)
    return {
        "traces": dict(zip(("erroneous", "error_free"), official.counts[OVERALL], strict=True)),
        "thresholds": thresholds,
        "tuned_on": len(tuning),
        "students_hit_at_1": {method: row and asdict(row.hit_at_1) for method, row in students.rows.items()},
        "hit_at_1": {method: row and asdict(row.hit_at_1) for method, row in hits.rows.items()},
        "constant_index": hits.constant,
        "f1": {method: asdict(row) for method, row in official.rows[OVERALL].items()},
        "hits": {method: list(values) for method, values in hits.hits.items()},
        "checker": checked(world, records),
    }


def marked_file(world: World, run: Path, count: int, base: Path) -> Path:
    """Students' traces with their first errors, as rows of traces; those that the base has no room for are left out."""
    tokenizer, room = load_tokenizer(base), json.loads((base / "config.json").read_text())["max_position_embeddings"]
    path = run / "marked.jsonl"
    rows = (
        {
            "id": item.problem.id,
            "question": item.problem.question,
            "steps": list(item.trace.steps),
            "model_answer": item.trace.answer,
            "first_error": item.first_error,
        }
        for item in world.marked(count, VALIDATION_STREAM)
        for ids in [encode(item.problem, item.trace, Format.PLAIN, tokenizer)]
        if len(ids.prompt_ids) + len(ids.completion_ids) <= room
    )
    write_jsonl(path, rows)
    return path


def labelled(scorers: Mapping[str, Scorer], records: Sequence[TraceRecord], path: Path) -> list[LabelledTrace]:
    """Every method's suspicion of the listed steps."""
    readings = read_scores(scorers, records, path)
    found = []
    for at, item in enumerate(records):
        assert item.first_error is not None
        doubts: dict[str, tuple[float, ...]] = {}
        for name, scorer in scorers.items():
            doubts |= suspicions(name, scorer.head, readings.read(name, at))
        steps = {method: values[: len(item.trace.steps)] for method, values in doubts.items()}
        found.append(LabelledTrace(item.problem.id, item.first_error, steps))
    return found


def checked(world: World, records: Sequence[TraceRecord]) -> dict[str, float | None]:
    """Shares of the labels that the exact verdict agrees with: what labels allow."""
    same: dict[bool, list[bool]] = {True: [], False: []}
    for item in records:
        found = world.judge(item.problem, item.trace).first_error
        found = NO_ERROR if found == len(item.trace.steps) else found
        same[item.first_error == NO_ERROR].append(found == item.first_error)
    return {
        name: sum(values) / len(values) if values else None
        for name, values in (("hit1", same[False]), ("error_free", same[True]))
    }


def summarise(task: str, found: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of one task; intervals are 95 % over problems."""
    hits = found["hit_at_1"]
    f1 = {method: row["official"] or {} for method, row in found["f1"].items()}  # none where one kind of trace lacks
    summary = {f"hit1{end}": hits["reward"][key] for end, key in ENDS.items()}
    summary |= {f"f1{end}": f1["reward"].get(key) for end, key in ENDS.items()}
    summary |= {"constant": hits[CONSTANT]["value"], "chance": hits[CHANCE]["value"]}
    summary |= {"checker": found["checker"]["hit1"]}
    summary |= {f"students.{m}": row["value"] for m, row in found.get("students_hit_at_1", {}).items() if row}
    for method in ("base_logprob", "sft_logprob", "sft_log_ratio"):
        summary |= {method: hits[method]["value"], f"{method}.f1": f1[method].get("value")}
    return {f"{task}.{key}": value for key, value in summary.items()}


if __name__ == "__main__":
    main()
