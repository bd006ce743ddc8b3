"""A small random policy, worked solutions of short problems, and rewards and critics on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace, Format, completion_text, encode
from traceward.data.tasks import stories
from traceward.records import Demonstration, Granularity, Head, Problem, Rollout, ScoredTrace, Trace, UnitSpec
from traceward.rewards.heads import PolicyLogprobs
from traceward.rewards.model import RewardModel, new_reward
from traceward.training.critic import Critic
from traceward.training.settings import AdversarialConfig, CriticSettings, GuardSettings

MakePolicy = Callable[..., PreTrainedModel]
MakeReward = Callable[..., RewardModel]
MakeCritic = Callable[..., Critic]
MakeRollout = Callable[[Demonstration, Trace], Rollout]
Alternate = Callable[..., tuple[Any, list[dict[str, Any]]]]


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def demonstrations() -> list[Demonstration]:
    """Ten short problems with worked solutions."""
    return stories.demonstrations(10, seed=5, relations=(2, 2))


@pytest.fixture(scope="session")
def make_policy(tokenizer: PreTrainedTokenizerBase) -> MakePolicy:
    """A random Llama: hidden 32, 2 layers."""

    def make(*, seed: int = 0, spread: float = 0.02) -> PreTrainedModel:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            initializer_range=spread,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture(scope="session")
def make_reward(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase) -> MakeReward:
    """A reward at its start."""

    def make(head: Head = Head.LOG_RATIO, spec: UnitSpec = UnitSpec(Granularity.INTERVAL)) -> RewardModel:  # noqa: B008
        return new_reward(make_policy(), tokenizer, head=head, spec=spec, style=Format.PLAIN, seed=1)

    return make


@pytest.fixture(scope="session")
def make_critic(make_reward: MakeReward, demonstrations: list[Demonstration]) -> MakeCritic:
    """A critic with small batches; `settings` by name."""

    def make(
        reward: RewardModel | None = None,
        *,
        seed: int = 0,
        items: Sequence[Demonstration] | None = None,
        **settings: object,
    ) -> Critic:
        chosen = CriticSettings.model_validate({"positives": 4, "rollouts": 6, "learning_rate": 3e-3, **settings})
        return Critic(reward or make_reward(), items or demonstrations, chosen, seed=seed)

    return make


@pytest.fixture(scope="session")
def as_rollout(tokenizer: PreTrainedTokenizerBase) -> MakeRollout:
    """The rollout a policy would have sampled, had it written this trace."""

    def make(item: Demonstration, trace: Trace) -> Rollout:
        ids = encode(item.problem, trace, Format.PLAIN, tokenizer)
        return Rollout(item.problem.id, ids.prompt_ids, ids.completion_ids, completion_text(trace, Format.PLAIN))

    return make


@pytest.fixture(scope="session")
def rollouts(demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase) -> list[Rollout]:
    """Three poor traces of each demonstration's question, all of them told apart by their words."""
    found = []
    for item in demonstrations:
        for number in range(3):
            trace = Trace((f"The left ball is red {number}.", "So the dance starts."), str(900 + number))
            ids: EncodedTrace = encode(item.problem, trace, Format.PLAIN, tokenizer)
            text = completion_text(trace, Format.PLAIN)
            found.append(Rollout(item.problem.id, ids.prompt_ids, ids.completion_ids, text))
    return found


@pytest.fixture
def alternate(
    tmp_path: Path,
    make_policy: MakePolicy,
    make_critic: MakeCritic,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: list[Demonstration],
) -> Alternate:
    """Runs the alternation, two questions of four rollouts a step. Returns the trainer and its metric rows; what the
    guards said is in `trainer.watched`."""
    from traceward.training.adversarial import AdversarialTrainer
    from traceward.training.callbacks import MetricsCallback, PauseCallback, Watched
    from traceward.training.run_directory import Metrics

    made = iter(range(100))

    def run(
        *,
        policy: PreTrainedModel | None = None,
        reward: Any = None,
        critic: Critic | None = None,
        questions: Sequence[Problem] = (),
        guards: GuardSettings = GuardSettings(),  # noqa: B008
        gradient_checkpointing: bool = False,
        **config: Any,
    ) -> tuple[Any, list[dict[str, Any]]]:
        few = {"steps": 3, "questions_per_step": 2, "group": 4, "max_new_tokens": 10, "learning_rate": 1e-3}
        settings = AdversarialConfig.model_validate({**few, "credit": "trace-mean", **config})
        place = tmp_path / f"run-{next(made)}"
        if critic is None and settings.critic_updates:
            critic = make_critic(reward)
        with Metrics(tmp_path / f"{place.name}.jsonl", "adversarial") as metrics:
            watched = Watched(metrics, guards)
            pause = PauseCallback(watched)
            trainer = AdversarialTrainer(
                policy=policy or make_policy(),
                tokenizer=tokenizer,
                reward=reward or (critic.reward if critic else None),
                critic=critic,
                demonstrations=demonstrations,
                questions=questions,
                config=settings,
                directory=place,
                callbacks=[MetricsCallback(watched), pause],
                gradient_checkpointing=gradient_checkpointing,
            )
            trainer.watched, trainer.pause = watched, pause
            trainer.train()
        text = (tmp_path / f"{place.name}.jsonl").read_text(encoding="utf-8")
        return trainer, [row for row in map(json.loads, text.splitlines()) if "alarm" not in row]

    return run


class Known:
    """A reward that is known: one unit a trace, worth `value`."""

    head = Head.SCALAR
    style = Format.PLAIN
    spec = UnitSpec(Granularity.SPARSE)

    def __init__(self, value: Callable[[EncodedTrace], float]) -> None:
        self.value = value

    def score_encoded(
        self,
        traces: Sequence[EncodedTrace],
        *,
        spec: UnitSpec | None = None,
        policy_logprobs: PolicyLogprobs | None = None,
    ) -> list[ScoredTrace]:
        return [ScoredTrace(value, (value,), policy_rewards=(value,)) for value in map(self.value, traces)]


@pytest.fixture(scope="session")
def known() -> type[Known]:
    """A reward that is known, from a function of a trace."""
    return Known
