"""The adversarial trainer on a tiny random policy: what it optimises, what it leaves alone, and that it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from traceward.data.formats import EncodedTrace, Format, encode_prompt
from traceward.objectives.advantages import trace_mean
from traceward.records import (
    Credit,
    Demonstration,
    Granularity,
    Head,
    Problem,
    Rollout,
    ScoredTrace,
    StopReason,
    UnitSpec,
)
from traceward.rewards.batches import sum_by_unit
from traceward.rewards.heads import PolicyLogprobs, token_logprobs
from traceward.rewards.model import STEPS, RewardModel
from traceward.rewards.rivals import UniformScorer
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.credit import answer_ids
from traceward.training.critic import Critic, Example
from traceward.training.settings import AdversarialConfig

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
MakePolicy = Callable[..., PreTrainedModel]
MakeReward = Callable[..., RewardModel]
MakeCritic = Callable[..., Critic]
MakeTrainer = Callable[..., AdversarialTrainer]
SMALL = {
    "steps": 3,
    "questions_per_step": 2,
    "group": 4,
    "max_new_tokens": 10,
    "critic_updates": 0,
    "accuracy_low": 0,  # without a band, `critic_updates` is what every step has
    "accuracy_high": 1,
    "credit": Credit.TRACE_MEAN,
    "learning_rate": 1e-3,
}


class Planted:
    """A reward that is known: the share of small token ids, and a unit per token."""

    head = Head.SCALAR
    style = Format.PLAIN
    spec = UnitSpec(Granularity.DENSE)

    def __init__(self) -> None:
        self.seen: list[list[EncodedTrace]] = []

    def score_encoded(
        self,
        traces: Sequence[EncodedTrace],
        *,
        spec: UnitSpec | None = STEPS,
        policy_logprobs: PolicyLogprobs | None = None,
    ) -> list[ScoredTrace]:
        self.seen.append(list(traces))
        found = []
        for trace in traces:
            values = tuple(float(token < 400) for token in trace.completion_ids)
            paid = () if policy_logprobs is None else values
            found.append(ScoredTrace(sum(values) / len(values), () if spec is None else values, (), paid))
        return found


class Keep(AdversarialTrainer):
    """Keeps what TRL is given to optimise."""

    def __init__(self, **options: Any) -> None:
        self.outs: list[dict[str, Any]] = []
        super().__init__(**options)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out = super()._generate_and_score_completions(inputs)
        self.outs.append({**out, "problem_ids": [row["problem_id"] for row in inputs]})
        return out


class Rows(TrainerCallback):  # type: ignore[misc]
    """Keeps the logged rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        self.rows.append(dict(logs or {}))


@pytest.fixture
def make_trainer(
    tmp_path: Path, make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, demonstrations: list[Demonstration]
) -> MakeTrainer:
    """A trainer of few steps; `config` by name, everything else as AdversarialTrainer takes it."""
    made = iter(range(100))

    def make(policy: PreTrainedModel | None = None, *, config: dict[str, Any] | None = None, **options: Any) -> Keep:
        chosen: dict[str, Any] = {
            "policy": policy or make_policy(),
            "tokenizer": tokenizer,
            "reward": Planted(),
            "demonstrations": demonstrations,
            "directory": tmp_path / f"run-{next(made)}",
            "config": AdversarialConfig.model_validate({**SMALL, **(config or {})}),
        }
        return Keep(**{**chosen, **options})

    return make


