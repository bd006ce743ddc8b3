"""The stage that uses a reward elsewhere: whose tokens are read, what is refused, and the figures by hand."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from traceward.builtin.small import small_llama, train_tokenizer
from traceward.config import Recipe
from traceward.data.formats import (
    Format,
    as_sampled,
    completion_text,
    encode,
    encode_completion,
    encode_prompt,
    parse_completion,
)
from traceward.data.jsonl import write_json
from traceward.data.tasks import stories
from traceward.data.tasks.registry import Task
from traceward.errors import ConfigError, DataError
from traceward.evaluation.rerank import best_of_n
from traceward.loading import load_policy, load_tokenizer
from traceward.records import Problem, Rollout, StopReason
from traceward.rewards.model import RewardModel
from traceward.rewards.rivals import LogProbScorer
from traceward.training.run_directory import RunDirectory
from traceward.workflows.boundary import Reader, crossed
from traceward.workflows.inputs import load_task, write_rollouts
from traceward.workflows.transfer import refuse_misfits, transferred

SAMPLES = 3


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with a tokenizer of its own, which cuts words into pieces."""
    directory = tmp_path_factory.mktemp("foreign")
    texts = [item.problem.question + "\n" + "\n".join(item.trace.steps) for item in stories.demonstrations(20, 7)]
    tokenizer = train_tokenizer(texts, 330)
    small_llama(tokenizer, hidden=16, intermediate=32, layers=1, heads=2, context=1024, seed=3).save_pretrained(
        directory
    )
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A policy with the tokenizer of `policy` and room for long prompts."""
    directory = tmp_path_factory.mktemp("roomy")
    small_llama(tokenizer, hidden=16, intermediate=32, layers=1, heads=2, context=1024, seed=4).save_pretrained(
        directory
    )
    tokenizer.save_pretrained(directory)
    return directory


def recipe_of(policy: Path, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "run": {"arms": ["sft"]},
            "data": {"demonstrations": 4, "validation": 0, "test": 4},
            "policy": {"path": str(policy)},
            "evaluation": {"samples": SAMPLES},
            **changes,
        }
    )


def sampled(task: Task, tokenizer: PreTrainedTokenizerBase, style: Format) -> list[Rollout]:
    """For each test problem the expert's trace and two of a student that errs, as a policy would have sampled them."""
    rng = random.Random(2)
    found = []
    for item in task.test:
        story = stories.read_story(item.problem.question)
        students = [stories.write_trace(story, rng, replace(stories.STUDENT, slip=0.5)) for _ in range(SAMPLES - 1)]
        for trace in (item.trace, *students):
            text = completion_text(trace, style)
            ids = encode_completion(text, tokenizer)
            prompt = encode_prompt(item.problem, style, tokenizer)
            found.append(Rollout(item.problem.id, prompt, ids, text, StopReason.END))
    return found


def planted(room: Path, reward: Path, learned_on: Path, recipe: Recipe) -> RunDirectory:
    """The directory of a pair, with what the stages before it would have left."""
    names = ("learned", "tuned", "used")
    for name in names:
        (room / name / "data").mkdir(parents=True)
        (room / name / "policies").mkdir()
        write_json(room / name / "config.json", recipe_of(learned_on).model_dump(mode="json"))
    (room / "learned" / "reward").symlink_to(reward)
    (room / "tuned" / "policies" / "sft").symlink_to(learned_on)
    write_json(room / "used" / "config.json", recipe.model_dump(mode="json"))
    tokenizer = load_tokenizer(recipe.policy.path)
    write_rollouts(room / "used" / "data" / "samples.jsonl", sampled(load_task(recipe), tokenizer, recipe.data.format))
    return RunDirectory(room)


def best(scores: list[float], correct: list[bool]) -> list[float]:
    """Per problem, the expected correctness of its highest score."""
    groups = range(0, len(scores), SAMPLES)
    return [best_of_n(scores[at : at + SAMPLES], correct[at : at + SAMPLES], SAMPLES) for at in groups]


