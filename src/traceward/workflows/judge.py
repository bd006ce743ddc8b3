"""What a learned reward is good for, measured on samples of the start policy beside its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from traceward.config import Recipe
from traceward.data.formats import EncodedTrace, as_sampled, parse_completion, stated_answer
from traceward.data.jsonl import write_jsonl
from traceward.data.options import answer_key
from traceward.data.segmentation import split_steps
from traceward.data.tasks.registry import Task
from traceward.data.traces import trace_key
from traceward.evaluation.localise import (
    CHANCE,
    LabelledTrace,
    increments,
    localise_table,
    predict_first_error,
    suspicion,
    suspicions,
)
from traceward.evaluation.rerank import RerankGroup, rerank_curve, rerank_table
from traceward.evaluation.statistics import Estimate, auroc, length_controlled_auroc, length_correlation
from traceward.records import Demonstration, Head, Rollout, ScoredTrace, Trace, Verdict
from traceward.rewards.calibration import Calibration
from traceward.training.distribution import on_main, shared_samples, shared_scores
from traceward.training.run_directory import RunDirectory
from traceward.training.tokens import Crossing
from traceward.workflows.calibrate import Labelled, fit_calibration, measure_calibration
from traceward.workflows.inputs import (
    base_policy,
    crossing_of,
    load_task,
    prompts_of,
    read_rollouts,
    seeded,
    sft_policy,
)

if TYPE_CHECKING:
    from traceward.rewards.model import RewardModel, TraceScorer

VALIDATION_SAMPLES = 4  # a validation problem, to calibrate on
Scores = Mapping[str, tuple[Head, list[ScoredTrace]]]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled trace of a test problem with its verdict; `answer` is what it votes for."""

    rollout: Rollout
    trace: Trace
    verdict: Verdict
    answer: str | None
    key: str

    @property
    def encoded(self) -> EncodedTrace:
        """Its token ids, as sampled."""
        return as_sampled(self.rollout)


def read_samples(run: RunDirectory, task: Task, recipe: Recipe) -> list[Sampled]:
    """The shared samples of the test problems, judged; grouped by problem, in order."""
    return _judged(read_rollouts(run.path / "data" / "samples.jsonl"), task.test, task, recipe)


def _judged(rollouts: Sequence[Rollout], items: Sequence[Demonstration], task: Task, recipe: Recipe) -> list[Sampled]:
    problems = {d.problem.id: d.problem for d in items}
    found = []
    for rollout in rollouts:
        trace = parse_completion(rollout.text, recipe.data.format)
        problem = problems[rollout.problem_id]
        stated = stated_answer(rollout.text, recipe.data.format)
        vote = answer_key(stated, problem.question)
        found.append(Sampled(rollout, trace, task.judge(problem, trace), vote, trace_key(problem, trace)))
    return found


def calibrated(run: RunDirectory, reward: RewardModel) -> Calibration | None:
    """What samples of the start policy on validation problems say of the reward's probabilities; None where there are
    no such problems, or no verdicts of both kinds. It reads their verdicts; the reward's scores never do."""
    recipe = run.recipe()
    task = load_task(recipe)
    if not task.validation:
        return None
    model, tokenizer = base_policy(run)
    groups = shared_samples(
        model,
        tokenizer,
        prompts_of(task.validation, recipe, tokenizer),
        n=VALIDATION_SAMPLES,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        seed=seeded(recipe, "validation"),
    )
    samples = _judged([rollout for group in groups for rollout in group], task.validation, task, recipe)
    head, scored = score_all({"reward": reward}, samples, crossing_of(run, task, reward.tokenizer))["reward"]
    return fit_calibration(_labelled(samples, scored), head)


def _labelled(samples: Sequence[Sampled], scored: Sequence[ScoredTrace]) -> list[Labelled]:
    """A first error that is no unit of the reading (a missing answer line) counts as not known."""
    found = []
    for sample, read in zip(samples, scored, strict=True):
        first = sample.verdict.first_error
        known = first if first is not None and first < len(read.unit_logits) else None
        found.append(Labelled(sample.rollout.problem_id, sample.key, read, sample.verdict.correct, known))
    return found


