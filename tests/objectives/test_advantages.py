"""Credit assignment, by hand."""

from __future__ import annotations

from math import exp
from statistics import stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from traceward.objectives.advantages import (
    batch_scaled,
    consensus,
    group_centred,
    group_scaled,
    leave_one_out,
    mixed,
    on_tokens,
    reward_to_go,
    spread_inside,
    step_local,
    trace_mean,
    whitened,
)


def test_group_centred_subtracts_each_questions_own_mean() -> None:
    assert group_centred(torch.tensor([1.0, 3.0, 10.0, 20.0]), 2).tolist() == [-1.0, 1.0, -5.0, 5.0]


def test_rows_of_one_question_are_neighbours() -> None:
    assert group_centred(torch.tensor([0.0, 0.0, 0.0, 6.0, 6.0, 6.0]), 3).abs().max() == 0


@given(st.lists(st.floats(-9, 9), min_size=6, max_size=6))
def test_group_centred_sums_to_zero_in_each_group(values: list[float]) -> None:
    centred = group_centred(torch.tensor(values, dtype=torch.float64), 3).view(2, 3)
    assert centred.sum(1).abs().max() < 1e-9


def test_batch_scaled_divides_all_questions_by_one_number() -> None:
    # Deviation of [-1, 1, -5, 5] with n - 1: sqrt(52 / 3). A noise-level group keeps its small size.
    found = batch_scaled(torch.tensor([-1.0, 1.0, -5.0, 5.0], dtype=torch.float64))
    scale = (52 / 3) ** 0.5 + 1e-4
    assert found.tolist() == pytest.approx([-1 / scale, 1 / scale, -5 / scale, 5 / scale], abs=1e-12)


def test_equal_rewards_give_no_advantage() -> None:
    assert batch_scaled(group_centred(torch.full((4,), 0.3), 2)).abs().max() == 0


