from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceward.errors import ConfigError, DataError
from traceward.evaluation.localise import (
    CHANCE,
    CONSTANT,
    METHODS,
    ConstantFrom,
    LabelledTrace,
    Localisation,
    LocaliseRow,
    LocaliseTable,
    best_constant,
    entropy_suspicion,
    first_error_probabilities,
    increments,
    localise,
    localise_table,
    logprob_suspicion,
    predict_first_error,
    suspicion,
    suspicions,
    tune_threshold,
)
from traceward.evaluation.scorer import REWARD
from traceward.records import Head, Problem, ScoredTrace, Trace

NAN = float("nan")


def labelled(
    first_error: int, reward: Sequence[float], problem_id: str = "p", **more: Sequence[float]
) -> LabelledTrace:
    every = {"reward": tuple(reward), **{name: tuple(values) for name, values in more.items()}}
    return LabelledTrace(problem_id, first_error, every)


def measured(table: LocaliseTable, name: str) -> LocaliseRow:
    row = table.rows[name]
    assert row is not None
    return row


def slow_f1(predictions: Sequence[int], firsts: Sequence[int]) -> float:
    """ProcessBench F1 in so many words."""
    pairs = list(zip(predictions, firsts, strict=True))
    wrong = [said == first for said, first in pairs if first >= 0]
    right = [said == first for said, first in pairs if first < 0]
    a, b = sum(wrong) / len(wrong), sum(right) / len(right)
    return 2 * a * b / (a + b) if a + b else 0.0


# --- signs ------------------------------------------------------------------------------------------------------------


def read(logits: Sequence[float], lows: Sequence[float] = ()) -> ScoredTrace:
    return ScoredTrace(0.0, tuple(logits), tuple(lows))


def test_one_bad_token_makes_a_step_suspicious_whatever_the_others_gain() -> None:
    # Step 0 gains 5 and loses 4 in one token; step 1 loses 1 in two small drops.
    found = read([1.0, -1.0], [-4.0, -0.6])
    assert suspicion(Head.LOG_RATIO, found).tolist() == [4.0, 0.6]
    assert predict_first_error(suspicion(Head.LOG_RATIO, found)) == 0
    assert suspicions(REWARD, Head.LOG_RATIO, found) == {REWARD: (4.0, 0.6)}


def test_a_log_ratio_is_read_by_what_it_exports_too() -> None:
    found = replace(read([1.0, -1.0], [-4.0, -0.6]), exported_lows=(-2.0, -3.0))
    assert suspicions(REWARD, Head.LOG_RATIO, found) == {REWARD: (4.0, 0.6), "reward_exported": (2.0, 3.0)}
    assert "sft_log_ratio_exported" in suspicions("sft_log_ratio", Head.LOG_RATIO, found)


def test_a_log_prob_is_read_both_ways() -> None:
    rows = suspicions("base_logprob", Head.LOG_RATIO, read([-5.0, -6.0], [-4.0, -1.0]))
    assert rows == {"base_logprob": (5.0, 6.0), "base_logprob_token": (4.0, 1.0)}


def test_a_log_ratio_logit_is_an_increment_and_a_scalar_logit_a_level() -> None:
    logits = [2.0, 3.0, -1.0, -1.5]
    assert increments(Head.LOG_RATIO, logits).tolist() == logits
    assert increments(Head.SCALAR, logits).tolist() == [2.0, 1.0, -4.0, -0.5]
    assert suspicion(Head.LOG_RATIO, read(logits)).tolist() == [-2.0, -3.0, 1.0, 1.5]
    assert suspicion(Head.SCALAR, read(logits)).tolist() == [-2.0, -1.0, 4.0, 0.5]


def test_the_heads_name_different_steps_of_the_same_logits() -> None:
    logits = [2.0, 3.0, -1.0, -1.5]
    assert predict_first_error(suspicion(Head.SCALAR, read(logits))) == 2  # the largest drop
    assert predict_first_error(suspicion(Head.LOG_RATIO, read(logits))) == 3  # the minimum
    assert predict_first_error(suspicion(Head.LOG_RATIO, read(logits)), threshold=0.0) == 2  # the first below 0


