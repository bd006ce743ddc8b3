"""The verdict on a trace of `arithmetic`: every expression must have the value that the question gives it."""

from __future__ import annotations

import re

from traceward.data.tasks.expressions import Tree, parse, parts, value
from traceward.data.tasks.world import verdict
from traceward.errors import DataError
from traceward.records import Trace, Verdict

_PLAN = re.compile(r'This equation can be written as "(?P<plan>[^"]+)", where (?P<given>.+)\.')
_LETTER = re.compile(r"(?:,? and |, |^)([A-Z]) = ")
_BRACKET = re.compile(r"Let's calculate (?P<letter>[A-Z]) = (?P<lines>.+)\.")
_END = re.compile(r"Then, the final equation is (?P<lines>.+)\. So the answer is (?P<answer>-?\d+)\.?")


def read_question(question: str) -> Tree:
    """The expression that a question asks for. Raises DataError for a question of another kind."""
    try:
        tree = parse(question.strip().removesuffix("="))
        value(tree)
    except ValueError as error:
        raise DataError(f"question must be an expression and '=': got {question!r} ({error}); mend it") from error
    return tree


class _Reader:
    """Judges the steps of one trace in order.   letters: the true values of the letters defined so far."""

    def __init__(self, asked: Tree) -> None:
        self.asked = asked
        self.letters: dict[str, int] = {}

    def right(self, step: str) -> bool:
        """Whether everything a step says is true. Raises ValueError for a step that says nothing known."""
        if match := _PLAN.fullmatch(step):
            return self._plan_right(parse(match["plan"]), match["given"])
        if match := _BRACKET.fullmatch(step):
            return match["letter"] in self.letters and self._all(match["lines"], self.letters[match["letter"]])
        if match := _END.fullmatch(step):
            truth = value(self.asked)
            return int(match["answer"]) == truth and self._all(match["lines"], truth)
        return False

    def _plan_right(self, plan: Tree, given: str) -> bool:
        _, *fields = _LETTER.split(given)
        known = {*parts(self.asked)}
        defined = {letter: parse(text) for letter, text in zip(fields[::2], fields[1::2], strict=True)}
        self.letters |= {letter: value(tree) for letter, tree in defined.items()}
        return value(plan, self.letters) == value(self.asked) and {*defined.values()} <= known

    def _all(self, lines: str, truth: int) -> bool:
        return all(value(parse(line), self.letters) == truth for line in lines.split(" = "))


def check(question: str, trace: Trace) -> Verdict:
    """Exact verdict. A step is wrong where it defines a letter as what is not in the question, where any expression of
    it has another value than the question gives it, or where it says nothing of the kind. Raises DataError for a
    question that is not of this world."""
    asked = read_question(question)
    reader = _Reader(asked)
    wrong = None
    for index, step in enumerate(trace.steps):
        try:
            right = reader.right(step)
        except ValueError:
            right = False
        if not right:
            wrong = index
            break
    return verdict(trace, str(value(asked)), wrong)
