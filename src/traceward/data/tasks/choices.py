"""Rows of multiple-choice sets in our schema: options become lines of the question, the answer becomes its letter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import ascii_uppercase

from traceward.data.demonstrations import FieldError, lift_answer
from traceward.data.grading import extract_answer
from traceward.data.jsonl import Row
from traceward.data.options import MOST, option_letter, options_of, with_options
from traceward.data.segmentation import split_steps


def _listed(options: object) -> list[str]:
    """Options as a list, of what sets give: a list, letters with texts, `label` beside `text`, any of these as JSON, or
    lettered lines. Empty where it is none of them."""
    if isinstance(options, str):
        try:
            return _listed(json.loads(options))
        except ValueError:
            return list(options_of(options).values())
    if isinstance(options, Mapping):
        if options.keys() == {"label", "text"} and all(isinstance(part, list) for part in options.values()):
            options = dict(zip(options["label"], options["text"], strict=False))
        # A table of rows with fewer options fills up with null.
        given = {str(letter).upper(): text for letter, text in options.items() if text is not None}
        if sorted(given) != list(ascii_uppercase[: len(given)]):
            return []
        options = [given[letter] for letter in sorted(given)]
    if not isinstance(options, list | tuple) or not all(isinstance(text, str | int | float) for text in options):
        return []
    texts = [" ".join(str(text).split()) for text in options]
    marked = list(options_of("\n".join(texts)).values())  # ["A) red", "B) blue"]
    return marked if len(marked) == len(texts) and all(marked) else texts


def asked(row: Row) -> str:
    """The question with its options below it. Raises FieldError where the row gives options that cannot be read."""
    question, options = row.get("question"), row.get("options") or row.get("choices")
    if not isinstance(question, str) or not question.strip():
        raise FieldError("question", f"must be a non-blank string: got {question!r}; write the question there")
    if not options:
        return question
    try:
        return with_options(question, _listed(options))
    except ValueError:
        rule = f"must be 2 to {MOST} texts, a list or by letter from A on: got {options!r}; mend the options"
        raise FieldError("options", rule) from None


def letter_of(answer: object, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names. Raises FieldError where it names none."""
    letter = option_letter(str(answer), options) if isinstance(answer, str | int | float) else None
    if letter is None:
        rule = f"must be one of the options {', '.join(options)}: got {answer!r}; write its letter or its text"
        raise FieldError("answer", rule)
    return letter


def choice(row: Row, *, reasoning: object, answer: object) -> Row:
    """A row in our schema: `question` with its options, `answer` as a letter, and the reasoning where there is one.

    Raises FieldError where there are no options, where the answer names none of them, or where the reasoning ends with
    another one.
    """
    question = asked(row)
    options = options_of(question)
    if not options:
        raise FieldError("options", "must be in the row or below the question: got none; add them, or use jsonl")
    letter = letter_of(answer, options)
    found: Row = {"question": question, "answer": letter}
    found |= {key: row[key] for key in ("id", "source", "split") if row.get(key) is not None}
    if isinstance(reasoning, list):
        text = "\n".join(step for step in reasoning if isinstance(step, str))
        found["steps"] = reasoning
    elif isinstance(reasoning, str):
        text = found["solution"] = reasoning
    else:
        text = ""
    if not text.strip():
        return {key: value for key, value in found.items() if key not in ("steps", "solution")}
    # "The answer is (F)." above a last line "Answer: I" is a contradiction too, once that line is the answer.
    steps, _ = lift_answer(split_steps(text), None)
    for ends in (text, "\n".join(steps)):
        stated = option_letter(extract_answer(ends) or "", options)
        if stated not in (None, letter):
            rule = f"must be the option that the reasoning ends with: got {letter} for {stated}; mend one of them"
            raise FieldError("answer", rule)
    return found