def test_the_first_level_of_a_scalar_head_drops_from_zero() -> None:
    assert predict_first_error(suspicion(Head.SCALAR, read([-5.0, -6.0, -6.5]))) == 0
    assert predict_first_error(suspicion(Head.SCALAR, read([5.0, 4.5, 4.4]))) == 1


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9))
def test_levels_are_the_running_sum_of_increments(logits: list[float]) -> None:
    assert increments(Head.SCALAR, logits).cumsum() == pytest.approx(np.array(logits), abs=1e-9)
    for head in Head:
        assert (suspicion(head, read(logits)) == -increments(head, logits)).all()


def test_an_unlikely_step_and_an_uncertain_step_are_suspicious() -> None:
    assert logprob_suspicion([-1.0, -6.0, 0.0]).tolist() == [1.0, 6.0, 0.0]
    # Per token the long step is no longer the least likely one.
    assert logprob_suspicion([-1.0, -6.0, 0.0], [1, 12, 2]).tolist() == [1.0, 0.5, 0.0]
    assert entropy_suspicion([0.1, 2.0]).tolist() == [0.1, 2.0]


def test_rivals_with_the_wrong_sign_are_refused() -> None:
    with pytest.raises(DataError, match=r"must not be positive: got 6.0; give log p"):
        logprob_suspicion([-1.0, 6.0])
    with pytest.raises(DataError, match=r"must not be negative: got -2.0; give H"):
        entropy_suspicion([1.0, -2.0])
    with pytest.raises(DataError, match="at least one token"):
        logprob_suspicion([-1.0, -2.0], [1, 0])
    with pytest.raises(DataError, match="at least one token"):
        logprob_suspicion([-1.0, -2.0], [1])
    assert logprob_suspicion([1e-4]).tolist() == [-1e-4]  # rounding of 16-bit log-probs


# --- prediction and threshold -----------------------------------------------------------------------------------------


def test_predictions_by_hand() -> None:
    doubts = [0.0, 2.0, 1.0, 2.0, 5.0]
    assert predict_first_error(doubts) == 4
    assert predict_first_error(doubts[:4]) == 1  # the first of equals
    assert predict_first_error(doubts, threshold=1.0) == 1
    assert predict_first_error(doubts, threshold=2.0) == 4  # strictly above
    assert predict_first_error(doubts, threshold=5.0) == -1
    assert predict_first_error(doubts, threshold=-1.0) == 0


def test_a_threshold_that_separates_lies_in_the_middle_of_the_gap() -> None:
    traces = [[0.0, 1.0], [0.5, 3.0, 9.0], [0.2, 0.1, 4.0]]
    threshold = tune_threshold(traces, [-1, 1, 2])
    assert threshold == 2.0
    assert [predict_first_error(t, threshold=threshold) for t in traces] == [-1, 1, 2]


doubts = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=5)
labelled_doubts = doubts.flatmap(lambda values: st.tuples(st.just(values), st.integers(-1, len(values) - 1)))


@given(st.lists(labelled_doubts, min_size=2, max_size=8))
def test_no_threshold_beats_the_tuned_one(items: list[tuple[list[float], int]]) -> None:
    arrays, firsts = [values for values, _ in items], [first for _, first in items]
    if all(first == -1 for first in firsts) or -1 not in firsts:
        with pytest.raises(DataError, match="erroneous and error-free"):
            tune_threshold(arrays, firsts)
        return

    def f1(threshold: float) -> float:
        return slow_f1([predict_first_error(values, threshold=threshold) for values in arrays], firsts)

    found = tune_threshold(arrays, firsts)
    # Values are whole numbers: every threshold does what one of these does.
    every = [f1(value / 2) for value in range(-9, 9)]
    assert f1(found) == pytest.approx(max(every))
    assert tune_threshold(arrays[::-1], firsts[::-1]) == found
    # The lowest gap that is best.
    lower = [value / 2 for value in range(-9, 9) if value / 2 < found]
    last = next((value for value in reversed(lower) if f1(value) < max(every) - 1e-12), -10.0)
    assert all(value > last for value in lower if f1(value) == pytest.approx(max(every)))


