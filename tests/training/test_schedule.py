"""How many updates a step has, how hard the KL pulls, and what a batch is drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from traceward.records import Rollout
from traceward.training.critic import Critic
from traceward.training.schedule import KLController, UpdateSchedule
from traceward.training.settings import AdversarialConfig, CriticSettings

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
Alternate = Callable[..., tuple[Any, list[dict[str, Any]]]]
MakeCritic = Callable[..., Critic]
Known = Callable[..., Any]


def weights(critic: Critic) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in critic.reward.backbone.state_dict().values()]


# ---- the band --------------------------------------------------------------------------------------------------------


def test_updates_follow_the_accuracy() -> None:
    schedule = UpdateSchedule(AdversarialConfig(critic_updates=2, critic_updates_most=4))
    assert schedule.updates == 2
    above = [schedule.look(accuracy) for accuracy in (0.86, 0.9, 1.0)]
    assert above == [1, 0, 0]
    assert schedule.look(0.85) == 2  # the band holds its edges
    below = [schedule.look(accuracy) for accuracy in (0.64, 0.1, 0.5)]
    assert below == [3, 4, 4]
    assert schedule.look(0.65) == 2


def test_the_band_can_be_moved_and_turned_off() -> None:
    assert UpdateSchedule(AdversarialConfig(accuracy_low=0.2, accuracy_high=0.3)).look(0.4) == 0
    plain = UpdateSchedule(AdversarialConfig(accuracy_low=0, accuracy_high=1))
    assert [plain.look(accuracy) for accuracy in (0.0, 1.0)] == [1, 1]


@given(st.lists(st.floats(0, 1), max_size=20))
def test_updates_never_leave_their_range(looks: list[float]) -> None:
    schedule = UpdateSchedule(AdversarialConfig(critic_updates=1, critic_updates_most=3))
    assert all(schedule.look(accuracy) in range(4) for accuracy in looks)


def test_a_schedule_goes_on_from_its_state() -> None:
    schedule = UpdateSchedule(AdversarialConfig())
    schedule.look(0.1)
    again = UpdateSchedule(AdversarialConfig())
    again.load_state_dict(schedule.state_dict())
    assert again.look(0.1) == schedule.look(0.1) == 3


def scripted(critic: Critic, monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
    script = iter(accuracies)
    monkeypatch.setattr(critic.discriminator, "accuracy", lambda *_: next(script))


def test_a_run_updates_as_often_as_the_schedule_says(
    alternate: Alternate, make_critic: MakeCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic()
    # Looks of five steps: above, above, in the band, below, below. A step of two updates looks again at its second.
    scripted(critic, monkeypatch, [0.9, 0.9, 0.7, 0.5, 0.1, 0.9])
    _, rows = alternate(critic=critic, steps=5, critic_updates=1, critic_updates_most=2)
    assert [row["updates"] for row in rows] == [1, 0, 0, 1, 2]
    seen = [row["accuracy"] for row in rows]
    assert seen == pytest.approx([0.9, 0.9, 0.7, 0.5, 0.1], abs=1e-6)  # before the step's own updates
    assert critic.updates == 4


def test_a_look_without_updates_changes_nothing_and_is_remembered(
    make_critic: MakeCritic, rollouts: list[Rollout]
) -> None:
    critic = make_critic()
    critic.update(rollouts)
    before = weights(critic)
    row = critic.look(rollouts)
    assert all(torch.equal(a, b) for a, b in zip(weights(critic), before, strict=True))
    assert critic.updates == 1
    assert row.keys() == critic.update(rollouts).keys() - {"grad_norm"}


def test_an_easy_discriminator_stops_learning(
    alternate: Alternate, make_critic: MakeCritic, rollouts: list[Rollout]
) -> None:
    # A random policy's rollouts are told from the experts after some updates; from then on there are none.
    critic = make_critic(corruptions=0.0, learning_rate=1e-2)
    critic.remember([r for r in rollouts if r.problem_id in {d.problem.id for d in critic.expert}])
    _, rows = alternate(critic=critic, steps=12, critic_updates=1)
    assert rows[0]["updates"] == 1
    assert 0 in [row["updates"] for row in rows]
    assert critic.updates == sum(row["updates"] for row in rows) < 12


def test_a_frozen_reward_is_not_scheduled(alternate: Alternate, make_critic: MakeCritic) -> None:
    critic = make_critic()
    _, rows = alternate(critic=critic, critic_updates=0)
    assert critic.updates == 0
    assert not any("updates" in row for row in rows)


# ---- KL control ------------------------------------------------------------------------------------------------------


def test_the_kl_weight_by_hand() -> None:
    control = KLController(AdversarialConfig(kl=0.1, kl_target=2.0, kl_gain=0.5))
    assert control.look(2.2) == pytest.approx(0.1 * (1 + 0.5 * 0.1))
    assert control.look(100.0) == pytest.approx(0.105 * 1.1)
    assert control.look(0.0) == pytest.approx(0.1155 * 0.9)
    assert control.look(2.0) == pytest.approx(0.10395)


def test_without_a_target_the_weight_stays() -> None:
    control = KLController(AdversarialConfig(kl=0.1))
    assert control.look(50.0) == 0.1


def test_a_kl_controller_goes_on_from_its_state() -> None:
    settings = AdversarialConfig(kl=0.1, kl_target=1.0)
    control, again = KLController(settings), KLController(settings)
    control.look(9.0)
    again.load_state_dict(control.state_dict())
    assert again.weight == control.weight != 0.1


@given(st.floats(0.01, 10), st.lists(st.floats(0, 1e6), max_size=30))
def test_a_kl_above_its_target_never_lowers_the_weight(target: float, seen: list[float]) -> None:
    control = KLController(AdversarialConfig(kl=0.1, kl_target=target))
    for kl in seen:
        before = control.weight
        after = control.look(kl)
        assert (after >= before) if kl >= target else (after <= before)
        assert after > 0


@pytest.mark.parametrize("target", [1e-6, 1e6])
def test_a_target_moves_the_weight_that_trl_reads(alternate: Alternate, make_critic: MakeCritic, target: float) -> None:
    trainer, rows = alternate(critic=make_critic(), steps=4, kl=0.1, kl_target=target, kl_gain=1.0)
    found = [row["kl_weight"] for row in rows]
    expected = [0.1]
    for row in rows[:-1]:
        expected.append(expected[-1] * (1.2 if row["kl"] > target else 0.8))
    assert found == pytest.approx(expected)
    assert trainer.beta == pytest.approx(expected[-1] * (1.2 if target < 1 else 0.8))


def test_the_policy_ends_nearer_to_a_low_target_and_farther_with_a_high_one(alternate: Alternate, known: Known) -> None:
    small = known(lambda trace: sum(token < 400 for token in trace.completion_ids) / 10)
    ends = {}
    for target in (1e-4, None, 10.0):
        settings = {"steps": 40, "learning_rate": 2e-2, "kl": 1.0, "kl_target": target, "kl_gain": 1.0}
        _, rows = alternate(reward=small, critic_updates=0, **settings)
        ends[target] = sum(row["kl"] for row in rows[-8:])
    assert ends[1e-4] < 0.7 * ends[None] < 0.7 * 0.7 * ends[10.0]


# ---- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "fresh"), [(0.0, 8), (0.25, 6), (0.5, 4), (1.0, 0)])
def test_a_steps_rollouts_are_fresh_and_replayed_in_the_stated_ratio(
    alternate: Alternate,
    make_critic: MakeCritic,
    rollouts: list[Rollout],
    monkeypatch: pytest.MonkeyPatch,
    *,
    share: float,
    fresh: int,
) -> None:
    critic = make_critic(rollouts=8, replay_share=share, held_out=0.0)
    critic.remember(rollouts)
    drawn: list[list[Rollout]] = []
    draw = critic._draw
    monkeypatch.setattr(critic, "_draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    alternate(critic=critic, steps=1, critic_updates=2, accuracy_high=1)
    assert [sum(r not in rollouts for r in batch) for batch in drawn] == [fresh, fresh]
    assert [len(batch) for batch in drawn] == [8, 8]


def test_a_rollout_is_drawn_once_where_there_are_enough(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic(rollouts=10, replay_share=0.5)
    critic.remember(rollouts[:5])
    drawn = critic._draw(rollouts[5:10], critic.expert)
    assert sorted(r.text + r.problem_id for r in drawn) == sorted(r.text + r.problem_id for r in rollouts[:10])
    few = critic._draw(rollouts[5:8], critic.expert)
    assert len(few) == 10
    assert {few.count(r) > 0 for r in rollouts[:8]} == {True}  # all eight, two of them again


def test_a_steps_own_rollouts_are_remembered_once(alternate: Alternate, make_critic: MakeCritic) -> None:
    critic = make_critic(rollouts=8, held_out=0.0, replay_share=0.5)  # four fresh an update, eight in the step
    alternate(critic=critic, steps=2, critic_updates=3, accuracy_high=1)
    assert len(critic.replay) == 16


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"accuracy_low": 0.9, "accuracy_high": 0.8},
        {"critic_updates_most": 1, "critic_updates": 2},
        {"kl_target": 0},
        {"kl_target": 0.1, "kl": 0},
        {"kl_gain": 0, "kl_target": 0.1},
        {"whiten": True, "credit": "consensus"},
        {"scale_rewards": "batch", "baseline": "leave-one-out"},
        {"scale_rewards": "group", "baseline": "leave-one-out"},
        {"outcome_weight": 1.5},
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "kl" not in wrong else "kl must be above 0"):
        AdversarialConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"held_out": 0.99}, "less than or equal to 0.5"),
        ({"replay": 0}, "replay must be above 0 where replay_share is: got 0 with replay_share 0.5"),
        ({"exclude_corruptions": ["operator-flop"]}, "must name kinds among .*: got operator-flop; mend them"),
    ],
)
def test_critic_settings_that_do_nothing_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CriticSettings.model_validate(wrong)


def test_leaving_out_every_corruption_is_said_in_one_way() -> None:
    from traceward.data.corruptions import REGISTRY

    with pytest.raises(ValueError, match="must leave a kind of corruption_packs: got none; set corruptions=0"):
        CriticSettings(exclude_corruptions=tuple(REGISTRY))
    assert CriticSettings(exclude_corruptions=tuple(REGISTRY), corruptions=0).corruptions == 0
    assert CriticSettings(replay=0, replay_share=0).replay == 0