def traces_of(out: dict[str, Any]) -> list[EncodedTrace]:
    """The rollouts that TRL optimises."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    return [
        EncodedTrace(tuple(p[m.bool()].tolist()), tuple(c[k.bool()].tolist()))
        for p, m, c, k in zip(*(out[name] for name in names), strict=True)
    ]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# ---- what is optimised -----------------------------------------------------------------------------------------------


def test_scored_ids_are_the_ids_that_trl_optimises(
    make_trainer: MakeTrainer, demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase
) -> None:
    reward, rows = Planted(), Rows()
    trainer = make_trainer(reward=reward, callbacks=[rows])
    trainer.train()
    assert len(reward.seen) == len(trainer.outs) == 3
    prompts = {d.problem.id: encode_prompt(d.problem, Format.PLAIN, tokenizer) for d in demonstrations}
    for traces, out in zip(reward.seen, trainer.outs, strict=True):
        assert len(traces) == 8
        for row, trace in enumerate(traces):
            completion = out["completion_ids"][row][out["completion_mask"][row].bool()].tolist()
            prompt = out["prompt_ids"][row][out["prompt_mask"][row].bool()].tolist()
            assert list(trace.completion_ids) == completion
            assert list(trace.prompt_ids) == prompt
            assert trace.prompt_ids == prompts[out["problem_ids"][row]]
            assert trace.key == out["problem_ids"][row]
        assert [len({t.key for t in traces[start : start + 4]}) for start in (0, 4)] == [1, 1]
    logged = [row["exported"] for row in rows.rows if "exported" in row]
    share = [sum(s.exported for s in Planted().score_encoded(traces)) / 8 for traces in reward.seen]
    assert logged == pytest.approx(share, abs=1e-4)


def by_hand(rewards: list[float], group: int) -> list[float]:
    """Group-centred, divided by the deviation of the whole batch."""
    means = [sum(rewards[i - i % group : i - i % group + group]) / group for i in range(len(rewards))]
    centred = [r - m for r, m in zip(rewards, means, strict=True)]
    mean = sum(centred) / len(centred)
    deviation = (sum((c - mean) ** 2 for c in centred) / (len(centred) - 1)) ** 0.5
    return [c / (deviation + 1e-4) for c in centred]


def test_advantages_are_ours_per_token_and_zero_on_padding(make_trainer: MakeTrainer, make_policy: MakePolicy) -> None:
    policy, reward = make_policy(), Planted()
    with torch.no_grad():  # ends are common, so that completions differ in length
        policy.generation_config.eos_token_id = list(range(1, 200))
    trainer = make_trainer(policy, reward=reward)
    trainer.train()
    padded = 0
    for traces, out in zip(reward.seen, trainer.outs, strict=True):
        rewards = [s.exported for s in Planted().score_encoded(traces)]
        mask = out["completion_mask"]
        expected = torch.tensor(by_hand(rewards, 4))[:, None].expand(mask.shape)
        assert out["advantages"].shape == out["completion_ids"].shape
        assert torch.allclose(out["advantages"], expected * mask, atol=1e-5)
        assert out["advantages"][mask == 0].abs().sum() == 0
        padded += int((mask == 0).sum())
    assert padded > 20
    assert {len(t.completion_ids) for traces in reward.seen for t in traces} > {1}


def test_a_reward_models_trace_means_are_clipped(make_trainer: MakeTrainer, make_reward: MakeReward) -> None:
    reward = make_reward(Head.SCALAR, UnitSpec(every=4))
    with torch.no_grad():
        reward.backbone.score.weight.mul_(500)
    trainer = make_trainer(reward=reward, config={"steps": 1, "clip": 0.5})
    trainer.train()
    (out,) = trainer.outs
    batch = reward.eval().batch(traces_of(out))
    with torch.no_grad():
        units = reward.unit_logits(batch)
    assert units.abs().max() > 0.5
    rewards = trace_mean(units, batch.unit_mask, clip=0.5).tolist()
    assert out["advantages"][:, 0].tolist() == pytest.approx(by_hand(rewards, 4), abs=1e-4)


def same_rollouts(
    make_trainer: MakeTrainer, make_policy: MakePolicy, **config: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and mask of a first step, which samples the same whatever the credit."""
    policy = make_policy()
    policy.generation_config.eos_token_id = list(range(1, 200))
    trainer = make_trainer(policy, config={"steps": 1, **config})
    trainer.train()
    return trainer.outs[0]["advantages"], trainer.outs[0]["completion_mask"]


