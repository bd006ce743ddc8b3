"""What a stage leaves behind when the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.config import Recipe
from traceward.errors import RunError
from traceward.loading import load_policy
from traceward.training.run_directory import RunDirectory
from traceward.workflows import stages
from traceward.workflows.inputs import save_policy


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
