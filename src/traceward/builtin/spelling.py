"""Builds the tokenizer that all worlds share: a word of theirs is one token, every other word is spelled.

Letters are what `sorting` is about, and words to sort are not known beforehand. So there are no merges: a piece that is
in the vocabulary is one token (`ignore_merges`), any other one is its bytes. Numbers are cut into pairs of digits from
the right (308 = 3, 08), so that digits of one place meet; signs that stand together in lists of words are one token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from traceward.builtin.small import EOS, PAD
from traceward.data.formats import Format, completion_text
from traceward.data.tasks import sorting, swaps
from traceward.data.tasks.world import Written
from traceward.data.tasks.worlds import WORLDS

SIGNS = (
    '" < ["',
    '"] < "',
    '"] < (',
    '" < "',
    '" ? "',
    '" < (',
    '": "',
    '). "',
    ') ["',
    '" (',
    ') "',
    ' ["',
    '"].',
    '".',
    '"]',
)
PIECES = (
    "|".join(map(re.escape, SIGNS)) + r"| ?\p{L}+| ?\p{N}{1,2}(?=(?:\p{N}\p{N})*(?!\p{N}))|\n+| ?[^\s\p{L}\p{N}]|\s"
)
TRACES = 500  # of experts and of students of each world, that words are taken from


def _texts(world: str) -> Iterator[str]:
    rng = random.Random(f"words-{world}")

    def text(written: Written) -> str:
        question, trace = written
        return f"{question}\n{completion_text(trace, Format.PLAIN)}"

    for _ in range(TRACES):
        for written in (WORLDS[world].expert(rng), WORLDS[world].student(rng)):
            # Of `sorting` everything but the words that are sorted.
            yield text(written) if world != "sorting" else _without_lists(written)
    if world == "swaps":
        yield from (f"{name} {name}" for name in (*swaps.PEOPLE, *swaps.PARTNERS))
        yield " ".join(("", *swaps.COLOURS, *swaps.POSITIONS, *swaps.BOOKS, *swaps.BOOKS.values()))
    if world == "sorting":
        yield " ".join(("", *sorting.NTH))


def _without_lists(written: Written) -> str:
    _, trace = written
    *steps, last = trace.steps
    return "\n".join([*(re.sub(r'"[^"]+"', '"a"', step) for step in steps), last.rpartition(" is ")[0] + " is"])


def _pieces() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def vocabulary() -> list[str]:
    """Special tokens, bytes, numbers and the worlds' words, in the spelling of a byte-level tokenizer."""
    cut = _pieces()
    found = {piece for world in WORLDS for text in _texts(world) for piece, _ in cut.pre_tokenize_str(text)}
    # A word in quotation marks is a word to sort: known only with a space before it, or with a capital letter.
    found -= {piece for piece in found if piece.isalpha() and piece[0] != "Ġ" and piece.islower()}
    numbers = (f"{space}{number}" for space in ("", "Ġ") for number in range(100))
    digits = (f"0{digit}" for digit in range(10))
    signs = (sign.replace(" ", "Ġ") for sign in SIGNS)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return list(dict.fromkeys([PAD, EOS, *alphabet, *digits, *numbers, *signs, *sorted(found)]))


def build(directory: Path) -> PreTrainedTokenizerFast:
    """Make and save the tokenizer; the same bytes every time."""
    vocab = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = _pieces()
    tokenizer.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    whole.save_pretrained(directory)
    return whole