def test_step_local_moves_credit_inside_a_trace(make_trainer: MakeTrainer, make_policy: MakePolicy) -> None:
    plain, mask = same_rollouts(make_trainer, make_policy)
    none, _ = same_rollouts(make_trainer, make_policy, credit="step-local", local_weight=0)
    some, _ = same_rollouts(make_trainer, make_policy, credit="step-local", local_weight=0.5)
    assert torch.allclose(plain, none)
    assert torch.allclose(some.sum(1), plain.sum(1), atol=1e-5)  # a unit is a token here
    assert (some - plain).abs().max() > 0.1
    assert some[mask == 0].abs().sum() == 0


def test_leave_one_out_reaches_the_advantages(make_trainer: MakeTrainer, make_policy: MakePolicy) -> None:
    plain, _ = same_rollouts(make_trainer, make_policy, scale_rewards="none")
    other, _ = same_rollouts(make_trainer, make_policy, scale_rewards="none", baseline="leave-one-out")
    assert torch.allclose(plain * 4 / 3, other)
    assert plain.abs().max() > 0.01


def test_reward_to_go_knows_where_a_reward_lies(make_trainer: MakeTrainer, make_policy: MakePolicy) -> None:
    to_go, mask = same_rollouts(make_trainer, make_policy, credit="reward-to-go", gamma=0.5)
    assert (to_go.amax(1) - to_go.amin(1)).max() > 0.5
    assert to_go[mask == 0].abs().sum() == 0
    assert to_go[mask == 1].std().item() == pytest.approx(1.0, abs=1e-2)


ASKED = {"q": Problem("q", "How many?"), "other": Problem("other", "How few?")}


def rollout(text: str, key: str = "q") -> Rollout:
    return Rollout(key, (5,), (6, 7), text)


