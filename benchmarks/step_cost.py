"""What the discriminator adds to a GRPO step: python benchmarks/step_cost.py [--quick]

Five trainers in one process take turns, a step each, in an order that is reversed every round: TRL's own GRPOTrainer;
ours with one discriminator update of 64 traces (16 experts, 16 corruptions, 32 rollouts); with three such updates; with
one update of a full-size batch (96 + 96 + 192); and with one update where the policy learns from further questions, so
that the update's 16 fresh rollouts, which answer its experts' questions, have to be sampled too. All sample 192
completions of the same forced length, with the same KL term, on the same random model. A ratio is the sum of our steps'
seconds over the sum of TRL's in the same rounds; its interval resamples rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _record import record
from transformers import TrainerCallback
from trl import GRPOTrainer

from traceward.builtin import TOKENIZER
from traceward.builtin.small import small_llama
from traceward.data.formats import Format
from traceward.data.tasks import stories
from traceward.evaluation.statistics import bootstrap_ratio
from traceward.loading import load_tokenizer
from traceward.rewards.model import new_reward
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.baselines import silence
from traceward.training.critic import Critic
from traceward.training.grpo import grpo_arguments, question_rows
from traceward.training.reference import keep_start_policy
from traceward.training.settings import AdversarialConfig, CriticSettings, RewardSettings
from traceward.training.step_times import PREFIX, StepTimes
from traceward.workflows.inputs import quiet

SIZES = {
    "0.4M": {"hidden": 96, "intermediate": 192, "layers": 4, "heads": 4},
    "3M": {"hidden": 224, "intermediate": 560, "layers": 5, "heads": 8},
}
LENGTH = 40  # tokens of every completion: the mean of the experts'
QUESTIONS, GROUP = 24, 8
WARM = 2  # rounds that are not counted
SMALL = {"positives": 16, "rollouts": 32}
FULL = {"positives": 96, "rollouts": 192, "traces_per_pass": 384}
OURS: dict[str, tuple[int, dict[str, int]]] = {
    "one_update": (1, SMALL),
    "three_updates": (3, SMALL),
    "full_batch": (1, FULL),
    "further_questions": (1, SMALL),
}


class Turns:
    """Lets one trainer at a time make a step: those of a round in order, the next round in reverse."""

    def __init__(self, names: Sequence[str], rounds: int) -> None:
        orders = [list(names) if at % 2 == 0 else list(reversed(names)) for at in range(rounds)]
        self.order = [name for order in orders for name in order]
        self.at = 0
        self.changed = threading.Condition()

    def wait(self, name: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.order[self.at : self.at + 1] == [name])

    def done(self) -> None:
        with self.changed:
            self.at += 1
            self.changed.notify_all()


class Timed(TrainerCallback):
    """Waits for its turn before a step; keeps its seconds, on the wall and of this thread, and the logged rows."""

    def __init__(self, name: str, turns: Turns) -> None:
        self.name, self.turns = name, turns
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.rows: list[dict[str, float]] = []
        self.since = (0.0, 0.0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.turns.wait(self.name)
        self.since = (time.perf_counter(), time.thread_time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wall, cpu = self.since
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.thread_time() - cpu)
        self.turns.done()

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if "loss" in (logs or {}):
            self.rows.append(dict(logs or {}))


def trainer_of(name: str, size: str, rounds: int, directory: Path, timed: Timed) -> GRPOTrainer:
    """TRL's trainer or one of ours, all on equal weights and settings."""
    tokenizer = load_tokenizer(TOKENIZER)
    policy = small_llama(tokenizer, context=256, seed=0, **SIZES[size])
    demonstrations = stories.demonstrations(100, seed=0)
    questions = [d.problem for d in demonstrations]
    if name == "further_questions":
        questions = [d.problem for d in stories.demonstrations(1000, seed=1)]
    updates, batch = OURS.get(name, (0, {}))
    config = AdversarialConfig(
        steps=rounds,
        questions_per_step=QUESTIONS,
        group=GROUP,
        max_new_tokens=LENGTH,
        critic_updates=updates,
        accuracy_low=0,  # without a band, `critic_updates` is what every step has
        accuracy_high=1,
        learning_rate=1e-6,
    )
    if name in OURS:
        settings = RewardSettings()
        reward = new_reward(
            policy.eval(),
            tokenizer,
            head=settings.head,
            spec=settings.spec,
            style=Format.PLAIN,
            beta=settings.beta,
            reference_share=settings.reference_share,
        )
        critic = Critic(reward, demonstrations, CriticSettings.model_validate(batch), seed=0)
        trainer: GRPOTrainer = AdversarialTrainer(
            policy=policy,
            tokenizer=tokenizer,
            reward=reward,
            critic=critic,
            demonstrations=demonstrations,
            questions=questions,
            config=config,
            directory=directory,
            callbacks=[timed],
        )
    else:
        keep_start_policy(policy, tokenizer, directory)
        trainer = GRPOTrainer(
            model=policy,
            processing_class=tokenizer,
            reward_funcs=lambda completion_ids, **_: [float(ids[0] % 2) for ids in completion_ids],
            train_dataset=question_rows(questions, config, Format.PLAIN, tokenizer),
            args=grpo_arguments(config, directory, seed=0),
            callbacks=[timed],
        )
        trainer.add_callback(StepTimes(trainer))
    silence(trainer)
    trainer.generation_config.min_new_tokens = LENGTH
    return trainer


