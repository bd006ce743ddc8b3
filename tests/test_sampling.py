"""Rollouts outside a trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from traceward import sampling
from traceward.records import Rollout, StopReason
from traceward.sampling import cache_per_token, sample, sequences_at_once

Prompts = list[tuple[str, tuple[int, ...]]]
LENGTH = 12


def random_llama(tokenizer: PreTrainedTokenizerBase, end: float) -> PreTrainedModel:
    """A random Llama whose end-of-sequence has `end` more logit than other tokens."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        attention_dropout=0.5,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        model.lm_head = torch.nn.Linear(32, len(tokenizer))
        torch.nn.init.normal_(model.lm_head.weight, std=0.2)
        torch.nn.init.zeros_(model.lm_head.bias)
        with torch.no_grad():
            model.lm_head.bias[tokenizer.eos_token_id] = end
            model.lm_head.bias[tokenizer.pad_token_id] = -30.0
    return model.eval()


@pytest.fixture(scope="module")
def policy(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """It ends at about one token in five."""
    return random_llama(tokenizer, 6.0)


@pytest.fixture(scope="module")
def steady(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Its greedy completions run on, so that they show what a position depends on."""
    return random_llama(tokenizer, 0.0)


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> Prompts:
    texts = ["Ann has 5 pens.\n", "Ben has 12 apples and 3 pens. How many things does Ben have?\n", "Cara\n", "1\n2\n"]
    return [(f"q{i}", tuple(tokenizer(text)["input_ids"])) for i, text in enumerate(texts)]


def ids(groups: list[list[Rollout]]) -> list[list[tuple[int, ...]]]:
    return [[rollout.completion_ids for rollout in group] for group in groups]


def draw(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts, **options: float
) -> list[list[Rollout]]:
    chosen = {"n": 3, "max_new_tokens": LENGTH, "seed": 1, **options}
    return sample(policy, tokenizer, prompts, **chosen)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_ids(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts
) -> None:
    first = draw(policy, tokenizer, prompts)
    torch.manual_seed(77)
    assert draw(policy, tokenizer, prompts) == first
    assert ids(draw(policy, tokenizer, prompts, seed=2)) != ids(first)


def test_the_callers_random_state_is_untouched(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts
) -> None:
    before = torch.get_rng_state()
    draw(policy, tokenizer, prompts)
    assert torch.equal(torch.get_rng_state(), before)


def test_n_rollouts_of_each_prompt_in_order(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts
) -> None:
    for batch in (1, 5, 256):  # fewer than n, not a multiple of n, all at once
        seen: list[int] = []
        groups = draw(policy, tokenizer, prompts, batch=batch, progress=seen.append)  # type: ignore[arg-type]
        assert [[(r.problem_id, r.prompt_ids) for r in group] for group in groups] == [[p] * 3 for p in prompts]
        assert sum(seen) == len(prompts)
    assert any(len(set(group)) > 1 for group in ids(groups))


def test_greedy_is_the_argmax_whatever_the_padding_and_the_seed(
    steady: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts
) -> None:
    expected = []
    for _, prompt in prompts:
        row = list(prompt)
        for _ in range(LENGTH):
            with torch.no_grad():
                row.append(int(steady(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
            if row[-1] == tokenizer.eos_token_id:
                break
        expected.append([tuple(row[len(prompt) :])])
    assert len({found[0] for found in expected}) == len(prompts)
    for batch, seed in ((1, 1), (256, 1), (256, 2)):  # alone, and padded on the left beside longer prompts
        assert ids(draw(steady, tokenizer, prompts, n=1, temperature=0, batch=batch, seed=seed)) == expected


def test_a_rollout_keeps_one_end_and_nothing_behind_it(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts
) -> None:
    rollouts = [r for group in draw(policy, tokenizer, prompts, n=16) for r in group]
    end = tokenizer.eos_token_id
    stops = {stop: [r for r in rollouts if r.stop is stop] for stop in StopReason}
    assert all(stops.values())
    for rollout in stops[StopReason.END]:
        assert rollout.completion_ids.index(end) == len(rollout.completion_ids) - 1
    for rollout in stops[StopReason.LENGTH]:
        assert end not in rollout.completion_ids
        assert len(rollout.completion_ids) == LENGTH
    for rollout in rollouts:
        assert rollout.text == tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)


def test_a_low_temperature_is_nearly_greedy(
    steady: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts
) -> None:
    greedy = ids(draw(steady, tokenizer, prompts, n=1, temperature=0))
    assert ids(draw(steady, tokenizer, prompts, n=1, temperature=1e-6)) == greedy
    assert ids(draw(steady, tokenizer, prompts, n=1, top_p=1e-6)) == greedy


def test_a_models_own_generation_settings_take_no_part(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts
) -> None:
    # Instruct models ship top-k, top-p, temperature and a repetition penalty; the trainer uses none of them.
    plain = ids(draw(policy, tokenizer, prompts, n=8))
    own = policy.generation_config
    policy.generation_config = GenerationConfig(
        do_sample=True, top_k=2, top_p=0.3, temperature=0.5, repetition_penalty=1.8
    )
    try:
        assert ids(draw(policy, tokenizer, prompts, n=8)) == plain
    finally:
        policy.generation_config = own


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_given_back(
    steady: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts, training: bool
) -> None:
    expected = ids(draw(steady.eval(), tokenizer, prompts, n=1, temperature=0))
    steady.train(training)
    try:
        assert ids(draw(steady, tokenizer, prompts, n=1, temperature=0)) == expected
        assert steady.training is training
    finally:
        steady.eval()


def test_no_prompts_give_no_rollouts(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert draw(policy, tokenizer, []) == []


def test_a_cpu_samples_as_many_at_once_as_its_cache_bears(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = policy.config
    assert cache_per_token(config) == 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert [sequences_at_once(size, on_gpu=False) for size in (1, 2**20, 2**40)] == [256, 128, 1]
    assert sequences_at_once(2**40, on_gpu=True) == 256
    rows: list[int] = []
    inner = sampling.generate

    def counted(*arguments: Any, **options: Any) -> Any:
        rows.append(len(arguments[2]))
        return inner(*arguments, **options)

    monkeypatch.setattr(sampling, "generate", counted)
    prompts = [(str(at), (5, 6, 7)[: 1 + at % 3]) for at in range(6)]
    sample(policy, tokenizer, prompts, n=2, max_new_tokens=5, seed=0)
    monkeypatch.setattr(sampling, "CACHE", cache_per_token(config) * 4 * (3 + 5) * 4)
    sample(policy, tokenizer, prompts, n=2, max_new_tokens=5, seed=0)
    assert rows == [6, 2, 2, 2]
