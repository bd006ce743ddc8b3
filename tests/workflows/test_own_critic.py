"""A reward on a model of its own: ids travel to the same tokenizer, text to another, and what cannot is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.builtin.small import small_llama, train_tokenizer
from traceward.config import Arm, resolve
from traceward.data.formats import Format, as_sampled, encode, encode_prompt
from traceward.data.jsonl import write_jsonl
from traceward.data.tasks import stories
from traceward.errors import ConfigError, DataError
from traceward.loading import load_tokenizer
from traceward.records import Head, Objective, Rollout, StopReason
from traceward.rewards.model import RewardModel
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.critic import Critic
from traceward.training.run_directory import RunDirectory
from traceward.training.settings import AdversarialConfig, CriticSettings
from traceward.training.tokens import check_crossing
from traceward.workflows import stages
from traceward.workflows.arms import arm
from traceward.workflows.boundary import Reader, TextCrossing
from traceward.workflows.inputs import crossing_of, load_task, quiet
from traceward.workflows.judge import judge_run
from traceward.workflows.pairs import matched_pairs
from traceward.workflows.train import check


def _model(directory: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    model = small_llama(tokenizer, hidden=24, intermediate=32, layers=1, heads=2, context=1024, seed=3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer of its own, which cuts words into pieces, and an end that is spelt otherwise."""
    texts = [item.problem.question + "\n" + "\n".join(item.trace.steps) for item in stories.demonstrations(20, 7)]
    tokenizer = train_tokenizer(texts, 330)
    tokenizer.add_special_tokens({"eos_token": "<|stop|>"})
    return _model(tmp_path_factory.mktemp("foreign"), tokenizer)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A model of another size with the policy's tokenizer."""
    return _model(tmp_path_factory.mktemp("alike"), tokenizer)


@pytest.fixture
def crossing(foreign: Path, tokenizer: PreTrainedTokenizerBase) -> TextCrossing:
    problems = {item.problem.id: item.problem for item in stories.demonstrations(4, seed=1)}
    own = load_tokenizer(foreign)
    return TextCrossing(problems, Reader(tokenizer, Format.PLAIN), Reader(own, Format.PLAIN))


def tree_of(directory: Path, policy: Path, own: Path, **adversarial: Any) -> dict[str, Any]:
    for split, seed in (("train", 1), ("test", 2)):
        rows = [
            {"question": d.problem.question, "steps": list(d.trace.steps), "answer": d.trace.answer}
            for d in stories.demonstrations(6, seed=seed, relations=(2, 2))
        ]
        write_jsonl(directory / f"{split}.jsonl", rows)
    few = {"steps": 1, "questions_per_step": 2, "group": 2, "max_new_tokens": 8}
    return {
        "run": {"arms": ["adversarial"], "checkpoint_every": 0},
        "data": {"task": "jsonl", "path": str(directory), "test": 2, "validation": 0},
        "policy": {"path": str(policy)},
        "reward": {"path": str(own)},
        "critic": {"held_out": 0, "warmup_updates": 1, "rollouts_per_question": 2, "positives": 2, "rollouts": 4},
        "adversarial": {**few, **adversarial},
        "evaluation": {"policy_samples": 1, "samples": 2, "pairs": 1},
    }


# ---- the boundary ----------------------------------------------------------------------------------------------------


def test_a_text_has_the_same_ids_on_both_sides_of_the_label(
    crossing: TextCrossing, tokenizer: PreTrainedTokenizerBase
) -> None:
    own = crossing.reward.tokenizer
    for item in stories.demonstrations(4, seed=1):
        ids = encode(item.problem, item.trace, Format.PLAIN, tokenizer)
        text = tokenizer.decode(ids.completion_ids, skip_special_tokens=True)
        written = Rollout(item.problem.id, ids.prompt_ids, ids.completion_ids, text)
        (crossed,) = crossing.rollouts([written])
        expert = crossing.expert(item.problem, item.trace, None)
        assert as_sampled(crossed) == expert == encode(item.problem, item.trace, Format.PLAIN, own)
        assert (crossed.text, crossed.stop) == (written.text, written.stop)
        # Cut after the policy's tokens, as its rollouts are, and without an end then.
        cut = crossing.expert(item.problem, item.trace, 9)
        assert own.decode(cut.completion_ids) == tokenizer.decode(ids.completion_ids[:9])
        short = Rollout(written.problem_id, ids.prompt_ids, ids.completion_ids[:9],
                        tokenizer.decode(ids.completion_ids[:9]), StopReason.LENGTH)  # fmt: skip
        assert as_sampled(crossing.rollouts([short])[0]) == cut
        assert own.eos_token_id not in cut.completion_ids
        assert crossing.expert(item.problem, item.trace, len(ids.completion_ids)) == expert