def test_trace_mean_leaves_masked_units_out_and_cuts_the_rest() -> None:
    rewards = torch.tensor([[2.0, -9.0, 99.0], [6.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert trace_mean(rewards, mask, clip=5.0).tolist() == [(2.0 - 5.0) / 2, 5.0]
    assert trace_mean(rewards, mask, clip=100.0).tolist() == [-3.5, 6.0]


def test_trace_mean_of_no_units_is_zero() -> None:
    assert trace_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool), clip=5.0).tolist() == [0.0]


def vote(answers: list[int], scores: list[float], **options: float) -> tuple[list[float], int]:
    rewards, pseudo = consensus(torch.tensor([answers]), torch.tensor([scores], dtype=torch.float64), **options)
    return rewards[0].tolist(), int(pseudo[0])


def test_equal_scores_are_the_plain_majority() -> None:
    assert vote([4, 7, 7, 4, 7], [0.3] * 5) == ([0.0, 1.0, 1.0, 0.0, 1.0], 7)


def test_spread_is_that_of_counted_values_inside_groups() -> None:
    values = torch.tensor([[1.0, 3.0, 50.0], [11.0, 14.0, 11.0]])
    counted = torch.tensor([[True, True, False], [True, True, True]])
    # Squares from the means 2 and 12: (1 + 1) + (1 + 4 + 1) = 8, over (2 - 1) + (3 - 1) = 3.
    assert spread_inside(values, counted).item() == pytest.approx((8 / 3) ** 0.5)
    assert spread_inside(values, counted.new_zeros(2, 3)).item() == 0


# Of one high score among n equal ones the deviation is a share of the difference d: s = d / sqrt(n) (n - 1 below it).
# The side of the high score then weighs e^sqrt(n) whatever d is: e^sqrt(3) = 5.65, e^sqrt(6) = 11.6.


def test_a_high_score_outvotes_a_majority() -> None:
    assert vote([4, 7, 7], [3.0, 0.0, 0.0]) == ([1.0, 0.0, 0.0], 4)
    assert vote([4, *[7] * 5], [3.0, *[0.0] * 5])[1] == 4


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_scale_of_scores_changes_nothing(scale: float) -> None:
    # The sides change places where sqrt(3) / T = log 2: at T = 2.499.
    assert vote([4, 7, 7], [scale, 0.0, 0.0], temperature=2.49)[1] == 4
    assert vote([4, 7, 7], [scale, 0.0, 0.0], temperature=2.51)[1] == 7


def test_the_spread_of_a_batch_is_one_for_all_its_groups() -> None:
    answers = torch.tensor([[4, 7, 7], [4, 7, 7]])
    scores = torch.tensor([[30.0, 0.0, 0.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
    # Alone, the second group's own deviation would carry its one high score: here that is a fortieth of the batch's.
    assert consensus(answers, scores)[1].tolist() == [4, 7]
    assert vote([4, 7, 7], [0.3, 0.0, 0.0])[1] == 4


def test_who_states_no_answer_does_not_count_in_the_spread() -> None:
    assert vote([4, 7, 7, -1], [1.0, 0.0, 0.0, -900.0], temperature=2.49)[1] == 4
    assert vote([4, 7, 7, -1], [1.0, 0.0, 0.0, -900.0], temperature=2.51)[1] == 7


def test_a_level_shift_of_scores_changes_nothing() -> None:
    assert vote([4, 7, 7, 7], [-299.3, -300.0, -300.0, -299.9]) == vote([4, 7, 7, 7], [0.7, 0.0, 0.0, 0.1])


def test_a_tie_names_the_first_rollouts_answer() -> None:
    assert vote([4, 7], [0.0, 0.0]) == ([1.0, 0.0], 4)
    assert vote([7, 4], [0.0, 0.0]) == ([1.0, 0.0], 7)


def test_who_states_no_answer_neither_votes_nor_earns() -> None:
    assert vote([-1, -1, -1, 3], [9.0, 9.0, 9.0, 0.0]) == ([0.0, 0.0, 0.0, 1.0], 3)


def test_a_group_without_answers_earns_nothing() -> None:
    assert vote([-1, -1], [1.0, 2.0]) == ([0.0, 0.0], -1)


def test_groups_do_not_share_votes() -> None:
    answers = torch.tensor([[0, 0, 1], [1, 1, 0]])
    rewards, pseudo = consensus(answers, torch.zeros(2, 3))
    assert pseudo.tolist() == [0, 1]
    assert rewards.tolist() == [[1, 1, 0], [1, 1, 0]]


def test_own_reward_mixes_in_the_group_normalised_score() -> None:
    rewards, pseudo = vote([7, 7, 4], [1.0, 2.0, 0.0], own_reward=0.25)
    assert pseudo == 7
    # Deviation of (1, 2, 0) with n - 1 is 1, its mean 1.
    own = [0.0, 1 / 1.0001, -1 / 1.0001]
    assert rewards == pytest.approx([0.75 + 0.25 * own[0], 0.75 + 0.25 * own[1], 0.25 * own[2]], abs=1e-12)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-400, 400).map(lambda n: n / 100)), min_size=2, max_size=8))
def test_consensus_is_a_weighted_count(rows: list[tuple[int, float]]) -> None:
    answers, scores = [a for a, _ in rows], [s for _, s in rows]
    rewards, pseudo = vote(answers, scores)
    totals: dict[int, float] = {}
    stated = [score for answer, score in rows if answer >= 0]
    deviation = stdev(stated) if len(stated) > 1 else 0.0
    for answer, score in rows:
        if answer >= 0:
            totals[answer] = totals.get(answer, 0.0) + exp((score - stated[0]) / max(deviation, 1e-8))
    if not totals:
        assert (rewards, pseudo) == ([0.0] * len(rows), -1)
        return
    assert totals[pseudo] == pytest.approx(max(totals.values()), rel=1e-9)
    assert rewards == [float(answer == pseudo) for answer in answers]


def test_on_tokens_gives_each_token_its_unit_and_padding_nothing() -> None:
    unit = torch.tensor([[0, 0, 1, -1], [0, 0, 0, 0]])
    found = on_tokens(torch.tensor([[2.0, 3.0], [-0.5, 9.0]]), unit)
    assert found.tolist() == [[2.0, 2.0, 3.0, 0.0], [-0.5, -0.5, -0.5, -0.5]]


