"""Builds the tokenizer of the built-in worlds: byte-level BPE, so any text has ids (byte fallback), with the worlds'
words and the numbers 0..99 as single tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from traceward.builtin.small import train_tokenizer
from traceward.data.formats import Format, completion_text
from traceward.data.tasks import stories
from traceward.data.tasks.story_words import Style

VOCABULARY = 1024

# Words that later worlds (shuffled objects, arithmetic, sorting) and plain English prose need as single tokens.
_OTHER_WORDS = " ".join(
    (
        "Alice Bob Claire Dave Eve Fred Gertie swap swaps swapped trade trades switch start end At the the of",
        "game dance semester First Then Finally Next so So answer is are The left right ball balls present",
        "presents gift book books dance dancing partner partners position positions playing red blue green",
        "yellow orange purple pink black white brown each gets has have now who with they and or but not to",
        "in on from for by as we We now Let first second third last letter letters word words sort sorted",
        "list before after than less more fewer this that subpart equation calculate final then add subtract",
        "times divided equals Step step total sum number numbers all both same one two three four five",
        "because since therefore if when how many what has own owns hold holds keep keeps get count counts carry",
        "carries show shows here Here Thus Hence Therefore Well Clearly Indeed Surely Plainly Again indeed today",
        "exactly already overall again both Since have",
    )
).split()


def corpus(stories_count: int = 3000) -> Iterator[str]:
    """The text that the merges are learned from; seeded."""
    rng = random.Random(0)
    for style in Style:
        for item in stories.demonstrations(stories_count, seed=7, style=style, chained=0.8):
            yield item.problem.question + "\n" + completion_text(item.trace, Format.PLAIN)
    for _ in range(400):
        yield " " + " ".join(rng.sample(_OTHER_WORDS, len(_OTHER_WORDS)))
        yield " ".join(f" {sign}{number}" for number in rng.sample(range(100), 100) for sign in ("", "-"))
        yield (
            "".join(f" {left}{op} {right} =" for left in "()" for op in "+-*/" for right in "()") + ": [ ] < > ; ? , ."
        )


def build(directory: Path) -> PreTrainedTokenizerFast:
    """Train and save the tokenizer; the same bytes every time."""
    tokenizer = train_tokenizer(corpus(), VOCABULARY)
    tokenizer.save_pretrained(directory)
    return tokenizer
