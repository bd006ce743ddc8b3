"""The benchmarks' own measures, by hand and against the words of their papers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.benchmarks import Benchmark
from traceward.errors import ConfigError
from traceward.evaluation.localise import LabelledTrace
from traceward.evaluation.official import EXACT, F1, SCHEMES, OfficialRow, OfficialTable, official_table, scheme_of

Trace = tuple[int, list[float]]


def items(*traces: Trace, **rivals: Sequence[list[float]]) -> list[LabelledTrace]:
    """Each trace is a first error and the reward's suspicion."""
    return [
        LabelledTrace(
            str(at), first, {"reward": tuple(doubts), **{name: tuple(rows[at]) for name, rows in rivals.items()}}
        )
        for at, (first, doubts) in enumerate(traces)
    ]


FOUR = items(
    (1, [0, 2, 0]),  # named
    (1, [2, 0, 0]),  # another is named
    (-1, [0, 0, 0]),  # spared
    (-1, [0, 0, 2]),  # called wrong
    base_logprob=[[0, 0, 0]] * 4,
)


def row(table: OfficialTable, method: str, group: str = "overall") -> OfficialRow:
    return table.rows[group][method]


def test_f1_and_accuracy_by_hand() -> None:
    limits = {"reward": 1.0, "base_logprob": 1.0}
    found = official_table(SCHEMES[Benchmark.BIG_BENCH_MISTAKE], {"t": FOUR}, thresholds=limits, seed=0)
    assert row(found, "reward").values == {"accuracy": 0.5, "erroneous": 0.5, "error-free": 0.5, "F1": 0.5}
    # "No error" everywhere: right where there is none.
    assert row(found, "base_logprob").values == {"accuracy": 0.5, "erroneous": 0, "error-free": 1, "F1": 0}
    # Three steps and "no error" are four things to say; a constant never says "no error".
    assert row(found, "chance").values == pytest.approx(
        dict.fromkeys(("accuracy", "erroneous", "error-free", "F1"), 0.25)
    )
    assert row(found, "constant").values == {"accuracy": 0.5, "erroneous": 1, "error-free": 0, "F1": 0}
    assert found.counts["overall"] == (2, 2)
    assert row(found, "reward").behind is None
    ahead = row(found, "base_logprob").behind
    assert ahead is not None
    assert (ahead.value, ahead.n) == (0, 4)


def test_processbench_overall_is_the_mean_of_its_subsets() -> None:
    easy = items((0, [2, 0]), (-1, [0, 0]), base_logprob=[[0, 0]] * 2)  # F1 1
    subsets = {"gsm8k": easy, "math": FOUR}  # F1 1 and 0.5
    limits = {"reward": 1.0}
    found = official_table(SCHEMES[Benchmark.PROCESSBENCH], subsets, thresholds=limits, seed=0)
    assert [row(found, "reward", group).values["F1"] for group in ("gsm8k", "math", "overall")] == [1, 0.5, 0.75]
    pooled = official_table(F1, subsets, thresholds=limits, seed=0)
    assert row(pooled, "reward").values["F1"] == pytest.approx(2 / 3)  # 2 of 3 and 2 of 3
    official = row(found, "reward").official
    assert official is not None
    assert 0 < official.low < 0.75 < official.high <= 1


def test_mr_score_without_its_third_term() -> None:
    # One wrong trace is told (its step missed), one wrong is passed, two right ones are spared.
    some = items((1, [2, 0]), (0, [0, 0]), (-1, [0, 0]), (-1, [0, 0]))
    found = official_table(SCHEMES[Benchmark.MR_BEN], {"physics": some}, thresholds={"reward": 1.0}, seed=0)
    mcc = (1 * 2 - 0 * 1) / math.sqrt((1 + 0) * (1 + 1) * (2 + 0) * (2 + 1))
    assert row(found, "reward").values == pytest.approx({"MR-Score (of 50)": 0.2 * mcc, "MCC": mcc, "step accuracy": 0})
    perfect = items((1, [0, 2]), (-1, [0, 0]))
    best = official_table(SCHEMES[Benchmark.MR_BEN], {"physics": perfect}, thresholds={"reward": 1.0}, seed=0)
    assert row(best, "reward").values["MR-Score (of 50)"] == pytest.approx(0.5)
    # Worse than chance counts as chance.
    turned = official_table(SCHEMES[Benchmark.MR_BEN], {"physics": items((1, [0, 0]), (-1, [2, 0]))}, seed=0,
                            thresholds={"reward": 1.0})  # fmt: skip
    assert row(turned, "reward").values == {"MR-Score (of 50)": 0, "MCC": -1, "step accuracy": 0}
    assert row(best, "chance").values["MCC"] == pytest.approx(0)


