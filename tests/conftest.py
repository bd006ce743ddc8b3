"""What all tests share: pinned threads, no network, seeded properties, and the tokenizers they run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

# Before torch or tokenizers are imported anywhere.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerBase

from traceward.builtin import TOKENIZER
from traceward.builtin.small import train_tokenizer
from traceward.data.formats import INSTRUCTIONS
from traceward.loading import load_tokenizer

# The same examples on every machine: a failure in one place is a failure in all.
settings.register_profile("traceward", derandomize=True, deadline=None, max_examples=150, database=None)
settings.load_profile("traceward")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer that ships with the package."""
    return load_tokenizer(TOKENIZER)


# The special tokens of each family, as its tokenizers have them: padding, end, beginning, and the others.
FAMILY_TOKENS: Mapping[str, tuple[str, str, str | None, tuple[str, ...]]] = {
    "qwen2.5": ("<|endoftext|>", "<|im_end|>", None, ("<|im_start|>",)),
    "qwen3": ("<|endoftext|>", "<|im_end|>", None, ("<|im_start|>", "<think>", "</think>")),
    "llama-3": (
        "<|finetune_right_pad_id|>",
        "<|eot_id|>",
        "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
    ),
    "base": ("<|pad|>", "<|end_of_text|>", "<|begin_of_text|>", ()),
}


@pytest.fixture(scope="session")
def family_tokenizer() -> Callable[[str], PreTrainedTokenizerBase]:
    """A small tokenizer with the special tokens and the chat template of a family; `base` has no template."""
    made: dict[str, PreTrainedTokenizerBase] = {}

    def make(family: str) -> PreTrainedTokenizerBase:
        if family in made:
            return made[family]
        pad, end, begin, others = FAMILY_TOKENS[family]
        own = train_tokenizer(
            [*INSTRUCTIONS.values(), "Ann has 1 + 2 = 3 pens. So it is 3. system user assistant"], 400
        )
        # Qwen3 counts its thought's tags among the words that are decoded.
        own.add_tokens([AddedToken(t, special=t.startswith("<|")) for t in (pad, end, *others)])
        own.pad_token, own.eos_token = pad, end
        if begin is not None:
            own.add_tokens([AddedToken(begin, special=True)])
            own.bos_token = begin
            post = processors.TemplateProcessing(
                single=f"{begin} $A", special_tokens=[(begin, own.convert_tokens_to_ids(begin))]
            )
            own._tokenizer.post_processor = post
        template = Path(__file__).parent / "chat_templates" / f"{family}.jinja"
        if template.exists():
            own.chat_template = template.read_text(encoding="utf-8").removesuffix("\n")
        return made.setdefault(family, own)

    return make
