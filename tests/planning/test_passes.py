"""What a pass holds: a ledger by hand, a layer by hand, and a real update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.trainer import utils as trl_utils

from traceward.planning.architecture import Architecture
from traceward.planning.forward import TILE, Pass
from traceward.planning.ledger import FORWARD, Ledger
from traceward.planning.passes import policy_update, reward_update, sampling, scoring
from traceward.rewards.batches import TraceBatch
from traceward.rewards.heads import token_logprobs
from traceward.training.adapter import AdapterSettings

ROWS, PROMPT, COMPLETION = 6, 8, 24
TOKENS, HIDDEN, MLP = ROWS * (PROMPT + COMPLETION), 64, 176


def a_pass(model: str, **changes: object) -> Pass:
    plain = Pass(
        Architecture.of(model),
        (ROWS,),
        PROMPT,
        COMPLETION,
        torch.float32,
        AdapterSettings(),
        bf16=False,
        checkpointing=False,
        on_gpu=True,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_ledger_counts_what_lives_at_once() -> None:
    stands = torch.zeros(100)
    ledger = Ledger({7})
    ledger.leave_out([stands])
    with ledger:
        one = stands + 1  # 400 bytes
        stands.view(10, 10).t()  # a view of what stands there
        two = one * 2  # 800 at once
        del one
        torch.zeros(2, 7)  # 56 of logits beside 400
    assert ledger.peaks[FORWARD].total == 800
    assert ledger.peaks[FORWARD].logits == 0
    assert two.numel() == 100


def test_trls_tile_is_known() -> None:
    assert TILE == trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE


def test_a_layer_keeps_what_the_hand_counts(config_only: Callable[..., str]) -> None:
    """Of a Llama layer, per token: for each norm its input, the normed value and its product with the weight (3 h
    each); queries, keys, values and attention's output (4 h; as many heads of keys as of queries); in the MLP gate,
    silu, up and their product (4 m)."""
    small, larger = (
        policy_update(a_pass(config_only("llama", num_hidden_layers=layers))).turn.activations for layers in (2, 3)
    )
    assert larger - small == pytest.approx(4 * TOKENS * (10 * HIDDEN + 4 * MLP), rel=0.03)


def test_more_layers_follow_from_few(config_only: Callable[..., str]) -> None:
    found = [policy_update(a_pass(config_only("llama", num_hidden_layers=layers))) for layers in (2, 3, 6)]
    for stretch in ("forward", "turn", "end"):
        two, three, six = (getattr(peaks, stretch).total for peaks in found)
        assert six == pytest.approx(two + 4 * (three - two), rel=1e-6)


def test_checkpointing_keeps_a_layers_input_only(config_only: Callable[..., str]) -> None:
    small, larger = (
        policy_update(a_pass(config_only("llama", num_hidden_layers=layers), checkpointing=True)).turn.activations
        for layers in (2, 3)
    )
    assert larger - small == pytest.approx(4 * TOKENS * HIDDEN, rel=0.03)


def test_an_adapter_brings_no_gradients_of_the_weights(config_only: Callable[..., str]) -> None:
    model = config_only("llama")
    whole = policy_update(a_pass(model)).end.activations
    adapted = policy_update(a_pass(model, adapter=AdapterSettings(rank=2))).end.activations
    assert whole - adapted > 4 * 4 * Architecture.of(model).size().layer  # four layers in float32


def test_a_log_ratio_keeps_the_log_probabilities_of_all_slices(config_only: Callable[..., str]) -> None:
    model = config_only("llama", vocab_size=4000)
    table = 4 * 2 * COMPLETION * 4000  # float32, of a slice of two rows
    one, three = (reward_update(a_pass(model, rows=(2,) * slices)).turn.logits for slices in (1, 3))
    assert three - one == pytest.approx(2 * table, rel=0.01)
    assert reward_update(a_pass(model, rows=(2,), scalar=True)).turn.logits == 0


def test_scoring_and_sampling_by_hand(config_only: Callable[..., str]) -> None:
    model = config_only("llama", vocab_size=4000)
    # The logits by the temperature, beside the output layer's or their log-softmax.
    assert scoring(a_pass(model)).forward.logits == pytest.approx(2 * 4 * ROWS * COMPLETION * 4000, rel=0.01)
    kept = 4 * ROWS * (PROMPT + COMPLETION) * Architecture.of(model).cache_per_token
    assert kept < sampling(a_pass(model)).forward.total < 2 * kept


def test_a_real_update_holds_what_was_planned(config_only: Callable[..., str]) -> None:
    model = config_only("qwen2", num_hidden_layers=3, vocab_size=2000)
    real = AutoModelForCausalLM.from_config(Architecture.of(model).config()).train()
    width = PROMPT + COMPLETION
    ids = torch.randint(0, 2000, (ROWS, width), generator=torch.Generator().manual_seed(0))
    unit = torch.full((ROWS, width), -1)
    unit[:, PROMPT:] = 0
    ends, there = torch.full((ROWS, 1), width - 1), torch.ones(ROWS, 1, dtype=torch.bool)
    batch = TraceBatch(ids, torch.ones_like(ids), unit, ends, there, torch.arange(ROWS), None)
    token_logprobs(real, batch)  # whether the model packs is found out once
    ledger = Ledger()
    ledger.leave_out([*real.parameters(), *real.buffers()])
    with ledger:
        found = token_logprobs(real, batch)
        with torch.no_grad():
            token_logprobs(real, batch)
        found.sum().backward()
    planned = reward_update(a_pass(model))
    assert max(peak.total for peak in planned) == pytest.approx(ledger.peaks[FORWARD].total, rel=0.03)


def test_airl_is_padded_and_wgan_differentiates_attention_twice(config_only: Callable[..., str]) -> None:
    model = config_only("llama", num_hidden_layers=2)
    plain, airl, wgan = (
        reward_update(a_pass(model, rows=(2,), scalar=True, **{name: True} if name else {})).turn.total
        for name in ("", "padded", "double")
    )
    assert airl == pytest.approx(plain, rel=0.1)
    assert wgan > 1.5 * plain


def test_autocast_halves_what_is_kept(config_only: Callable[..., str]) -> None:
    model = config_only("llama")
    whole, half = (policy_update(a_pass(model, rows=(64,), bf16=bf16)).turn.activations for bf16 in (False, True))
    assert 0.5 * whole < half < 0.85 * whole  # norms and the residual stream stay in float32
