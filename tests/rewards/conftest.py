"""Small random backbones of three families, rewards on them, and traces of several lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.tasks import stories
from traceward.records import Demonstration, Granularity, Head, UnitSpec
from traceward.rewards.model import RewardModel, new_reward

CONTEXT = 256
FAMILIES = ("Llama", "Qwen2", "Qwen3")
MakePolicy = Callable[..., PreTrainedModel]
MakeReward = Callable[..., RewardModel]


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def make_policy(tokenizer: PreTrainedTokenizerBase) -> MakePolicy:
    """A random causal language model of a family: hidden 32, 2 layers."""

    def make(family: str = "Llama", *, dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            attention_dropout=dropout,
            initializer_range=0.2,  # far from uniform, so that scores differ
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_reward(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase) -> MakeReward:
    """A reward on such a backbone, moved away from its start unless `moved` is False."""

    def make(
        head: Head = Head.LOG_RATIO,
        spec: UnitSpec = UnitSpec(Granularity.INTERVAL),  # noqa: B008
        *,
        family: str = "Llama",
        dropout: float = 0.0,
        beta: float = 1.0,
        moved: bool = True,
    ) -> RewardModel:
        reward = new_reward(
            make_policy(family, dropout=dropout), tokenizer, head=head, spec=spec, style=Format.PLAIN, beta=beta, seed=1
        )
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in reward.backbone.parameters() if moved else ():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.03)
        return reward

    return make


@pytest.fixture(scope="session")
def demonstrations() -> list[Demonstration]:
    """Problems of different lengths with worked solutions."""
    return stories.demonstrations(4, seed=3, relations=(2, 2)) + stories.demonstrations(3, seed=4, relations=(4, 4))


@pytest.fixture(scope="session")
def traces(demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase) -> list[EncodedTrace]:
    """The same as token ids; one is cut short without an end, one has a single token."""
    whole = [encode(d.problem, d.trace, Format.PLAIN, tokenizer) for d in demonstrations]
    cut, single = whole[1], whole[2]
    return [
        *whole,
        EncodedTrace(cut.prompt_ids, cut.completion_ids[:9], "cut"),
        EncodedTrace(single.prompt_ids, single.completion_ids[:1], "single"),
    ]
