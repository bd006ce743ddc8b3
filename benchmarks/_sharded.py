"""A discriminator whose weights or states are sharded: python benchmarks/_sharded.py KIND OUT

KIND: plain (one process), fsdp2, zero2, zero3 (under torchrun; the last two where deepspeed is installed). The same
updates, look and scores, the reward saved, and a checkpoint taken back; what is written must be the same.
`benchmarks/distributed.py` and tests/training/test_distribution.py compare.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _on_cpus import KINDS, shard_on_cpus
from accelerate import Accelerator
from accelerate.utils import DistributedType

from traceward.builtin import TOKENIZER
from traceward.builtin.small import small_llama
from traceward.data.formats import EncodedTrace, Format, completion_text, encode
from traceward.data.tasks import stories
from traceward.loading import load_tokenizer
from traceward.records import Head, Rollout, Trace, UnitSpec
from traceward.rewards.model import new_reward
from traceward.training.critic import Critic
from traceward.training.distribution import in_pieces, is_main, load_whole, save_whole, shared_scores
from traceward.training.settings import CriticSettings
from traceward.workflows.inputs import quiet

UPDATES = 3


def prepared_by(kind: str) -> Accelerator | None:
    """The Accelerator that a trainer would hand over."""
    if kind == "plain":
        return None
    shard_on_cpus(kind)
    found = Accelerator(cpu=kind == "fsdp2")
    if kind != "fsdp2":
        found.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    return found


def poor_rollouts(items: list[Any], tokenizer: Any) -> list[Rollout]:
    """Three traces of each question that no expert would write."""
    found = []
    for item in items:
        for number in range(3):
            trace = Trace((f"The left ball is red {number}.", "So the dance starts."), str(900 + number))
            ids = encode(item.problem, trace, Format.PLAIN, tokenizer)
            text = completion_text(trace, Format.PLAIN)
            found.append(Rollout(item.problem.id, ids.prompt_ids, ids.completion_ids, text))
    return found


def learn(accelerator: Accelerator | None, head: Head, out: Path) -> dict[str, Any]:
    """Updates, a look, scores, a checkpoint taken back; the reward in `out`."""
    load_whole()
    tokenizer = load_tokenizer(TOKENIZER)
    policy = small_llama(tokenizer, hidden=32, intermediate=64, layers=2, heads=4, context=256, seed=0)
    policy.config.classifier_dropout = 0.0
    reward = new_reward(policy.eval(), tokenizer, head=head, spec=UnitSpec(), style=Format.PLAIN, seed=1)
    # A log-ratio is zero at its start but for rounding, and its accuracy the rounding's.
    with torch.no_grad():
        for weight in reward.backbone.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    items = stories.demonstrations(6, seed=5, relations=(2, 2))
    settings = CriticSettings(positives=5, rollouts=9, held_out=0, learning_rate=1e-3, traces_per_pass=4)
    critic = Critic(reward, items, settings, seed=0)
    if accelerator is not None:
        critic.learner.prepare(accelerator)
    rollouts = poor_rollouts(items, tokenizer)
    found: dict[str, Any] = {"updates": [critic.update(rollouts) for _ in range(UPDATES)]}
    found["look"] = critic.discrimination(critic.positives(items) + critic.rollouts(rollouts))
    traces = [EncodedTrace(r.prompt_ids, r.completion_ids, r.problem_id) for r in rollouts]
    found["scores"] = [score.exported for score in shared_scores(reward, traces, spec=None)]
    found["pieces"] = in_pieces(reward.backbone)
    save_whole(reward.backbone, partial(reward.save, out))
    if accelerator is None or accelerator.distributed_type is not DistributedType.DEEPSPEED:
        state = critic.state_dict()
        torch.save(state, out.with_suffix(f".{int(is_main())}.pt"))
        once = critic.update(rollouts)
        critic.load_state_dict(torch.load(out.with_suffix(f".{int(is_main())}.pt"), weights_only=True))
        found["again"] = [once, critic.update(rollouts)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["plain", *KINDS[1:]])
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    quiet()
    chosen.out.mkdir(parents=True, exist_ok=True)
    accelerator = prepared_by(chosen.kind)
    found = {str(head): learn(accelerator, head, chosen.out / str(head)) for head in Head}
    if is_main():
        (chosen.out / "figures.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