def test_a_rollout_that_spells_the_rewards_end_has_one_end(crossing: TextCrossing) -> None:
    key = next(iter(crossing.problems))
    (found,) = crossing.rollouts([Rollout(key, (1,), (2,), "So <|stop|> it is.\nAnswer: 3")])
    own = crossing.reward.tokenizer
    assert found.completion_ids.count(own.eos_token_id) == 1
    assert own.decode(found.completion_ids[:-1]) == "So  it is.\nAnswer: 3"


def test_what_the_rewards_model_cannot_read_is_cut_on_both_sides(
    crossing: TextCrossing, tokenizer: PreTrainedTokenizerBase
) -> None:
    item = stories.demonstrations(4, seed=1)[0]
    whole = crossing.expert(item.problem, item.trace, None)
    room = len(whole.prompt_ids) + 5
    short = replace(crossing, context=room)
    ids = encode(item.problem, item.trace, Format.PLAIN, tokenizer)
    text = tokenizer.decode(ids.completion_ids, skip_special_tokens=True)
    (read,) = short.rollouts([Rollout(item.problem.id, ids.prompt_ids, ids.completion_ids, text)])
    assert (read.completion_ids, read.stop) == (whole.completion_ids[:5], StopReason.LENGTH)
    assert short.expert(item.problem, item.trace, None) == as_sampled(read)
    assert replace(crossing, context=1024).expert(item.problem, item.trace, None) == whole
    with pytest.raises(DataError, match=r"question must leave room .* that reward\.path reads"):
        replace(crossing, context=len(whole.prompt_ids)).expert(item.problem, item.trace, None)


