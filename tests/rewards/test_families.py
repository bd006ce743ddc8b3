"""Rewards on the tokenizers and backbones of four families: positives come as text, rollouts as ids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import Format, as_sampled, encode, encode_prompt
from traceward.records import Head, Problem, Rollout, Trace, UnitSpec
from traceward.rewards.model import new_reward
from traceward.sampling import sample

MakeTokenizer = Callable[[str], PreTrainedTokenizerBase]
MODELS = {"qwen2.5": "Qwen2", "qwen3": "Qwen3", "llama-3": "Llama", "base": "Llama"}
PROBLEM = Problem("p", "Ann has 1 + 2 pens. How many?")


@pytest.fixture(scope="module")
def family_policy(family_tokenizer: MakeTokenizer) -> Callable[[str], PreTrainedModel]:
    """A random model that speaks a family's tokens."""

    def make(family: str) -> PreTrainedModel:
        tokenizer = family_tokenizer(family)
        config = getattr(transformers, f"{MODELS[family]}Config")(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, initializer_range=0.2,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )  # fmt: skip
        torch.manual_seed(0)
        return getattr(transformers, f"{MODELS[family]}ForCausalLM")(config).eval()

    return make


@pytest.mark.parametrize("head", list(Head))
@pytest.mark.parametrize("style", [Format.CHAT, Format.THINK])
@pytest.mark.parametrize("family", MODELS)
def test_identical_text_has_the_identical_logit_on_both_sides(
    family_tokenizer: MakeTokenizer,
    family_policy: Callable[[str], PreTrainedModel],
    family: str,
    style: Format,
    head: Head,
) -> None:
    tokenizer, policy = family_tokenizer(family), family_policy(family)
    reward = new_reward(policy, tokenizer, head=head, spec=UnitSpec(), style=style)
    if head is Head.LOG_RATIO:
        with torch.no_grad():
            next(reward.backbone.parameters()).mul_(1.1)
    (rollouts,) = sample(
        policy, tokenizer, [("p", encode_prompt(PROBLEM, style, tokenizer))], n=2, max_new_tokens=6, seed=0
    )
    # Text that a policy wrote as an expert would write it: its ids are those of its text.
    trace = Trace(("1 + 2 = 3.", "So it is 3."), "3")
    expert = encode(PROBLEM, trace, style, tokenizer)
    written = Rollout("p", expert.prompt_ids, expert.completion_ids, "")
    # One at a time: a row's place in a batch rounds its matrix products otherwise.
    positive, negative, other = (
        reward.score_encoded([trace])[0] for trace in (expert, as_sampled(written), as_sampled(rollouts[0]))
    )
    assert positive == negative
    assert positive.unit_logits != other.unit_logits
    assert rollouts[0].prompt_ids == expert.prompt_ids
    assert len(positive.unit_logits) == 3