def test_leave_one_out_of_two_is_their_difference() -> None:
    assert leave_one_out(torch.tensor([1.0, 4.0]), 2).tolist() == [-3.0, 3.0]


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    assert leave_one_out(torch.tensor([1.0, 3.0, 8.0, 0.0, 0.0, 6.0]), 3).tolist() == [-4.5, -1.5, 6.0, -3.0, -3.0, 6.0]


UNITS, THERE = torch.tensor([[1.0, 3.0], [2.0, 77.0]]), torch.tensor([[True, True], [True, False]])


def test_reward_to_go_by_hand() -> None:
    # The group's three units have the mean 2: centred -1, 1 and 0. First unit: (-1 + 0.5 * 1) / (1 + 0.5).
    found = reward_to_go(UNITS, THERE, group=2, gamma=0.5)
    assert found.flatten().tolist() == pytest.approx([-1 / 3, 1.0, 0.0, 0.0])


def test_reward_to_go_is_centred_by_question_and_not_by_batch() -> None:
    both = reward_to_go(torch.cat([UNITS, UNITS + 50]), torch.cat([THERE, THERE]), group=2, gamma=0.9)
    assert torch.allclose(both[:2], both[2:], atol=1e-4)


def test_early_units_of_long_traces_weigh_no_more() -> None:
    rewards = torch.tensor([[5.0] * 40, [1.0] * 40])
    found = reward_to_go(rewards, torch.ones_like(rewards, dtype=torch.bool), group=2, gamma=0.9)
    assert torch.allclose(found, torch.tensor([[2.0], [-2.0]]).expand(2, 40))