@pytest.mark.parametrize(
    ("learner", "credit", "message"),
    [
        ((Head.SCALAR, Objective.AIRL), "consensus", "critic.objective must not be 'airl'"),
        (
            (Head.LOG_RATIO, Objective.GAIL),
            "trace-mean",
            "adversarial.credit must be 'consensus' with head 'log-ratio'",
        ),
        ((Head.SCALAR, Objective.GAIL), "step-local", "adversarial.credit must be by trace"),
        ((Head.SCALAR, Objective.GAIL), "reward-to-go", "adversarial.credit must be by trace"),
        ((Head.SCALAR, Objective.PAIRWISE), "trace-mean", None),
        ((Head.LOG_RATIO, Objective.GAIL), "consensus", None),
    ],
)
def test_what_needs_the_policys_logprobs_is_refused(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    learner: tuple[Head, Objective],
    credit: str,
    message: str | None,
) -> None:
    head, objective = learner
    policy, foreign, alike = (request.getfixturevalue(name) for name in ("policy", "foreign", "alike"))
    config = AdversarialConfig(credit=credit)
    for own in (foreign, alike):
        tree = tree_of(tmp_path, policy, own, credit=credit)
        tree["reward"]["head"], tree["critic"]["objective"] = head, objective
        recipe = resolve(tree, where="test")
        if message is None or own == alike:
            check(recipe, load_task(recipe))
            continue
        with pytest.raises(ConfigError, match=message):
            check(recipe, load_task(recipe))
        with pytest.raises(ConfigError, match=message):
            check_crossing(head, objective, config)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype must go with reward.path"),
        ({"path": "x", "start": "sft"}, "start must be 'base' with reward.path"),
        ({"path": "x", "shares_backbone": True}, "shares_backbone must be false with reward.path"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(reward: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"reward": reward, "critic": {"held_out": 0}}, where="test")


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        ("alike", "log-ratio", "trace-mean", "bfloat16"),
        ("foreign", "log-ratio", "consensus", "float32"),
        ("foreign", "scalar", "trace-mean", "float32"),
    ],
)
def test_a_run_with_a_critic_of_its_own(
    tmp_path: Path, policy: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, case: tuple[str, ...]
) -> None:
    own, head, credit, dtype = case
    place = request.getfixturevalue(own)
    tree = tree_of(tmp_path, policy, place, credit=credit)
    tree["reward"] |= {"head": head, "dtype": dtype}
    run = RunDirectory.create(tmp_path / "run", resolve(tree, where="test"))
    task = load_task(run.recipe())
    reader = load_tokenizer(place)
    assert (crossing_of(run, task, reader) is None) is (own == "alike")
    seen: list[Any] = []
    update = Critic.update
    monkeypatch.setattr(Critic, "update", lambda self, fresh, *more: seen.append(fresh) or update(self, fresh, *more))
    made: list[AdversarialTrainer] = []
    score = AdversarialTrainer._score

    def watched(trainer: AdversarialTrainer, read: list[Rollout]) -> torch.Tensor:
        made.append(trainer)
        seen.append(read)
        return score(trainer, read)

    monkeypatch.setattr(AdversarialTrainer, "_score", watched)
    quiet()
    for stage in (stages.rollouts, stages.samples, stages.reward):
        stage(run)
    arm(run, Arm.ADVERSARIAL)
    reward = RewardModel.load(run.path / "reward")
    assert reward.backbone.config.hidden_size == 24
    assert reward.tokenizer.get_vocab() == reader.get_vocab()
    # Fresh rollouts, the memory, and what is scored stand in the reward's tokens behind its own prompt.
    prompts = {d.problem.id: encode_prompt(d.problem, Format.PLAIN, reader) for d in task.demonstrations}
    critic = made[0].critic
    assert critic is not None
    rollouts = [rollout for some in (*seen, critic.replay) for rollout in some]
    assert len(rollouts) > 12
    assert all(rollout.prompt_ids == prompts[rollout.problem_id] for rollout in rollouts)
    after = RewardModel.load(run.path / "reward-after")
    assert any(not torch.equal(a, b) for a, b in zip(reward.parameters(), after.parameters(), strict=True))
    assert judge_run(run)["rerank"]["reward"] is not None
    matched_pairs(run)
    if own == "foreign":
        with pytest.raises(ConfigError, match=r"critic\.objective must not be 'airl'"):
            Critic(reward, task.demonstrations, CriticSettings(objective="airl"), seed=0, crossing=critic.crossing)


TEMPLATE = "{% for message in messages %}Q: {{ message['content'] }}{% endfor %}\nA: "


def test_another_chat_template_is_another_reader(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy's own weights and words behind another prompt: experts and rollouts must both stand behind that one,
    and its reference has not read what the policy wrote."""
    own = tmp_path / "worded"
    shutil.copytree(policy, own)
    worded = load_tokenizer(own)
    worded.chat_template = TEMPLATE
    worded.save_pretrained(own)
    for style in Format:
        alike = Reader(load_tokenizer(policy), style).alike(Reader(worded, style))
        assert alike is (style is Format.PLAIN)
    tree = tree_of(tmp_path, policy, own, credit="consensus", kl=0.05)
    tree["data"]["format"] = "chat"
    tree["critic"]["corruptions"] = 1.0
    refused = resolve({**tree, "critic": {**tree["critic"], "objective": "airl"}}, where="test")
    with pytest.raises(ConfigError, match=r"critic\.objective must not be 'airl'"):
        check(refused, load_task(refused))
    run = RunDirectory.create(tmp_path / "run", resolve(tree, where="test"))
    batches: list[Any] = []
    batch = Critic.batch
    monkeypatch.setattr(Critic, "batch", lambda self, *some: batches.append(batch(self, *some)) or batches[-1])
    made: list[AdversarialTrainer] = []
    start = AdversarialTrainer.__init__
    monkeypatch.setattr(AdversarialTrainer, "__init__", lambda self, **some: made.append(self) or start(self, **some))
    quiet()
    for stage in (stages.rollouts, stages.reward):
        stage(run)
    arm(run, Arm.ADVERSARIAL)
    task = load_task(run.recipe())
    prompts = {d.problem.id: encode_prompt(d.problem, Format.CHAT, worded) for d in task.demonstrations}
    examples = [example for some in batches for example in some]
    assert {example.label for example in examples} == {0, 1}
    assert all(example.trace.prompt_ids == prompts[example.trace.key] for example in examples)
    assert not made[0]._reference.serves_kl