def test_neighbouring_floats_still_have_a_threshold_between_them() -> None:
    one = 1.0
    for _ in range(2):  # halves round to even: down from the first, up from the second
        low, one = one, float(np.nextafter(one, 2.0))
        threshold = tune_threshold([[low], [one]], [-1, 0])
        assert predict_first_error([low], threshold=threshold) == -1
        assert predict_first_error([one], threshold=threshold) == 0


# --- the table --------------------------------------------------------------------------------------------------------

ITEMS = [
    labelled(2, [0, 1, 5, 2], "a", base_logprob=[3, 1, 2, 1]),  # hit; second of four, no neighbour
    labelled(0, [4, 4], "b", base_logprob=[1, 2]),  # a tie of two; second, a neighbour
    labelled(-1, [9, 9, 9], "c", base_logprob=[1, 2, 3]),  # error-free: not counted
]


def test_every_row_by_hand() -> None:
    table = localise_table(ITEMS, seed=0)
    assert table.n == 2
    reward, base, chance = (measured(table, name) for name in ("reward", "base_logprob", CHANCE))
    assert (reward.hit_at_1.value, reward.hit_within_1.value, reward.map.value) == (0.75, 1.0, (1 + 0.75) / 2)
    assert (base.hit_at_1.value, base.hit_within_1.value, base.map.value) == (0.0, 0.5, 0.5)
    # Chance: 1/4 and 1/2; 3 of 4 and 2 of 2 units are near; mean reciprocal ranks 25/48 and 3/4.
    assert chance.hit_at_1.value == 0.375
    assert chance.hit_within_1.value == 0.875
    assert chance.map.value == pytest.approx((25 / 48 + 0.75) / 2)
    assert reward.normalised is not None
    assert base.normalised is not None
    assert chance.normalised is not None
    assert reward.normalised.value == pytest.approx((0.75 - 0.375) / (1 - 0.375))
    assert base.normalised.value == pytest.approx(-0.375 / 0.625)
    assert (chance.normalised.value, chance.normalised.low, chance.normalised.high) == (0, 0, 0)
    assert reward.hit_at_1.n == 2


def test_methods_nobody_measured_are_none() -> None:
    table = localise_table(
        [replace(item, suspicion={**item.suspicion, "own": item.suspicion["reward"]}) for item in ITEMS], seed=0
    )
    assert tuple(table.rows) == (*METHODS, "own", CONSTANT, CHANCE)
    assert table.rows["sft_logprob"] is None
    assert table.rows["entropy"] is None
    assert table.rows["own"] == table.rows["reward"]


def test_the_constant_is_chosen_in_hindsight_or_on_validation() -> None:
    zeros = [labelled(first, [0.0] * 4, str(number)) for number, first in enumerate([1, 1, 1, 0, 3, -1])]
    table = localise_table(zeros, seed=0)
    assert (table.constant, table.constant_from) == (1, ConstantFrom.SAME_TRACES)
    row = measured(table, CONSTANT)
    # Index 1 hits three of five; 0 is a neighbour, 3 is not. Ranks: 1, 1, 1, 2.5 tied (2, 3), 4.
    assert (row.hit_at_1.value, row.hit_within_1.value) == (0.6, 0.8)
    assert row.map.value == pytest.approx((3 + (1 / 2 + 1 / 3) / 2 + 1 / 4) / 5)
    chosen = best_constant([labelled(0, [0.0, 0.0])])
    other = localise_table(zeros, seed=0, constant=chosen)
    assert (other.constant, other.constant_from) == (0, ConstantFrom.VALIDATION)
    assert measured(other, CONSTANT).hit_at_1.value == 0.2
    with pytest.raises(ConfigError, match="constant must be an index: got -1"):
        localise_table(zeros, seed=0, constant=-1)


