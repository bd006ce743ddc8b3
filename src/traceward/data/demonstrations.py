"""Read, check, fingerprint and split demonstrations.

A row: `question`, then `steps` (a list of lines) or `solution` (free text, split into steps), and `answer`; `id` is
optional and follows from the question. Other fields are left alone. A last step or line that is nothing but the answer
("#### 18", "Answer: 18") becomes the answer. Every broken row is named, none is dropped.

Two questions are the same when their letters, digits and mathematical signs and brackets are: case, spaces and sentence
punctuation do not count, but "sin(-60)" is not "sin 60".
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceward.data.grading import answer_line, answers_equal, is_number
from traceward.data.jsonl import Faults, Row, read_jsonl
from traceward.data.segmentation import split_steps
from traceward.errors import ConfigError, DataError
from traceward.records import Demonstration, Problem, Trace

SPLITS = ("train", "validation", "dev", "test")


@dataclass(frozen=True, slots=True)
class DemonstrationSet:
    """Demonstrations in the order of their file; `fingerprint` is a sha256 over what they say, not over the bytes."""

    demonstrations: tuple[Demonstration, ...]
    fingerprint: str
    path: str
    lines: tuple[int, ...] = ()  # where each one stands, for messages

    def place(self, index: int) -> str:
        """The place of one demonstration as messages name it."""
        return f"{self.path}:{self.lines[index]}" if self.lines else f"{self.path}[{index}]"


_MARK = re.compile(r"[\W_]")


def question_key(question: str) -> str:
    """What makes two questions the same one."""
    text = "".join(unicodedata.normalize("NFKC", question).casefold().split()).replace("−", "-")
    return _MARK.sub(_counted, text) or text


def _counted(match: re.Match[str]) -> str:
    """A mark where it counts, else nothing."""
    text, at, mark = match.string, match.start(), match[0]
    before, after = text[max(at - 1, 0) : at], text[at + 1 : at + 2]
    hyphen = mark == "-" and not (before.isalpha() and after.isalpha())
    point = mark == "." and after.isdigit()
    return mark if mark in "*/%^" or hyphen or point or unicodedata.category(mark) in {"Sm", "Ps", "Pe"} else ""


def fingerprint(demonstrations: Iterable[Demonstration]) -> str:
    """sha256 in hex over ids, questions, steps and answers, in order."""
    digest = hashlib.sha256()
    for item in demonstrations:
        row = [item.problem.id, item.problem.question, list(item.trace.steps), item.trace.answer]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


class FieldError(ValueError):
    """A row's fault in a field that is not its answer."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(rule)
        self.field = field


# --- fields, shared with traces.py ------------------------------------------------------------------------------------


def text_field(row: Row, field: str) -> str | None:
    """A string or a number (-> string, 18.0 -> "18"); None where absent, null or blank. ValueError says the rule."""
    value = row.get(field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"must be a string or a number: got {type(value).__name__}; write it as a string")
    return value if value and value.strip() else None


def question_field(row: Row) -> tuple[str, str]:
    """The question and the row's id; without an id, one that follows from the question."""
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"must be a non-blank string: got {question!r}; write the question there")
    return question, f"q-{hashlib.sha256(question_key(question).encode()).hexdigest()[:12]}"


def lift_answer(steps: Sequence[str], answer: str | None) -> tuple[tuple[str, ...], str | None]:
    """Make a last step that is nothing but the answer the answer; where it says another one it stays a step."""
    last = answer_line(steps[-1]) if steps else None
    if last is None or (answer is not None and not answers_equal(last, answer)):
        return tuple(steps), answer
    return tuple(steps[:-1]), last if answer is None else answer


