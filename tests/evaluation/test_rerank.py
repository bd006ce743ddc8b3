from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceward.errors import ConfigError, DataError
from traceward.evaluation.rerank import (
    ROWS,
    VOTE_SUBSETS,
    Aggregation,
    Ranking,
    RerankGroup,
    ValidationGroup,
    aggregate,
    best_of_n,
    choose_aggregation,
    pass_curve,
    powers_of_two,
    rerank,
    rerank_curve,
    rerank_table,
)
from traceward.evaluation.statistics import bootstrap_mean
from traceward.records import Head, Problem, ScoredTrace, Trace

NAN = float("nan")
MEASURED = ("reward", "base_logprob", "sft_logprob", "sft_log_ratio")


def group(
    correct: Sequence[bool | int],
    answers: Sequence[str | None],
    reward: Sequence[float],
    *,
    lengths: Sequence[int] | None = None,
    problem_id: str = "p",
    **scores: Sequence[float],
) -> RerankGroup:
    every = {"reward": tuple(reward), **{name: tuple(values) for name, values in scores.items()}}
    size = tuple(lengths) if lengths is not None else (10,) * len(correct)
    return RerankGroup(problem_id, tuple(bool(right) for right in correct), tuple(answers), size, every)


def values(item: RerankGroup, n: int | None = None, seed: int = 0) -> dict[str, float]:
    """Each measured row of a table over one problem."""
    table = rerank_table([item], n=n or len(item.correct), seed=seed)
    return {name: row.value for name, row in table.rows.items() if row is not None}


# --- a table by hand --------------------------------------------------------------------------------------------------

HARD = group(  # the crowd is wrong, the reward knows
    [0, 0, 1, 0],
    ["7", "7", "5", None],
    [0.0, 0.0, 2.0, 5.0],
    lengths=[9, 4, 4, 30],
    base_logprob=[-1, -9, -5, -5],
    problem_id="hard",
)
EASY = group([1, 0], ["3", "4"], [1.0, 1.0], lengths=[5, 6], base_logprob=[-2, -1], problem_id="easy")


def test_every_row_of_one_problem_by_hand() -> None:
    assert values(HARD) == {
        "reward": 0,  # the last trace, without an answer
        "weighted_vote": 1,  # e^2 for "5" against 1 + 1 for "7"; the last trace does not vote
        "majority": 0,
        "base_logprob": 0,
        "shortest": 0.5,  # two of length 4, one right
        "expected_random": 0.25,
        "oracle": 1,
    }
    assert values(EASY) == {
        "reward": 0.5,  # a tie
        "weighted_vote": 0.5,
        "majority": 0.5,
        "base_logprob": 0,
        "shortest": 1,
        "expected_random": 0.5,
        "oracle": 1,
    }


def test_a_table_is_the_mean_over_problems_with_its_interval() -> None:
    hard = replace(
        HARD, correct=HARD.correct[1:3], answers=HARD.answers[1:3], lengths=(4, 4), scores={"reward": (0.0, 2.0)}
    )
    easy = replace(EASY, scores={"reward": (1.0, 1.0)})
    table = rerank_table([hard, easy], n=2, seed=3)
    assert tuple(table.rows) == ROWS
    assert table.values["reward"] == (1.0, 0.5)
    assert table.rows["reward"] == bootstrap_mean([1.0, 0.5], seed=3)
    assert table.rows["expected_random"] == bootstrap_mean([0.5, 0.5], seed=3)
    assert table.gain("reward", "expected_random", seed=0).value == 0.25
    with pytest.raises(ConfigError, match="sft_logprob"):
        table.gain("reward", "sft_logprob", seed=0)


def test_a_score_that_nobody_measured_is_none_and_never_another_row() -> None:
    table = rerank_table([EASY], n=2, seed=0)
    assert table.rows["sft_logprob"] is None
    assert "sft_logprob" not in table.values
    assert table.rows["base_logprob"] is not None
    assert "sft_logprob" not in rerank_curve([EASY], sizes=[1], seed=0)


def test_a_score_with_a_name_of_its_own_gets_a_row_of_its_own() -> None:
    table = rerank_table([group([0, 1], ["1", "2"], [1, 0], logit=[0, 1])], n=2, seed=0)
    row = table.rows["logit"]
    assert row is not None
    assert row.value == 1
    assert tuple(table.rows) == (*ROWS, "logit")


