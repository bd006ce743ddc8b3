"""Warm-up: which weights are kept, and what is logged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from traceward.records import Demonstration, Rollout
from traceward.training.critic import Critic, Example
from traceward.training.warmup import warm_up

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


def test_the_best_held_out_weights_are_kept(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(warmup_updates=40, check_every=2, patience=3, warmup_at_least=0)
    looks = scripted(critic, monkeypatch, [0.9, 0.5, 0.4, 0.6, 0.4, 0.7])  # an equal loss is no better
    done = warm_up(critic, rollouts)
    assert done.kept == 4
    assert critic.updates == 10
    assert done.stopped == "held-out AUROC did not rise for 6 updates"
    assert [row["step"] for row in done.rows] == list(range(11))
    assert equal(weights(critic), looks[2])
    assert not equal(looks[5], looks[2])


def test_a_better_look_resets_the_patience(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(warmup_updates=5, check_every=1, patience=2, warmup_at_least=0)
    looks = scripted(critic, monkeypatch, [0.9, 1.0, 0.8, 1.0, 0.7, 1.0])
    done = warm_up(critic, rollouts)
    assert (done.kept, done.stopped, len(looks)) == (4, "all updates done", 6)


def test_a_warm_up_that_only_hurts_keeps_the_start(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(warmup_updates=20, check_every=1, patience=2, warmup_at_least=0)
    before = weights(critic)
    scripted(critic, monkeypatch, [0.1, 0.2, 0.3])
    assert warm_up(critic, rollouts).kept == 0
    assert equal(weights(critic), before)


def test_updates_that_hurt_on_held_out_questions_are_undone(
    make_critic: MakeCritic, demonstrations: list[Demonstration], as_rollout: Callable[..., Rollout]
) -> None:
    # Planted: on the held-out questions the rollouts are the experts' own traces, so a logit of 0 is best there.
    critic = make_critic(corruptions=0.0, warmup_updates=30, check_every=2, patience=2, warmup_at_least=0)
    own = [as_rollout(d, d.trace) for d in critic.held_out]
    other = [as_rollout(a, b.trace) for a, b in zip(critic.expert, reversed(critic.expert), strict=True)]
    before = weights(critic)
    done = warm_up(critic, own + other)
    assert (done.kept, critic.updates) == (0, 4)
    looks = [row["held_out_loss"] for row in done.rows if "held_out_loss" in row]
    assert looks[0] == pytest.approx(0.6931472, abs=1e-6)
    assert min(looks[1:]) > looks[0]
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
