"""Questions that offer options: written, read, and answered by letter or by text.

The options are lines of the question, from A on: `A. text`, `A) text`, `A: text` or `(A) text`. Further lines belong to
the option above them. An answer names an option by its letter ("F", "(F)", "Option F", "F. As RNA viruses") or by its
text ("as RNA viruses"), where only one option says that; any other answer stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from string import ascii_uppercase

from traceward.data.grading import Grade, answers_equal, canonical_answer, grade
from traceward.records import Problem

HEADING = "Options:"
MOST = 26  # as many letters as there are
_MARK = re.compile(r"^[ \t]*(?:\((?P<round>[A-Z])\)|(?P<bare>[A-Z])[.):])[ \t]*", re.MULTILINE)
_LETTERED = re.compile(r"\(?(?P<letter>[A-Z])\)?[.):]\s*(?P<text>\S.*)", re.DOTALL)


def with_options(question: str, options: Sequence[str]) -> str:
    """A question with its options below it, a line each. Raises ValueError for fewer than two, or blank ones."""
    texts = [" ".join(str(option).split()) for option in options]
    if not 2 <= len(texts) <= MOST or not all(texts):
        raise ValueError(f"must be 2 to {MOST} texts: got {list(options)!r}; mend the options")
    lines = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False)]
    return "\n".join([question.rstrip(), HEADING, *lines])


@lru_cache(maxsize=1024)
def options_of(question: str) -> Mapping[str, str]:
    """Letter -> text of the options that a question offers; empty where it offers none.

    Of several lists the last one counts: statements "A." and "B." may stand above the options.
    """
    marks = [(match["round"] or match["bare"], match) for match in _MARK.finditer(question)]
    start = max((at for at, (letter, _) in enumerate(marks) if letter == "A"), default=None)
    if start is None:
        return {}
    run = []
    for expected, found in zip(ascii_uppercase, marks[start:], strict=False):
        if found[0] != expected:
            break
        run.append(found)
    if len(run) < 2:
        return {}
    ends = [match.start() for _, match in run[1:]] + [len(question)]
    return {
        letter: " ".join(question[match.end() : end].split()) for (letter, match), end in zip(run, ends, strict=True)
    }


def option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer names, None where it names none or more than one."""
    key = canonical_answer(answer).upper()
    if key in options:
        return key
    lettered = _LETTERED.fullmatch(answer.strip())
    if lettered and answers_equal(lettered["text"], options.get(lettered["letter"], "")):
        return lettered["letter"]
    same = [letter for letter, text in options.items() if canonical_answer(text) == canonical_answer(answer)]
    same = same or [letter for letter, text in options.items() if answers_equal(text, answer)]
    return same[0] if len(same) == 1 else None


def as_option(answer: str, question: str) -> str:
    """The letter of the option that an answer names; the answer itself where it names none."""
    return option_letter(answer, options_of(question)) or answer


def answer_key(answer: str | None, question: str) -> str | None:
    """What an answer votes for: answers with the same key are one answer. None where there is none, or a blank one.

    An option's letter and its text have the same key; see `canonical_answer` for all others.
    """
    return canonical_answer(as_option(answer, question)) or None if answer else None


def grade_answer(given: str | None, problem: Problem) -> Grade:
    """Compare an answer with the problem's reference, each by letter or by text where there are options."""
    if given is None or problem.answer is None:
        return Grade.NO_VERDICT
    return grade(as_option(given, problem.question), as_option(problem.answer, problem.question))
