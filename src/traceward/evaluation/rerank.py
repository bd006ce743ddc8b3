"""Pick one of N traces: the rerank table, its curve against N, the aggregation of unit scores, and `rerank`.

Ties are resolved in expectation: a rule that cannot tell some traces (or answers) apart earns their mean correctness,
which is what a random choice among them earns on average, without a seed. Rows, always these (method, "Evaluation
protocol"):
  reward, base_logprob, sft_logprob, sft_log_ratio   the trace with the highest score; None in the table for a score
                  nobody measured
  weighted_vote   the answer with the largest sum of softmax(reward), taken over the traces that state an answer
  majority        the answer that most traces state
  shortest        the trace with the smallest length
  expected_random the exact mean;   oracle: 1 where some trace is right
A trace without an answer never votes; where none votes, no answer is given and the row earns 0. A winning answer
earns the mean correctness of the traces that state it.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from traceward.data.options import answer_key
from traceward.errors import ConfigError, DataError
from traceward.evaluation.scorer import REWARD, Scorer, score_traces
from traceward.evaluation.statistics import Array, Estimate, bootstrap_mean, finite, paired_difference, pass_at_k
from traceward.records import Problem, Trace

RIVALS = ("base_logprob", "sft_logprob", "sft_log_ratio")
ROWS = (REWARD, "weighted_vote", "majority", *RIVALS, "shortest", "expected_random", "oracle")
VOTE_SUBSETS = 200  # a vote of n among more traces: all subsets up to this many, otherwise this many drawn ones
RECENCY = 0.95
_TIE = 1e-9  # relative: votes that differ by less differ by the order of summation


@dataclass(frozen=True, slots=True)
class RerankGroup:
    """The sampled traces of one problem, a value of each tuple per trace.

    answers: canonical keys, None where a trace states none.  lengths: in any one unit.
    scores: high = better; "reward" must be there, RIVALS may be, other names become rows of their own.
    """

    problem_id: str
    correct: tuple[bool, ...]
    answers: tuple[str | None, ...]
    lengths: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        scores = {f"scores {name!r}": values for name, values in self.scores.items()}
        for name, column in {"answers": self.answers, "lengths": self.lengths, **scores}.items():
            if len(column) != len(self.correct):
                self._refuse(f"{name} must hold one value per trace", f"{len(column)} for {len(self.correct)}")
        if any(right not in (True, False) for right in self.correct):
            self._refuse("correct must be True or False", self.correct)
        if any(answer is not None and not answer.strip() for answer in self.answers):
            self._refuse("answers must be None where a trace states none", self.answers)
        if REWARD not in self.scores:
            self._refuse(f"scores must hold {REWARD!r}", sorted(self.scores))
        if taken := sorted(set(self.scores) & (set(ROWS) - {REWARD, *RIVALS})):
            self._refuse("scores must not take the name of a row", taken[0])
        for name, values in scores.items():
            if bad := [value for value in values if not math.isfinite(value)]:
                self._refuse(f"{name} must be finite", bad[0])

    def _refuse(self, rule: str, got: object) -> NoReturn:
        raise DataError(f"{rule}: got {got} in problem {self.problem_id!r}; mend or drop this problem")


@dataclass(frozen=True, slots=True)
class RerankTable:
    """rows: accuracy of each rule over problems, None where its score was not measured.  values: per problem."""

    n: int
    rows: Mapping[str, Estimate | None]
    values: Mapping[str, tuple[float, ...]]

    def gain(self, row: str, over: str, *, seed: int) -> Estimate:
        """The paired difference of two measured rows over problems. Raises ConfigError for a row without numbers."""
        for name in (row, over):
            if name not in self.values:
                raise ConfigError(f"row must be one of {sorted(self.values)}: got {name!r}; measure its score first")
        return paired_difference(self.values[row], self.values[over], seed=seed)


def rerank_table(groups: Sequence[RerankGroup], *, n: int, seed: int) -> RerankTable:
    """Every row at N = `n`, as one point of `rerank_curve`. Raises DataError where a group holds fewer traces."""
    columns = _columns(groups, n, seed)
    names = (*ROWS, *(name for name in columns if name not in ROWS))
    rows = {name: bootstrap_mean(columns[name], seed=seed) if name in columns else None for name in names}
    return RerankTable(n, rows, {name: tuple(column) for name, column in columns.items()})


def rerank_curve(groups: Sequence[RerankGroup], *, sizes: Sequence[int], seed: int) -> dict[str, list[Estimate]]:
    """Accuracy of each measured row at each N of `sizes`, for n traces drawn without replacement from a group.

    Exact over all subsets, from ranks, for every row but the votes; votes average over VOTE_SUBSETS subsets
    (all of them where there are no more; drawn with `seed` and the problem's id otherwise).
    """
    if not sizes:
        raise ConfigError("sizes must hold at least one N: got none; use powers of two up to the samples per problem")
    points = [_columns(groups, n, seed) for n in sizes]
    return {name: [bootstrap_mean(point[name], seed=seed) for point in points] for name in points[0]}


def pass_curve(groups: Sequence[Sequence[bool]], *, seed: int) -> dict[int, Estimate]:
    """pass@k for k = 1, 2, 4, … and the size of the smallest group, from which traces of each problem are right.

    The estimate of a problem is unbiased (Chen et al. 2021) and takes all of its traces.
    """
    sizes = powers_of_two(min(map(len, groups)))
    return {k: bootstrap_mean([pass_at_k(len(g), sum(g), k) for g in groups], seed=seed) for k in sizes}


def powers_of_two(n: int) -> tuple[int, ...]:
    """1, 2, 4, … up to n, and n."""
    return tuple(sorted({*(2**power for power in range(n.bit_length())), n}))


def _columns(groups: Sequence[RerankGroup], n: int, seed: int) -> dict[str, list[float]]:
    """For each measured row the expected correctness in every group."""
    if n < 1:
        raise ConfigError(f"n must be at least 1: got {n}; pick from one trace or more")
    if not groups:
        raise DataError("groups must hold at least one problem: got none; sample traces first")
    seen: set[str] = set()
    for group in groups:
        if len(group.correct) < n:
            raise DataError(
                f"groups must hold at least n = {n} traces: got {len(group.correct)} in problem {group.problem_id!r}; "
                "sample more or lower n"
            )
        if set(group.scores) != set(groups[0].scores):
            raise DataError(
                f"scores must be the same in every group: got {sorted(group.scores)} in problem {group.problem_id!r} "
                f"and {sorted(groups[0].scores)} in {groups[0].problem_id!r}; score all problems"
            )
        if group.problem_id in seen:
            raise DataError(f"problem ids must differ: got {group.problem_id!r} twice; merge its traces into one group")
        seen.add(group.problem_id)
    cells = [_expected_correctness(group, n, seed) for group in groups]
    names = sorted(cells[0], key=lambda name: ROWS.index(name) if name in ROWS else len(ROWS))
    return {name: [cell[name] for cell in cells] for name in names}


def _expected_correctness(group: RerankGroup, n: int, seed: int) -> dict[str, float]:
    count, right = len(group.correct), sum(group.correct)
    subsets = _subsets(group, n, seed)
    cells = {name: best_of_n(scores, group.correct, n) for name, scores in group.scores.items()}
    return cells | {
        "weighted_vote": _vote(group, subsets, group.scores[REWARD]),
        "majority": _vote(group, subsets, (0.0,) * count),
        "shortest": best_of_n([-length for length in group.lengths], group.correct, n),
        "expected_random": right / count,
        "oracle": pass_at_k(count, right, n),
    }


def best_of_n(scores: Sequence[float], correct: Sequence[bool], n: int) -> float:
    """Expected correctness of the highest score among n traces drawn without replacement; exact.

    The best of a subset lies in a tied block of m traces below h better ones in C(N-h, n) - C(N-h-m, n) of the
    C(N, n) subsets, and each trace of the block is then as likely to be picked.
    """
    blocks: dict[float, list[bool]] = {}
    for score, right in zip(scores, correct, strict=True):
        blocks.setdefault(score, []).append(right)
    left, total = len(correct), Fraction(0)
    for score in sorted(blocks, reverse=True):
        block = blocks[score]
        subsets = math.comb(left, n) - math.comb(left - len(block), n)
        total += Fraction(subsets * sum(block), len(block))
        left -= len(block)
    return float(total / math.comb(len(correct), n))


def _subsets(group: RerankGroup, n: int, seed: int) -> NDArray[np.bool_]:
    """(R, N) which traces are in each subset of n."""
    count = len(group.correct)
    if math.comb(count, n) <= VOTE_SUBSETS:
        rows = np.array(list(itertools.combinations(range(count), n)))
    else:
        # The order in which traces were sampled must not matter: draw over them sorted by what they are.
        what = [(group.answers[i] or "", group.correct[i], group.scores[REWARD][i]) for i in range(count)]
        order = np.array(sorted(range(count), key=what.__getitem__))
        generator = np.random.default_rng([seed, zlib.crc32(group.problem_id.encode())])
        rows = order[generator.random((VOTE_SUBSETS, count)).argpartition(n - 1, axis=1)[:, :n]]
    members = np.zeros((len(rows), count), dtype=np.bool_)
    np.put_along_axis(members, rows, True, axis=1)
    return members


def _vote(group: RerankGroup, subsets: NDArray[np.bool_], scores: Sequence[float]) -> float:
    """Mean over subsets of the correctness of the answer with the largest sum of softmax(scores)."""
    keys = sorted({answer for answer in group.answers if answer is not None})
    states = np.array([[answer == key for key in keys] for answer in group.answers], dtype=np.float64)  # (N, answers)
    if not keys:
        return 0.0
    voters = subsets & states.any(axis=1)
    top = np.where(voters, scores, -np.inf).max(axis=1, keepdims=True)
    # Softmax up to its common factor. A subset without a voter has no top; all answers tie there, none of them right.
    weights = np.exp(np.where(voters, np.asarray(scores) - np.where(np.isfinite(top), top, 0.0), -np.inf))
    votes = weights @ states
    wins = votes >= votes.max(axis=1, keepdims=True) * (1 - _TIE)
    stating = voters @ states
    right = (voters * np.asarray(group.correct)) @ states / np.maximum(stating, 1.0)
    return float(((right * wins).sum(axis=1) / wins.sum(axis=1)).mean())


class Aggregation(StrEnum):
    """How the scores of a trace's units become one score."""

    MEAN = "mean"
    MIN = "min"
    LAST = "last"
    SUM = "sum"
    RECENCY = "recency"  # mean with weights RECENCY ** (units after it)


def aggregate(unit_scores: Sequence[float], how: Aggregation) -> float:
    """One score for a trace from its units' scores, in order. Raises DataError for none, NaN or infinity."""
    units: Array = finite("unit scores", unit_scores)
    match how:
        case Aggregation.MEAN:
            return float(units.mean())
        case Aggregation.MIN:
            return float(units.min())
        case Aggregation.LAST:
            return float(units[-1])
        case Aggregation.SUM:
            return float(units.sum())
        case Aggregation.RECENCY:
            return float(np.average(units, weights=RECENCY ** np.arange(units.size)[::-1]))


@dataclass(frozen=True, slots=True)
class ValidationGroup:
    """Traces of a validation problem with the scores of their units; test problems never come in this record."""

    problem_id: str
    correct: tuple[bool, ...]
    unit_scores: tuple[tuple[float, ...], ...]


def choose_aggregation(groups: Sequence[ValidationGroup]) -> Aggregation:
    """The aggregation whose best-of-N, over all traces of each group, is most often right; the first listed on ties."""
    if not groups:
        raise DataError("groups must hold at least one validation problem: got none; keep some out of training")

    def accuracy(how: Aggregation) -> float:
        found = []
        for group in groups:
            scores = [aggregate(units, how) for units in group.unit_scores]
            found.append(best_of_n(scores, group.correct, len(group.correct)))
        return math.fsum(found)

    return max(Aggregation, key=accuracy)


@dataclass(frozen=True, slots=True)
class Ranking:
    """order: indices of the traces, best first.  scores: in the order given.  answer: the weighted vote's winner."""

    order: tuple[int, ...]
    scores: tuple[float, ...]
    answer: str | None


def rerank(
    reward: Scorer, problem: Problem, traces: Sequence[Trace], *, key: Callable[[str], str] | None = None
) -> Ranking:
    """Order traces by the exported reward, and take the reward-weighted vote over their answers.

    key: answers with the same one are one answer; left out, an option's letter and its text are, see `answer_key`.
    """
    answers = [trace.answer for trace in traces]
    keys = [answer_key(answer, problem.question) for answer in answers]
    if key is not None:
        keys = [key(answer) if answer and vote else None for answer, vote in zip(answers, keys, strict=True)]
    scores = [item.exported for item in score_traces(reward, problem, traces)]
    return rank(scores, answers, keys)


def rank(scores: Sequence[float], answers: Sequence[str | None], keys: Sequence[str | None]) -> Ranking:
    """`rerank` of traces that are scored already: their scores, the answers that they state, and the keys of these.

    Equal scores keep the order given. Answers with the same key are one answer, see `answer_key`; it is returned as the
    best trace that states it spells it, and None where no trace states one.
    """
    order = tuple(sorted(range(len(scores)), key=lambda index: -scores[index]))
    stated = [(index, key) for index in order if (key := keys[index])]
    if not stated:
        return Ranking(order, tuple(scores), None)
    votes: dict[str, list[float]] = {}
    for index, key in stated:
        votes.setdefault(key, []).append(math.exp(scores[index] - scores[stated[0][0]]))
    totals = {answer: math.fsum(weights) for answer, weights in votes.items()}
    # Keys come best trace first, so a tie goes to the answer of the better trace.
    winner = next(answer for answer, total in totals.items() if total >= max(totals.values()) * (1 - _TIE))
    return Ranking(order, tuple(scores), next(answers[index] for index, key in stated if key == winner))
