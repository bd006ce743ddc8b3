"""Small models from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.builtin import STORIES_BASE
from traceward.builtin.plans import PLANS, student_traces
from traceward.builtin.pretrain import fresh_model
from traceward.builtin.small import small_llama, train_scratch, train_tokenizer
from traceward.config import ScratchSettings
from traceward.data.formats import Format
from traceward.data.tasks import stories
from traceward.loading import load_causal_lm, load_tokenizer
from traceward.records import Demonstration

TEXTS = ["Ann has 12 pens.\nBen has 345 apples.", "Café: 9 °C.\nAnswer: 12"]


@pytest.fixture(scope="module")
def demonstrations() -> list[Demonstration]:
    return stories.demonstrations(8, seed=2, relations=(2, 2))


def test_the_same_texts_give_the_same_tokenizer() -> None:
    first, again = (train_tokenizer(iter(TEXTS * 3), 320) for _ in range(2))
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    assert len(first) <= 320


@pytest.mark.parametrize("text", [*TEXTS, "Unseen: 𝄞 数 \u2028 \t  ¿?", ""])
def test_any_text_comes_back(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_numbers_are_at_most_two_digits_a_token_and_steps_end_at_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS * 50, 400)
    pieces = [tokenizer.decode([i]) for i in tokenizer("Ben has 345678 apples.\n12\n")["input_ids"]]
    assert max(sum(c.isdigit() for c in piece) for piece in pieces) == 2
    assert all(piece == "\n" or "\n" not in piece for piece in pieces)


def test_special_tokens_are_set() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.padding_side == "left"


def test_a_small_llama_is_seeded_and_has_its_size(tokenizer: PreTrainedTokenizerBase) -> None:
    before = torch.get_rng_state()
    one, same, other = (
        small_llama(tokenizer, hidden=16, intermediate=40, layers=2, heads=2, context=64, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    # Tied embeddings; four projections of h * h, three of h * i and two norms a layer; a last norm.
    size = len(tokenizer) * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 40 + 2 * 16) + 16
    assert sum(p.numel() for p in one.parameters()) == size
    left, right, third = (next(m.parameters()) for m in (one, same, other))
    assert torch.equal(left, right)
    assert not torch.equal(left, third)
    assert one.config.max_position_embeddings == 64


def test_the_base_model_is_small_and_fits_its_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    fresh, shipped = fresh_model(tokenizer, PLANS["stories"]), load_causal_lm(STORIES_BASE)
    assert 300_000 < sum(p.numel() for p in fresh.parameters()) < 1_000_000
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings", "eos_token_id"):
        assert getattr(shipped.config, name) == getattr(fresh.config, name), name
    assert (STORIES_BASE / "model.safetensors").stat().st_size < 4_000_000


def test_student_traces_are_seeded_and_fit(tokenizer: PreTrainedTokenizerBase) -> None:
    first = student_traces(20, tokenizer)
    assert student_traces(30, tokenizer)[:20] == first
    assert student_traces(20, tokenizer, seed=1) != first
    assert all(len(t.prompt_ids) + len(t.completion_ids) < 512 for t in first)
    assert all(t.completion_ids.count(tokenizer.eos_token_id) == 1 for t in first)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
def test_a_model_from_the_demonstrations_own_text(demonstrations: list[Demonstration], tmp_path: Path) -> None:
    settings = ScratchSettings(
        vocabulary=320, hidden=16, layers=1, heads=2, context=256, steps=6, batch=4, learning_rate=1e-2
    )
    found = [
        train_scratch(demonstrations, settings, Format.PLAIN, tmp_path / name / "base", seed=0) for name in ("a", "b")
    ]
    assert found[0] == found[1]
    assert found[0]["loss_last"] < found[0]["loss_first"]
    model, tokenizer = load_causal_lm(tmp_path / "a" / "base"), load_tokenizer(tmp_path / "a" / "base")
    assert len(tokenizer) == model.config.vocab_size == found[0]["vocabulary"] <= 320
    assert sum(p.numel() for p in model.parameters()) == found[0]["parameters"]
