"""What a stage leaves behind when the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.config import Arm, Recipe, resolve
from traceward.data.jsonl import write_jsonl
from traceward.data.tasks import stories
from traceward.errors import RunError
from traceward.loading import load_policy
from traceward.rewards.model import RewardModel
from traceward.training.run_directory import RunDirectory
from traceward.workflows import stages
from traceward.workflows.arms import arm
from traceward.workflows.inputs import base_policy, quiet, save_policy, sft_policy


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), RunError),
        (RuntimeError("SafetensorError: File too large (os error 27)"), RunError),
        (RuntimeError("a fault of ours"), RuntimeError),
    ],
)
def test_a_full_disk_in_a_stage_is_told_and_a_fault_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    def fail(_run: RunDirectory) -> None:
        raise error

    threads = torch.get_num_threads()
    monkeypatch.setattr(stages, "die_with", lambda _parent: None)
    monkeypatch.setattr(stages, "rollouts", fail)
    with pytest.raises(kind) as caught:
        stages.run_stage(str(tmp_path), "rollouts", threads, os.getppid())
    assert type(caught.value) is kind
    if kind is RunError:
        assert str(caught.value).startswith("run must be writable: got '")
        assert str(caught.value).endswith("in stage rollouts; free space and run the same command again")


def test_a_policy_is_there_whole_or_not_at_all(
    tmp_path: Path, policy: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(tmp_path / "run", Recipe())
    model, _ = load_policy(policy, policy)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(tokenizer), "save_pretrained", full)
        with pytest.raises(OSError, match="No space left"):
            save_policy(run, "sft", model, tokenizer)
    assert list((run.path / "policies").iterdir()) == []
    save_policy(run, "sft", model, tokenizer)
    again, _ = load_policy(run.path / "policies" / "sft", run.path / "policies" / "sft")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def weights_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_starts_from_sft_has_its_weights(tmp_path: Path, policy: Path) -> None:
    for split, seed in (("train", 1), ("test", 2)):
        rows = [
            {"question": d.problem.question, "steps": list(d.trace.steps), "answer": d.trace.answer}
            for d in stories.demonstrations(6, seed=seed, relations=(2, 2))
        ]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    tree = {
        "run": {"start": "sft", "arms": ["reward_frozen"]},
        "data": {"task": "jsonl", "path": str(tmp_path), "test": 2, "validation": 0},
        "policy": {"path": str(policy)},
        "sft": {"steps": 2, "learning_rate": 0.1},
        "reward": {"start": "sft"},
        "critic": {"held_out": 0, "warmup_updates": 0, "rollouts_per_question": 2},
        "adversarial": {"steps": 1, "questions_per_step": 2, "group": 2, "max_new_tokens": 4, "learning_rate": 1e-9},
        "evaluation": {"policy_samples": 1},
    }
    run = RunDirectory.create(tmp_path / "run", resolve(tree, where="test"))
    quiet()
    stages.sft(run)
    stages.rollouts(run)
    stages.reward(run)
    base, _ = base_policy(run)
    tuned, _ = sft_policy(run)
    assert not weights_equal(base, tuned)
    learned = RewardModel.load(run.path / "reward")
    assert learned.reference is not None
    assert weights_equal(learned.backbone, tuned)
    assert weights_equal(learned.reference, base)
    arm(run, Arm.REWARD_FROZEN)
    start = run.path / "policies" / "reward_frozen" / "start-policy"
    assert weights_equal(load_policy(start, start)[0], tuned)