def test_random_is_the_mean_of_all_traces_and_not_the_last_one() -> None:
    assert values(group([1, 1, 0], "abc", [0, 0, 0]))["expected_random"] == pytest.approx(2 / 3)
    assert values(group([0, 1, 1], "abc", [0, 0, 0]))["expected_random"] == pytest.approx(2 / 3)


def test_pass_at_k_by_hand() -> None:
    # Of three traces one is right: pass@1 1/3, pass@2 1 - C(2, 2) / C(3, 2), pass@3 1. Of four none.
    found = pass_curve([[True, False, False], [False] * 4], seed=0)
    assert {k: estimate.value for k, estimate in found.items()} == pytest.approx({1: 1 / 6, 2: 1 / 3, 3: 1 / 2})
    assert found[3] == bootstrap_mean([1.0, 0.0], seed=0)


def test_the_sizes_of_a_curve() -> None:
    assert [powers_of_two(n) for n in (1, 2, 3, 8, 12)] == [
        (1,), (1, 2), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 8, 12),
    ]  # fmt: skip


# --- votes ------------------------------------------------------------------------------------------------------------


def test_where_no_trace_states_an_answer_no_vote_is_won() -> None:
    found = values(group([0, 1], [None, None], [0, 1]))
    assert (found["majority"], found["weighted_vote"], found["reward"]) == (0, 0, 1)


def test_an_answer_that_is_right_only_sometimes_earns_its_share() -> None:
    assert values(group([1, 0, 0], ["18", "18", "5"], [0, 0, 0]))["majority"] == 0.5


def test_equal_rewards_make_the_weighted_vote_the_majority() -> None:
    item = group([1, 1, 0, 0, 0], ["1", "1", "2", "2", "3"], [-812.7] * 5)
    assert values(item)["weighted_vote"] == values(item)["majority"] == 0.5


def test_weights_are_a_softmax_at_temperature_one() -> None:
    # Two votes of 1 against one of e^x: even at x = log 2.
    for x, expected in ((math.log(2) - 0.01, 0), (math.log(2), 0.5), (math.log(2) + 0.01, 1)):
        assert values(group([0, 0, 1], ["1", "1", "2"], [0, 0, x]))["weighted_vote"] == expected


def test_log_probs_of_long_traces_do_not_underflow() -> None:
    found = values(group([1, 0, 0], ["1", "2", None], [-3000, -3001, 0]))
    assert found["weighted_vote"] == 1
    # In the subset without the two best traces the other two still vote.
    item = group([0, 1, 0], ["1", "2", "3"], [5000, 1, 0])
    assert values(item, 2)["weighted_vote"] == pytest.approx(1 / 3)


# --- a slow, independent implementation -------------------------------------------------------------------------------


def _slow_pick(item: RerankGroup, rows: Sequence[int], score: Callable[[int], float]) -> float:
    best = max(score(row) for row in rows)
    tied = [item.correct[row] for row in rows if score(row) == best]
    return sum(tied) / len(tied)


def _slow_vote(item: RerankGroup, rows: Sequence[int], weight: Callable[[int], float]) -> float:
    by_answer: dict[str, list[int]] = {}
    for row in rows:
        answer = item.answers[row]
        if answer is not None:
            by_answer.setdefault(answer, []).append(row)
    if not by_answer:
        return 0.0
    totals = {answer: sum(weight(row) for row in voters) for answer, voters in by_answer.items()}
    winners = [answer for answer, total in totals.items() if total >= max(totals.values()) - 1e-12]
    return float(np.mean([np.mean([item.correct[row] for row in by_answer[answer]]) for answer in winners]))


def _slow(item: RerankGroup, n: int) -> dict[str, float]:
    """Every row, over every subset of n traces."""
    rules: dict[str, Callable[[Sequence[int]], float]] = {
        "weighted_vote": lambda rows: _slow_vote(item, rows, lambda row: math.exp(item.scores["reward"][row])),
        "majority": lambda rows: _slow_vote(item, rows, lambda row: 1.0),
        "shortest": lambda rows: _slow_pick(item, rows, lambda row: -item.lengths[row]),
        "expected_random": lambda rows: sum(item.correct[row] for row in rows) / len(rows),
        "oracle": lambda rows: float(any(item.correct[row] for row in rows)),
    }
    for name in item.scores:
        rules[name] = lambda rows, name=name: _slow_pick(item, rows, lambda row: item.scores[name][row])  # type: ignore[misc]
    subsets = list(combinations(range(len(item.correct)), n))
    return {name: sum(rule(rows) for rows in subsets) / len(subsets) for name, rule in rules.items()}


