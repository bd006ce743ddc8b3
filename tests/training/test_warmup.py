"""Warm-up: which weights are kept, and what is logged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from traceward.records import Demonstration, Rollout, Trace
from traceward.training.critic import Critic, Example
from traceward.training.warmup import auroc_error, warm_up

MakeCritic = Callable[..., Critic]


def weights(critic: Critic) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in critic.reward.backbone.state_dict().items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def scripted(critic: Critic, monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[dict[str, torch.Tensor]]:
    """Makes the held-out looks read `losses`; keeps the weights at each look."""
    seen: list[dict[str, torch.Tensor]] = []
    script = iter(losses)

    def look(_examples: list[Example]) -> tuple[float, float]:
        seen.append(weights(critic))
        loss = next(script)
        return loss, 1 - loss

    monkeypatch.setattr(critic, "discrimination", look)
    return seen


def test_the_standard_error_of_an_auroc_by_hand() -> None:
    assert auroc_error(0.5, 1, 1) == pytest.approx(0.5)  # one pair: a coin
    # Two experts against eight: Q1 = 0.8 / 1.2, Q2 = 1.28 / 1.8.
    expected = ((0.16 + (0.8 / 1.2 - 0.64) + 7 * (1.28 / 1.8 - 0.64)) / 16) ** 0.5
    assert auroc_error(0.8, 2, 8) == pytest.approx(expected)
    assert auroc_error(1.0, 5, 50) == auroc_error(0.95, 5, 50) > 0.05  # with few experts the formula knows too little
    assert auroc_error(0.8, 4, 68) > 2 * auroc_error(0.8, 20, 340) > 0.1


def test_the_last_weights_that_are_no_worse_are_kept(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two experts against eight others: the standard error of 0.9 is 0.173, so 0.8 is no worse and 0.7 is.
    critic = make_critic(warmup_updates=40, check_every=2, patience=3, warmup_at_least=0)
    looks = scripted(critic, monkeypatch, [0.9, 0.5, 0.1, 0.2, 0.3, 0.4, 0.5])
    done = warm_up(critic, rollouts)
    assert done.kept == 6
    assert critic.updates == 12
    assert done.stopped == "held-out AUROC was below its best for 6 updates"
    assert [row["step"] for row in done.rows] == list(range(13))
    assert equal(weights(critic), looks[3])
    assert not equal(looks[6], looks[3])


def test_a_look_that_is_no_worse_resets_the_patience(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(warmup_updates=5, check_every=1, patience=2, warmup_at_least=0)
    looks = scripted(critic, monkeypatch, [0.1, 0.9, 0.2, 0.9, 0.1, 0.9])
    done = warm_up(critic, rollouts)
    assert (done.kept, done.stopped, len(looks)) == (4, "all updates done", 6)


def test_the_last_update_is_looked_at(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(warmup_updates=5, check_every=4, warmup_at_least=0)
    looks = scripted(critic, monkeypatch, [0.3, 0.3, 0.3])
    assert warm_up(critic, rollouts).kept == 5
    assert equal(weights(critic), looks[2])


def test_a_warm_up_that_only_hurts_keeps_the_start(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(warmup_updates=20, check_every=1, patience=2, warmup_at_least=0)
    before = weights(critic)
    scripted(critic, monkeypatch, [0.1, 0.5, 0.6])
    assert warm_up(critic, rollouts).kept == 0
    assert equal(weights(critic), before)


def test_updates_that_hurt_on_held_out_questions_are_undone(
    make_critic: MakeCritic,
    demonstrations: list[Demonstration],
    as_rollout: Callable[..., Rollout],
    rollouts: list[Rollout],
) -> None:
    # Planted: on the held-out questions the experts write what the others' rollouts do, and the rollouts what they do.
    held = {d.problem.id for d in make_critic(held_out=0.5).held_out}
    poor = Trace(("The left ball is red 1.", "So the dance starts."), "901")
    turned = [replace(d, trace=poor) if d.problem.id in held else d for d in demonstrations]
    critic = make_critic(
        items=turned, held_out=0.5, corruptions=0.0, warmup_updates=30, check_every=2, patience=2, warmup_at_least=0
    )
    assert {d.problem.id for d in critic.held_out} == held
    before = weights(critic)
    good = [as_rollout(d, d.trace) for d in demonstrations if d.problem.id in held]
    done = warm_up(critic, [*good, *(r for r in rollouts if r.problem_id not in held)])
    assert (done.kept, critic.updates) == (0, 4)
    assert [row["held_out_auroc"] for row in done.rows if "held_out_auroc" in row] == [0.5, 0.0, 0.0]
    assert equal(weights(critic), before)


def test_without_held_out_demonstrations_all_updates_run(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic(held_out=0.0, warmup_updates=7, check_every=1, patience=1, warmup_at_least=0)
    done = warm_up(critic, rollouts)
    assert (done.kept, critic.updates, done.stopped) == (7, 7, "all updates done")
    assert not any("held_out_loss" in row for row in done.rows)
    assert [row["step"] for row in done.rows] == list(range(8))


def test_no_updates_leave_the_reward_as_it_was(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic(warmup_updates=0)
    before = weights(critic)
    assert warm_up(critic, rollouts).kept == 0
    assert equal(weights(critic), before)


def test_held_out_questions_are_looked_at_and_not_learned_from(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(warmup_updates=4, check_every=2)
    held = {d.problem.id for d in critic.held_out}
    looked: list[list[Example]] = []
    learned: list[Example] = []
    look, loss = critic.discrimination, critic._loss

    def keep_look(examples: list[Example]) -> tuple[float, float]:
        looked.append(examples)
        return look(examples)

    def keep_loss(examples: list[Example], *others: object) -> object:
        if torch.is_grad_enabled():
            learned.extend(examples)
        return loss(examples, *others)

    monkeypatch.setattr(critic, "discrimination", keep_look)
    monkeypatch.setattr(critic, "_loss", keep_loss)
    warm_up(critic, rollouts)
    assert len(looked) == 3
    assert {e.trace.key for e in looked[0]} == held
    assert all(examples == looked[0] for examples in looked)
    kinds = {(e.label, e.wrong_step is not None) for e in looked[0]}
    assert kinds == {(1, False), (0, False), (0, True)}
    assert learned
    assert not held & {e.trace.key for e in learned}
    assert not held & {r.problem_id for r in critic.replay}


def test_every_row_is_logged_as_it_comes(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic, logged = make_critic(warmup_updates=4, check_every=2), []
    done = warm_up(critic, rollouts, log=lambda row: logged.append((critic.updates, dict(row))))
    assert [row for _, row in logged] == list(done.rows)
    assert [at for at, _ in logged] == [0, 1, 2, 3, 4]
    look, update = {"held_out_auroc", "held_out_loss"}, {"accuracy", "form_auroc", "grad_norm", "loss"}
    update |= {"logit_expert", "logit_rollout"}
    assert [row.keys() - {"step"} for row in done.rows[:3]] == [look, update, look | update]


def test_a_warm_up_improves_the_held_out_questions(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic(warmup_updates=15, corruptions=0.0)
    done = warm_up(critic, rollouts)
    looks = [row for row in done.rows if "held_out_loss" in row]
    assert looks[0]["held_out_loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert looks[-1]["held_out_loss"] < 0.3
    assert looks[-1]["held_out_auroc"] == 1.0
    assert done.kept > 0
