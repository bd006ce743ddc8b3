"""A reward that was learned at one place, on the samples of another: reranking, localisation and calibration there.

The stage reads three run directories that stand in its own:

    learned/    the reward, and the start policy that it was learned on
    tuned/      SFT on the same demonstrations: what one could do with them instead
    used/       the task, the policy and its samples
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from traceward.data.formats import EncodedTrace
from traceward.errors import ConfigError, DataError
from traceward.loading import load_context, load_tokenizer
from traceward.training.run_directory import RunDirectory
from traceward.workflows.boundary import Reader, crossed
from traceward.workflows.inputs import base_policy, load_task, places_of, prompts_of, sft_policy
from traceward.workflows.judge import judge_samples, read_samples

if TYPE_CHECKING:
    from traceward.config import Recipe
    from traceward.workflows.score import Scorer

LEARNED, TUNED, USED = "learned", "tuned", "used"
_LONGER = "lower adversarial.max_new_tokens there, or learn the reward on a policy with a longer context"


def transferred(run: RunDirectory) -> dict[str, Any]:
    """The reward, its rivals, and the policy's own log-prob on the samples of `used`; see `judge_samples`.

    through_text: whether reward and policy read ids differently. Raises DataError for a trace that a scorer cannot
    read, before any is scored.
    """
    from traceward.rewards.model import STEPS, RewardModel

    learned, tuned, used = (RunDirectory(run.path / name) for name in (LEARNED, TUNED, USED))
    recipe = used.recipe()
    task = load_task(recipe)
    samples = read_samples(used, task, recipe)
    scorers = _scorers(learned, tuned, used)
    reward, own = scorers["reward"], scorers["base_logprob"]
    assert isinstance(reward, RewardModel)
    problems = {item.problem.id: item.problem for item in task.test}
    sampled = [(problems[sample.rollout.problem_id], sample.rollout) for sample in samples]
    writer, reader = Reader(own.tokenizer, own.style), Reader(reward.tokenizer, reward.style)
    # The learned side reads alike: what is tokenised for the reward serves its rivals too.
    traces, through_text = crossed(sampled, writer, reader)
    given = {**dict.fromkeys(scorers, traces), "base_logprob": [sample.encoded for sample in samples]}
    for name, scorer in scorers.items():
        _refuse_long(name, scorer, given[name])
    scores = {name: (one.head, one.score_encoded(given[name], spec=STEPS)) for name, one in scorers.items()}
    judged = judge_samples(samples, scores, recipe.evaluation.samples, reward.calibration)
    return {"through_text": through_text, **judged}


def _scorers(learned: RunDirectory, tuned: RunDirectory, used: RunDirectory) -> dict[str, Scorer]:
    """The learned side in the format of its reward, and the policy in that of its own prompts."""
    from traceward.rewards.model import RewardModel
    from traceward.rewards.rivals import LogProbScorer, sft_log_ratio

    reward = RewardModel.load(learned.path / "reward")
    sft = LogProbScorer(*sft_policy(tuned), reward.style)
    before = LogProbScorer(*base_policy(learned), reward.style)
    return {
        "reward": reward,
        "sft_logprob": sft,
        "sft_log_ratio": sft_log_ratio(sft, before, like=reward),
        "base_logprob": LogProbScorer(*base_policy(used), used.recipe().data.format),
    }


def _refuse_long(name: str, scorer: Scorer, traces: Sequence[EncodedTrace]) -> None:
    """Raise DataError where some traces do not fit what the scorer can read."""
    from traceward.workflows.score import context_of_scorer

    context = context_of_scorer(scorer)
    lengths = [len(trace.prompt_ids) + len(trace.completion_ids) for trace in traces]
    over = [length for length in lengths if context is not None and length > context]
    if over:
        raise DataError(
            f"traces must fit the {name}'s context of {context} tokens: got {len(over)} of {len(traces)} that do not, "
            f"up to {max(over)} tokens; {_LONGER}"
        )


def refuse_misfits(learn: Mapping[str, Recipe], use: Mapping[str, Recipe]) -> None:
    """What can be known of contexts before anything is trained.

    learn, use: recipes by the names of their places. Raises ConfigError where questions of a place of use, with the
    longest completion where both sides read ids alike, do not fit what a reward learned at a place can read.
    """
    for learned_at, recipe in learn.items():
        if recipe.reward.path is not None:
            raise ConfigError(
                f"learn.{learned_at}: reward.path must be left out in a matrix, whose rivals read what the reward "
                f"reads: got '{recipe.reward.path}'; remove it"
            )
    writers = {used_at: _reader(used) for used_at, used in use.items()}
    tests = {used_at: load_task(used).test for used_at, used in use.items()}
    for learned_at, recipe in learn.items():
        reader = _reader(recipe)
        context = None if reader is None else load_context(places_of(recipe.policy.path)[0])
        if reader is None or context is None:
            continue
        for used_at, used in use.items():
            longest = max(len(ids) for _, ids in prompts_of(tests[used_at], recipe, reader.tokenizer))
            writer = writers[used_at]
            new = used.adversarial.max_new_tokens if writer is not None and writer.alike(reader) else 1
            if longest + new > context:
                raise ConfigError(
                    f"use.{used_at}: questions must leave room for {new} new tokens in the context of {context} tokens "
                    f"of the policy of learn.{learned_at}: got one of {longest} tokens; {_LONGER}"
                )


def _reader(recipe: Recipe) -> Reader | None:
    """How a recipe's policy reads; None where it is yet to be made, and its tokenizer with it."""
    path = recipe.policy.path
    return None if path == "scratch" else Reader(load_tokenizer(places_of(path)[1]), recipe.data.format)