def test_step_local_by_hand() -> None:
    # Deviations inside the traces: -1, 1 and 0; root mean square over three units: sqrt(2 / 3).
    step = 0.1 / ((2 / 3) ** 0.5 + 1e-4)
    found = step_local(torch.tensor([2.0, -2.0]), UNITS, THERE, weight=0.1)
    assert found.flatten().tolist() == pytest.approx([2 - step, 2 + step, -2.0, 0.0], abs=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_step_local_moves_credit_inside_a_trace_only(values: list[float]) -> None:
    rewards = torch.tensor(values, dtype=torch.float64).view(2, 3)
    found = step_local(torch.tensor([1.0, -3.0]), rewards, torch.ones(2, 3, dtype=torch.bool), weight=0.7)
    assert found.mean(1).tolist() == pytest.approx([1.0, -3.0], abs=1e-9)


@given(st.lists(st.floats(-9, 9), min_size=8, max_size=8), st.integers(0, 7), st.floats(-9, 9))
def test_a_rollouts_own_reward_is_not_in_its_leave_one_out_baseline(values: list[float], at: int, new: float) -> None:
    rewards = torch.tensor(values, dtype=torch.float64)
    changed = rewards.clone()
    changed[at] = new
    before, after = (leave_one_out(r, 4) for r in (rewards, changed))
    assert (after - before)[at].item() == pytest.approx(new - values[at], abs=1e-9)
    assert leave_one_out(rewards, 4) == pytest.approx(group_centred(rewards, 4) * 4 / 3)


@given(st.lists(st.floats(-9, 9), min_size=8, max_size=8), st.floats(-100, 100), st.floats(0.1, 10))
def test_centring_and_scaling_forget_level_and_scale(values: list[float], level: float, scale: float) -> None:
    rewards = torch.tensor(values, dtype=torch.float64)
    centred = group_centred(rewards, 4)
    if centred.std() > 0.1:  # below, the 1e-4 that keeps equal rewards finite shows
        moved = batch_scaled(group_centred(level + scale * rewards, 4))
        assert torch.allclose(moved, batch_scaled(centred), atol=0.05)


def test_reward_to_go_without_discount_is_the_mean_of_what_comes() -> None:
    # The group's mean is 5: centred (-4, 1, 3) and (0,).
    rewards = torch.tensor([[1.0, 6.0, 8.0], [5.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = reward_to_go(rewards, mask, group=2, gamma=1.0)
    assert found.tolist() == [[0.0, 2.0, 3.0], [0.0, 0.0, 0.0]]


@given(st.lists(st.floats(-5, 5), min_size=12, max_size=12), st.floats(0.1, 1.0), st.floats(-5, 5))
def test_reward_to_go_against_the_sum_itself(values: list[float], gamma: float, level: float) -> None:
    rewards = torch.tensor(values, dtype=torch.float64).view(4, 3)
    lengths = [3, 2, 1, 3]
    mask = torch.arange(3)[None] < torch.tensor(lengths)[:, None]
    found = reward_to_go(rewards, mask, group=2, gamma=gamma)
    for row, length in enumerate(lengths):
        group = range(row - row % 2, row - row % 2 + 2)
        units = [rewards[r, u].item() for r in group for u in range(lengths[r])]
        mean = sum(units) / len(units)
        for unit in range(3):
            ahead = [(gamma ** (v - unit), rewards[row, v].item() - mean) for v in range(unit, length)]
            expected = sum(w * r for w, r in ahead) / sum(w for w, _ in ahead) if ahead else 0.0
            assert found[row, unit].item() == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(reward_to_go(rewards + level, mask, group=2, gamma=gamma), found, atol=1e-9)


def test_whitened_by_hand() -> None:
    # Mean of 1, 3 and 8 is 4, their deviation sqrt((9 + 1 + 16) / 3).
    found = whitened(torch.tensor([[1.0, 3.0], [8.0, 99.0]]), torch.tensor([[True, True], [True, False]]))
    scale = (26 / 3) ** 0.5 + 1e-4
    assert found.flatten().tolist() == pytest.approx([-3 / scale, -1 / scale, 4 / scale, 0.0], abs=1e-6)


def test_whitened_rewards_are_clipped_by_deviations() -> None:
    # Nine units at 0 and one at 1000: 3 deviations above the mean, so a clip at 5 keeps it and one at 2 cuts it.
    rewards, mask = torch.tensor([[0.0] * 9 + [1000.0]]), torch.ones(1, 10, dtype=torch.bool)
    assert whitened(rewards, mask).max().item() == pytest.approx(3.0, abs=1e-3)
    assert whitened(torch.full((2, 2), 7.0), mask[:, :2].expand(2, 2)).abs().max() == 0


def test_a_share_of_each_advantage_is_the_outcome() -> None:
    advantages, outcome = torch.tensor([[2.0, -2.0], [0.0, 4.0]]), torch.tensor([1.0, -1.0])
    assert mixed(advantages, outcome, weight=0.25).tolist() == [[1.75, -1.25], [-0.25, 2.75]]
    assert mixed(advantages, outcome, weight=0.0).tolist() == advantages.tolist()
    assert mixed(advantages, outcome, weight=1.0).tolist() == [[1.0, 1.0], [-1.0, -1.0]]


def test_group_scaled_divides_each_question_by_its_own_deviation() -> None:
    # Deviations with n - 1 of (-1, 1) and (-5, 5): sqrt(2) and sqrt(50).
    centred = torch.tensor([[-1.0], [1.0], [-5.0], [5.0]], dtype=torch.float64)
    found = group_scaled(centred, torch.ones(4, 1, dtype=torch.bool), 2).flatten().tolist()
    one, five = 1 / (2**0.5 + 1e-4), 5 / (50**0.5 + 1e-4)
    assert found == pytest.approx([-one, one, -five, five], abs=1e-12)


def test_group_scaled_counts_the_units_that_are_there() -> None:
    # The group's units are 0, 2 and 4 (mean 2, deviation 2), and nothing is subtracted.
    centred = torch.tensor([[0.0, 2.0], [4.0, 99.0]])
    found = group_scaled(centred, torch.tensor([[True, True], [True, False]]), 2)
    assert found.flatten().tolist() == pytest.approx([0.0, 1.0, 2.0, 0.0], abs=1e-3)


@given(st.lists(st.floats(-9, 9), min_size=8, max_size=8), st.floats(0.1, 10))
def test_a_questions_own_scale_is_forgotten_by_group_scaling_alone(values: list[float], scale: float) -> None:
    rewards = torch.tensor(values, dtype=torch.float64)
    centred = group_centred(rewards, 4)
    stretched = torch.cat([centred[:4] * scale, centred[4:]])
    whole = torch.ones(8, 1, dtype=torch.bool)
    if min(centred[:4].std(), centred[4:].std()) > 0.1:
        before, after = (group_scaled(c[:, None], whole, 4) for c in (centred, stretched))
        assert torch.allclose(before, after, atol=0.02)
