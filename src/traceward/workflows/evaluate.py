"""`traceward evaluate`: sample a policy on questions with reference answers, and measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceward.data.demonstrations import find_file, read_questions
from traceward.data.formats import Format, encode_prompt, stated_answer
from traceward.data.grading import Grade
from traceward.data.jsonl import Faults, read_jsonl
from traceward.data.options import answer_key, grade_answer
from traceward.errors import ConfigError
from traceward.evaluation.rerank import RerankGroup, RerankTable, pass_curve, rerank_table
from traceward.evaluation.statistics import Estimate, bootstrap_mean
from traceward.records import Problem, Rollout, StopReason
from traceward.rewards.model import RewardModel
from traceward.sampling import sample
from traceward.workflows.boundary import Reader, crossed
from traceward.workflows.score import Progress, context_of, open_policy, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """rows: the sampled traces.  measures: name -> estimate over questions, those of a reward where one is given."""

    rows: tuple[dict[str, Any], ...]
    measures: Mapping[str, Estimate]
    questions: int
    n: int
    temperature: float
    cut: float  # share of the samples that met the length cap

    def as_json(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "questions": self.questions,
            "n": self.n,
            "temperature": self.temperature,
            "cut_share": self.cut,
            "rows": {name: asdict(found) for name, found in self.measures.items()},
        }


@dataclass(frozen=True, slots=True)
class _Graded:
    rollout: Rollout
    answer: str | None
    correct: bool


def evaluate_policy(
    questions: Path,
    *,
    policy: str,
    reward: Path | None = None,
    n: int = 8,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    style: Format | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> EvaluateResult:
    """Sample `n` answers a question at `temperature` and one greedily, and grade them by the reference answers.

    style: the prompt's format; left out, the reward's, or plain.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0: got {temperature}; greedy decoding is measured beside it")
    file = find_file(questions, None)
    problems = read_questions(file)
    model, tokenizer = open_policy(policy)
    learned = RewardModel.load(reward) if reward is not None else None
    used = style or (learned.style if learned else Format.PLAIN)
    prompts = [(problem.id, encode_prompt(problem, used, tokenizer)) for problem in problems]
    _check(file, problems, prompts, model=model, max_new_tokens=max_new_tokens)
    groups = sample_all(
        model, tokenizer, prompts, n=n, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        progress=progress,
    )  # fmt: skip
    greedy = sample_all(
        model, tokenizer, prompts, n=1, max_new_tokens=max_new_tokens, temperature=0.0, seed=seed, progress=progress
    )
    graded = [[_graded(p, r, used) for r in group] for p, group in zip(problems, groups, strict=True)]
    best = [_graded(p, r, used).correct for p, (r,) in zip(problems, greedy, strict=True)]
    scores = None
    if learned is not None:
        progress("scoring: reward", 0, 1)
        scores = _scores(learned, tokenizer, problems, groups, used)
        progress("scoring: reward", 1, 1)
    return EvaluateResult(
        rows=_rows(problems, graded, scores),
        measures=_measures(problems, graded, best, scores, n=n, seed=seed),
        questions=len(problems),
        n=n,
        temperature=temperature,
        cut=sum(r.stop is StopReason.LENGTH for group in groups for r in group) / (n * len(groups)),
    )


def _check(
    file: Path,
    problems: Sequence[Problem],
    prompts: Sequence[tuple[str, tuple[int, ...]]],
    *,
    model: PreTrainedModel,
    max_new_tokens: int,
) -> None:
    """Every question has a reference answer, and leaves room for its own."""
    faults = Faults(file)
    lines = [line for line, _ in read_jsonl(file)]
    for line, problem, (_, ids) in zip(lines, problems, prompts, strict=True):
        if problem.answer is None:
            faults.add(line, "answer", "must be there to grade by: got none; add the reference answer")
        refuse_long_prompt(faults, line, ids, context_of(model), max_new_tokens)
    faults.raise_if_any()


