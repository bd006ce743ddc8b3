from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from traceward.builtin import TOKENIZER
from traceward.builtin.small import EOS, PAD
from traceward.builtin.tokenizer import VOCABULARY, build
from traceward.data.tasks import story_words


def test_the_shipped_tokenizer_is_what_its_recipe_builds(tmp_path: Path) -> None:
    build(tmp_path)
    name = "tokenizer.json"
    assert (tmp_path / name).read_bytes() == (TOKENIZER / name).read_bytes()
    # Other releases of transformers may add keys of their own to this one.
    rebuilt, shipped = (
        json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")) for folder in (tmp_path, TOKENIZER)
    )
    for key in ("eos_token", "pad_token", "padding_side", "clean_up_tokenization_spaces"):
        assert rebuilt[key] == shipped[key]


def test_its_size_and_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    # The worlds' words run out before the limit; the 256 bytes and two special tokens are always there.
    assert 258 < len(tokenizer) <= VOCABULARY
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, EOS)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"


@given(text=st.text(max_size=60))
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("text", ["Ben’s 7 ≥ 5", "naïve café", "数 学 𝄞", "a\r\n\tb", " \u00a0\u3000 ", "👩‍👧"])
def test_text_outside_the_worlds_comes_back(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("number", range(100))
def test_a_number_below_a_hundred_is_one_token(tokenizer: PreTrainedTokenizerBase, number: int) -> None:
    assert len(tokenizer(f" {number}")["input_ids"]) == 1


def test_names_and_items_are_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    split = [word for word in (*story_words.NAMES, *story_words.ITEMS) if len(tokenizer(f" {word}")["input_ids"]) != 1]
    assert split == []


def test_nothing_is_added_in_front_or_behind(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("Ann has 7")["input_ids"] == tokenizer("Ann has 7", add_special_tokens=False)["input_ids"]
