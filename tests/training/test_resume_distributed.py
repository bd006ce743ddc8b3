"""Two processes go on from a checkpoint as one does: each has rollouts and random states of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import shutil, sys
from pathlib import Path
import torch, transformers
from traceward.builtin import TOKENIZER
from traceward.builtin.small import small_llama
from traceward.data.formats import Format
from traceward.data.tasks import stories
from traceward.loading import load_tokenizer
from traceward.records import Credit, Head, UnitSpec
from traceward.rewards.model import new_reward
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.checkpoints import Checkpoints
from traceward.training.critic import Critic
from traceward.training.distribution import join, on_main, place
from traceward.training.resume import train
from traceward.training.settings import AdversarialConfig, CriticSettings

join()
transformers.utils.logging.disable_progress_bar()
room, tokenizer, experts = Path(sys.argv[1]), load_tokenizer(TOKENIZER), stories.demonstrations(10, seed=5)

def start(checkpoints):
    policy, learns = (
        small_llama(tokenizer, hidden=32, intermediate=64, layers=2, heads=4, context=256, seed=0) for _ in range(2)
    )
    for layer in policy.model.layers:
        layer.self_attn.attention_dropout = 0.2
    reward = new_reward(learns, tokenizer, head=Head.LOG_RATIO, spec=UnitSpec(), style=Format.PLAIN)
    critic = Critic(reward, experts, CriticSettings(positives=4, rollouts=6, replay=10, held_out=0.0), seed=0)
    # Two batches of rollouts an epoch, each for two steps in two backward passes of each process.
    config = AdversarialConfig(steps=5, iterations=2, questions_per_step=4, group=2, rollouts_per_backward=2,
                               max_new_tokens=8, credit=Credit.TRACE_MEAN, learning_rate=1e-2)
    trainer = AdversarialTrainer(policy=policy, tokenizer=tokenizer, reward=reward, critic=critic, seed=3,
                                 demonstrations=experts, config=config, directory=room / "trainer")
    train(trainer, checkpoints, trainer.parts)
    return [*policy.state_dict().values(), *reward.state_dict().values()]

whole = Checkpoints(room / "whole", every=1, keep=9)
expected = start(whole)
for step in (3, 4):
    again = Checkpoints(room / str(step), every=0)
    on_main(shutil.copytree)(whole.directory / f"checkpoint-{step}", again.directory / f"checkpoint-{step}")
    torch.manual_seed(step)
    same = all(torch.equal(a, b) for a, b in zip(expected, start(again), strict=True))
    (room / f"{step}-{place()[0]}").write_text(str(same))
"""


@pytest.mark.slow
def test_two_processes_go_on_inside_a_batch_of_rollouts_and_at_an_epochs_end(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    alone = {key: value for key, value in os.environ.items() if key not in {"WORLD_SIZE", "RANK", "LOCAL_RANK"}}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        program,
        tmp_path,
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr[-4000:]
    files = {path.name for path in (tmp_path / "whole" / "checkpoint-3").iterdir()}
    assert {"parts-0.pt", "parts-1.pt", "rng_state_0.pth", "rng_state_1.pth", "whole.json"} <= files
    found = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("?-?")}
    assert found == {"3-0": "True", "3-1": "True", "4-0": "True", "4-1": "True"}
