"""Alarms: by hand, and provoked through the trainer, the critic and the warm-up themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from traceward.data.formats import EncodedTrace
from traceward.errors import PausedError
from traceward.records import Demonstration, Rollout
from traceward.training.callbacks import Watched
from traceward.training.critic import Critic
from traceward.training.guards import CONDITIONS, Alarm, AlarmKind, Guards, correlation_inside
from traceward.training.run_directory import Metrics
from traceward.training.settings import GuardSettings
from traceward.training.warmup import warm_up

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
Alternate = Callable[..., tuple[Any, list[dict[str, Any]]]]
Known = Callable[..., Any]
MakeCritic = Callable[..., Critic]
HEALTHY = {
    "accuracy": 0.8,
    "form_auroc": 0.55,
    "reward": 0.5,
    "completion_length": 40.0,
    "kl": 0.02,
    "entropy": 0.16,
    "reward_length_correlation": -0.1,
}


def watch(rows: Sequence[dict[str, float]], **settings: Any) -> list[tuple[int, AlarmKind]]:
    """Steps and kinds of the alarms over `rows`; what a row leaves out is healthy."""
    guards = Guards(GuardSettings.model_validate({"window": 3, **settings}))
    found = [alarm for step, row in enumerate(rows, start=1) for alarm in guards.watch(step, HEALTHY | row)]
    return [(alarm.step, alarm.kind) for alarm in found]


def kinds(alarms: Sequence[Alarm]) -> set[AlarmKind]:
    return {alarm.kind for alarm in alarms}


# ---- conditions ------------------------------------------------------------------------------------------------------


def test_a_healthy_run_is_quiet() -> None:
    assert watch([{"reward": 0.5 + 0.01 * step, "entropy": 0.16 - 0.002 * step} for step in range(40)]) == []


@pytest.mark.parametrize(
    ("kind", "start", "then", "just_well"),
    [
        (AlarmKind.SATURATED, {}, {"accuracy": 0.9901}, {"accuracy": 0.9899}),
        (AlarmKind.FORM, {}, {"form_auroc": 0.71}, {"form_auroc": 0.7}),
        (AlarmKind.LENGTH, {}, {"completion_length": 60.1, "reward": 0.6}, {"completion_length": 60, "reward": 0.6}),
        (AlarmKind.LENGTH, {}, {"completion_length": 26.6, "reward": 0.6}, {"completion_length": 26.7, "reward": 0.6}),
        (AlarmKind.LENGTH, {}, {"completion_length": 99, "reward": 0.6}, {"completion_length": 99, "reward": 0.5}),
        (AlarmKind.KL, {}, {"kl": 0.51, "reward": 0.6}, {"kl": 0.5, "reward": 0.6}),
        (AlarmKind.KL, {}, {"kl": 9.0, "reward": 0.6}, {"kl": 9.0, "reward": 0.4}),
        (AlarmKind.ENTROPY, {"entropy": 2.0}, {"entropy": 0.199}, {"entropy": 0.2}),
        (AlarmKind.CORRELATION, {}, {"reward_length_correlation": 0.61}, {"reward_length_correlation": 0.6}),
        (AlarmKind.CORRELATION, {}, {"reward_length_correlation": -0.61}, {"reward_length_correlation": -0.6}),
    ],
)
def test_where_each_alarm_begins(
    kind: AlarmKind, start: dict[str, float], then: dict[str, float], just_well: dict[str, float]
) -> None:
    assert [k for _, k in watch([start] * 3 + [then] * 3)] == [kind]
    assert watch([start] * 3 + [just_well] * 3) == []


def test_every_kind_has_its_condition_and_its_place_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guards.md").read_text(encoding="utf-8")
    assert set(CONDITIONS) == set(AlarmKind)
    assert all(f"### {kind}\n" in text for kind in AlarmKind)


def test_an_alarm_speaks_of_a_whole_window() -> None:
    right = {"accuracy": 1.0}
    assert watch([right] * 2) == []
    assert watch([right] * 3) == [(3, AlarmKind.SATURATED)]
    assert watch([{}, right, right, {}, right, right]) == []


def test_an_alarm_is_told_once_until_it_has_ended() -> None:
    right = {"accuracy": 1.0}
    assert watch([right] * 9) == [(3, AlarmKind.SATURATED)]
    assert watch([right] * 4 + [{}] + [right] * 5) == [(3, AlarmKind.SATURATED), (8, AlarmKind.SATURATED)]


def test_a_change_is_told_when_the_windows_no_longer_overlap() -> None:
    rows = [{"reward": float(step), "completion_length": 10.0 + 40 * step} for step in range(8)]
    assert watch(rows) == [(6, AlarmKind.LENGTH)]


def test_metrics_that_a_row_lacks_stay_as_they_were() -> None:
    guards = Guards(GuardSettings(window=2))
    looks = [{"accuracy": 1.0}, {"loss": 0.1}, {"accuracy": 1.0}]
    assert [len(guards.watch(step, row)) for step, row in enumerate(looks)] == [0, 0, 1]


def test_every_limit_is_a_setting() -> None:
    moved = {
        "saturated_accuracy": 0.8,
        "form_auroc": 0.54,
        "kl": 0.01,
        "length_ratio": 1.01,
        "entropy_share": 0.99,
        "length_correlation": 0.05,
    }
    rows = [{}] * 3 + [{"reward": 0.6, "completion_length": 41.0, "entropy": 0.158}] * 3
    for name, value in moved.items():
        assert len(watch(rows, **{name: value})) == 1, name
    assert {kind for _, kind in watch(rows, **moved)} == set(AlarmKind)
    assert watch([{"accuracy": 1.0}] * 4, window=5) == []


def test_guards_go_on_from_their_state() -> None:
    rows = [HEALTHY] * 4 + [HEALTHY | {"accuracy": 1.0, "entropy": 0.01}] * 8
    for cut in range(len(rows)):
        whole, first, again = (Guards(GuardSettings(window=3)) for _ in range(3))
        expected = [alarm for step, row in enumerate(rows) for alarm in whole.watch(step, row)]
        found = [alarm for step, row in enumerate(rows[:cut]) for alarm in first.watch(step, row)]
        again.load_state_dict(json.loads(json.dumps(first.state_dict())))
        found += [alarm for step, row in enumerate(rows[cut:], start=cut) for alarm in again.watch(step, row)]
        assert found == expected
        assert kinds(found) == {AlarmKind.SATURATED, AlarmKind.ENTROPY}


def test_the_correlation_inside_a_question_by_hand() -> None:
    # Between the questions lengths and rewards rise together; inside each, they do not.
    assert correlation_inside([1.0, 2.0, 11.0, 12.0], [20, 10, 120, 110], 2) == pytest.approx(-1.0)
    # Deviations (-1, 0, 1) and (1, -2, 1): orthogonal.
    assert correlation_inside([0, 1, 2], [3, 0, 3], 3) == pytest.approx(0.0)
    assert correlation_inside([1.0, 1.0], [3, 9], 2) == 0.0


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 90)), min_size=8, max_size=8), st.floats(-9, 9))
def test_a_questions_level_is_not_in_the_correlation(rows: list[tuple[float, int]], level: float) -> None:
    rewards, lengths = [r for r, _ in rows], [n for _, n in rows]
    found = correlation_inside(rewards, lengths, 4)
    assert -1.0000001 <= found <= 1.0000001
    moved = [r + level for r in rewards[:4]] + rewards[4:]
    assert correlation_inside(moved, lengths, 4) == pytest.approx(found, abs=1e-5)


# ---- provoked --------------------------------------------------------------------------------------------------------


def length_of(trace: EncodedTrace) -> float:
    return float(len(trace.completion_ids))


def test_a_reward_of_length_is_found_out(
    alternate: Alternate, known: Known, make_policy: Callable[..., PreTrainedModel]
) -> None:
    policy = make_policy()
    policy.generation_config.eos_token_id = list(range(1, 200))  # ends are common, so that completions can grow
    settings = {"critic_updates": 0, "steps": 30, "learning_rate": 1e-2, "max_new_tokens": 24, "clip": 100.0}
    trainer, rows = alternate(policy=policy, reward=known(length_of), **settings)
    assert {AlarmKind.CORRELATION, AlarmKind.LENGTH} <= kinds(trainer.watched.alarms)
    assert all(row["reward_length_correlation"] > 0.99 for row in rows)


def test_a_hacked_reward_is_found_out(alternate: Alternate, known: Known) -> None:
    few = known(lambda trace: sum(token < 50 for token in trace.completion_ids) / 10)
    settings = {"critic_updates": 0, "steps": 60, "questions_per_step": 4, "learning_rate": 3e-2, "kl": 1e-6}
    trainer, rows = alternate(reward=few, **settings)
    assert kinds(trainer.watched.alarms) == {AlarmKind.KL, AlarmKind.ENTROPY}
    assert rows[-1]["reward"] > 0.95


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Metrics of a warm-up under guard, in `metrics.jsonl`."""
    with Metrics(tmp_path / "metrics.jsonl", "warm-up") as metrics:
        yield lambda **settings: Watched(metrics, GuardSettings.model_validate(settings))


