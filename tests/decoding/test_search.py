"""The search by hand: scripted steps, scripted marks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from traceward.data.formats import EncodedTrace, Format
from traceward.decoding.beams import Beam
from traceward.decoding.search import Found, search
from traceward.errors import ConfigError, DataError
from traceward.records import Granularity, Guide, Head, Problem, ScoredTrace, StopReason, UnitSpec

END = "$"  # a script's end of a trace


class Letters:
    """A tokenizer of single characters; `shift` makes it another one."""

    chat_template = None
    eos_token_id = 0

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) + self.shift for letter in text]}

    def get_vocab(self) -> dict[str, int]:
        return {"a": ord("a") + self.shift}

    def text(self, ids: Sequence[int]) -> str:
        return "".join(chr(token - self.shift) for token in ids if token != self.eos_token_id)


class Script:
    """A policy that goes on as it is written: the text so far -> what may follow, drawn in that order."""

    context = None

    def __init__(self, *steps: Mapping[str, Sequence[str]]) -> None:
        self.tokenizer = Letters()
        self.steps = {question: dict(script) for question, script in zip("PQR", steps, strict=False)}
        self.calls: list[tuple[list[str], int]] = []

    def extend(self, beams: Sequence[Beam], *, n: int, max_new_tokens: int, seed: int) -> list[list[Beam]]:
        self.calls.append(([beam.text for beam in beams], n))
        drawn: Counter[tuple[str, str]] = Counter()
        return [[self._next(beam, drawn, max_new_tokens) for _ in range(n)] for beam in beams]

    def _next(self, beam: Beam, drawn: Counter[tuple[str, str]], limit: int) -> Beam:
        key = (beam.problem.question, beam.text)
        choices = self.steps[key[0]][key[1]]
        step = choices[drawn[key] % len(choices)]
        drawn[key] += 1
        text = beam.text + step.removesuffix(END)
        ids = tuple(map(ord, text)) + (self.tokenizer.eos_token_id,) * step.endswith(END)
        stop = StopReason.END if step.endswith(END) else StopReason.LENGTH if len(ids) >= limit else None
        return replace(beam, completion_ids=ids[:limit], text=text, stop=stop, sampled=len(step))


class Marks:
    """A reward that gives each line a mark, 0 where none is written; whole texts may have an exported one."""

    head = Head.LOG_RATIO
    style = Format.PLAIN
    spec = UnitSpec(Granularity.INTERVAL)

    def __init__(self, marks: Mapping[str, float], *, exported: Mapping[str, float] | None = None, shift: int = 0):
        self.marks = marks
        self.exported = exported or {}
        self.tokenizer = Letters(shift)
        self.seen: list[EncodedTrace] = []

    def score_encoded(self, traces: Sequence[EncodedTrace], **_: Any) -> list[ScoredTrace]:
        self.seen += traces
        return [self._read(self.tokenizer.text(trace.completion_ids)) for trace in traces]

    def _read(self, text: str) -> ScoredTrace:
        marks = tuple(self.marks.get(line, 0.0) for line in text.split("\n") if line) or (0.0,)
        return ScoredTrace(self.exported.get(text, sum(marks)), marks)


def find(script: Mapping[str, Sequence[str]], marks: Mapping[str, float], **options: Any) -> tuple[Found, Script]:
    """What a search finds for question P, and the script it was found with."""
    generator = Script(script)
    exported = options.pop("exported", None)
    options = {"n": 4, "beams": 2, "max_new_tokens": 99, **options}
    (found,) = search(Marks(marks, exported=exported), generator, [Problem("p", "P")], **options)  # type: ignore[arg-type]
    return found, generator


def answers(found: Found) -> list[str | None]:
    return [trace.answer for trace in found.traces]


# ---- beams -----------------------------------------------------------------------------------------------------------

TEMPTING = {  # the best first step leads nowhere good
    "": ["tempting\n", "sound\n", "dull\n", "dumb\n"],
    "tempting\n": ["wrong\n", "worse\n"],
    "sound\n": ["right\n", "fair\n"],
    "tempting\nwrong\n": ["Answer: 1$"],
    "sound\nright\n": ["Answer: 2$"],
    "sound\nfair\n": ["Answer: 3$"],
}
TEMPTING_MARKS = {"tempting": 1, "sound": 0.5, "dull": -1, "dumb": -2, "wrong": -2, "worse": -3, "right": 1}


def test_beams_find_the_path_that_the_greedy_choice_of_steps_misses() -> None:
    found, script = find(TEMPTING, TEMPTING_MARKS)
    assert script.calls == [
        (["", ""], 2),
        (["tempting\n", "sound\n"], 2),
        (["sound\nright\n", "sound\nfair\n"], 2),
    ]
    assert answers(found) == ["2", "2", "3", "3"]
    assert [trace.score for trace in found.traces] == [1.5, 1.5, 0.5, 0.5]
    assert found.vote == "2"
    greedy, script = find(TEMPTING, TEMPTING_MARKS, beams=1)
    assert script.calls == [([""], 4), (["tempting\n"], 4), (["tempting\nwrong\n"], 4)]
    assert answers(greedy) == ["1"] * 4
    assert greedy.traces[0].score == -1


def test_every_token_that_was_drawn_is_counted() -> None:
    # Letters, line breaks and an end each: the four first steps, then four seconds, then four answers.
    found, _ = find(TEMPTING, TEMPTING_MARKS)
    assert found.sampled_tokens == (9 + 6 + 5 + 5) + (6 + 6 + 6 + 5) + 4 * 10
    greedy, _ = find(TEMPTING, TEMPTING_MARKS, beams=1)
    assert greedy.sampled_tokens == (9 + 6 + 5 + 5) + 2 * (6 + 6) + 4 * 10


COLLAPSE = {  # the first two steps of the first tree beat all of the second, whose best one ends best
    "": ["a\n", "b\n", "c\n", "d\n"],
    "a\n": ["Answer: 1$"],
    "b\n": ["Answer: 2$"],
    "c\n": ["e\nAnswer: 3$", "Answer: 4$"],
}
COLLAPSE_MARKS = {"a": 1, "b": 0.9, "c": 0.1, "d": 0, "e": 2}


def test_groups_keep_a_tree_that_loses_at_first() -> None:
    together, script = find(COLLAPSE, COLLAPSE_MARKS)
    assert script.calls[1][0] == ["a\n", "b\n"]
    assert answers(together) == ["1", "1", "2", "2"]
    apart, script = find(COLLAPSE, COLLAPSE_MARKS, groups=2)
    assert script.calls[1][0] == ["a\n", "c\n"]
    assert answers(apart) == ["3", "1", "1", "4"]
    assert [trace.score for trace in apart.traces] == [2.1, 1, 1, 0.1]


def test_as_many_beams_as_samples_leave_nothing_out() -> None:
    script = {**COLLAPSE, "d\n": ["Answer: 5$"]}
    found, generator = find(script, COLLAPSE_MARKS, beams=4)
    assert generator.calls == [(["", "", "", ""], 1), (["a\n", "b\n", "c\n", "d\n"], 1)]
    assert answers(found) == ["3", "1", "2", "5"]


def test_copies_of_a_trace_take_a_place_only_where_no_other_one_wants_it() -> None:
    copies = {"": ["a\n", "a\n", "b\n", "a\n"], "a\n": ["Answer: 1$"], "b\n": ["Answer: 2$"]}
    _, script = find(copies, {"a": 1})
    assert script.calls[1][0] == ["a\n", "b\n"]
    _, script = find({**copies, "": ["a\n"]}, {"a": 1})
    assert script.calls[1][0] == ["a\n", "a\n"]
    _, script = find(copies, {"a": 1}, beams=4)
    assert script.calls[1][0] == ["a\n", "b\n", "a\n", "a\n"]  # the order does not matter, their number does


def test_a_beam_that_ends_gives_up_its_place() -> None:
    found, script = find({"": ["Answer: 1$", "a\n", "b\n", "c\n"], "a\n": ["Answer: 2$"]}, {"Answer: 1": 5, "a": 1})
    assert script.calls == [(["", ""], 2), (["a\n"], 2)]
    assert answers(found) == ["1", "2", "2"]


def test_a_whole_trace_is_kept_also_where_it_lost() -> None:
    found, script = find(
        {"": ["Answer: 9$", "a\n", "b\n", "c\n"], "a\n": ["Answer: 1$"], "b\n": ["Answer: 2$"]},
        {"Answer: 9": -5, "a": 1, "b": 0.5},
    )
    assert script.calls[1][0] == ["a\n", "b\n"]
    assert answers(found) == ["1", "1", "2", "2", "9"]


# ---- what is asked of the reward -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guide", "best"), [("sum", "1"), ("lowest", "2"), ("last", "3"), ("exported", "4")])
def test_guides(guide: str, best: str) -> None:
    firsts = ["3\n-2\n", "0.4\n0.4\n", "-1\n1.5\n", "-3\n-3\n"]  # each line is its mark
    script = {"": firsts} | {first: [f"Answer: {at}$"] for at, first in enumerate(firsts, start=1)}
    marks = {line: float(line) for first in firsts for line in first.split()}
    found, _ = find(script, marks, beams=1, guide=Guide(guide), exported={firsts[3]: 9.0})
    assert answers(found) == [best] * 4


def test_the_vote_weighs_answers_by_reward() -> None:
    script = {"": ["a\n", "b\n", "c\n", "d\n"]} | {
        f"{name}\n": [f"Answer: {answer}$"] for name, answer in zip("abcd", "7889", strict=True)
    }
    found, _ = find(script, {"a": 1.0, "b": 0.6, "c": 0.6, "d": -3.0}, beams=4)
    assert (found.traces[0].answer, found.vote) == ("7", "8")  # 2 exp(0.6) > exp(1)


def test_a_reward_with_other_tokens_reads_the_text() -> None:
    asked = [Problem("p", "P")]
    same, other = Marks(TEMPTING_MARKS), Marks(TEMPTING_MARKS, shift=1)
    expected = search(same, Script(TEMPTING), asked, n=4, beams=2)
    assert search(other, Script(TEMPTING), asked, n=4, beams=2) == expected
    assert other.seen[0].prompt_ids == tuple(ord(letter) + 1 for letter in "P\n")
    assert other.seen[-1].completion_ids == (*(ord(letter) + 1 for letter in "sound\nfair\nAnswer: 3"), 0)


def test_a_score_that_is_no_number_names_the_question() -> None:
    with pytest.raises(DataError, match=r"scores must be finite: got nan .* for 'p'; mend the reward"):
        find({"": ["a\n"]}, {"a": math.nan})


# ---- where a trace stands --------------------------------------------------------------------------------------------


def test_a_trace_that_was_cut_counts_only_where_none_ended() -> None:
    script = {"": ["a line too long\n", "b\n"], "b\n": ["Answer: 1$"]}
    found, _ = find(script, {"b": -1, "a line too lo": 7}, n=2, max_new_tokens=13)
    assert answers(found) == ["1"]
    assert found.traces[0].beam.stop is StopReason.END
    cut, _ = find({"": ["no end"]}, {}, n=2, max_new_tokens=3)
    assert [trace.beam.stop for trace in cut.traces] == [StopReason.LENGTH] * 2
    assert cut.vote is None


def test_a_blank_line_is_no_step() -> None:
    found, script = find({"": ["\n"], "\n": ["a\n"], "\na\n": ["Answer: 1$"]}, {}, n=1, beams=1)
    assert script.calls == [([""], 1), (["\n"], 1), (["\na\n"], 1)]
    assert found.sampled_tokens == 1 + 2 + 10
    assert found.traces[0].beam.text == "\na\nAnswer: 1"


def test_line_breaks_without_end_are_cut() -> None:
    class Blank(Script):
        def extend(self, beams: Sequence[Beam], *, n: int, max_new_tokens: int, seed: int) -> list[list[Beam]]:
            return [[replace(beam, text=beam.text + "\n", completion_ids=(10,), sampled=1)] for beam in beams]

    (found,) = search(Marks({}), Blank(), [Problem("p", "P")], n=1, beams=1, max_new_tokens=5)  # type: ignore[arg-type]
    assert found.traces[0].beam.stop is StopReason.LENGTH
    assert found.sampled_tokens == 5


def test_questions_that_advance_together_find_what_each_finds_alone() -> None:
    problems = [Problem("p", "P"), Problem("q", "Q")]
    marks = {**TEMPTING_MARKS, **COLLAPSE_MARKS}
    together = search(Marks(marks), Script(TEMPTING, COLLAPSE), problems, n=4, beams=2)  # type: ignore[arg-type]
    assert [item.problem for item in together] == problems
    for problem, found in zip(problems, together, strict=True):
        assert [found] == search(Marks(marks), Script(TEMPTING, COLLAPSE), [problem], n=4, beams=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 4, "beams": 3}, "n must be a multiple of beams"),
        ({"beams": 4, "groups": 3}, "beams must be a multiple of groups"),
        ({"beams": 0}, "n must be a multiple of beams, and both at least 1: got n = 4, beams = 0"),
        ({"n": 0, "beams": 1}, "both at least 1: got n = 0"),
        ({"groups": 0}, "both at least 1: got n = 4, beams = 2, groups = 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1: got 0"),
    ],
)
def test_wrong_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(TEMPTING, TEMPTING_MARKS, **options)