def _steps(row: Row) -> list[str]:
    steps, solution = row.get("steps"), row.get("solution")
    if (steps is None) == (solution is None):
        got = "none" if steps is None else "both"
        raise ValueError(f"must be given as either steps or solution: got {got}; keep one of the two fields")
    if solution is not None:
        if not isinstance(solution, str) or not solution.strip():
            raise ValueError(f"must be a non-blank text (solution): got {solution!r}; write the worked solution")
        return split_steps(solution)
    if not isinstance(steps, list) or not steps:
        raise ValueError(f"must be a non-empty list of strings: got {steps!r}; write one string per step")
    for number, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise ValueError(f"must be non-blank strings: got {step!r} at index {number}; write or remove that step")
        if "\n" in step.strip() or "\r" in step.strip():
            # Joining or splitting it here would change how many steps the expert wrote.
            raise ValueError(f"must be one line each: got a line break at index {number}; split that step in two")
    return [step.strip() for step in steps]


def _demonstration(row: Row, line: int, faults: Faults) -> Demonstration | None:
    """One row; its first fault in each field goes to `faults`."""
    before = len(faults.found)

    def read(field: str, reader: Callable[[], Any], default: Any) -> Any:
        try:
            return reader()
        except ValueError as error:
            faults.add(line, field, str(error))
            return default

    question, default_id = read("question", lambda: question_field(row), ("", ""))
    identity = read("id", lambda: text_field(row, "id"), None) or default_id
    steps = read("steps", lambda: _steps(row), [])
    given = read("answer", lambda: text_field(row, "answer"), None)
    steps, answer = lift_answer(steps, given)
    stated = answer_line(steps[-1]) if steps else None
    # "Answer: 3" beside the answer "E" names the same option in other words; two numbers do contradict each other.
    if stated and answer and is_number(stated) and is_number(answer):
        rule = f"must be the one the last step states: got {answer!r} for {stated!r}; mend one of them"
        faults.add(line, "answer", rule)
    if len(faults.found) == before and answer is None:
        faults.add(line, "answer", "must be there: got none; add the final answer, or end the solution with '#### …'")
    if len(faults.found) == before and not steps:
        faults.add(line, "steps", "must hold reasoning before the answer line: got none; write the worked solution")
    if len(faults.found) > before:
        return None
    source = row.get("source")
    return Demonstration(
        Problem(identity, question, answer), Trace(tuple(steps), answer), source if isinstance(source, str) else ""
    )


# --- files ------------------------------------------------------------------------------------------------------------


def find_file(path: str | Path, split: str | None) -> Path:
    """The file meant by a path: itself, or train/validation/dev/test.jsonl[.gz] of a directory, which `split` picks."""
    path = Path(path)
    if not path.is_dir():
        if split is not None:
            raise ConfigError(f"split must go with a directory: got {split!r} with {path}; leave it out for a file")
        return path
    names = SPLITS if split is None else (split,)
    found = [
        path / f"{name}{end}" for name in names for end in (".jsonl", ".jsonl.gz") if (path / f"{name}{end}").is_file()
    ]
    if len(found) != 1:
        got = ", ".join(file.name for file in found) or "none of them"
        wanted = " or ".join(f"{name}.jsonl[.gz]" for name in names)
        raise DataError(f"{path} must hold one {wanted}: got {got}; name a split or the file itself")
    return found[0]


def demonstrations_of(rows: Iterable[tuple[int, Row]], faults: Faults) -> DemonstrationSet:
    """Numbered rows in our schema, checked. Broken rows are added to `faults` and passed over; of two rows with one id
    or one question the later is broken, and both lines are named."""
    found: list[Demonstration] = []
    lines: list[int] = []
    seen: dict[tuple[str, str], int] = {}
    for line, row in rows:
        item = _demonstration(row, line, faults)
        if item is None:
            continue
        keys = (("id", item.problem.id), ("question", question_key(item.problem.question)))
        doubled = [key for key in (keys if row.get("id") is not None else keys[1:]) if key in seen]
        for field, key in doubled:
            faults.add(line, field, f"must be unique: got the one of line {seen[field, key]}; remove one of the two")
        for place in keys:
            seen.setdefault(place, line)
        if not doubled:
            found.append(item)
            lines.append(line)
    return DemonstrationSet(tuple(found), fingerprint(found), str(faults.path), tuple(lines))