def test_a_saturated_discriminator_is_found_out(
    make_critic: MakeCritic, rollouts: list[Rollout], watched: Callable[..., Watched], tmp_path: Path
) -> None:
    seen = watched()
    critic = make_critic(corruptions=0.0, warmup_updates=30, held_out=0.0)
    done = warm_up(critic, rollouts, log=seen.log)
    assert AlarmKind.SATURATED in kinds(seen.alarms)
    assert [row["accuracy"] for row in done.rows[-5:]] == [1.0] * 5
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    alarms = [row for row in told if "alarm" in row]
    assert {row["alarm"] for row in alarms} == {str(alarm.kind) for alarm in seen.alarms}
    assert all({"stage", "step", "message", "seconds"} < row.keys() for row in alarms)


@pytest.mark.parametrize("cut", [True, False])
def test_classes_of_different_form_are_found_out(
    make_critic: MakeCritic,
    demonstrations: list[Demonstration],
    as_rollout: Callable[..., Rollout],
    watched: Callable[..., Watched],
    *,
    cut: bool,
) -> None:
    # The experts' own texts as rollouts; without their end-of-sequence the form alone tells them.
    own = [as_rollout(d, d.trace) for d in demonstrations]
    if cut:
        own = [replace(r, completion_ids=r.completion_ids[:-1]) for r in own]
    seen = watched()
    warm_up(make_critic(positives=16, rollouts=16, warmup_updates=8), own, log=seen.log)
    assert (AlarmKind.FORM in kinds(seen.alarms)) is cut