@st.composite
def groups(draw: st.DrawFn, most: int = 7) -> RerankGroup:
    """Small groups in which ties, missing answers and answers graded both ways are common."""
    size = draw(st.integers(1, most))

    def column(one: st.SearchStrategy) -> tuple:  # type: ignore[type-arg]
        return tuple(draw(st.lists(one, min_size=size, max_size=size)))

    return RerankGroup(
        "p",
        column(st.booleans()),
        column(st.sampled_from(["1", "2", "3", None])),
        column(st.integers(1, 4)),
        {name: column(st.integers(-2, 2).map(float)) for name in MEASURED},
    )


@given(groups())
def test_the_curve_is_the_mean_over_all_subsets(item: RerankGroup) -> None:
    sizes = range(1, len(item.correct) + 1)
    curve = rerank_curve([item], sizes=sizes, seed=0)
    for place, n in enumerate(sizes):
        found = {name: points[place].value for name, points in curve.items()}
        assert found == pytest.approx(_slow(item, n)), n


def test_votes_over_drawn_subsets_come_near_the_mean_over_all() -> None:
    generator = np.random.default_rng(2)
    found, exact = [], []
    for number in range(8):
        answers = [str(value) for value in generator.integers(3, size=12)]
        item = group([a == "1" for a in answers], answers, generator.normal(size=12), problem_id=str(number))
        assert math.comb(12, 5) > VOTE_SUBSETS
        found.append(values(item, 5))
        exact.append(_slow(item, 5))
    for row in ("majority", "weighted_vote"):
        # Standard error of a mean of 8 x 200 draws of 0 or 1: at most 0.0125.
        assert np.mean([f[row] for f in found]) == pytest.approx(np.mean([e[row] for e in exact]), abs=0.04)
    assert [f["reward"] for f in found] == pytest.approx([e["reward"] for e in exact])


def test_drawn_subsets_follow_the_seed_and_differ_between_problems() -> None:
    generator = np.random.default_rng(0)
    answers = [str(value) for value in generator.integers(3, size=16)]
    item = group([a == "1" for a in answers], answers, generator.normal(size=16))
    assert values(item, 6, seed=1) == values(item, 6, seed=1)
    assert values(item, 6, seed=1)["majority"] != values(item, 6, seed=2)["majority"]
    twin = replace(item, problem_id="q")
    one, two = rerank_table([item, twin], n=6, seed=0).values["majority"]
    assert one != two


# --- identities -------------------------------------------------------------------------------------------------------


@given(groups(), st.data())
def test_the_oracle_is_never_beaten_and_a_random_trace_is_its_floor(item: RerankGroup, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(item.correct)))
    found = values(item, n)
    assert all(value <= found["oracle"] + 1e-12 for value in found.values())
    assert found["expected_random"] == sum(item.correct) / len(item.correct)


@given(groups(), st.data())
def test_the_order_of_the_traces_changes_nothing(item: RerankGroup, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(item.correct))))
    n = data.draw(st.integers(1, len(item.correct)))
    assert values(_permuted(item, order), n) == pytest.approx(values(item, n), abs=1e-12)


def _permuted(item: RerankGroup, order: Sequence[int]) -> RerankGroup:
    def moved(column: Sequence) -> tuple:  # type: ignore[type-arg]
        return tuple(column[index] for index in order)

    scores = {name: moved(column) for name, column in item.scores.items()}
    return RerankGroup(item.problem_id, moved(item.correct), moved(item.answers), moved(item.lengths), scores)


def test_the_order_of_the_traces_changes_nothing_where_subsets_are_drawn() -> None:
    generator = np.random.default_rng(5)
    answers = [str(value) for value in generator.integers(3, size=14)]
    item = group([a == "1" for a in answers], answers, generator.normal(size=14))
    assert values(_permuted(item, generator.permutation(14).tolist()), 6) == pytest.approx(values(item, 6))