def converted(
    rows: Iterable[tuple[int, Row]], convert: Callable[[Row], Row] | None, faults: Faults
) -> Iterator[tuple[int, Row]]:
    """Rows of another schema in ours. `convert` raises ValueError for a broken row, of the answer, or FieldError."""
    for line, row in rows:
        try:
            yield line, convert(row) if convert else row
        except ValueError as error:
            faults.add(line, error.field if isinstance(error, FieldError) else "answer", str(error))


def read_demonstrations(
    path: str | Path, *, split: str | None = None, convert: Callable[[Row], Row] | None = None
) -> DemonstrationSet:
    """Read a file, or a directory's split. `convert` maps a task's own rows to ours (ValueError = broken row).

    Raises DataError naming every broken line; duplicates (same id or same question) name both lines.
    """
    file = find_file(path, split)
    faults = Faults(file)
    found = demonstrations_of(converted(read_jsonl(file, faults), convert, faults), faults)
    faults.raise_if_any()
    return found


def read_questions(path: str | Path, *, split: str | None = None) -> list[Problem]:
    """Questions without worked solutions. An answer, where present, is kept for evaluation only.

    The same question may stand there twice under two ids; the same id may not.
    """
    file = find_file(path, split)
    faults = Faults(file)
    problems: dict[str, Problem] = {}
    places: dict[str, int] = {}
    for line, row in read_jsonl(file, faults):
        field = "question"
        try:
            question, default_id = question_field(row)
            field = "id"
            identity = text_field(row, "id") or default_id
            field = "answer"
            answer = text_field(row, "answer")
        except ValueError as error:
            faults.add(line, field, str(error))
            continue
        if identity in problems:
            faults.add(line, "id", f"must be unique: got the one of line {places[identity]}; remove one of the two")
            continue
        problems[identity] = Problem(identity, question, answer)
        places[identity] = line
    faults.raise_if_any()
    return list(problems.values())


# --- splits -----------------------------------------------------------------------------------------------------------


def refuse_overlap(train: DemonstrationSet, test: DemonstrationSet) -> None:
    """Raise DataError naming both places of every question that is in both sets."""
    places = {question_key(item.problem.question): train.place(at) for at, item in enumerate(train.demonstrations)}
    shared = [
        f"{test.place(at)}: question: must not be in both sets: got the one of {places[key]}; remove one of the two"
        for at, item in enumerate(test.demonstrations)
        if (key := question_key(item.problem.question)) in places
    ]
    if shared:
        shown = "\n  ".join(shared[:10]) + (f"\n  … and {len(shared) - 10} more" if len(shared) > 10 else "")
        raise DataError(shown, problems=tuple(shared))


def hash_split(
    demonstrations: Sequence[Demonstration], *, fractions: Mapping[str, float], salt: str
) -> dict[str, tuple[Demonstration, ...]]:
    """Parts by sha256 of salt and question: a row's part depends on nothing else, so adding a row moves no other.

    fractions: name -> share of the expected rows, summing to 1; their order matters.
    """
    total = sum(fractions.values())
    if abs(total - 1) > 1e-9 or any(share <= 0 for share in fractions.values()):
        raise ConfigError(f"split fractions must be positive and sum to 1: got {dict(fractions)}; mend them")
    parts: dict[str, list[Demonstration]] = {name: [] for name in fractions}
    names = list(fractions)
    for item in demonstrations:
        digest = hashlib.sha256(f"{salt}\0{question_key(item.problem.question)}".encode()).digest()
        place = int.from_bytes(digest[:7], "big") / 2**56
        edge = 0.0
        chosen = names[-1]
        for name in names:
            edge += fractions[name]
            if place < edge:
                chosen = name
                break
        parts[chosen].append(item)
    return {name: tuple(items) for name, items in parts.items()}


def split_record(
    parts: Mapping[str, Sequence[Demonstration]], *, fractions: Mapping[str, float], salt: str
) -> dict[str, Any]:
    """What a manifest keeps of a split: rule, salt, counts and fingerprints."""
    return {
        "rule": "sha256(salt, question)",
        "salt": salt,
        "fractions": dict(fractions),
        "rows": {name: len(items) for name, items in parts.items()},
        "fingerprints": {name: fingerprint(items) for name, items in parts.items()},
    }
