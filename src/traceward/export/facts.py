"""The rows of a model card. Every number stands in a file that the model was saved with, and is only worded here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traceward.export.provenance import Provenance
from traceward.records import Head, LabelSource
from traceward.rewards.calibration import Calibration

Rows = dict[str, str]
_RERANK = {
    "reward": "this reward",
    "weighted_vote": "vote weighted by this reward",
    "majority": "majority vote",
    "shortest": "the shortest (length alone)",
    "sft_logprob": "log-probability of the fine-tuned model",
    "base_logprob": "log-probability of the base model",
    "expected_random": "one at random",
    "oracle": "a right one where there is one",
}
_LOCALISE = {
    "reward": "this reward",
    "constant": "best constant index",
    "base_logprob": "log-probability of the base model",
    "chance": "chance",
}


def data_rows(found: Provenance) -> Rows:
    """What was learned from."""
    card, data = found.card, dict(found.results.get("data") or {})
    prints = {**(found.manifest.get("data") or {}), **(card.get("data") or {})}
    source = card.get("label_source") or found.results.get("label_source")
    answers = {"reward": card.get("uses_final_answers")}
    if not card:
        answers = dict(found.results.get("uses_final_answers") or {})
    elif source is not None and answers["reward"] is None:
        answers = {"reward": LabelSource(source).uses_final_answers}
    rows = {
        "task": card.get("task") or data.get("task"),
        "demonstrations": card.get("demonstrations", data.get("demonstrations")),
        "rollouts": card.get("rollouts"),
        "label source": source,
        **{f"final answers used, {what.replace('_', ' ')}": value for what, value in answers.items()},
        **{f"{name} (sha256)": text for name, text in prints.items() if isinstance(text, str)},
        "test problems": data.get("test_problems"),
        "samples per test problem": data.get("samples_per_problem"),
    }
    return _known(rows)


def setting_rows(found: Provenance) -> Rows:
    """How it was learned: a reward's own words, or the recipe's section of a policy's arm."""
    card, recipe = found.card, found.recipe
    rows: dict[str, Any] = {}
    if card:
        rows |= {key: card.get(key) for key in ("head", "granularity", "interval", "format", "beta", "reference_share")}
        rows |= {"weights": card.get("dtype"), **(card.get("training") or {})}
        rows["interval"] = card.get("interval") or ("a step" if card.get("granularity") == "interval" else None)
    elif recipe is not None:
        section = recipe.sft if found.name == "sft" else recipe.adversarial
        rows |= {"arm": found.name, "format": recipe.data.format, "seed": recipe.run.seed}
        rows |= {"starts from": recipe.run.start if found.name != "sft" else "base", "weights": recipe.policy.dtype}
        rows |= section.model_dump(mode="json")
    versions = found.manifest.get("versions") or card.get("versions") or {}
    rows |= {f"version of {name}": text for name, text in versions.items()}
    rows["commit of traceward"] = found.manifest.get("commit")
    return _known(rows)


def reward_rows(found: Provenance) -> dict[str, Rows]:
    """Tables of what the run measured of its reward."""
    judged = found.judged
    table: dict[str, Any] = {
        "AUROC, expert against policy, held-out questions": (found.card.get("metrics") or {}).get("held_out_auroc")
    }
    if calibration := judged.get("calibration"):
        low, high = calibration["auroc_low"], calibration["auroc_high"]
        table |= {
            "AUROC, right against wrong answers": f"{calibration['auroc']:.3f} [{low:.3f}, {high:.3f}]",
            "the same with length regressed out (length alone: 0.5)": calibration["auroc_length_control"],
            "rank correlation of score and length": calibration["length_correlation"],
        }
    rerank, hits = judged.get("rerank") or {}, judged.get("localise_hit_at_1") or {}
    return {
        "Right and wrong": _known(table),
        f"Best of {rerank.get('n')} samples, share right": _shares(rerank, judged.get("rerank_intervals"), _RERANK),
        "First wrong step, share found": _shares(hits, judged.get("localise_hit_at_1_intervals"), _LOCALISE),
    }


def policy_rows(found: Provenance) -> dict[str, Rows]:
    """Tables of what the run measured of a policy, beside its base."""
    names = {found.name: "this policy", "base": "base"}
    if found.name != "sft":
        names["sft"] = "fine-tuned on the demonstrations"
    return {
        title: _shares(found.results.get(key) or {}, found.results.get(f"{key}_intervals"), names)
        for title, key in (("One sample at temperature 1, share right", "policy_pass_at_1"),
                           ("Greedy, share right", "policy_greedy"))
    }  # fmt: skip


def calibration_rows(found: Provenance, fitted: Calibration | None) -> Rows:
    """How a score becomes a probability, and how good those were in the run."""
    if fitted is None:
        return {}
    rows: dict[str, Any] = {
        "fitted on (traces)": len(fitted.traces),
        "threshold of a step's suspicion": fitted.threshold,
    }
    for kind, one in (("trace", fitted.trace), ("step", fitted.step)):
        rows[f"map of a {kind}'s score"] = None if one is None else str(one.method)
    measured = (found.judged.get("calibration") or {}).get("probabilities") or {}
    for kind, one in measured.items():
        rows[f"expected calibration error, {kind}s, as the run calibrated it"] = one["ece"]
        rows[f"Brier score, {kind}s, as the run calibrated it"] = one["brier"]
    return _known(rows)


def limits(found: Provenance, fitted: Calibration | None) -> list[str]:
    """What the files say against the model, and what they do not say."""
    said = [
        f"{a['stage']}, step {a['step']}: alarm {a['alarm']}: {a['message']}" for a in found.results.get("alarms", ())
    ]
    if not found.card:
        return (
            said if found.results else [*said, "No results of a run lie beside it: how good it is, is not known here."]
        )
    if not found.judged:
        later = "It learned on beside a policy after its run's numbers were measured, so none stand here. "
        said.append((later if found.results else "") + "How well it tells right from wrong answers is not known here.")
    elif calibration := found.judged.get("calibration"):
        said.append(f"Its score goes with length: rank correlation {calibration['length_correlation']:+.2f}.")
    if fitted is None:
        said.append("It is not calibrated: its scores order traces and are no probabilities.")
    if Head(found.card["head"]) is Head.LOG_RATIO:
        said.append("Its score is a sum over tokens: compare traces of one question, not of several.")
    return said


def _known(rows: Mapping[str, Any]) -> Rows:
    """Rows with a value, worded."""
    return {name: _word(value) for name, value in rows.items() if value not in (None, [], {}, "")}


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if 0.001 <= abs(value) < 1000 and value != round(value, 3) else f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _shares(values: Mapping[str, Any], intervals: Mapping[str, Any] | None, names: Mapping[str, str]) -> Rows:
    rows = {}
    for key, name in names.items():
        value, interval = values.get(key), (intervals or {}).get(key)
        if value is not None:
            around = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
            rows[name] = f"{100 * value:.1f} %{around}"
    return rows