def test_consensus_rewards_agreement_with_the_weighted_vote(make_trainer: MakeTrainer) -> None:
    asked = [Problem("q", "How many?\nA. 8\nB. 9"), Problem("other", "How few?")]
    trainer = make_trainer(reward=UniformScorer(), questions=asked, config={"credit": Credit.CONSENSUS})
    texts = [
        "So\nAnswer: 4",
        "So\nAnswer: 5",
        "Hm\nAnswer: 5.0",
        "no idea",
        "Answer: 9",
        "Answer: B",  # the same option
        "Answer: 8",
        "Answer: 8",
    ]
    # Majority; the last group is a tie, which goes to its first rollout's answer.
    assert trainer._score([rollout(t) for t in texts]).tolist() == [0, 1, 1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(("temperature", "earns"), [(1.0, [1, 0, 0, 0]), (4.0, [0, 1, 1, 1])])
def test_consensus_weighs_votes_by_the_exported_reward(
    make_trainer: MakeTrainer, temperature: float, earns: list[int]
) -> None:
    config = {"credit": Credit.CONSENSUS, "vote_temperature": temperature}
    trainer = make_trainer(reward=Planted(), questions=[*ASKED.values()], config=config)
    texts = ["Answer: 4", "Answer: 5", "Answer: 5", "Answer: 5"] * 2
    rows = [Rollout("q", (5,), (6,) if "4" in text else (800,), text) for text in texts]
    # One of four is ahead by d, so the deviation inside groups is d / 2: e^(2 / T) = 7.4 or 1.6 against three votes.
    assert trainer._score(rows).tolist() == earns * 2


def test_answers_are_compared_inside_a_group_only() -> None:
    texts = ["Answer: 7", "Answer: 07", "Answer: seven", "nothing", "Answer: 3", "Answer: 7", "Answer: 3.0", "Answer:"]
    assert answer_ids([rollout(t) for t in texts], ASKED, Format.PLAIN, 4) == [0, 0, 1, -1, 0, 1, 0, -1]


def test_an_answer_counts_however_it_is_stated() -> None:
    texts = ["So\nAnswer: 72", "#### 72", "The answer is 72.", "none"]
    assert answer_ids([rollout(t) for t in texts], ASKED, Format.PLAIN, 4) == [0, 0, 0, -1]


def test_an_options_letter_and_its_text_are_one_vote() -> None:
    asked = {"q": Problem("q", "What is high?\nA) pulse\nB) fever")}
    texts = ["Answer: B", "Answer: B) fever", "The answer is fever.", "Answer: (A)"]
    assert answer_ids([rollout(t) for t in texts], asked, Format.PLAIN, 4) == [0, 0, 0, 1]


def test_consensus_trains(make_trainer: MakeTrainer) -> None:
    rows = Rows()
    policy_trainer = make_trainer(reward=UniformScorer(), config={"credit": Credit.CONSENSUS}, callbacks=[rows])
    policy_trainer.train()
    assert [row["agreement"] for row in rows.rows if "agreement" in row] == [0.0] * 3  # a random policy states nothing
    assert all(out["advantages"].abs().max() == 0 for out in policy_trainer.outs)


def test_questions_without_demonstrations_are_trained_on(make_trainer: MakeTrainer) -> None:
    questions = [Problem(f"new-{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(3)]
    trainer = make_trainer(questions=questions, config={"steps": 2})
    assert set(trainer.train_dataset.column_names) == {"prompt", "problem_id"}  # no answer travels along
    trainer.train()
    assert {key for out in trainer.outs for key in out["problem_ids"]} <= {q.id for q in questions}


# ---- reward, reference and policy ------------------------------------------------------------------------------------


def test_a_frozen_reward_does_not_change_and_the_policy_does(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_policy: MakePolicy
) -> None:
    reward, policy = make_reward(Head.SCALAR), make_policy()
    rewards_before, policy_before = weights(reward), weights(policy)
    make_trainer(policy, reward=reward).train()
    assert equal(weights(reward), rewards_before)
    assert not equal(weights(policy), policy_before)


@pytest.mark.parametrize("head", list(Head))
def test_a_learning_reward_changes_and_its_reference_does_not(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic, head: Head
) -> None:
    reward, rows = make_reward(head), Rows()
    before = weights(reward.backbone)
    reference = weights(reward.reference) if reward.reference is not None else {}
    critic = make_critic(reward, rollouts=8)
    trainer = make_trainer(reward=reward, critic=critic, config={"critic_updates": 2}, callbacks=[rows])
    trainer.train()
    assert critic.updates == 6
    assert not any(torch.equal(weight, before[name]) for name, weight in weights(reward.backbone).items())
    assert reward.reference is None or equal(weights(reward.reference), reference)
    logged = [row for row in rows.rows if "critic/loss" in row]
    assert len(logged) == 3
    assert {"critic/accuracy", "critic/logit_expert", "critic/logit_rollout", "critic/grad_norm"} <= logged[0].keys()


def test_rollouts_are_scored_by_the_reward_just_updated(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = make_reward()
    critic, order = make_critic(reward), []
    update, score = critic.update, reward.score_encoded
    monkeypatch.setattr(critic, "update", lambda *a: (order.append("update"), update(*a))[1])
    monkeypatch.setattr(reward, "score_encoded", lambda *a, **k: (order.append("score"), score(*a, **k))[1])
    make_trainer(reward=reward, critic=critic, config={"critic_updates": 2, "steps": 2}).train()
    assert order == ["update", "update", "score"] * 2


def test_the_critic_learns_from_questions_with_demonstrations(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Questions that only one class has would tell the classes apart.
    reward = make_reward()
    critic, learned = make_critic(reward, rollouts=16, held_out=0.0), list[Example]()
    loss = critic._loss
    monkeypatch.setattr(critic, "_loss", lambda e, *rest: (learned.extend(e), loss(e, *rest))[1])
    questions = [Problem(f"new-{i}", f"What is {i} + {i}?") for i in range(4)]
    make_trainer(reward=reward, critic=critic, questions=questions, config={"critic_updates": 1}).train()
    assert {e.trace.key for e in learned} <= {d.problem.id for d in critic.expert}
    rollouts = [e for e in learned if e.label == 0 and e.wrong_step is None]
    assert len(rollouts) == 3 * 16
    assert {r.stop for r in critic.replay} <= set(StopReason)
    assert len(critic.replay) == 3 * 8


@pytest.mark.parametrize("objective", ["gail", "pairwise"])
def test_half_of_an_update_is_fresh_and_answers_the_questions_of_its_experts(
    make_trainer: MakeTrainer,
    make_critic: MakeCritic,
    monkeypatch: pytest.MonkeyPatch,
    rollouts: list[Rollout],
    objective: str,
) -> None:
    critic = make_critic(objective=objective, positives=2, rollouts=8, held_out=0.0)
    critic.remember(rollouts * 8)
    seen: list[tuple[set[str], list[Rollout], list[Rollout]]] = []
    draw = critic._draw

    def keep(fresh: list[Rollout], experts: list[Demonstration]) -> list[Rollout]:
        drawn = draw(fresh, experts)
        seen.append(({d.problem.id for d in experts}, list(fresh), drawn))
        return drawn

    monkeypatch.setattr(critic, "_draw", keep)
    questions = [Problem(f"new-{i}", f"What is {i} + {i}?") for i in range(40)]
    make_trainer(reward=critic.reward, critic=critic, questions=questions, config={"critic_updates": 2}).train()
    assert len(seen) == 6
    for asked, fresh, drawn in seen:
        assert len(drawn) == 8
        assert sum(r in fresh for r in drawn) == 4
        if objective == "pairwise":
            assert {r.problem_id for r in drawn} <= asked


def test_held_out_questions_stay_out_of_the_alternation(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their experts are no positives, so as negatives alone they would tell the classes apart.
    reward = make_reward()
    critic, learned = make_critic(reward, rollouts=16, held_out=0.4), list[Example]()
    loss = critic._loss
    monkeypatch.setattr(critic, "_loss", lambda e, *rest: (learned.extend(e), loss(e, *rest))[1])
    make_trainer(reward=reward, critic=critic, config={"critic_updates": 1}).train()
    assert not {d.problem.id for d in critic.held_out} & {e.trace.key for e in learned}


def test_airl_is_trained_against_the_policy_as_it_is(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = make_reward(Head.SCALAR)
    critic, seen = make_critic(reward, objective="airl", rollouts=8), list[torch.Tensor]()
    trainer = make_trainer(reward=reward, critic=critic, config={"critic_updates": 1, "temperature": 0.8, "clip": 100})
    batch = reward.batch([e.trace for e in critic.positives(critic.expert)])
    update = critic.update

    def keep(fresh: list[Rollout], experts: list[Demonstration]) -> dict[str, float]:
        assert critic.discriminator.policy_logprobs is not None
        seen.append(critic.discriminator.policy_logprobs(batch))
        assert trainer.model.training  # as TRL left it
        return update(fresh, experts)

    monkeypatch.setattr(critic, "update", keep)
    trainer.train()
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[2])
    trainer.model.eval()
    with torch.no_grad():
        now = token_logprobs(trainer.model, batch, temperature=0.8)
    assert critic.discriminator.policy_logprobs is not None
    assert torch.equal(critic.discriminator.policy_logprobs(batch), now)


def test_a_log_ratio_pays_the_distance_to_the_policy_as_it_is_not_to_its_reference(
    make_trainer: MakeTrainer, make_reward: MakeReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Against the frozen reference, tokens win that the reference finds rare (docs/LOG.md).
    reward, pairs = make_reward(Head.LOG_RATIO, UnitSpec(every=4)), list[tuple[torch.Tensor, torch.Tensor]]()
    with torch.no_grad():
        for parameter in reward.backbone.parameters():
            parameter.mul_(1.2)
    trainer = make_trainer(reward=reward, config={"clip": 1e6, "learning_rate": 1e-2})
    score = trainer._score

    def keep(rollouts: list[Rollout]) -> torch.Tensor:
        batch = reward.batch([EncodedTrace(r.prompt_ids, r.completion_ids) for r in rollouts])
        with torch.no_grad():
            ratio = token_logprobs(reward.backbone, batch) - token_logprobs(trainer.model, batch)
        paid = trace_mean(sum_by_unit(ratio, batch), batch.unit_mask, clip=1e6)
        pairs.append((paid, trace_mean(reward.unit_logits(batch).detach(), batch.unit_mask, clip=1e6)))
        assert torch.allclose(score(rollouts), paid, atol=1e-4)
        return paid

    monkeypatch.setattr(trainer, "_score", keep)
    trainer.train()
    assert len(pairs) == 3
    policy, reference = pairs[-1]
    assert not torch.allclose(policy, reference, atol=1e-2)


def test_no_updates_freeze_a_reward_even_with_a_critic(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic
) -> None:
    reward = make_reward()
    before = weights(reward)
    make_trainer(reward=reward, critic=make_critic(reward), config={"critic_updates": 0}).train()
    assert equal(weights(reward), before)


@pytest.mark.parametrize("name", ["", "somewhere/else"])
def test_the_kl_reference_is_the_policy_as_handed_in(
    make_trainer: MakeTrainer, make_policy: MakePolicy, tmp_path: Path, name: str
) -> None:
    # A policy on disk, trained further in memory: TRL would read its reference from where the model came from.
    make_policy(seed=5).save_pretrained(tmp_path / "origin")
    policy = PreTrainedModel.from_pretrained.__func__(type(make_policy()), tmp_path / "origin")  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    policy.name_or_path = policy.config._name_or_path = name
    start = weights(policy)
    rows = Rows()
    trainer = make_trainer(policy, config={"kl": 0.1, "steps": 2}, callbacks=[rows])
    assert equal(weights(trainer.ref_model), start)
    trainer.train()
    assert equal(weights(trainer.ref_model), start)
    assert next(row["kl"] for row in rows.rows if "kl" in row) == pytest.approx(0, abs=1e-6)


def run(make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic, seed: int) -> list[torch.Tensor]:
    reward = make_reward(Head.SCALAR)
    critic = make_critic(reward, seed=seed)
    trainer = make_trainer(reward=reward, critic=critic, seed=seed, config={"critic_updates": 1, "kl": 0.01})
    trainer.train()
    return [*weights(trainer.model).values(), *weights(reward).values()]


def test_the_same_seed_gives_the_same_weights(
    make_trainer: MakeTrainer, make_reward: MakeReward, make_critic: MakeCritic
) -> None:
    first = run(make_trainer, make_reward, make_critic, 1)
    torch.manual_seed(99)
    again, other = (run(make_trainer, make_reward, make_critic, seed) for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("credit", [Credit.TRACE_MEAN, Credit.REWARD_TO_GO, Credit.STEP_LOCAL])
def test_a_planted_reward_is_learned(make_trainer: MakeTrainer, credit: Credit) -> None:
    rows = Rows()
    settings = {"steps": 25, "questions_per_step": 4, "group": 8, "learning_rate": 2e-2, "kl": 0.0, "credit": credit}
    trainer = make_trainer(config=settings, callbacks=[rows])
    trainer.train()
    exported = [row["exported"] for row in rows.rows if "exported" in row]
    assert exported[0] == pytest.approx(0.46, abs=0.1)  # 400 of 874 tokens
    assert sum(exported[-3:]) / 3 > 0.75


def test_a_step_is_the_same_in_one_backward_pass_or_several(make_trainer: MakeTrainer, make_policy: MakePolicy) -> None:
    norms = []
    for share in (8, 3):  # 8 rollouts: at once, and in four parts of two
        rows = Rows()
        trainer = make_trainer(
            make_policy(spread=0.3),
            config={"rollouts_per_backward": share, "kl": 0.1, "max_new_tokens": 24},
            callbacks=[rows],
        )
        trainer.train()
        norms.append([row["grad_norm"] for row in rows.rows if "grad_norm" in row])
    assert len(norms[0]) == 3
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert trainer.args.gradient_accumulation_steps == 4


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_updates_without_a_critic_are_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="critic must be given when critic_updates > 0"):
        make_trainer(config={"critic_updates": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"credit": "luck"},
        {"baseline": "leave-one-out", "credit": "reward-to-go", "scale_rewards": "none"},
        {"group": 1},
        {"steps": 0},
        {"temperature": 0},
        {"loss_type": "grpo"},
        {"own_reward": 2},
    ],
)
def test_unknown_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdversarialConfig.model_validate({**SMALL, **wrong})
