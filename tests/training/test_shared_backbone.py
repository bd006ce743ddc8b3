"""Policy and reward on one copy of the base's weights: nothing that one does is seen by the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.utils import use_adapter

from traceward.adapters import WEIGHTS, adapted_policy, merged, on_the_weights_of, share_weights
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.errors import ConfigError
from traceward.records import Demonstration, Head, UnitSpec
from traceward.rewards.model import RewardModel, new_reward
from traceward.training.adapter import AdapterSettings
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.checkpoints import Checkpoints
from traceward.training.critic import Critic
from traceward.training.reference import check_shared_weights
from traceward.training.resume import train
from traceward.training.settings import AdversarialConfig

# TRL and PEFT still say it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
ADAPTER = AdapterSettings(rank=2, dropout=0.2)
HEADS = pytest.mark.parametrize("head", list(Head))
CONFIG = AdversarialConfig(
    steps=2, questions_per_step=2, group=2, max_new_tokens=6, rollouts_per_backward=2, credit="trace-mean",
    learning_rate=3e-2, kl=0.05,
)  # fmt: skip
MakePolicy = Callable[..., PreTrainedModel]
MakeCritic = Callable[..., Critic]
MakePair = Callable[..., tuple[PeftModel, RewardModel, PreTrainedModel]]


@pytest.fixture
def pair(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase) -> MakePair:
    """Policy, reward and base, on one copy of the base's weights or on two; both are away from their start."""

    def make(head: Head, *, shared: bool = True) -> tuple[PeftModel, RewardModel, PreTrainedModel]:
        base = make_policy(spread=0.2)
        policy = adapted_policy(on_the_weights_of(base) if shared else make_policy(spread=0.2), ADAPTER, seed=0)
        reward = new_reward(base, tokenizer, head=head, spec=UnitSpec(), style=Format.PLAIN, adapter=ADAPTER, seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for model in (policy, reward):
                for name, weight in sorted(model.named_parameters()):
                    if ".lora_" in name:
                        weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.05)
        return policy, reward, base

    return make


@pytest.fixture
def traces(demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase) -> list[EncodedTrace]:
    return [encode(d.problem, d.trace, Format.PLAIN, tokenizer) for d in demonstrations]


def bytes_of(*models: torch.nn.Module) -> int:
    """Memory of all weights, each place counted once."""
    found = {w.data_ptr(): w.numel() * w.element_size() for model in models for w in model.parameters()}
    return sum(found.values())


def weights(*models: torch.nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for model in models for value in model.state_dict().values()]


@HEADS
def test_there_is_one_copy_of_the_weights(pair: MakePair, head: Head) -> None:
    policy, reward, base = pair(head)
    learned = sum(w.numel() * 4 for model in (policy, reward) for w in model.parameters() if w.requires_grad)
    assert bytes_of(policy, reward) == bytes_of(base) + learned
    assert bytes_of(*pair(head, shared=False)[:2]) > bytes_of(policy, reward) + bytes_of(base.model) / 2


@HEADS
def test_training_on_one_copy_is_training_on_two(
    pair: MakePair, make_critic: MakeCritic, request: pytest.FixtureRequest, tmp_path: Path, head: Head
) -> None:
    """Rollouts, updates, scores, TRL's reference, its steps: with dropout, and with every activation computed again on
    the way back, where another's adapter would be seen."""
    tokenizer, demonstrations = request.getfixturevalue("tokenizer"), request.getfixturevalue("demonstrations")
    found = []
    for shared in (True, False):
        policy, reward, _ = pair(head, shared=shared)
        reward.backbone.activation_checkpointing_enable()
        before = weights(policy, reward)
        trainer = AdversarialTrainer(
            policy=policy, tokenizer=tokenizer, reward=reward, critic=make_critic(reward, held_out=0.0), seed=3,
            demonstrations=demonstrations, config=CONFIG, directory=tmp_path / str(shared), gradient_checkpointing=True,
        )  # fmt: skip
        kept = Checkpoints(tmp_path / str(shared) / "checkpoints", every=1)
        train(trainer, kept, trainer.parts)
        found.append(weights(policy, reward))
        assert sum(not torch.equal(a, b) for a, b in zip(before, found[-1], strict=False)) > 20
        file = load_file(kept.newest() / WEIGHTS)
        assert all(".lora_" in name for name in file)
        assert len(file) == 28  # two matrices of seven layers, twice; nothing of the reward's
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_trls_switch_of_adapters_leaves_the_reward_alone(pair: MakePair, traces: list[EncodedTrace]) -> None:
    policy, reward, _ = pair(Head.LOG_RATIO)
    policy.add_adapter("ref", policy.peft_config["default"])
    wanted, learn = reward.score_encoded(traces), [w.requires_grad for w in reward.parameters()]
    for name in (None, "ref"):
        with use_adapter(policy, name):
            assert reward.score_encoded(traces) == wanted
            assert [w.requires_grad for w in reward.parameters()] == learn
        assert [w.requires_grad for w in reward.parameters()] == learn
        assert reward.score_encoded(traces) == wanted
    policy.train()
    assert reward.score_encoded(traces) == wanted


@HEADS
def test_weights_for_vllm_hold_the_policys_adapter_and_not_the_rewards(
    pair: MakePair, traces: list[EncodedTrace], head: Head
) -> None:
    policy, reward, _ = pair(head)
    wanted = reward.score_encoded(traces)
    sync = VLLMGeneration.__new__(VLLMGeneration)
    sync.model = policy
    sync._dist = SimpleNamespace(gather_params=lambda _: nullcontext(), is_fsdp=False)
    sent = {name: value.clone() for name, value in sync._iter_named_params()}
    alone = merged(pair(head, shared=False)[0].get_base_model())
    assert sent.keys() == dict(alone.named_parameters()).keys()
    assert all(torch.equal(sent[name], value) for name, value in alone.named_parameters())
    # TRL adds the adapter to the weights and takes it away again, which rounds them.
    for one, other in zip(reward.score_encoded(traces), wanted, strict=True):
        assert one.exported == pytest.approx(other.exported, rel=1e-4, abs=1e-4)


@HEADS
def test_each_saves_its_own(pair: MakePair, tmp_path: Path, head: Head) -> None:
    for shared in (True, False):
        policy, reward, _ = pair(head, shared=shared)
        policy.save_pretrained(tmp_path / f"policy-{shared}")
        reward.save(tmp_path / f"reward-{shared}")
    for part in ("policy-{}", "reward-{}/model"):
        one, other = (load_file(tmp_path / part.format(shared) / WEIGHTS) for shared in (True, False))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_that_would_learn_or_be_taken_apart_are_refused(
    pair: MakePair, make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase
) -> None:
    whole = SimpleNamespace(is_fsdp_enabled=False, is_deepspeed_enabled=False)
    policy, reward, base = pair(Head.SCALAR)
    assert share_weights(policy, reward)
    check_shared_weights(whole, policy, reward)
    with pytest.raises(ConfigError, match="policy must learn by an adapter where the reward stands on its weights"):
        check_shared_weights(whole, base, reward)
    for apart in ("is_fsdp_enabled", "is_deepspeed_enabled"):
        trainer = SimpleNamespace(**{**vars(whole), apart: True})
        with pytest.raises(ConfigError, match="must stand on weights of their own under FSDP and DeepSpeed"):
            check_shared_weights(trainer, policy, reward)
        check_shared_weights(trainer, *pair(Head.SCALAR, shared=False)[:2])