def slow_prm_score(labels: list[list[int]], flags: list[list[int]]) -> float:
    """PRMBench's mr_eval in so many words; labels and flags: 1 = the step is wrong."""
    pairs = [pair for some, said in zip(labels, flags, strict=True) for pair in zip(some, said, strict=True)]

    def f1(positive: int) -> float:
        tp = sum(a == b == positive for a, b in pairs)
        precision = tp / sum(b == positive for _, b in pairs)
        recall = tp / sum(a == positive for a, _ in pairs)
        return 2 * precision * recall / (precision + recall)

    return (f1(0) + f1(1)) / 2


def test_prm_score_is_over_steps_and_leaves_the_originals_out() -> None:
    wrong = [
        LabelledTrace("a", 1, {"reward": (0, 2, 0, 2)}, (1, 2)),
        LabelledTrace("b", 0, {"reward": (2, 2, 0)}, (0,)),
    ]
    original = [LabelledTrace("a", -1, {"reward": (2, 2, 2, 2)})]
    found = official_table(
        SCHEMES[Benchmark.PRMBENCH], {"original": original, "circular": wrong}, thresholds={"reward": 1.0}, seed=0
    )
    expected = slow_prm_score([[0, 1, 1, 0], [1, 0, 0]], [[0, 1, 0, 1], [1, 1, 0]])
    assert row(found, "reward").values["PRMScore"] == pytest.approx(expected)
    assert row(found, "reward", "circular").values == row(found, "reward").values
    assert row(found, "reward", "original").values["F1, right steps"] == 0
    assert found.counts["overall"] == (2, 0)
    # A fair coin over 3 wrong and 4 right steps.
    right, bad = 2 * 2 / (4 + 3.5), 2 * 1.5 / (3 + 3.5)
    assert row(found, "chance").values["PRMScore"] == pytest.approx((right + bad) / 2)


def test_without_a_decision_the_most_suspicious_step_is_named_and_ties_count_in_expectation() -> None:
    some = items((1, [0, 2, 0]), (0, [1, 1, 0, 0]), base_logprob=[[0, 0, 1], [0, 0, 0, 0]])
    found = official_table(EXACT, {"a": some[:1], "b": some[1:]}, constant=1, seed=0)
    values = {name: row(found, name).values["step accuracy"] for name in found.rows["overall"]}
    assert values == pytest.approx(
        {"reward": 0.75, "base_logprob": 0.125, "constant": 0.5, "chance": (1 / 3 + 1 / 4) / 2}
    )
    assert row(found, "reward", "b").values["step accuracy"] == 0.5


def test_a_measure_that_decides_takes_thresholds() -> None:
    with pytest.raises(ConfigError, match="thresholds must be given"):
        official_table(F1, {"t": FOUR}, seed=0)
    found = official_table(F1, {"t": FOUR}, thresholds={"reward": 1.0}, seed=0)
    assert list(found.rows["overall"]) == ["reward", "constant", "chance"]


def test_what_is_not_defined_is_none() -> None:
    found = official_table(F1, {"some": FOUR, "wrong": FOUR[:2]}, thresholds={"reward": 1.0}, seed=0)
    assert row(found, "reward", "wrong") == OfficialRow({"F1": None, "erroneous": 0.5, "error-free": None}, None, None)


def test_a_set_without_error_free_traces_is_measured_by_the_exact_step() -> None:
    assert scheme_of(Benchmark.MR_GSM8K, FOUR) is SCHEMES[Benchmark.MR_GSM8K]
    assert scheme_of(Benchmark.MR_GSM8K, FOUR[:2]) is EXACT
    assert scheme_of(Benchmark.PRMBENCH, FOUR[:2]) is SCHEMES[Benchmark.PRMBENCH]
    assert set(SCHEMES) == set(Benchmark)


@given(st.data())
def test_chance_is_what_many_draws_get(data: st.DataObject) -> None:
    units = data.draw(st.integers(1, 5))
    first = data.draw(st.integers(-1, units - 1))
    item = LabelledTrace("p", first, {"reward": (0.0,) * units})
    other = LabelledTrace("q", -1 if first >= 0 else 0, {"reward": (0.0,)})
    found = official_table(
        SCHEMES[Benchmark.BIG_BENCH_MISTAKE], {"t": [item, other]}, thresholds={"reward": 1.0}, seed=0
    )
    draws = np.mean([[said == first for said in range(-1, units)]])
    assert row(found, "chance").values["accuracy"] == pytest.approx((draws + 0.5) / 2)
