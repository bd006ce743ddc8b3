"""results.json: everything a run found, for machines; and metrics.jsonl, gathered from the stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from traceward.config import Arm, Recipe
from traceward.data.demonstrations import fingerprint
from traceward.data.jsonl import read_jsonl, write_json, write_jsonl
from traceward.data.tasks.registry import Task
from traceward.records import Credit
from traceward.training.run_directory import RunDirectory

SCHEMA = 1
RERANK = (
    "expected_random",
    "majority",
    "weighted_vote",
    "shortest",
    "base_logprob",
    "sft_logprob",
    "sft_log_ratio",
    "reward",
    "oracle",
)
LOCALISE = (
    "chance",
    "constant",
    "base_logprob",
    "base_logprob_token",
    "sft_logprob",
    "sft_logprob_token",
    "sft_log_ratio",
    "sft_log_ratio_exported",
    "reward_exported",
    "reward",
)
POLICIES = ("base", *(str(arm) for arm in Arm))


def _consensus(recipe: Recipe) -> bool:
    """Whether an arm is paid for agreeing: two always are, the reward's own by the recipe's credit."""
    always, own = {Arm.MAJORITY_CONSENSUS, Arm.SFT_LOGPROB_CONSENSUS}, {Arm.ADVERSARIAL, Arm.REWARD_FROZEN}
    arms = {*recipe.run.arms}
    return bool(arms & always or (arms & own and recipe.adversarial.credit is Credit.CONSENSUS))


def policy_part(name: str) -> str:
    """The part that holds what was measured of a policy."""
    return f"measure-{name}" if name in ("base", "sft") else name


def write_results(run: RunDirectory, task: Task, *, seconds: float | None) -> None:
    """Gather the parts of all stages. A figure that was not measured is null, never left out.

    seconds: of the whole run; None where its stages ran among those of others: their sum then.
    """
    recipe = run.recipe()
    judged = run.part("judge") or {}
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "run": recipe.run.name,
        "seed": recipe.run.seed,
        "label_source": str(recipe.critic.label_source),
        "uses_final_answers": {
            "reward": "yes" if recipe.critic.label_source.uses_final_answers else "no",
            "consensus": "yes" if _consensus(recipe) else "no",
            "outcome_reward": "yes" if recipe.adversarial.outcome_weight else "no",
        },
        "data": _data(recipe, task),
        "reward": run.part("reward"),
        "rerank": _filled(judged.get("rerank"), ("n", *RERANK)),
        "rerank_intervals": _filled(judged.get("rerank_intervals"), RERANK),
        "rerank_curve": judged.get("rerank_curve"),
        "localise_hit_at_1": _filled(judged.get("localise_hit_at_1"), LOCALISE),
        "localise_hit_at_1_intervals": _filled(judged.get("localise_hit_at_1_intervals"), LOCALISE),
        "localise": judged.get("localise"),
        "calibration": judged.get("calibration"),
        **_policies(run),
        "sft": run.part("sft"),
        "discriminator": run.part("pairs"),
        "variants": [run.part("variant-" + v.replace(":", "-")) for v in recipe.run.variants],
        "alarms": _alarms(run),
        "seconds": _seconds(run, seconds),
    }
    write_jsonl(run.path / "metrics.jsonl", _metric_rows(run))
    write_json(run.path / "results.json", found)


def _filled(values: dict[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: (values or {}).get(name) for name in names}


def _data(recipe: Recipe, task: Task) -> dict[str, Any]:
    return {
        "task": task.name,
        "style": recipe.data.style,
        "shift": str(recipe.data.shift),
        "demonstrations": len(task.demonstrations),
        "questions_without_demonstrations": len(task.questions),
        "test_problems": len(task.test),
        "samples_per_problem": recipe.evaluation.samples,
        "fingerprint": fingerprint(task.demonstrations),
    }


def _policies(run: RunDirectory) -> dict[str, Any]:
    parts = {name: run.part(policy_part(name)) for name in POLICIES}
    found: dict[str, Any] = {}
    for measure, key in (("pass_at_1", "policy_pass_at_1"), ("greedy", "policy_greedy")):
        found[key] = {name: part[measure] if part else None for name, part in parts.items()}
        found[f"{key}_intervals"] = {
            name: part[f"{measure}_interval"] if part else None for name, part in parts.items()
        }
    found["policy_pass_at"] = {name: part["pass_at"] if part else None for name, part in parts.items()}
    curves = {name: part["curve"] for name, part in parts.items() if part and part.get("curve")}
    found["policy_curves"] = {
        name: {column: [row[column] for row in rows] for column in ("step", "pass_at_1", "greedy")}
        for name, rows in curves.items()
    }
    return found


def _alarms(run: RunDirectory) -> list[dict[str, Any]]:
    """What the guards of every stage said."""
    keys = ("stage", "step", "alarm", "message")
    return [{key: row[key] for key in keys} for row in _metric_rows(run) if "alarm" in row]


def _seconds(run: RunDirectory, total: float | None) -> dict[str, float]:
    """Seconds of each stage's own training, from its metrics, and of the whole run."""
    found: dict[str, float] = {}
    for path in sorted((run.path / "metrics").glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines:
            found[path.stem] = json.loads(lines[-1])["seconds"]
    return {**found, "total": round(sum(found.values()) if total is None else total, 1)}


def _metric_rows(run: RunDirectory) -> Iterator[dict[str, Any]]:
    """The rows of every stage that has logged."""
    for path in sorted((run.path / "metrics").glob("*.jsonl")):
        if path.stat().st_size:
            yield from (row for _, row in read_jsonl(path))
