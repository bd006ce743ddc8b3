"""Tiny random models on disk, a few traces, and a way to run a verb in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from traceward.cli import run
from traceward.data.formats import Format
from traceward.data.tasks import stories
from traceward.loading import load_causal_lm
from traceward.records import Granularity, Head, UnitSpec
from traceward.rewards.model import new_reward

Row = dict[str, Any]
CONTEXT = 160


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A random causal language model with its tokenizer."""
    directory = tmp_path_factory.mktemp("policy") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,  # far from uniform, so that scores differ
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _save(policy: Path, tokenizer: PreTrainedTokenizerBase, head: Head, directory: Path) -> Path:
    reward = new_reward(
        load_causal_lm(policy), tokenizer, head=head, spec=UnitSpec(Granularity.INTERVAL), style=Format.PLAIN, seed=1
    )
    with torch.no_grad():
        for parameter in reward.backbone.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)), alpha=0.05)
    reward.save(directory)
    return directory


@pytest.fixture(scope="session")
def reward(policy: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A log-ratio reward a little away from its start."""
    return _save(policy, tokenizer, Head.LOG_RATIO, policy.parent / "log-ratio")


@pytest.fixture(scope="session")
def scalar_reward(policy: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A random scalar reward."""
    return _save(policy, tokenizer, Head.SCALAR, policy.parent / "scalar")


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six worked solutions."""
    path = tmp_path_factory.mktemp("data") / "demonstrations.jsonl"
    found = stories.demonstrations(6, seed=1, relations=(2, 2))
    write(
        path, [{"question": d.problem.question, "steps": list(d.trace.steps), "answer": d.trace.answer} for d in found]
    )
    return path


TRACES: list[Row] = [
    {"id": f"{question}-{answer}", "qid": f"q{question}", "question": f"What is {question} + 1?", "extra": [question],
     "steps": [f"Ann has {question} + 1 = {answer} pens.", "So we are done."], "model_answer": str(answer),
     "answer": str(question + 1), "first_error": -1 if answer == question + 1 else 0, "source": f"s{question % 2}"}
    for question in range(4)
    for answer in (question, question + 1, question + 2)
]  # fmt: skip


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Three traces of each of four questions, one of them right."""
    return write(tmp_path / "traces.jsonl", TRACES)


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    """What `main` does through the environment before transformers is imported."""
    logging.disable_progress_bar()


class Verb:
    """Runs a command line in this process."""

    write = staticmethod(write)
    read = staticmethod(read)

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> str:
        """stdout of a run that must succeed."""
        code = run([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        self.err = err
        return out

    def fails(self, *arguments: object) -> str:
        """stderr of a run that must end with exit code 2 and without output."""
        code = run([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert err.startswith("traceward: error: ")
        return err


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(capsys)
