"""The tokenizer that all worlds share."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from traceward.builtin import WORLDS_TOKENIZER
from traceward.builtin.spelling import SIGNS, build
from traceward.data.formats import Format, completion_text
from traceward.data.segmentation import Segmenter
from traceward.data.tasks import story_words, swaps
from traceward.data.tasks.worlds import WORLDS
from traceward.loading import load_tokenizer
from traceward.records import UnitSpec


@pytest.fixture(scope="module")
def spelling() -> PreTrainedTokenizerBase:
    return load_tokenizer(WORLDS_TOKENIZER)


def tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]


def test_the_shipped_tokenizer_is_what_its_recipe_builds(tmp_path: Path) -> None:
    build(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (WORLDS_TOKENIZER / "tokenizer.json").read_bytes()


@given(text=st.text(max_size=60))
def test_any_text_comes_back(spelling: PreTrainedTokenizerBase, text: str) -> None:
    assert spelling.decode(spelling(text, add_special_tokens=False)["input_ids"]) == text


def test_known_words_are_one_token_and_others_are_spelled(spelling: PreTrainedTokenizerBase) -> None:
    assert tokens(spelling, 'Bob swaps: "bay" < "first"') == [
        *("Bob", " ", "s", "w", "a", "p", "s", ":", ' "', "b", "a", "y", '" < "', "f", "i", "r", "s", "t", '"'),
    ]
    assert tokens(spelling, " the first letter") == [" the", " first", " letter"]
    for word in (
        *swaps.PEOPLE,
        *story_words.NAMES,
        *(word for book in swaps.BOOKS for word in book.split() if word.isalpha()),
    ):
        assert len(tokens(spelling, f" {word}")) == 1, word


def test_numbers_are_pairs_of_digits_from_the_right(spelling: PreTrainedTokenizerBase) -> None:
    assert tokens(spelling, "55440 - -308 = 7") == ["5", "54", "40", " -", " -", "3", "08", " =", " 7"]
    for number in range(100):
        assert len(tokens(spelling, f" {number}")) == len(tokens(spelling, f"({number}")) - 1 == 1


def test_signs_and_letters_are_one_token(spelling: PreTrainedTokenizerBase) -> None:
    for sign in (*SIGNS, *string.ascii_lowercase):
        assert tokens(spelling, sign) == [sign]


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_step_is_a_unit_and_only_words_to_sort_are_spelled(name: str, spelling: PreTrainedTokenizerBase) -> None:
    segmenter, rng = Segmenter(spelling), random.Random(1)
    for _ in range(40):
        for question, trace in (WORLDS[name].expert(rng), WORLDS[name].student(rng)):
            ids = spelling(completion_text(trace, Format.PLAIN))["input_ids"]
            assert len(segmenter.unit_ends(ids, UnitSpec())) == len(trace.steps) + 1
            if name != "sorting":
                # No lower-case letter stands alone but those of "Let's" and of short words.
                spelled = [t for t in tokens(spelling, question) if len(t) == 1 and t in string.ascii_lowercase]
                assert spelled == []