@pytest.mark.parametrize("own", [True, False])
def test_every_scorer_reads_the_samples_with_its_own_tokenizer(
    own: bool, policy: Path, foreign: Path, reward: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(policy if own else foreign)
    found = transferred(planted(tmp_path, reward, policy, recipe))
    task = load_task(recipe)
    problems = {item.problem.id: item.problem for item in task.test}
    model, tokenizer = load_policy(recipe.policy.path, recipe.policy.path)
    rollouts = sampled(task, tokenizer, Format.PLAIN)
    traces = [parse_completion(rollout.text, Format.PLAIN) for rollout in rollouts]
    items = [(problems[r.problem_id], t) for r, t in zip(rollouts, traces, strict=True)]
    correct = [bool(task.judge(problem, trace).correct) for problem, trace in items]
    assert {True, False} == set(correct)
    learned = RewardModel.load(reward)
    exported = [read.exported for read in learned.score(items)]
    assert found["rerank_by_problem"]["reward"] == best(exported, correct)
    mine = [read.exported for read in LogProbScorer(model, tokenizer).score_encoded([as_sampled(r) for r in rollouts])]
    assert found["rerank_by_problem"]["base_logprob"] == best(mine, correct)
    assert found["through_text"] is not own
    # The planted "SFT" is the start policy itself: the log-ratio of the two is nothing, and its log-prob that policy's.
    sft = LogProbScorer(*load_policy(policy, policy))
    theirs = [read.exported for read in sft.score(items)]
    assert found["rerank_by_problem"]["sft_logprob"] == best(theirs, correct)
    assert sum(found["localise_by_problem"]["wrong_traces"]) == found["localise"]["traces"] > 3
    wrong = found["localise_by_problem"]
    assert sum(wrong["chance"]) < sum(wrong["wrong_traces"]) / 2


def test_another_format_is_read_in_the_format_of_the_reward(
    policy: Path, roomy: Path, reward: Path, tmp_path: Path
) -> None:
    plain = transferred(planted(tmp_path / "plain", reward, policy, recipe_of(roomy)))
    data = {"demonstrations": 4, "validation": 0, "test": 4, "format": "think"}
    think = transferred(planted(tmp_path / "think", reward, policy, recipe_of(roomy, data=data)))
    assert (plain["through_text"], think["through_text"]) == (False, True)
    for method in ("reward", "sft_logprob"):
        assert think["rerank_by_problem"][method] == plain["rerank_by_problem"][method]
        assert think["localise_by_problem"][method] == plain["localise_by_problem"][method]


def test_traces_that_do_not_fit_are_told_before_any_is_scored(
    policy: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planted(tmp_path, reward, policy, recipe_of(policy))
    samples = run.path / "used" / "data" / "samples.jsonl"
    (first, *rest) = sampled(load_task(recipe_of(policy)), load_tokenizer(policy), Format.PLAIN)
    write_rollouts(samples, [replace(first, completion_ids=first.completion_ids * 9), *rest])
    monkeypatch.setattr(RewardModel, "score_encoded", None)
    with pytest.raises(DataError, match=r"must fit the reward's context of 160 tokens: got 1 of 12 that do not, up to"):
        transferred(run)


@pytest.mark.parametrize(
    ("new", "on", "said"),
    [
        (20, "policy", None),
        (150, "policy", "use.there: questions must leave room for 150 new tokens in the context of 160 tokens of the"),
        (150, "foreign", None),  # another tokenizer: how long the text gets there is not known before
    ],
)
def test_what_cannot_fit_is_known_before_anything_is_trained(
    new: int, on: str, said: str | None, policy: Path, foreign: Path
) -> None:
    used = recipe_of(policy if on == "policy" else foreign, adversarial={"max_new_tokens": new})
    if said is None:
        refuse_misfits({"here": recipe_of(policy)}, {"there": used})
    else:
        with pytest.raises(ConfigError, match=said):
            refuse_misfits({"here": recipe_of(policy)}, {"there": used})


def test_questions_alone_may_be_too_long(policy: Path, foreign: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    model, tokenizer = load_policy(foreign, foreign)
    model.config.max_position_embeddings = 40
    model.save_pretrained(narrow)
    tokenizer.save_pretrained(narrow)
    with pytest.raises(
        ConfigError, match=r"must leave room for 1 new tokens in the context of 40 tokens .* learn.here"
    ):
        refuse_misfits({"here": recipe_of(narrow)}, {"there": recipe_of(policy)})


def test_ids_travel_where_both_sides_read_them_alike(tokenizer: PreTrainedTokenizerBase, foreign: Path) -> None:
    item = stories.demonstrations(1, 5)[0]
    whole = encode(item.problem, item.trace, Format.PLAIN, tokenizer)
    text = completion_text(item.trace, Format.PLAIN)
    # Ids that no tokenizer would make of the text: letters one by one.
    odd = tuple(i for letter in text for i in tokenizer(letter, add_special_tokens=False)["input_ids"])
    rollout = Rollout(item.problem.id, whole.prompt_ids, odd, text, StopReason.LENGTH)
    writer = Reader(tokenizer, Format.PLAIN)
    (same,), through = crossed([(item.problem, rollout)], writer, Reader(tokenizer, Format.PLAIN))
    assert (same.completion_ids, through) == (odd, False)
    other = load_tokenizer(foreign)
    (read,), through = crossed([(item.problem, rollout)], writer, Reader(other, Format.PLAIN))
    assert through
    assert other.decode(read.completion_ids) == text  # cut by the length cap: no end of sequence is put on
    ended, _ = crossed([(item.problem, replace(rollout, stop=StopReason.END))], writer, Reader(other, Format.PLAIN))
    assert ended[0].completion_ids == (*read.completion_ids, other.eos_token_id)
    (empty,), _ = crossed([(item.problem, replace(rollout, text=""))], writer, Reader(other, Format.PLAIN))
    assert empty.completion_ids == (other.eos_token_id,)


def test_another_end_of_sequence_is_another_reader(tokenizer: PreTrainedTokenizerBase, foreign: Path) -> None:
    changed = load_tokenizer(foreign)
    assert Reader(changed, Format.PLAIN).alike(Reader(load_tokenizer(foreign), Format.PLAIN))
    assert not Reader(changed, Format.PLAIN).alike(Reader(changed, Format.THINK))
    assert not Reader(changed, Format.PLAIN).alike(Reader(tokenizer, Format.PLAIN))
    changed.eos_token = changed.pad_token
    assert not Reader(changed, Format.PLAIN).alike(Reader(load_tokenizer(foreign), Format.PLAIN))


def test_crossing_parses_another_format(tokenizer: PreTrainedTokenizerBase) -> None:
    problem = Problem("p", "What is 1 + 1?", "2")
    text = "<think>1 + 1 = 2.</think>\n<answer>2</answer>"
    rollout = Rollout("p", (1,), (2,), text, StopReason.END)
    (read,), _ = crossed([(problem, rollout)], Reader(tokenizer, Format.THINK), Reader(tokenizer, Format.PLAIN))
    assert tokenizer.decode(read.completion_ids, skip_special_tokens=True) == "1 + 1 = 2.\nAnswer: 2"
    assert tokenizer.decode(read.prompt_ids) == "What is 1 + 1?\n"