@given(groups())
def test_a_group_of_one_trace_leaves_no_choice(item: RerankGroup) -> None:
    found = values(item, 1)
    share = pytest.approx(found["expected_random"])
    assert all(found[name] == share for name in (*MEASURED, "shortest", "oracle"))


@settings(max_examples=40)
@given(st.lists(groups(4).filter(lambda item: len(item.correct) == 4), min_size=1, max_size=4))
def test_the_curve_at_all_traces_is_the_table(items: list[RerankGroup]) -> None:
    items = [replace(item, problem_id=str(number)) for number, item in enumerate(items)]
    curve = rerank_curve(items, sizes=[2, 4], seed=3)
    assert {name: points[1] for name, points in curve.items()} == dict(rerank_table(items, n=4, seed=3).rows)


@settings(max_examples=40)
@given(groups())
def test_a_reward_that_knows_picks_as_well_as_the_oracle(item: RerankGroup) -> None:
    knows = replace(item, scores={"reward": tuple(float(right) for right in item.correct)})
    for n in range(1, len(item.correct) + 1):
        assert values(knows, n)["reward"] == values(knows, n)["oracle"]


def test_best_of_n_is_exact_for_many_traces() -> None:
    correct = [index % 3 == 0 for index in range(900)]
    assert best_of_n([0.0] * 900, correct, 450) == 1 / 3
    assert best_of_n(range(900), [False] * 899 + [True], 450) == 0.5


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_a_score_that_is_no_number_is_an_error_and_never_first(name: str, bad: float) -> None:
    scores = {key: (0.0, bad if key == name else 1.0) for key in MEASURED}
    with pytest.raises(DataError, match=rf"'{name}' must be finite: got (nan|-?inf) in problem 'p7'"):
        RerankGroup("p7", (True, False), ("1", "2"), (3, 4), scores)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"answers": ("1",)}, "answers must hold one value per trace: got 1 for 2"),
        ({"lengths": (1, 2, 3)}, "lengths must hold one value per trace"),
        ({"scores": {"reward": (1.0,)}}, "scores 'reward' must hold one value per trace"),
        ({"scores": {"base_logprob": (1.0, 2.0)}}, "scores must hold 'reward'"),
        ({"scores": {"reward": (1.0, 2.0), "majority": (1.0, 2.0)}}, "name of a row: got majority"),
        ({"answers": ("1", " ")}, "None where a trace states none"),
        ({"correct": (True, None)}, "correct must be True or False"),
        ({"correct": (True, NAN)}, "correct must be True or False"),
    ],
)
def test_a_broken_group_names_its_problem(change: dict[str, object], rule: str) -> None:
    with pytest.raises(DataError, match=rf"{rule}.* in problem 'easy'"):
        replace(EASY, **change)  # type: ignore[arg-type]


def test_groups_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match=r"at least n = 3 traces: got 2 in problem 'easy'"):
        rerank_table([HARD, EASY], n=3, seed=0)
    with pytest.raises(DataError, match=r"same in every group: got .* in problem 'easy'"):
        rerank_table([HARD, replace(EASY, scores={"reward": (1.0, 2.0)})], n=2, seed=0)
    with pytest.raises(DataError, match="got 'easy' twice"):
        rerank_table([EASY, EASY], n=2, seed=0)
    with pytest.raises(DataError, match="at least one problem"):
        rerank_table([], n=2, seed=0)
    with pytest.raises(ConfigError, match="n must be at least 1"):
        rerank_table([EASY], n=0, seed=0)
    with pytest.raises(ConfigError, match="sizes must hold at least one"):
        rerank_curve([EASY], sizes=[], seed=0)


# --- aggregation ------------------------------------------------------------------------------------------------------


def test_aggregations_by_hand() -> None:
    units = [4.0, -2.0, 1.0]
    recent = (0.95**2 * 4 - 0.95 * 2 + 1) / (0.95**2 + 0.95 + 1)
    expected = {"mean": 1, "min": -2, "last": 1, "sum": 3, "recency": recent}
    assert {how.value: aggregate(units, how) for how in Aggregation} == pytest.approx(expected)


@pytest.mark.parametrize("how", Aggregation)
@pytest.mark.parametrize("units", [[], [1.0, NAN]])
def test_no_units_and_no_numbers_have_no_score(how: Aggregation, units: list[float]) -> None:
    with pytest.raises(DataError, match="unit scores must"):
        aggregate(units, how)


