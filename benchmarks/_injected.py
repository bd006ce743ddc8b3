"""Adversarial rounds on recorded rollouts: python benchmarks/_injected.py OUT [--only OBJECTIVE:HEAD:CREDIT ...]

The same file runs alone and under torchrun; what it writes must then be the same. Rollouts are made here and put in
place of sampling, because TRL seeds every process differently on purpose. `benchmarks/distributed.py` and
tests/training/test_distribution.py compare.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import TrainerCallback

from traceward.builtin import TOKENIZER
from traceward.builtin.small import small_llama
from traceward.data.formats import Format, completion_text
from traceward.data.tasks import stories
from traceward.errors import ConfigError
from traceward.loading import load_tokenizer
from traceward.records import Credit, Head, Objective, Trace, UnitSpec
from traceward.rewards.model import new_reward
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.critic import Critic
from traceward.training.distribution import everyone, is_main, join, place
from traceward.training.settings import AdversarialConfig, CriticSettings
from traceward.training.step_times import PREFIX
from traceward.workflows.inputs import quiet

STEPS, QUESTIONS, GROUP = 3, 4, 4
DEMONSTRATIONS = 6


class Injected(AdversarialTrainer):
    """Takes its rollouts from a list instead of sampling them, and keeps the advantages of each step."""

    def __init__(self, *, recorded: list[list[tuple[int, ...]]], **options: Any) -> None:
        self.recorded = iter(recorded)
        self.credited: list[list[float]] = []
        self.rounds_between_backward_passes = 0
        super().__init__(**options)

    def _generate_single_turn(self, prompt_ids: list[Any], *_: Any) -> tuple[list[list[int]], None]:
        start = place()[0] * len(prompt_ids)
        self.rounds_between_backward_passes += not self.accelerator.sync_gradients
        return [list(ids) for ids in next(self.recorded)[start : start + len(prompt_ids)]], None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        rows = zip(out["advantages"], out["completion_mask"], strict=True)
        self.credited += everyone([row[mask.bool()].tolist() for row, mask in rows])
        return out


class Rows(TrainerCallback):
    """Keeps the logged rows, without times."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        times = ("time", "_per_second")
        self.rows.append({k: v for k, v in (logs or {}).items() if not (k.endswith(times) or k.startswith(PREFIX))})


def recorded_rollouts(tokenizer: Any) -> list[list[tuple[int, ...]]]:
    """For each step, a completion per row of the batch: poor reasoning of many lengths, most with an answer."""
    rng = random.Random("recorded")
    words = ["Ann", "has", "red", "pens", "and", "the", "ball", "dances", "left", "7", "12"]
    steps = []
    for _ in range(STEPS):
        rows = []
        for _ in range(QUESTIONS * GROUP):
            lines = tuple(" ".join(rng.choices(words, k=rng.randint(1, 9))) + "." for _ in range(rng.randint(1, 4)))
            text = completion_text(Trace(lines, rng.choice(["7", "12", "12", None])), Format.PLAIN)
            ids = tuple(tokenizer(text)["input_ids"])
            rows.append(ids if rng.random() < 0.2 else (*ids, tokenizer.eos_token_id))
        steps.append(rows)
    return steps


def round_of(objective: Objective, head: Head, credit: Credit, directory: Path) -> dict[str, Any]:
    """Weights, advantages and metrics after STEPS rounds, on every process."""
    tokenizer = load_tokenizer(TOKENIZER)
    policy = small_llama(tokenizer, hidden=32, intermediate=64, layers=2, heads=4, context=256, seed=0)
    policy.config.classifier_dropout = 0.0
    reward = new_reward(policy.eval(), tokenizer, head=head, spec=UnitSpec(), style=Format.PLAIN, seed=1)
    # A log-ratio is zero at its start but for rounding, and its accuracy the rounding's.
    with torch.no_grad():
        for weight in reward.backbone.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    demonstrations = stories.demonstrations(DEMONSTRATIONS, seed=5, relations=(2, 2))
    settings = CriticSettings(
        objective=objective,
        positives=5,
        rollouts=9,
        held_out=0,
        learning_rate=1e-3,
        head_learning_rate=1e-3,
        traces_per_pass=4,
    )
    critic = Critic(reward, demonstrations, settings, seed=0)
    config = AdversarialConfig(
        steps=STEPS,
        questions_per_step=QUESTIONS,
        group=GROUP,
        rollouts_per_backward=2,
        max_new_tokens=64,
        critic_updates=2,
        credit=credit,
        kl=0.02,
        clip=20.0,  # an untrained policy is paid some 7 nats per token by airl
        learning_rate=1e-3,
    )
    start = [weight.detach().clone() for weight in (*policy.parameters(), *reward.learned.parameters())]
    rows = Rows()
    trainer = Injected(
        policy=policy,
        tokenizer=tokenizer,
        reward=reward,
        critic=critic,
        demonstrations=demonstrations,
        config=config,
        directory=directory,
        callbacks=[rows],
        recorded=recorded_rollouts(tokenizer),
    )
    trainer.train()
    assert trainer.rounds_between_backward_passes == STEPS  # where accelerate lets no optimiser step
    policy_weights, critic_weights = (
        [weight.detach().clone() for weight in model.parameters()] for model in (policy, reward.learned)
    )
    both = [*policy_weights, *critic_weights]
    sums = everyone([[weight.double().sum().item() for weight in both]])
    return {
        "policy": policy_weights,
        "critic": critic_weights,
        "advantages": [value for row in trainer.credited for value in row],
        "metrics": rows.rows,
        "moved": max((a - b).abs().max().item() for a, b in zip(start, both, strict=True)),
        "same_everywhere": all(one == sums[0] for one in sums),
    }


def names() -> list[str]:
    """Every combination, as OBJECTIVE:HEAD:CREDIT."""
    return [":".join(parts) for parts in product(*(map(str, kind) for kind in (Objective, Head, Credit)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=names())
    chosen = parser.parse_args()
    join()
    quiet()
    found: dict[str, Any] = {"processes": place()[1]}
    with tempfile.TemporaryDirectory() as room:
        (directory,) = everyone([room])[:1]
        for name in chosen.only:
            objective, head, credit = name.split(":")
            place_of = Path(directory) / name.replace(":", "-")
            try:
                found[name] = round_of(Objective(objective), Head(head), Credit(credit), place_of)
            except ConfigError:  # no such reward
                found[name] = None
        everyone([0])  # the directory stays until all are done
    if is_main():
        torch.save(found, chosen.out)


if __name__ == "__main__":
    main()
