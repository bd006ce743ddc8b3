from __future__ import annotations

import dataclasses

import pytest

from traceward.errors import ConfigError, DataError, TracewardError
from traceward.records import Demonstration, Granularity, LabelSource, Problem, Trace, UnitSpec

PROBLEM = Problem("p1", "How many?")


@pytest.mark.parametrize("question", ["", "  \n\t"])
def test_a_blank_question_is_refused_and_names_the_problem(question: str) -> None:
    with pytest.raises(DataError, match=r"question must not be empty: got .* in problem 'p7'"):
        Problem("p7", question)


@pytest.mark.parametrize("steps", [("one", ""), (" \n",)])
def test_a_blank_step_is_refused(steps: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="steps must not be blank"):
        Trace(steps, "4")


def test_a_trace_may_be_empty_but_a_demonstration_may_not() -> None:
    empty = Trace((), "4")
    with pytest.raises(DataError, match="at least one step: got none in demonstration 'p1'"):
        Demonstration(PROBLEM, empty)


@pytest.mark.parametrize("granularity", [Granularity.SPARSE, Granularity.DENSE])
def test_an_interval_belongs_to_the_interval_granularity(granularity: Granularity) -> None:
    with pytest.raises(ConfigError, match=f"got 15 with '{granularity}'"):
        UnitSpec(granularity, 15)


@pytest.mark.parametrize("every", [0, -3])
def test_an_interval_holds_at_least_one_token(every: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1 token: got {every}"):
        UnitSpec(Granularity.INTERVAL, every)


def test_only_pure_demonstrations_use_no_final_answers() -> None:
    assert [source for source in LabelSource if not source.uses_final_answers] == [LabelSource.DEMONSTRATIONS]


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROBLEM.answer = "4"  # type: ignore[misc]


def test_errors_share_one_base_and_name_the_place() -> None:
    assert DataError.at("demos.jsonl", 7, "answer", "must be text") == "demos.jsonl:7: answer: must be text"
    assert all(issubclass(kind, TracewardError) for kind in (DataError, ConfigError))