@pytest.mark.parametrize(
    ("right", "wrong", "best"),
    [
        ([1, 1, 1], [9, 9, -5], Aggregation.MIN),
        ([-5, -5, 2], [2, 2, 1], Aggregation.LAST),
        ([1, 1, 1, 1], [2, 1], Aggregation.SUM),
        ([1, 1], [1, 1, 1, 0], Aggregation.MEAN),  # min and last are right as well: the first listed
        ([-1, 5, 5, 1], [9.5, 0, -0.5, 1.1], Aggregation.RECENCY),  # 9.4 against 8.8
    ],
)
def test_the_aggregation_that_picks_right_is_chosen(right: list[float], wrong: list[float], best: Aggregation) -> None:
    for order in ((right, wrong), (wrong, right)):
        chosen = ValidationGroup("v", tuple(units is right for units in order), tuple(map(tuple, order)))
        assert choose_aggregation([chosen]) is best


def test_choosing_needs_validation_problems() -> None:
    with pytest.raises(DataError, match="validation problem"):
        choose_aggregation([])


# --- rerank -----------------------------------------------------------------------------------------------------------


@dataclass
class Fixed:
    """A scorer that returns what it is told to."""

    exported: Sequence[float]
    head: Head = Head.LOG_RATIO

    def score(self, items: Sequence[tuple[Problem, Trace]]) -> list[ScoredTrace]:
        return [ScoredTrace(value) for value in self.exported]


PROBLEM = Problem("p9", "How many?")


def traces(*answers: str | None) -> list[Trace]:
    return [Trace(("A step.",), answer) for answer in answers]


def test_rerank_orders_by_the_exported_reward_and_votes_over_equal_answers() -> None:
    found = rerank(Fixed([0.0, 1.0, 0.6, 9.0]), PROBLEM, traces("7", "$18.00", "18", None))
    assert found == Ranking((3, 1, 2, 0), (0.0, 1.0, 0.6, 9.0), "$18.00")
    # One vote of e^0.5 loses against two of 1 once "18" and "18.0" are one answer, and wins where they are two.
    close = Fixed([0.5, 0.0, 0.0])
    assert rerank(close, PROBLEM, traces("7", "18", "18.0")).answer == "18"
    assert rerank(close, PROBLEM, traces("7", "18", "18.0"), key=str).answer == "7"


def test_equal_scores_keep_their_order_and_a_tied_vote_goes_to_the_better_trace() -> None:
    found = rerank(Fixed([1.0, 1.0, 1.0]), PROBLEM, traces("b", "a", "c"))
    assert (found.order, found.answer) == ((0, 1, 2), "b")


@pytest.mark.parametrize("answers", [(None, None), (" ", "")])
def test_where_no_trace_states_an_answer_there_is_none(answers: tuple[str | None, ...]) -> None:
    assert rerank(Fixed([0.0, 1.0]), PROBLEM, traces(*answers)) == Ranking((1, 0), (0.0, 1.0), None)


def test_far_scores_do_not_overflow_the_vote() -> None:
    assert rerank(Fixed([-5000.0, -4000.0, 3000.0]), PROBLEM, traces("a", "b", None)).answer == "b"
    far = Fixed([-4000.0, -4000.1, -4000.1, 3000.0])
    assert rerank(far, PROBLEM, traces("b", "a", "a", None)).answer == "a"


def test_rerank_and_the_table_agree_on_the_vote() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        answers = [str(value) for value in generator.integers(3, size=6)]
        reward = generator.normal(size=6).tolist()
        winner = rerank(Fixed(reward), PROBLEM, traces(*answers)).answer
        for target in "012":
            item = group([answer == target for answer in answers], answers, reward)
            assert values(item)["weighted_vote"] == float(winner == target)


def test_bad_readings_name_the_trace_and_the_problem() -> None:
    with pytest.raises(DataError, match="got nan for trace 1 of problem 'p9'"):
        rerank(Fixed([0.0, NAN]), PROBLEM, traces("a", "b"))
    with pytest.raises(DataError, match="one reading per trace: got 1 for 2"):
        rerank(Fixed([0.0]), PROBLEM, traces("a", "b"))
    with pytest.raises(DataError, match="traces must hold at least one: got none for problem 'p9'"):
        rerank(Fixed([]), PROBLEM, [])
