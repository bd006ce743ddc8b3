"""Where a step's time goes: by a clock of our own, and on both trainers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import Format
from traceward.records import Demonstration, Problem
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.baselines import outcome_rl
from traceward.training.callbacks import MetricsCallback
from traceward.training.critic import Critic
from traceward.training.run_directory import Metrics
from traceward.training.settings import AdversarialConfig
from traceward.training.step_times import PARTS, Clock, StepTimes

MakePolicy = Callable[..., PreTrainedModel]
MakeCritic = Callable[..., Critic]
SMALL = {"steps": 2, "questions_per_step": 2, "group": 2, "max_new_tokens": 6, "critic_updates": 1}


def test_a_part_has_no_seconds_of_those_inside_it() -> None:
    times = iter([0.0, 1.0, 3.0, 7.0, 12.0, 20.0])
    clock = Clock(lambda: next(times))
    clock.start("policy")  # at 1
    clock.start("rollout")  # at 3
    clock.stop()  # at 7
    clock.stop()  # at 12
    found = clock.take()  # at 20
    assert found == {"rollout": 4.0, "discriminator": 0.0, "scoring": 0.0, "policy": 2.0 + 5.0, "other": 1.0 + 8.0}
    assert list(found) == list(PARTS)


def test_a_part_that_raises_is_over() -> None:
    trainer = SimpleNamespace(_generate=lambda: 1 / 0, log=None)
    timed = StepTimes(trainer)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        trainer._generate()
    timed.clock.take()
    time.sleep(0.01)
    found = timed.clock.take()
    assert (found["rollout"], found["other"] >= 0.01) == (0.0, True)


def parts(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{part: row[f"seconds_{part}"] for part in PARTS} for row in rows]


# TRL still says it in the words that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
def test_every_step_of_both_trainers_is_divided(
    make_policy: MakePolicy,
    make_critic: MakeCritic,
    demonstrations: list[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    kept: dict[str, list[dict[str, Any]]] = {"ours": [], "outcome": []}
    metrics: Any = SimpleNamespace(log=kept["ours"].append)
    critic = make_critic(positives=2, rollouts=2)
    config = AdversarialConfig.model_validate(SMALL)
    started = time.perf_counter()
    AdversarialTrainer(
        policy=make_policy(),
        tokenizer=tokenizer,
        reward=critic.reward,
        critic=critic,
        demonstrations=demonstrations,
        config=config,
        directory=tmp_path / "ours",
        callbacks=[MetricsCallback(metrics)],
    ).train()
    took = time.perf_counter() - started
    divided = parts([row for row in kept["ours"] if "loss" in row])
    assert len(divided) == 2
    assert all(step[part] > 0 for step in divided for part in PARTS)
    assert sum(sum(step.values()) for step in divided) <= took
    questions: list[Problem] = [d.problem for d in demonstrations]
    with Metrics(tmp_path / "outcome.jsonl", "outcome") as stream:
        stream.log = kept["outcome"].append  # type: ignore[method-assign]
        outcome_rl(
            make_policy(),
            tokenizer,
            questions,
            config,
            tmp_path / "trl",
            style=Format.PLAIN,
            seed=0,
            callbacks=[MetricsCallback(stream)],
        )
    divided = parts([row for row in kept["outcome"] if "loss" in row])
    assert all(step["discriminator"] == 0 and step["rollout"] > 0 and step["scoring"] > 0 for step in divided)