def refuse_long_prompt(
    faults: Faults, line: int, prompt_ids: Sequence[int], context: int | None, max_new_tokens: int
) -> bool:
    """Note a question after which `max_new_tokens` do not fit a model's context, and say whether they do not."""
    if context is None or len(prompt_ids) + max_new_tokens <= context:
        return False
    faults.add(
        line,
        "question",
        f"must leave room for {max_new_tokens} new tokens in the model's context of {context}: got "
        f"{len(prompt_ids)} tokens; lower --max-new-tokens or use a model with a longer context",
    )
    return True


def sample_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[str, tuple[int, ...]]],
    *,
    n: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    progress: Progress,
) -> list[list[Rollout]]:
    """`sampling.sample` with our progress."""
    what = "sampling" if temperature else "greedy decoding"
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, len(prompts))

    progress(what, 0, len(prompts))
    return sample(
        model, tokenizer, prompts, n=n, max_new_tokens=max_new_tokens, seed=seed, temperature=temperature, progress=more
    )


def _graded(problem: Problem, rollout: Rollout, style: Format) -> _Graded:
    answer = stated_answer(rollout.text, style)
    return _Graded(rollout, answer, grade_answer(answer, problem) is Grade.CORRECT)


def _scores(
    reward: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    groups: Sequence[Sequence[Rollout]],
    style: Format,
) -> list[list[float]]:
    """Exported rewards: of the ids as sampled where reward and policy read them alike, else of the text."""
    sampled = [(problem, rollout) for problem, group in zip(problems, groups, strict=True) for rollout in group]
    traces, _ = crossed(sampled, Reader(tokenizer, style), Reader(reward.tokenizer, reward.style))
    found = iter(reward.score_encoded(traces))
    return [[next(found).exported for _ in group] for group in groups]


def _measures(
    problems: Sequence[Problem],
    graded: Sequence[Sequence[_Graded]],
    greedy: Sequence[bool],
    scores: Sequence[Sequence[float]] | None,
    *,
    n: int,
    seed: int,
) -> dict[str, Estimate]:
    passed = pass_curve([[item.correct for item in group] for group in graded], seed=seed)
    found = {f"pass@{k}": estimate for k, estimate in passed.items()}
    found["greedy"] = bootstrap_mean([float(correct) for correct in greedy], seed=seed)
    table = _table(problems, graded, scores, n=n, seed=seed)
    for name in ("majority", "shortest", *(("reward", "weighted_vote") if scores is not None else ())):
        row = table.rows[name]
        assert row is not None
        found[name] = row
    return found


def _table(
    problems: Sequence[Problem],
    graded: Sequence[Sequence[_Graded]],
    scores: Sequence[Sequence[float]] | None,
    *,
    n: int,
    seed: int,
) -> RerankTable:
    groups = [
        RerankGroup(
            problem_id=problem.id,
            correct=tuple(item.correct for item in group),
            answers=tuple(answer_key(item.answer, problem.question) for item in group),
            lengths=tuple(len(item.rollout.completion_ids) for item in group),
            # The record asks for a reward; its rows are not shown where none was given.
            scores={"reward": tuple(scores[index]) if scores is not None else (0.0,) * len(group)},
        )
        for index, (problem, group) in enumerate(zip(problems, graded, strict=True))
    ]
    return rerank_table(groups, n=n, seed=seed)


def _rows(
    problems: Sequence[Problem], graded: Sequence[Sequence[_Graded]], scores: Sequence[Sequence[float]] | None
) -> tuple[dict[str, Any], ...]:
    """The traces, as `score`, `rerank` and `fit --rollouts` read them."""
    rows = []
    for at, (problem, group) in enumerate(zip(problems, graded, strict=True)):
        for index, item in enumerate(group):
            row: dict[str, Any] = {
                "id": f"{problem.id}-{index}",
                "qid": problem.id,
                "question": problem.question,
                "completion": item.rollout.text,
                "model_answer": item.answer,
                "answer": problem.answer,
                "final_correct": item.correct,
                "stop": str(item.rollout.stop),
                "tokens": len(item.rollout.completion_ids),
            }
            rows.append(row if scores is None else {**row, "score": scores[at][index]})
    return tuple(rows)