def measure(size: str, rounds: int) -> dict[str, Any]:
    """Seconds of every trainer's steps, and the ratios."""
    names = ["grpo", *OURS]
    turns = Turns(names, rounds)
    timed = {name: Timed(name, turns) for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        trainers = {name: trainer_of(name, size, rounds, Path(scratch) / name, timed[name]) for name in names}
        threads = [threading.Thread(target=trainer.train, name=name) for name, trainer in trainers.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for one in timed.values():
        assert len(one.wall) == rounds
        assert {row["completions/mean_length"] for row in one.rows} == {LENGTH}
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in trainers["grpo"].model.parameters()),
        "rounds": rounds - WARM,
        "seconds": {name: one.wall[WARM:] for name, one in timed.items()},
        "parts": {name: parts(one.rows[WARM:]) for name, one in timed.items()},
    }
    for clock in ("wall", "cpu"):
        base = getattr(timed["grpo"], clock)[WARM:]
        ratios = {name: bootstrap_ratio(getattr(timed[name], clock)[WARM:], base, seed=0) for name in OURS}
        found[f"ratio_{clock}"] = {name: [one.value, one.low, one.high] for name, one in ratios.items()}
    return found


def parts(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean seconds of each part of a step, where the trainer times them."""
    names = [key for key in rows[0] if key.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): sum(row[name] for row in rows) / len(rows) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds, to see that the script works")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=24, help="rounds that are counted")
    chosen = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    rounds = WARM + (3 if chosen.quick else chosen.rounds)
    found = {size: measure(size, rounds) for size in chosen.sizes}
    worst = {name: max((found[size]["ratio_wall"][name] for size in found), key=lambda r: r[0]) for name in OURS}
    keys = {
        "one_update": "ratio_to_grpo",
        "three_updates": "ratio_to_grpo_3_updates",
        "full_batch": "ratio_full_batch",
        "further_questions": "ratio_further_questions",
    }
    summary: dict[str, float | None] = {}
    for name, key in keys.items():
        summary |= dict(zip((key, f"{key}_low", f"{key}_high"), worst[name], strict=True))
        summary |= {f"{key}_{size}": found[size]["ratio_wall"][name][0] for size in found}
    print(record("step_cost", seeds=[0], summary=summary, details=found, quick=chosen.quick))


if __name__ == "__main__":
    main()
