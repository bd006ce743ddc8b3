"""Two processes train policy and reward on one copy of the base's weights as they do on two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, warnings
from pathlib import Path
import torch, transformers
from traceward.adapters import adapted_policy, on_the_weights_of
from traceward.builtin import TOKENIZER
from traceward.builtin.small import small_llama
from traceward.data.formats import Format
from traceward.data.tasks import stories
from traceward.loading import load_tokenizer
from traceward.records import Credit, Head, UnitSpec
from traceward.rewards.model import new_reward
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.critic import Critic
from traceward.training.distribution import join, place
from traceward.training.adapter import AdapterSettings
from traceward.training.settings import AdversarialConfig, CriticSettings

join()
warnings.simplefilter("ignore")
transformers.utils.logging.disable_progress_bar()
room, tokenizer, experts = Path(sys.argv[1]), load_tokenizer(TOKENIZER), stories.demonstrations(10, seed=5)
adapter = AdapterSettings(rank=2)

def run(shared):
    base, other = (
        small_llama(tokenizer, hidden=32, intermediate=64, layers=2, heads=4, context=256, seed=0) for _ in range(2)
    )
    policy = adapted_policy(on_the_weights_of(base) if shared else other, adapter, seed=0)
    reward = new_reward(base, tokenizer, head=Head.SCALAR, spec=UnitSpec(), style=Format.PLAIN, adapter=adapter)
    critic = Critic(reward, experts, CriticSettings(positives=4, rollouts=6, held_out=0.0), seed=0)
    config = AdversarialConfig(steps=3, questions_per_step=2, group=2, max_new_tokens=6, credit=Credit.TRACE_MEAN,
                               learning_rate=1e-1, scale_rewards="group")
    trainer = AdversarialTrainer(policy=policy, tokenizer=tokenizer, reward=reward, critic=critic, seed=3,
                                 demonstrations=experts, config=config, directory=room / f"trainer-{shared}")
    before = [w.clone() for model in (policy, reward) for w in model.state_dict().values()]
    trainer.train()
    after = [w.clone() for model in (policy, reward) for w in model.state_dict().values()]
    return after, sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))

(one, moved), (two, _) = run(True), run(False)
torch.save(one, room / f"weights-{place()[0]}.pt")
(room / f"said-{place()[0]}").write_text(f"{all(map(torch.equal, one, two))} {moved > 40}")
"""


@pytest.mark.slow
def test_two_processes_share_a_backbone(tmp_path: Path) -> None:
    import torch

    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    alone = {key: value for key, value in os.environ.items() if key not in {"WORLD_SIZE", "RANK", "LOCAL_RANK"}}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(program), str(tmp_path)], capture_output=True, text=True, check=False, env=alone
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert [path.read_text(encoding="utf-8") for path in sorted(tmp_path.glob("said-*"))] == ["True True"] * 2
    first, second = (torch.load(path) for path in sorted(tmp_path.glob("weights-*.pt")))
    assert all(map(torch.equal, first, second))
