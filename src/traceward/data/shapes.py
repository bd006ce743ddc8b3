"""The shapes in which people keep worked solutions: which one a file is of, and its rows in our schema.

A shape is told by a row's fields alone, and a text with <think> is a shape of its own; a file of several shapes is
refused, as a mistake in how it was put together, not guessed at. The answer is the row's field where there is one, else
what the text states. Nothing is made up: a row without question, reasoning or answer is broken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from traceward.data.demonstrations import FieldError
from traceward.data.grading import answers_equal, extract_answer, is_number
from traceward.data.jsonl import SHOWN, Faults, Row
from traceward.data.options import option_letter, options_of
from traceward.data.tasks import gsm8k
from traceward.data.tasks.choices import asked, letter_of
from traceward.errors import DataError

_PROMPTS = ("prompt", "instruction", "query", "problem", "question")
_COMPLETIONS = ("completion", "response", "output")
_QUESTIONS = ("question", "problem", "query", "prompt")
_RATIONALES = ("rationale", "reasoning", "cot", "chain_of_thought", "thinking", "explanation", "solution")
_LABELS = ("answer", "label", "final_answer", "ground_truth")
_SPEAKERS = {"human": "user", "gpt": "assistant"}  # ShareGPT's words
_THOUGHT = re.compile(r"\s*<think>(?P<thought>.*?)</think>(?P<rest>.*)", re.DOTALL)
_INSIDE = "inside <think>"
_SHORT = 200  # characters; what follows </think> and is no longer is the answer


@dataclass(frozen=True, slots=True)
class Understood:
    """A row in our schema, the shape it came in, and the field that each part was taken from."""

    row: Row
    shape: str
    taken: Mapping[str, str]


def _first(row: Row, names: Iterable[str]) -> str | None:
    return next((name for name in names if row.get(name) is not None), None)


def _solved(question: object, text: object, where: str, row: Row) -> tuple[Row, dict[str, str]]:
    """Question, reasoning and answer of a text that holds the latter two, with where these were found."""
    if not isinstance(text, str) or not text.strip():
        raise FieldError(where, f"must be a non-blank text: got {text!r}; write the worked solution there")
    label = _first(row, _LABELS)
    found: Row = {"question": question, "solution": text}
    taken = {"steps": f"{where}, its lines or sentences", "answer": f"{where}, where it states one"}
    if "<think>" in text:
        match = _THOUGHT.fullmatch(text)
        if match is None:
            raise FieldError(where, f"must open and close <think> once, first: got {text[:60]!r}…; mend that row")
        rest = match["rest"].strip()
        found["solution"] = match["thought"]
        found["answer"] = extract_answer(rest) or (rest if len(rest) <= _SHORT and "\n" not in rest else None)
        taken = {"steps": f"{where}, {_INSIDE}", "answer": f"{where}, after </think>"}
    stated = found.get("answer") or extract_answer(text)
    if label is None:
        return {**found, "answer": stated}, taken
    given = str(row[label])
    if stated and _contradict(stated, given, options_of(asked({**row, "question": question}))):
        raise FieldError(label, f"must be the one that {where} states: got {given!r} for {stated!r}; mend one of them")
    return {**found, "answer": row[label]}, {**taken, "answer": label}


def _contradict(one: str, other: str, options: Mapping[str, str]) -> bool:
    """Whether two answers are different numbers or different options; other words may mean the same."""
    letters = {option_letter(answer, options) for answer in (one, other)}
    if None not in letters:
        return len(letters) > 1
    return is_number(one) and is_number(other) and not answers_equal(one, other)


def _content(message: object, field: str) -> tuple[str, str]:
    """Speaker and text of a message, in OpenAI's or ShareGPT's words."""
    if isinstance(message, Mapping):
        role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if isinstance(role, str) and isinstance(text, str):
            thought = message.get("reasoning_content") or message.get("thinking")
            whole = f"<think>{thought}</think>{text}" if isinstance(thought, str) else text
            return _SPEAKERS.get(role, role), whole
    raise FieldError(field, f"must hold role and content, two texts: got {message!r}; mend that message")


def _exchange(messages: object, field: str) -> tuple[str, str]:
    """What the user asked and the assistant answered; what the system said before is part of the question."""
    said = [_content(message, field) for message in messages] if isinstance(messages, list) else []
    roles = [role for role, _ in said]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        got = ", ".join(roles) or repr(messages)
        raise FieldError(field, f"must be one question and one solution: got {got}; keep one exchange a row")
    return "\n\n".join(text for _, text in said[:-1] if text.strip()), said[-1][1]


def _conversation(row: Row) -> tuple[Row, dict[str, str]]:
    field = "messages" if "messages" in row else "conversations"
    question, text = _exchange(row[field], field)
    found, taken = _solved(question, text, f"{field}, the assistant's", row)
    return found, {"question": f"{field}, before the assistant's", **taken}


def _completed(row: Row) -> tuple[Row, dict[str, str]]:
    prompt, completion = _first(row, _PROMPTS), _first(row, _COMPLETIONS)
    assert prompt is not None
    assert completion is not None
    asks, text = row[prompt], row[completion]
    if isinstance(asks, list) or isinstance(text, list):  # TRL's conversational form
        parts = [part if isinstance(part, list) else [part] for part in (asks, text)]
        asks, text = _exchange([*parts[0], *parts[1]], prompt)
    if isinstance(row.get("input"), str) and row["input"].strip() and prompt == "instruction":
        asks = f"{asks}\n{row['input']}"
    found, taken = _solved(asks, text, completion, row)
    return found, {"question": prompt, **taken}


def _explained(row: Row) -> tuple[Row, dict[str, str]]:
    question, rationale = _first(row, _QUESTIONS), _first(row, _RATIONALES)
    assert question is not None
    assert rationale is not None
    found, taken = _solved(row[question], row[rationale], rationale, row)
    return found, {"question": question, **taken}


def _own(row: Row) -> tuple[Row, dict[str, str]]:
    steps = "steps" if row.get("steps") is not None else "solution"
    if steps == "solution" and row.get("answer") is None and isinstance(row["solution"], str):
        row = {**row, "answer": extract_answer(row["solution"])}
    return row, {"question": "question", "steps": steps, "answer": "answer" if row.get("answer") else steps}


def _asked(row: Row) -> tuple[Row, dict[str, str]]:
    return row, {"question": "question", "steps": "none"}


def _graded_school(row: Row) -> tuple[Row, dict[str, str]]:
    return gsm8k.convert(row), {"question": "question", "steps": "answer, its lines", "answer": "answer, after ####"}


@dataclass(frozen=True, slots=True)
class _Shape:
    name: str
    fits: Callable[[Row], bool]
    read: Callable[[Row], tuple[Row, dict[str, str]]]


def _has(row: Row, *groups: tuple[str, ...]) -> bool:
    return all(_first(row, group) is not None for group in groups)


# The first that fits.
_SHAPES = (
    _Shape("question/steps", lambda row: _has(row, ("question",), ("steps", "solution")), _own),
    _Shape("messages", lambda row: _has(row, ("messages", "conversations")), _conversation),
    _Shape("prompt/completion", lambda row: _has(row, _PROMPTS, _COMPLETIONS), _completed),
    _Shape("question/rationale/answer", lambda row: _has(row, _QUESTIONS, _RATIONALES), _explained),
    _Shape("GSM8K", lambda row: _has(row, ("question",)) and "####" in str(row.get("answer")), _graded_school),
)
QUESTION = "question"
_BARE = _Shape(QUESTION, lambda row: _has(row, ("question",)), _asked)
KNOWN = tuple(shape.name for shape in _SHAPES)


def understand(
    rows: Iterable[tuple[int, Row]], faults: Faults, *, questions: bool = False
) -> Iterator[tuple[int, Understood]]:
    """Every row in our schema. Rows that break a rule of their shape go to `faults` and are passed over.

    questions: whether a row may be a question, with or without its answer, and no more.

    Raises DataError for a file of several shapes or of none that is known, naming the lines.
    """
    first: tuple[str, int] | None = None
    others: list[str] = []
    shapes = (*_SHAPES, _BARE) if questions else _SHAPES
    for line, row in rows:
        shape = next((shape for shape in shapes if shape.fits(row)), None)
        name = shape.name if shape else f"fields {', '.join(sorted(row)) or 'none'}"
        if shape is None and first is None:
            rule = f"must be of a known shape ({', '.join(KNOWN)}): got {name}; rename the fields to one of them"
            raise DataError(DataError.at(faults.path, line, "row", rule))
        found = None
        try:
            found = _read(shape, row) if shape else None
        except ValueError as error:
            faults.add(line, error.field if isinstance(error, FieldError) else "answer", str(error))
        if shape is not None and found is None:
            continue
        name = found.shape if found else name
        first = first or (name, line)
        if found is None or name != first[0]:
            rule = f"must be of the shape of line {first[1]}, {first[0]}: got {name}; split the file, one shape each"
            others.append(DataError.at(faults.path, line, "row", rule))
        elif not others:  # else the file is refused, and only more lines of another shape are looked for
            yield line, found
    if others:
        more = [f"… and {len(others) - SHOWN} more"] if len(others) > SHOWN else []
        raise DataError("\n  ".join([*others[:SHOWN], *more]), problems=tuple(others))


def _read(shape: _Shape, row: Row) -> Understood:
    mapped, taken = shape.read(row)
    kept = {key: row[key] for key in ("id", "source", "options", "choices") if row.get(key) is not None}
    mapped = {**kept, **mapped}
    question = asked(mapped)
    if _has(row, ("options", "choices")) and mapped.get("answer") is not None:
        letter_of(mapped["answer"], options_of(question))  # else no trace could ever be right
    thinks = taken["steps"].endswith(_INSIDE)
    return Understood({**mapped, "question": question}, f"{shape.name} with <think>" if thinks else shape.name, taken)