def groups_of(samples: Sequence[Sampled], scores: Scores, n: int) -> list[RerankGroup]:
    """The samples as reranking groups of `n`."""
    groups = []
    for start in range(0, len(samples), n):
        part = samples[start : start + n]
        groups.append(
            RerankGroup(
                problem_id=part[0].rollout.problem_id,
                correct=tuple(bool(s.verdict.correct) for s in part),
                answers=tuple(s.answer for s in part),
                lengths=tuple(len(s.rollout.completion_ids) for s in part),
                scores={
                    name: tuple(item.exported for item in values[start : start + n])
                    for name, (_, values) in scores.items()
                },
            )
        )
    return groups


def wrong_traces(samples: Sequence[Sampled], scores: Scores) -> list[LabelledTrace]:
    """The traces whose first wrong unit is known, with each scorer's suspicion of every unit.

    A trace whose steps are right and whose answer line is missing has no wrong unit to point at; it is left out. So is
    one that two tokenizers cut into different units, by a token over two steps.
    """
    found = []
    for at, sample in enumerate(samples):
        first = sample.verdict.first_error
        units = {len(values[at].unit_logits) for _, values in scores.values()}
        if first is not None and len(units) == 1 and 0 <= first < max(units):
            doubts: dict[str, tuple[float, ...]] = {}
            for name, (head, values) in scores.items():
                doubts |= suspicions(name, head, values[at])
            found.append(LabelledTrace(sample.rollout.problem_id, first, doubts))
    return found


def _numbers(rows: Mapping[str, Estimate | None]) -> tuple[dict[str, float | None], dict[str, list[float] | None]]:
    values = {name: None if row is None else row.value for name, row in rows.items()}
    return values, {name: None if row is None else [row.low, row.high] for name, row in rows.items()}


def judge_samples(
    samples: Sequence[Sampled], scores: Scores, n: int, fitted: Calibration | None = None
) -> dict[str, Any]:
    """Rerank and localisation tables with intervals, their values by problem, and the reward's calibration."""
    groups = groups_of(samples, scores, n)
    reranked = rerank_table(groups, n=n, seed=0)
    values, intervals = _numbers(reranked.rows)
    found: dict[str, Any] = {"rerank": {"n": n, **values}, "rerank_intervals": intervals}
    found["rerank_by_problem"] = {name: list(shares) for name, shares in reranked.values.items()}
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size <= n]
    curve = rerank_curve(groups, sizes=sizes, seed=0)
    found["rerank_curve"] = {"n": sizes, **{name: [e.value for e in row] for name, row in curve.items()}}
    wrong = wrong_traces(samples, scores)
    if wrong:
        table = localise_table(wrong, seed=0)
        rows = {name: row for name, row in table.rows.items() if row is not None}
        hits, hit_intervals = _numbers({name: row.hit_at_1 for name, row in rows.items()})
        found |= {"localise_hit_at_1": hits, "localise_hit_at_1_intervals": hit_intervals}
        found["localise"] = {
            "traces": len(wrong),
            "hit_within_1": _numbers({name: row.hit_within_1 for name, row in rows.items()})[0],
            "map": _numbers({name: row.map for name, row in rows.items()})[0],
        }
        found["localise_by_problem"] = _hits_by_problem(groups, wrong, table.hits)
    return {**found, "calibration": calibration(samples, *scores["reward"], fitted)}


def _hits_by_problem(
    groups: Sequence[RerankGroup], wrong: Sequence[LabelledTrace], hits: Mapping[str, Sequence[float]]
) -> dict[str, list[float]]:
    """For each test problem how many wrong traces it has, `wrong_traces`, and how many of them each method and blind
    chance hit."""
    place = {group.problem_id: at for at, group in enumerate(groups)}
    owner = [place[trace.problem_id] for trace in wrong]
    columns = {"wrong_traces": [1.0] * len(wrong), CHANCE: [1 / trace.units for trace in wrong], **hits}
    return {
        name: np.bincount(owner, weights=values, minlength=len(groups)).tolist() for name, values in columns.items()
    }


