"""What all tests share: pinned threads, no network, seeded properties, and the tokenizers they run on."""

from __future__ import annotations

import os
from collections.abc import Callable

# Before torch or tokenizers are imported anywhere.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings
from transformers import PreTrainedTokenizerBase

from traceward.builtin import TOKENIZER, families
from traceward.data.formats import INSTRUCTIONS
from traceward.loading import load_tokenizer

# The same examples on every machine: a failure in one place is a failure in all.
settings.register_profile("traceward", derandomize=True, deadline=None, max_examples=150, database=None)
settings.load_profile("traceward")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer that ships with the package."""
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="session")
def family_tokenizer() -> Callable[[str], PreTrainedTokenizerBase]:
    """A small tokenizer with the special tokens and the chat template of a family; `base` has no template."""
    made: dict[str, PreTrainedTokenizerBase] = {}

    def make(family: str) -> PreTrainedTokenizerBase:
        texts = [*INSTRUCTIONS.values(), "Ann has 1 + 2 = 3 pens. So it is 3. system user assistant"]
        if family not in made:
            made[family] = families.family_tokenizer(family, texts, 400)
        return made[family]

    return make
