"""Where a unit ends: the one place that knows, for text and for token ids, for every granularity.

Training, scoring, evaluation and reports all call this module; no other one looks for a newline.

A *step* ends at a line break, or, in a text without line breaks, at the end of a sentence. On token ids the same
rule runs over the concatenation of the tokens' own texts, so ids are never decoded and encoded again: a step ends
with the token that completes its end mark. Positions are completion-relative, 0-based.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from traceward.records import Granularity, UnitSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LINE_END = re.compile(r"\s*\n\s*")
# A full stop, question or exclamation mark, closing quotes, then white space and something that opens a sentence.
# "3.5", "e.g. the" and "$1.20 each" hold no sentence end.
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[$]*[A-Z0-9\\])")


def step_spans(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the steps of `text`; together they cover it, white space included."""
    if not text.strip():
        return []
    # Blank edges belong to the first and last step; they never form a step.
    body_start = len(text) - len(text.lstrip())
    body_end = len(text.rstrip())
    mark = _LINE_END if "\n" in text[body_start:body_end] else _SENTENCE_END
    ends = [m.end() for m in mark.finditer(text, body_start, body_end)]
    starts = [0, *ends]
    return list(zip(starts, [*ends, len(text)], strict=True))


def split_steps(text: str) -> list[str]:
    """The steps of a free text, stripped: its lines, or its sentences where it has no line break."""
    return [text[start:end].strip() for start, end in step_spans(text)]


def step_ends(pieces: Sequence[str]) -> list[int]:
    """Index of the last token of each step, for tokens with texts `pieces` (special tokens have the text "")."""
    if not pieces:
        return []
    ends: list[int] = []
    spans = iter(step_spans("".join(pieces)))
    span = next(spans, None)
    position = 0
    for index, piece in enumerate(pieces):
        position += len(piece)
        while span is not None and piece and position >= span[1]:
            if not ends or ends[-1] != index:
                ends.append(index)
            span = next(spans, None)
    last = len(pieces) - 1
    # Trailing tokens without text (end-of-sequence) belong to the last step; a text of nothing is one unit.
    if ends:
        ends[-1] = last
    else:
        ends.append(last)
    return ends


class Segmenter:
    """Unit ends of token sequences of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._pieces = lru_cache(maxsize=None)(self._piece_of)
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

    def _piece_of(self, token_id: int) -> str:
        if token_id in self._special:
            return ""
        # SentencePiece drops a leading space on decoding one id; its token text still shows it.
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        text: str = self._tokenizer.decode([token_id])
        if isinstance(token, str) and token.startswith("▁") and not text.startswith(" "):
            return " " + text
        return text

    def pieces(self, completion_ids: Sequence[int]) -> list[str]:
        """The text of each token on its own."""
        return [self._pieces(int(token)) for token in completion_ids]

    def unit_ends(self, completion_ids: Sequence[int], spec: UnitSpec) -> list[int]:
        """Index of the last token of each unit, ascending; the last one is always the last token."""
        length = len(completion_ids)
        if length == 0:
            return []
        if spec.granularity is Granularity.SPARSE:
            return [length - 1]
        if spec.granularity is Granularity.DENSE:
            return list(range(length))
        if spec.every is None:
            return step_ends(self.pieces(completion_ids))
        ends = list(range(spec.every - 1, length, spec.every))
        if not ends or ends[-1] != length - 1:
            ends.append(length - 1)
        return ends


def unit_index(ends: Sequence[int]) -> list[int]:
    """For each token the number of its unit: ends [1, 4] -> [0, 0, 1, 1, 1]."""
    index: list[int] = []
    for unit, end in enumerate(ends):
        index.extend([unit] * (end + 1 - len(index)))
    return index