def calibration(
    samples: Sequence[Sampled], head: Head, scored: Sequence[ScoredTrace], fitted: Calibration | None
) -> dict[str, Any] | None:
    """AUROC of the exported reward against correctness, what of it length alone explains, and how good the
    probabilities are that the reward was saved with."""
    exported = [item.exported for item in scored]
    labels = [bool(s.verdict.correct) for s in samples]
    lengths = [len(s.rollout.completion_ids) for s in samples]
    problems = [s.rollout.problem_id for s in samples]
    if len(set(labels)) < 2 or len(set(lengths)) < 2 or len(set(exported)) < 2:
        return None
    found = auroc(exported, labels, seed=0, problems=problems)
    controlled = length_controlled_auroc(exported, labels, lengths, seed=0, problems=problems)
    measured = {} if fitted is None else measure_calibration(_labelled(samples, scored), head, fitted, seed=0)
    return {
        "auroc": found.value,
        "auroc_low": found.low,
        "auroc_high": found.high,
        "auroc_length_control": controlled.value,
        "length_correlation": length_correlation(exported, lengths),
        "probabilities": {
            kind: {"ece": one.ece, "brier": one.brier, "n": one.n, "reliability": [asdict(part) for part in one.bins]}
            for kind, one in measured.items()
        },
    }


def score_all(
    scorers: Mapping[str, TraceScorer], samples: Sequence[Sampled], crossing: Crossing | None = None
) -> Scores:
    """Every scorer's readings of the same traces.   crossing: what the traces go through to the one named `reward`."""
    from traceward.rewards.model import STEPS

    own = [sample.encoded for sample in samples]
    crossed = own
    if crossing is not None:
        crossed = [as_sampled(rollout) for rollout in crossing.rollouts([sample.rollout for sample in samples])]
    return {
        name: (scorer.head, shared_scores(scorer, crossed if name == "reward" else own, spec=STEPS))
        for name, scorer in scorers.items()
    }


def judge_reward(run: RunDirectory, reward: RewardModel) -> dict[str, Any]:
    """The figures of one more reward for the variants table."""
    recipe = run.recipe()
    task = load_task(recipe)
    samples = read_samples(run, task, recipe)
    scores = score_all({"reward": reward}, samples, crossing_of(run, task, reward.tokenizer))
    found = judge_samples(samples, scores, recipe.evaluation.samples)
    hits = found.get("localise_hit_at_1", {})
    return {
        "rerank": found["rerank"]["reward"],
        "localise_hit_at_1": hits.get("reward"),
        "auroc": (found["calibration"] or {}).get("auroc"),
    }


def judge_run(run: RunDirectory) -> dict[str, Any]:
    """All figures of the run's own reward beside those of base and SFT; writes examples.jsonl."""
    from traceward.rewards.model import RewardModel
    from traceward.rewards.rivals import LogProbScorer, sft_log_ratio

    recipe = run.recipe()
    task = load_task(recipe)
    samples = read_samples(run, task, recipe)
    style = recipe.data.format
    base = LogProbScorer(*base_policy(run), style)
    reward = RewardModel.load(run.path / "reward")
    scorers: dict[str, TraceScorer] = {"reward": reward, "base_logprob": base}
    if run.part("sft") is not None:
        sft = LogProbScorer(*sft_policy(run), style)
        scorers |= {"sft_logprob": sft, "sft_log_ratio": sft_log_ratio(sft, base, like=reward)}
    scores = score_all(scorers, samples, crossing_of(run, task, reward.tokenizer))
    on_main(write_jsonl)(run.path / "examples.jsonl", examples(samples, scores["reward"], task, recipe))
    return judge_samples(samples, scores, recipe.evaluation.samples, reward.calibration)


def examples(
    samples: Sequence[Sampled], scored: tuple[Head, list[ScoredTrace]], task: Task, recipe: Recipe
) -> list[dict[str, Any]]:
    """Traces for the report: one per problem in test order, two wrong ones for each right one. Not chosen by score."""
    problems = {d.problem.id: d.problem for d in task.test}
    head, values = scored
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for at, sample in enumerate(samples):
        wanted_right = len(rows) % 3 == 2
        key = sample.rollout.problem_id
        if len(rows) >= recipe.evaluation.examples:
            break
        if key in seen or bool(sample.verdict.correct) is not wanted_right:
            continue
        steps = split_steps(sample.rollout.text)
        if len(steps) != len(values[at].unit_logits):
            continue  # a token over two steps: nothing to colour
        seen.add(key)
        suspected = suspicion(head, values[at])
        rows.append(
            {
                "id": key,
                "question": problems[key].question,
                "steps": steps,
                "step_scores": increments(head, values[at].unit_logits).tolist(),
                "predicted": predict_first_error(suspected),
                "first_error": sample.verdict.first_error,
                "correct": bool(sample.verdict.correct),
                "exported": values[at].exported,
            }
        )
    return rows
