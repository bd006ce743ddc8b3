"""Length- and end-matched pairs of held-out questions: does the discriminator see more than how long a trace is?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from traceward.data.formats import EncodedTrace, as_sampled, encode
from traceward.data.jsonl import write_jsonl
from traceward.evaluation.statistics import auroc, paired_difference
from traceward.records import Rollout, ScoredTrace, StopReason
from traceward.training.distribution import on_main, shared_samples, shared_scores
from traceward.training.form import held_out_scores
from traceward.training.run_directory import RunDirectory
from traceward.workflows.inputs import base_policy, crossing_of, load_task, prompts_of, seeded

SAMPLES = 8
TOLERANCE = 0.05  # of the expert's length, at least one token


def match(expert: EncodedTrace, rollouts: Sequence[Rollout]) -> Rollout | None:
    """The finished rollout of the same question that is nearest in length, if near enough."""
    length = len(expert.completion_ids)
    finished = [r for r in rollouts if r.stop is StopReason.END]
    if not finished:
        return None
    nearest = min(finished, key=lambda r: abs(len(r.completion_ids) - length))
    near = abs(len(nearest.completion_ids) - length) <= max(1, round(TOLERANCE * length))
    return nearest if near else None


def matched_pairs(run: RunDirectory) -> None:
    """AUROC of the discriminator's mean logit on pairs (expert, rollout), beside a length/end control.

    The questions are the test problems: neither the reward nor the policy has seen them. Every pair has the same
    question, the same end, and lengths within TOLERANCE; the control is a logistic regression on (length, end),
    cross-validated over questions.
    """
    from traceward.rewards.model import RewardModel

    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = base_policy(run)
    reward = RewardModel.load(run.path / "reward")
    groups = shared_samples(
        model,
        tokenizer,
        prompts_of(task.test, recipe, tokenizer),
        n=SAMPLES,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        seed=seeded(recipe, "pairs"),
    )
    crossing = crossing_of(run, task, reward.tokenizer)
    traces: list[EncodedTrace] = []
    read: list[EncodedTrace] = []  # the same in the reward's tokens
    for item, group in zip(task.test, groups, strict=True):
        expert = encode(item.problem, item.trace, recipe.data.format, tokenizer)
        rollout = match(expert, group)
        if rollout is not None and len(traces) < 2 * recipe.evaluation.pairs:
            traces += [expert, as_sampled(rollout)]
            if crossing is not None:
                read += [
                    crossing.expert(item.problem, item.trace, None),
                    *map(as_sampled, crossing.rollouts([rollout])),
                ]
    on_main(write_jsonl)(
        run.path / "data" / "pairs.jsonl", ({"id": t.key, "completion_ids": list(t.completion_ids)} for t in traces)
    )
    run.finish(
        "pairs", compare(traces, shared_scores(reward, read or traces, spec=reward.spec), tokenizer.eos_token_id)
    )


def compare(traces: Sequence[EncodedTrace], scored: Sequence[ScoredTrace], end: int) -> dict[str, Any]:
    """Figures of `matched_pairs`; experts stand at even places, their rollouts after them."""
    found: dict[str, Any] = {"pairs": len(traces) // 2}
    if len(traces) < 20:
        return {**found, "auroc": None, "note": "fewer than ten pairs could be matched"}
    labels = [at % 2 == 0 for at in range(len(traces))]
    questions = [t.key for t in traces]
    logits = [float(np.mean(s.unit_logits)) for s in scored]
    control = held_out_scores([(len(t.completion_ids), t.completion_ids[-1] == end) for t in traces], labels, questions)
    assert control is not None  # ten pairs are ten questions, and each holds both classes
    learned = auroc(logits, labels, seed=0, problems=questions)
    plain = auroc(control, labels, seed=0, problems=questions)
    wins = [float(a > b) + 0.5 * float(a == b) for a, b in zip(logits[::2], logits[1::2], strict=True)]
    won = paired_difference(wins, [0.5] * len(wins), seed=0)
    return {
        **found,
        "auroc": learned.value,
        "auroc_low": learned.low,
        "auroc_high": learned.high,
        "length_eos_control": plain.value,
        "length_eos_control_high": plain.high,
        "expert_above_its_rollout": won.value + 0.5,
        "expert_above_its_rollout_low": won.low + 0.5,
        "mean_length_expert": float(np.mean([len(t.completion_ids) for t in traces[::2]])),
        "mean_length_rollout": float(np.mean([len(t.completion_ids) for t in traces[1::2]])),
    }
