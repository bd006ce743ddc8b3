"""A grid that runs in seconds: a model from nothing, a handful of problems, one policy step."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL = """
[run]
name = "small"
arms = ["sft", "adversarial"]
[data]
demonstrations = 6
questions = 4
validation = 3
test = 4
[policy]
path = "scratch"
scratch = { vocabulary = 320, hidden = 16, layers = 1, heads = 2, steps = 4, batch = 4 }
[sft]
steps = 2
batch = 2
[critic]
warmup_updates = 2
warmup_at_least = 1
check_every = 1
rollouts_per_question = 2
positives = 2
rollouts = 4
[adversarial]
steps = 1
questions_per_step = 2
group = 2
scale_rewards = "none"
max_new_tokens = 12
[evaluation]
samples = 2
policy_samples = 2
examples = 1
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A grid file of two learning rates of the policy and two heads, one of which does not go with one of the rates."""
    return write_small(tmp_path / "small.toml")


def write_small(path: Path) -> Path:
    """SMALL with axes on the policy's side, on the reward's side, and on none's."""
    path.write_text(
        SMALL
        + """
[ablation]
compare = [["adversarial", "sft"], ["best", "base"]]
[grid]
adversarial.credit = ["consensus", "reward-to-go"]
adversarial.baseline = ["group-mean", "leave-one-out"]
run.seed = [0, 1]
""",
        encoding="utf-8",
    )
    return path