def test_a_constant_beyond_the_end_means_the_last_unit() -> None:
    ends = [labelled(units - 1, [0.0] * units, str(units)) for units in (2, 3, 5)]
    assert best_constant(ends) == 4
    assert measured(localise_table(ends, seed=0), CONSTANT).hit_at_1.value == 1.0


@given(st.lists(labelled_doubts.filter(lambda item: item[1] >= 0), min_size=1, max_size=5))
def test_ties_count_as_the_mean_over_all_their_orders(items: list[tuple[list[float], int]]) -> None:
    table = localise_table([labelled(first, values, str(i)) for i, (values, first) in enumerate(items)], seed=0)
    expected = np.mean([_slow(values, first) for values, first in items], axis=0)
    row = measured(table, "reward")
    assert (row.hit_at_1.value, row.hit_within_1.value, row.map.value) == pytest.approx(tuple(expected))


def _slow(values: list[float], first: int) -> tuple[float, float, float]:
    """Hit@1, hit within one and reciprocal rank, over every order of the units that puts higher ones first."""
    orders = [o for o in permutations(range(len(values))) if all(values[a] >= values[b] for a, b in pairwise(o))]
    hit = np.mean([order[0] == first for order in orders])
    near = np.mean([abs(order[0] - first) <= 1 for order in orders])
    return float(hit), float(near), float(np.mean([1 / (order.index(first) + 1) for order in orders]))


@settings(max_examples=30)
@given(st.lists(labelled_doubts.filter(lambda item: item[1] >= 0), min_size=1, max_size=6))
def test_nothing_beats_knowing_and_hindsight_beats_every_other_constant(items: list[tuple[list[float], int]]) -> None:
    traces = [
        labelled(first, values, str(i), knows=[float(unit == first) for unit in range(len(values))])
        for i, (values, first) in enumerate(items)
    ]
    table = localise_table(traces, seed=0)
    knows, hindsight = measured(table, "knows"), measured(table, CONSTANT)
    assert (knows.hit_at_1.value, knows.hit_within_1.value, knows.map.value) == (1, 1, 1)
    for index in range(6):
        other = measured(localise_table(traces, seed=0, constant=index), CONSTANT)
        assert other.hit_at_1.value <= hindsight.hit_at_1.value
    if max(len(values) for values, _ in items) > 1:
        assert knows.normalised is not None
        assert knows.normalised.value == pytest.approx(1)
    else:
        assert knows.normalised is None


