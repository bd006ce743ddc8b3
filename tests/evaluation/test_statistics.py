from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from traceward.errors import ConfigError, DataError
from traceward.evaluation import statistics
from traceward.evaluation.statistics import (
    Bin,
    Estimate,
    auroc,
    bootstrap_mean,
    bootstrap_measure,
    bootstrap_ratio,
    chance_normalised,
    expected_calibration_error,
    finite,
    harmonic_mean,
    length_controlled_auroc,
    length_correlation,
    over_seeds,
    paired_difference,
    pass_at_k,
    reliability,
)

NAN = float("nan")


def _noisy(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something of the labels."""
    generator = np.random.default_rng(seed)
    labels = generator.random(n) < 0.4
    return generator.normal(size=n) + labels, labels


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_that_of_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=80)
    ours = bootstrap_mean(values, seed=0, resamples=20_000, confidence=0.9)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=2)
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert ours.n == 80


def _shares(*runs: list[float]) -> list[tuple[list[float], list[float]]]:
    return [(run, [1.0] * len(run)) for run in runs]


def test_of_one_seed_only_the_problems_vary() -> None:
    top, bottom = [3.0, 0.0, 1.0, 2.0, 0.0], [4.0, 0.0, 1.0, 2.0, 3.0]
    alone = bootstrap_ratio(top, bottom, seed=4)
    found = over_seeds([(top, bottom)], seed=4)
    assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert found.n == 1


def test_of_equal_problems_only_the_seeds_vary() -> None:
    """Three seeds, 27 draws of equal chance: the lowest and the highest mean have more than 2.5 % each."""
    found = over_seeds(_shares([0.0] * 6, [0.3] * 6, [0.9] * 6), seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.0, 0.9))
    assert found.n == 3


def test_seeds_and_problems_are_drawn_independently() -> None:
    """Against loops that draw seeds, draw problems, and measure the drawn seeds on the drawn problems."""
    generator = np.random.default_rng(5)
    runs = np.clip(generator.normal(0.5, 0.3, (4, 30)) + np.array([[0.2], [-0.1], [0.0], [0.1]]), 0, 1)
    found = over_seeds(_shares(*runs.tolist()), seed=0, resamples=20_000)
    slow = []
    for _ in range(20_000):
        seeds, problems = generator.integers(4, size=4), generator.integers(30, size=30)
        slow.append(runs[np.ix_(seeds, problems)].mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.006)


def test_a_difference_over_seeds_is_paired_by_seed_and_problem() -> None:
    generator = np.random.default_rng(6)
    below = generator.random((3, 20))
    found = over_seeds(_shares(*(below + 0.25).tolist()), minus=_shares(*below.tolist()), seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("runs", "minus", "said"),
    [
        ([], None, "runs must be at least one"),
        (_shares([1.0], [0.0]), _shares([1.0]), "as many on both sides: got 2 and 1"),
        (_shares([1.0], [0.0, 1.0]), None, "measured on the same problems: got \\[1, 2\\]"),
        ([([0.0], [0.0])], None, "denominators must sum to more than 0"),
    ],
)
def test_runs_that_cannot_be_compared_are_told(runs: list, minus: list | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        over_seeds(runs, minus=minus, seed=0)


def test_the_default_interval_of_a_share_is_two_standard_errors_wide_on_each_side() -> None:
    found = bootstrap_mean([1.0] * 120 + [0.0] * 280, seed=3)
    error = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3 - error, 0.3 + error), abs=0.006)


def test_a_seed_names_the_resamples_and_another_seed_draws_others() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5).low != bootstrap_mean(values, seed=6).low


def test_drawing_in_chunks_changes_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = _noisy(0, 50)
    whole = bootstrap_mean(scores, seed=1), auroc(scores, labels, seed=1)
    monkeypatch.setattr(statistics, "_CHUNK", 333)
    for found, expected in zip((bootstrap_mean(scores, seed=1), auroc(scores, labels, seed=1)), whole, strict=True):
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_copies_of_a_problems_trace_are_no_new_evidence() -> None:
    scores, labels = _noisy(4, 40)
    problems = [str(100 + index) for index in range(40)]
    eight = [np.repeat(part, 8) for part in (scores, labels)]
    once, often = auroc(scores, labels, seed=2), auroc(*eight, seed=2, problems=np.repeat(problems, 8).tolist())
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))
    blind = auroc(*eight, seed=2)
    assert blind.high - blind.low < 0.6 * (once.high - once.low)
    ones = np.ones(320)
    mean = bootstrap_ratio(eight[0], ones, seed=2, problems=np.repeat(problems, 8).tolist())
    alone = bootstrap_mean(scores, seed=2)
    assert (mean.low, mean.high) == pytest.approx((alone.low, alone.high))


def test_a_ratio_is_of_sums_so_a_problem_with_more_traces_weighs_more() -> None:
    assert bootstrap_ratio([1, 0, 0], [1, 1, 2], seed=0, problems=["a", "b", "b"]).value == 0.25


def test_a_paired_difference_keeps_what_the_problems_share() -> None:
    hard = np.random.default_rng(0).random(100)
    found = paired_difference(hard + 0.1, hard, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_difference(hard, hard + 0.1, seed=0).value == pytest.approx(-0.1)
    assert bootstrap_mean(hard, seed=0).high - bootstrap_mean(hard, seed=0).low > 0.05


# --- measures ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(combinations([index < c for index in range(n)], k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets), abs=1e-15)


def test_pass_at_k_by_hand_and_at_sizes_where_floats_overflow() -> None:
    assert pass_at_k(4, 2, 2) == 1 - 1 / 6
    assert pass_at_k(16, 3, 1) == 3 / 16
    assert pass_at_k(10_000, 1, 5_000) == 0.5
    assert pass_at_k(5, 0, 5) == 0
    assert pass_at_k(5, 3, 3) == 1


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ConfigError, match="must lie between"):
        pass_at_k(n, c, k)


def test_auroc_counts_pairs_high_is_right_and_ties_are_one_half() -> None:
    # Pairs (right, wrong): 3 > 1, 3 > 2, 2 > 1, 2 = 2.
    assert auroc([3, 2, 1, 2], [True, True, False, False], seed=0).value == 3.5 / 4
    assert auroc([0, 1], [True, False], seed=0).value == 0
    assert auroc([7, 7, 7], [True, False, False], seed=0) == Estimate(0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize("digits", [9, 0])  # 0: with many ties
def test_the_interval_of_auroc_is_that_of_a_slow_bootstrap(digits: int) -> None:
    scores, labels = _noisy(7, 120)
    scores = scores.round(digits)
    generator = np.random.default_rng(1)
    slow = []
    for _ in range(1500):
        rows = generator.integers(120, size=120)
        ups, downs = scores[rows][labels[rows]], scores[rows][~labels[rows]]
        slow.append(((ups[:, None] > downs) + 0.5 * (ups[:, None] == downs)).mean())
    found = auroc(scores, labels, seed=0)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.012)
    assert found.value == pytest.approx(roc_auc_score(labels, scores))


def test_calibration_error_by_hand() -> None:
    # (0.0, 0.1]: 0.05, 0.1 with one right: |0.15 - 1|; (0.2, 0.3]: 0.3 wrong: 0.3; (0.9, 1]: 0.95, 1.0 right: 0.05.
    probabilities, labels = [0.05, 0.1, 0.3, 0.95, 1.0], [True, False, False, True, True]
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.85 + 0.3 + 0.05) / 5)
    # One bin: |2.4 - 3| / 5.
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(0.12)
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0


def test_reliability_by_hand() -> None:
    found = reliability([0.0, 0.1, 0.3, 0.95, 1.0], [True, False, False, True, True])
    assert found == (
        Bin(0.0, 0.1, 2, pytest.approx(0.05), 0.5),
        Bin(0.2, 0.3, 1, pytest.approx(0.3), 0.0),
        Bin(0.9, 1.0, 2, pytest.approx(0.975), 1.0),
    )


def _share(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def test_a_measure_of_sums_has_the_interval_of_a_ratio() -> None:
    values = np.random.default_rng(2).random(40)
    problems = [str(place // 4) for place in range(40)]
    counts = np.column_stack([values, np.ones(40)])
    assert bootstrap_measure(counts, _share, seed=3, problems=problems) == bootstrap_ratio(
        values, np.ones(40), seed=3, problems=problems
    )


def test_a_paired_difference_varies_less_than_its_sides() -> None:
    generator = np.random.default_rng(4)
    hard = generator.random(200)
    ours, theirs = ((hard + shift > 0.5).astype(float) for shift in (0.1, 0.0))
    sides = [np.column_stack([side, np.ones(200)]) for side in (ours, theirs)]
    found = bootstrap_measure(sides[0], _share, minus=sides[1], seed=0)
    same = paired_difference(ours, theirs, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((same.value, same.low, same.high))
    alone = [bootstrap_measure(side, _share, seed=0) for side in sides]
    assert found.value == pytest.approx(alone[0].value - alone[1].value)
    assert found.high - found.low < 0.6 * min(side.high - side.low for side in alone)
    assert bootstrap_measure(sides[0], _share, minus=sides[0], seed=0) == Estimate(0, 0, 0, 200)


def test_what_counts_are_refused() -> None:
    with pytest.raises(DataError, match="define the measure: got nan"), np.errstate(invalid="ignore"):
        bootstrap_measure([[0.0, 0.0]], _share, seed=0)
    with pytest.raises(DataError, match="alike on both sides"):
        bootstrap_measure([[0.0, 1.0]], _share, minus=[[1.0, 1.0], [0.0, 1.0]], seed=0)


def test_chance_normalised_by_hand() -> None:
    # Mean 0.75, mean chance 0.25: half of what chance leaves would be 0.5 of 0.75.
    found = chance_normalised([1, 0.5], [0.3, 0.2], seed=0)
    assert found is not None
    assert found.value == pytest.approx(0.5 / 0.75)
    assert chance_normalised([0.3, 0.2], [0.3, 0.2], seed=0).value == pytest.approx(0)  # type: ignore[union-attr]
    assert chance_normalised([1.0], [1.0], seed=0) is None


def test_length_correlation_by_hand() -> None:
    assert length_correlation([1, 2, 3, 4], [20, 10, 30, 40]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert length_correlation([1, 2, 30], [3, 2, 1]) == pytest.approx(-1)


def test_length_control_leaves_nothing_of_a_score_that_is_only_length() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(20, 400, size=300)
    labels = generator.random(300) < 60 / lengths  # short traces are right more often
    score = np.exp(-lengths / 30)
    assert auroc(score, labels, seed=0).value > 0.7
    assert length_controlled_auroc(score, labels, lengths, seed=0) == Estimate(0.5, 0.5, 0.5, 300)


def test_length_control_keeps_what_length_does_not_explain() -> None:
    scores, labels = _noisy(3, 600)
    lengths = np.random.default_rng(9).integers(10, 200, size=600)
    plain = auroc(scores, labels, seed=0).value
    assert length_controlled_auroc(scores, labels, lengths, seed=0).value == pytest.approx(plain, abs=0.02)
    # A length bonus that hides the score is taken away again.
    hidden = scores + lengths / 10
    assert auroc(hidden, labels, seed=0).value < plain - 0.1
    assert length_controlled_auroc(hidden, labels, lengths, seed=0).value == pytest.approx(plain, abs=0.05)
    # All of one length: nothing to take away.
    assert length_controlled_auroc(scores, labels, [7] * 600, seed=0) == auroc(scores, labels, seed=0)


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 0.0) == harmonic_mean(0.0, 1.0) == 0


# --- bad input --------------------------------------------------------------------------------------------------------

LABELS = [True, False]


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "measure",
    [
        lambda bad: finite("values", [1.0, bad]),
        lambda bad: bootstrap_mean([1.0, bad], seed=0),
        lambda bad: paired_difference([1.0, bad], [1.0, 1.0], seed=0),
        lambda bad: paired_difference([1.0, 1.0], [1.0, bad], seed=0),
        lambda bad: bootstrap_ratio([1.0, 1.0], [1.0, bad], seed=0),
        lambda bad: auroc([1.0, bad], LABELS, seed=0),
        lambda bad: expected_calibration_error([1.0, bad], LABELS),
        lambda bad: length_correlation([1.0, bad], [1, 2]),
        lambda bad: length_correlation([1, 2], [1.0, bad]),
        lambda bad: length_controlled_auroc([1.0, bad], LABELS, [1, 2], seed=0),
        lambda bad: length_controlled_auroc([1, 2], LABELS, [1.0, bad], seed=0),
    ],
)
def test_a_number_that_is_none_is_an_error_everywhere(measure: Callable[[float], object], bad: float) -> None:
    with pytest.raises(DataError, match=r"must be finite: got (nan|-?inf) at index 1"):
        measure(bad)


@pytest.mark.parametrize(
    ("measure", "rule"),
    [
        (lambda: bootstrap_mean([], seed=0), "at least one number"),
        (lambda: paired_difference([1, 2], [1], seed=0), "equally long"),
        (lambda: auroc([1, 2, 3], LABELS, seed=0), "equally long"),
        (lambda: auroc([1, 2], [True, True], seed=0), "both True and False"),
        (lambda: auroc([1, 2], [True, None], seed=0), "labels must be booleans"),
        (lambda: auroc([1, 2], [1.0, NAN], seed=0), "labels must be booleans"),
        (lambda: auroc([1, 2], LABELS, seed=0, problems=["a"]), "problem of each value"),
        (lambda: expected_calibration_error([0.5, 1.2], LABELS), "between 0 and 1"),
        (lambda: length_correlation([1, 1], [1, 2]), "scores must vary"),
        (lambda: length_correlation([1, 2], [2, 2]), "lengths must vary"),
        (lambda: bootstrap_ratio([1, 2], [0, 0], seed=0), "more than 0"),
        (lambda: harmonic_mean(50, 0.5), "between 0 and 1"),
        (lambda: harmonic_mean(NAN, 0.5), "between 0 and 1"),
    ],
)
def test_data_that_cannot_be_measured_say_so(measure: Callable[[], object], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        measure()


@pytest.mark.parametrize("options", [{"resamples": 0}, {"confidence": 0.0}, {"confidence": 95}], ids=str)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        bootstrap_mean([1.0, 2.0], seed=0, **options)  # type: ignore[arg-type]