# ---- pausing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "steps"), [("warn", 5), ("pause", 2)])
def test_an_alarm_pauses_where_it_is_asked_to(
    alternate: Alternate, known: Known, make_policy: Callable[..., PreTrainedModel], action: str, steps: int
) -> None:
    policy = make_policy()
    policy.generation_config.eos_token_id = list(range(1, 200))
    guards = GuardSettings.model_validate({"on_alarm": action, "window": 2})
    settings = {"critic_updates": 0, "steps": 5, "clip": 100.0, "guards": guards}
    trainer, rows = alternate(policy=policy, reward=known(length_of), **settings)
    assert kinds(trainer.watched.alarms) == {AlarmKind.CORRELATION}
    assert (trainer.state.global_step, len(rows)) == (steps, steps)
    saved = Path(trainer.args.output_dir) / "checkpoint-2" / "trainer_state.json"
    assert saved.exists() is (action == "pause")
    if action == "pause":
        with pytest.raises(PausedError, match="adversarial: reward-follows-length at step 2"):
            trainer.pause.raise_if_paused()
    else:
        trainer.pause.raise_if_paused()


def test_a_training_that_ends_anyway_is_let_end(
    alternate: Alternate, known: Known, make_policy: Callable[..., PreTrainedModel]
) -> None:
    policy = make_policy()
    policy.generation_config.eos_token_id = list(range(1, 200))
    guards = GuardSettings.model_validate({"on_alarm": "pause", "window": 3})
    trainer, _ = alternate(policy=policy, reward=known(length_of), critic_updates=0, steps=3, clip=100.0, guards=guards)
    assert trainer.watched.pauses
    trainer.pause.raise_if_paused()


def test_a_paused_stage_says_why(watched: Callable[..., Watched]) -> None:
    seen = watched(on_alarm="pause", window=2)
    for step in range(3):
        seen.log({"step": step, "accuracy": 1.0})
    assert seen.pauses
    error = seen.paused()
    assert isinstance(error, PausedError)
    expected = "warm-up: discriminator-saturated at step 1 (discriminator accuracy must stay below 0.99: got 1.000)"
    assert str(error) == expected
