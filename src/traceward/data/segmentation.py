"""Where a unit ends: the one place that knows, for text and for token ids, for every granularity.

Training, scoring, evaluation and reports all call this module; no other one looks for a newline.

A *step* ends at a line break, or, in a text without line breaks, at the end of a sentence. <think> tags count as
white space, and <answer> opens the last step. On token ids the same rule runs over the concatenation of the tokens'
own texts, so ids are never decoded and encoded again: a step ends with the token that completes its end mark.
Positions are completion-relative, 0-based.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from traceward.records import Granularity, UnitSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLANK = r"(?:\s|</?think>)"
_ANSWER = "<answer>"
# A mark ends before the white space that follows it, so the token of the next word (" Ben") opens the next step.
_LINE_END = re.compile(rf"\n(?:{_BLANK}*\n)?")
# A full stop, question or exclamation mark, closing quotes, then white space and something that opens a sentence.
# "3.5", "e.g. the" and "$1.20 each" hold no sentence end; "Dr. Smith" does, as no list of abbreviations is complete.
_SENTENCE_END = re.compile(rf"[.!?][\"')\]]*(?={_BLANK}+[\"'(\[$]*[A-Z0-9\\])")
_EDGE = re.compile(rf"\A{_BLANK}*")
LINE_BREAK = (
    "\n"  # where to stop a generator that takes texts to stop at; `closed_steps` says whether a step is over there
)
_CLOSING = (LINE_BREAK, ">")  # what a token must hold to close a step
_BROKEN = "\ufffd"  # what part of a character decodes to
_LONGEST = 8  # tokens looked at to complete it


def step_spans(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the steps of `text`; together they cover it, white space included."""
    answer = text.find(_ANSWER)
    limit = len(text) if answer < 0 else answer
    # Blank edges belong to the first and last step; they never form a step.
    body_start, body_end = _edges(text[:limit])
    ends: list[int] = []
    if body_start < body_end:
        mark = _LINE_END if "\n" in text[body_start:body_end] else _SENTENCE_END
        ends = [m.end() for m in mark.finditer(text, body_start, body_end)]
        ends.append(limit)
    if answer >= 0:
        ends = [*ends, len(text)]
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def _edges(text: str) -> tuple[int, int]:
    """Where what is neither white space nor a <think> tag starts and ends; (n, n) in a text of nothing else."""
    opening = _EDGE.match(text)
    start = opening.end() if opening else 0
    end = len(text)
    while start < end:
        kept = text[start:end].rstrip().removesuffix("<think>").removesuffix("</think>")
        if start + len(kept) == end:
            break
        end = start + len(kept)
    return start, max(start, end)


def split_steps(text: str) -> list[str]:
    """The steps of a free text, without blank edges: its lines, or its sentences where it has no line break."""
    steps = [text[start:end] for start, end in step_spans(text)]
    return [step[slice(*_edges(step))] for step in steps]


def closed_steps(text: str) -> int:
    """How many steps of a text that is still being written are over, whatever comes next: those before a line break or
    before <answer>.

    The end of a sentence closes none: a line break further on would make it part of a step.
    """
    answer = text.find(_ANSWER)
    limit = len(text) if answer < 0 else answer
    place, closed = _edges(text[:limit])[0], 0
    for mark in _LINE_END.finditer(text, place, limit):
        place, closed = mark.end(), closed + 1
    begun = answer >= 0 and place < limit and _edges(text[place:limit])[0] < limit - place
    return closed + begun


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
        """The text of each token on its own; a character spread over several tokens is the text of its last one."""
        ids = [int(token) for token in completion_ids]
        pieces = [self._pieces(token) for token in ids]
        start = 0
        while start < len(ids):
            start = self._mend(ids, pieces, start) if _BROKEN in pieces[start] else start + 1
        return pieces

    def _mend(self, ids: list[int], pieces: list[str], start: int) -> int:
        """Join the parts of a character from `start` on, in place; returns the next token to look at."""
        for end in range(start + 2, min(start + _LONGEST, len(ids)) + 1):
            text: str = self._tokenizer.decode(ids[start:end])
            if _BROKEN not in text:
                pieces[start:end] = [""] * (end - start - 1) + [text]
                return end
        return start + 1

    def closed_steps(self, completion_ids: Sequence[int]) -> int:
        """`closed_steps` of the tokens' own texts."""
        return closed_steps("".join(self.pieces(completion_ids)))

    def closes_step(self, completion_ids: Sequence[int], *, closed: int) -> bool:
        """Whether the newest token makes it more than `closed` steps that are over."""
        newest = self._pieces(int(completion_ids[-1]))
        return any(mark in newest for mark in _CLOSING) and self.closed_steps(completion_ids) > closed

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
