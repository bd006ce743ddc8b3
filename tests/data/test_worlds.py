"""What every world promises: streams that share no question, marks that are right, steps that stay steps."""

from __future__ import annotations

import random

import pytest

from traceward.data.formats import Format, completion_text, parse_completion, stated_answer
from traceward.data.grading import Grade, grade
from traceward.data.segmentation import split_steps
from traceward.data.tasks.registry import TEST_STREAM, VALIDATION_STREAM, world_task
from traceward.data.tasks.stories import Style
from traceward.data.tasks.stories import world as stories_world
from traceward.data.tasks.worlds import WORLDS
from traceward.errors import DataError
from traceward.records import Problem, Trace, Verdict

EACH = pytest.mark.parametrize("name", list(WORLDS))


@EACH
def test_no_question_is_in_two_parts_of_a_task(name: str) -> None:
    task = world_task(WORLDS[name], demonstrations=30, questions=30, validation=15, test=15, seed=3)
    parts = [[d.problem.question for d in part] for part in (task.demonstrations, task.validation, task.test)]
    parts.append([problem.question for problem in task.questions])
    assert [len(part) for part in parts] == [30, 15, 15, 30]
    every = [question for part in parts for question in part]
    assert len(set(every)) == len(every)


@EACH
def test_test_and_validation_follow_neither_the_seed_nor_each_others_size(name: str) -> None:
    one = world_task(WORLDS[name], demonstrations=4, questions=0, validation=6, test=5, seed=0)
    two = world_task(WORLDS[name], demonstrations=4, questions=0, validation=3, test=9, seed=1)
    assert two.validation == one.validation[:3]
    assert two.test[:5] == one.test
    assert two.demonstrations != one.demonstrations


@EACH
def test_budgets_of_one_seed_are_nested_and_marked_traces_are_elsewhere(name: str) -> None:
    world = WORLDS[name]
    assert world.demonstrations(9, 5)[:4] == world.demonstrations(4, 5)
    tested = {d.problem.question for d in world.demonstrations(20, TEST_STREAM)}
    marked = world.marked(30, VALIDATION_STREAM, exclude=frozenset(tested))
    assert not tested & {item.problem.question for item in marked}
    assert marked[:7] == world.marked(7, VALIDATION_STREAM, exclude=frozenset(tested))
    assert marked != world.marked(30, 0, exclude=frozenset(tested))


@EACH
def test_experts_are_right_and_students_share_of_right_traces_is_neither_small_nor_large(name: str) -> None:
    world = WORLDS[name]
    for item in world.demonstrations(60, 1):
        assert world.judge(item.problem, item.trace) == Verdict(True, -1)
        assert grade(item.trace.answer, item.problem.answer) is Grade.CORRECT
    marks = [item.first_error for item in world.marked(200, 1)]
    assert 0.2 < marks.count(-1) / len(marks) < 0.7
    assert len(set(marks)) > 3  # wrong in different places


@EACH
def test_a_trace_comes_back_from_its_text_with_its_steps(name: str) -> None:
    rng = random.Random(2)
    for _ in range(60):
        for _, trace in (WORLDS[name].expert(rng), WORLDS[name].student(rng)):
            text = completion_text(trace, Format.PLAIN)
            assert parse_completion(text, Format.PLAIN) == trace
            assert len(split_steps(text)) == len(trace.steps) + 1
            assert stated_answer("\n".join(trace.steps), Format.PLAIN) == trace.answer or name == "stories"


@EACH
def test_an_answer_line_that_contradicts_right_steps_is_the_first_error(name: str) -> None:
    world = WORLDS[name]
    question, trace = world.expert(random.Random(4))
    assert world.check(question, Trace(trace.steps, "nonsense")) == Verdict(False, len(trace.steps))
    unstated = world.check(question, Trace(trace.steps))
    assert unstated.first_error == len(trace.steps)


@EACH
def test_a_question_of_another_world_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="question must"):
        WORLDS[name].judge(Problem("x", "Who wrote Faust?"), Trace(("Goethe did.",), "Goethe"))


@EACH
def test_steps_that_say_nothing_known_are_wrong(name: str) -> None:
    question, trace = WORLDS[name].expert(random.Random(6))
    for index in range(len(trace.steps)):
        steps = (*trace.steps[:index], "Let us think about it.", *trace.steps[index + 1 :])
        assert WORLDS[name].check(question, Trace(steps, trace.answer)).first_error == index


def test_a_variant_of_stories_changes_demonstrations_alone() -> None:
    def task(style: Style) -> object:
        return world_task(
            WORLDS["stories"], demonstrations=4, questions=3, validation=2, test=2, seed=0, experts=stories_world(style)
        )

    usual, other = task(Style.USUAL), task(Style.RESULT_FIRST)
    assert (usual.test, usual.validation) == (other.test, other.validation)  # type: ignore[attr-defined]
    assert {d.source for d in other.demonstrations} == {"stories/result-first"}  # type: ignore[attr-defined]