def test_intervals_resample_problems_and_not_traces() -> None:
    generator = np.random.default_rng(0)
    hits = generator.random(60) < 0.5
    one = [labelled(0, [1, 0] if hit else [0, 1], str(i)) for i, hit in enumerate(hits)]
    many = [item for item in one for _ in range(8)]
    alone, copied = measured(localise_table(one, seed=0), "reward"), measured(localise_table(many, seed=0), "reward")
    assert (copied.hit_at_1.low, copied.hit_at_1.high) == pytest.approx((alone.hit_at_1.low, alone.hit_at_1.high))
    assert alone.hit_at_1.high - alone.hit_at_1.low == pytest.approx(4 * (0.25 / 60) ** 0.5, abs=0.04)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: labelled(1, [0.0, NAN]), r"suspicion 'reward' of 'p' must be finite: got nan at index 1"),
        (lambda: labelled(0, [1, 2], base_logprob=[1, 2, 3]), "one value per unit for every method: .* problem 'p'"),
        (lambda: labelled(2, [1, 2]), "between -1 and 1: got 2"),
        (lambda: labelled(-2, [1, 2]), "between -1 and 1: got -2"),
        (lambda: labelled(0, [1, 2], chance=[1, 2]), "name of a row: got .'chance'"),
        (lambda: LabelledTrace("p", 0, {}), "at least one method"),
        (lambda: localise_table(ITEMS[2:], seed=0), "at least one erroneous trace: got none of 1"),
        (lambda: localise_table([*ITEMS, labelled(0, [1.0], "d")], seed=0), "same methods .* in problem 'd'"),
        (lambda: predict_first_error([]), "at least one number"),
        (lambda: predict_first_error([1.0, NAN]), "finite"),
        (lambda: tune_threshold([[1.0], [NAN]], [-1, 0]), "finite"),
        (lambda: tune_threshold([[1.0], [1.0]], [-1, 1]), "between -1 and 0"),
    ],
)
def test_input_that_cannot_be_compared_is_refused(make: Callable[[], object], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        make()


def test_a_threshold_must_be_a_number() -> None:
    with pytest.raises(ConfigError, match="threshold must be a number: got nan"):
        predict_first_error([1.0], threshold=NAN)


# --- ProcessBench -----------------------------------------------------------------------------------------------------


# --- localise ---------------------------------------------------------------------------------------------------------


@dataclass
class Fixed:
    """A scorer that returns what it is told to."""

    head: Head
    logits: tuple[float, ...]

    def score(self, items: Sequence[tuple[Problem, Trace]]) -> list[ScoredTrace]:
        return [ScoredTrace(0.0, self.logits)]


PROBLEM = Problem("p9", "How many?")
TRACE = Trace(("One.", "Two."), "3")


def test_localise_reads_each_head_its_own_way() -> None:
    logits = (1.0, -2.0, -2.5)
    assert localise(Fixed(Head.LOG_RATIO, logits), PROBLEM, TRACE) == Localisation(logits, (-1.0, 2.0, 2.5), 2)
    found = localise(Fixed(Head.SCALAR, logits), PROBLEM, TRACE)
    assert found == Localisation((1.0, -3.0, -0.5), (-1.0, 3.0, 0.5), 1)


def test_localise_with_a_threshold_may_find_no_error() -> None:
    assert localise(Fixed(Head.LOG_RATIO, (1.0, 0.5, 0.0)), PROBLEM, TRACE, threshold=0.0).first_error == -1
    assert localise(Fixed(Head.LOG_RATIO, (1.0, -0.5, -9.0)), PROBLEM, TRACE, threshold=0.0).first_error == 1
    assert localise(Fixed(Head.LOG_RATIO, (1.0, 0.5, 0.0)), PROBLEM, TRACE).first_error == 2


def test_localise_refuses_readings_that_are_not_on_the_steps() -> None:
    with pytest.raises(DataError, match=r"got 2 for 3 in problem 'p9'; split the steps"):
        localise(Fixed(Head.SCALAR, (1.0, 2.0)), PROBLEM, TRACE)
    with pytest.raises(DataError, match=r"got nan for trace 0 of problem 'p9'"):
        localise(Fixed(Head.SCALAR, (1.0, NAN, 2.0)), PROBLEM, TRACE)
    no_answer = Trace(("One.", "Two."))
    assert localise(Fixed(Head.SCALAR, (1.0, 0.0)), PROBLEM, no_answer).first_error == 1


def test_probabilities_of_the_first_error_by_hand() -> None:
    wrong, none = first_error_probabilities([0.9, 0.5, 1.0])
    assert wrong == pytest.approx([0.1, 0.45, 0.0])
    assert none == pytest.approx(0.45)
    with pytest.raises(DataError, match=r"between 0 and 1: got 0\.5 to 1\.5"):
        first_error_probabilities([0.5, 1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_first_error_is_somewhere_or_nowhere(right: list[float]) -> None:
    wrong, none = first_error_probabilities(right)
    assert wrong.min() >= 0
    assert wrong.sum() + none == pytest.approx(1)


def test_error_steps_begin_at_the_first_error() -> None:
    assert LabelledTrace("p", 1, {"reward": (0.0, 1.0, 2.0)}, (1, 2)).error_steps == (1, 2)
    with pytest.raises(DataError, match=r"begin at the first error 1: got \[2\]"):
        LabelledTrace("p", 1, {"reward": (0.0, 1.0, 2.0)}, (2,))
