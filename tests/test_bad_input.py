"""Bad input on every verb: exit code 2, one line (and the places below it), no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from traceward.cli import run
from traceward.data.formats import Format
from traceward.records import Head, UnitSpec
from traceward.rewards.model import new_reward

GOOD: dict[str, Any] = {"question": "What is 1 + 1?", "steps": ["We add 1 + 1 = 2."], "answer": "2", "first_error": -1}
MAIN = "from traceward.cli import main; main()"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A directory with a tiny `policy` and a `reward`."""
    logging.disable_progress_bar()
    directory = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=96, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    policy = LlamaForCausalLM(config)
    policy.save_pretrained(directory / "policy")
    tokenizer.save_pretrained(directory / "policy")
    new_reward(policy, tokenizer, head=Head.LOG_RATIO, spec=UnitSpec(), style=Format.PLAIN).save(directory / "reward")
    return directory


def _rows(path: Path, count: int = 8) -> Path:
    """Good rows, with different questions."""
    rows = [{**GOOD, "question": f"What is {index} + 1?"} for index in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _command(verb: str, data: Path, models: Path, out: Path) -> list[str]:
    asked = {"fit": ["policy"], "evaluate": ["policy"], "search": ["policy", "reward"]}.get(verb, ["reward"])
    given = [word for name in asked for word in (f"--{name}", str(models / name))]
    more = ["--max-new-tokens", "8"] if "policy" in asked else []
    return [verb, str(data), *given, "--out", str(out), *more]


def _refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *, lines: int = 1) -> str:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("traceward: error: ")
    assert len(err.splitlines()) == lines, err
    assert "Traceback" not in err
    return err


FILE_VERBS = ("fit", "score", "rerank", "search", "localise", "evaluate")


@pytest.mark.parametrize("verb", FILE_VERBS)
@pytest.mark.parametrize("fault", ["missing", "empty", "directory", "line 7", "torn gzip", "latin-1"])
def test_broken_files(verb: str, fault: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data" / "in.jsonl", tmp_path / "out" / "made"
    data.parent.mkdir()
    out.parent.mkdir()
    place = str(data)
    if fault == "empty":
        data.write_bytes(b"")
    elif fault == "directory":
        data.mkdir()
    elif fault == "torn gzip":
        import gzip

        data.write_bytes(gzip.compress(os.urandom(200_000))[:1000])
    elif fault != "missing":
        lines = _rows(data).read_text().splitlines()
        lines[6] = lines[6][:-9] if fault == "line 7" else lines[6].replace("We", "Wé")
        data.write_bytes("\n".join(lines).encode("latin-1"))
        place = f"{data}:7: line: must be {'JSON' if fault == 'line 7' else 'UTF-8'}"
    assert place in _refused(_command(verb, data, models, out), capsys)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(("verb", "field"), [("fit", "answer"), ("evaluate", "answer"), ("score", "steps")])
def test_missing_fields(
    verb: str, field: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = _rows(tmp_path / "in.jsonl"), tmp_path / "made"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for index in (2, 5):
        del rows[index][field]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    err = _refused(_command(verb, data, models, out), capsys, lines=3)  # the file, then both places
    assert f"{data}:3: {field}: " in err
    assert f"{data}:6: {field}: " in err
    assert not out.exists()


@pytest.mark.parametrize("verb", ["fit", "score", "rerank", "localise"])
def test_a_trace_longer_than_the_context(
    verb: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = _rows(tmp_path / "in.jsonl"), tmp_path / "made"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[4]["steps"] *= 30
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    err = _refused(_command(verb, data, models, out), capsys)
    assert f"{data}:5: steps: must fit the model's context of 96 tokens: got " in err
    assert not out.exists()


@pytest.mark.parametrize("fault", ["missing", "no card", "broken card", "no weights", "torn weights", "other version"])
def test_broken_rewards(fault: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, reward = _rows(tmp_path / "in.jsonl"), tmp_path / "made", tmp_path / "reward"
    weights, card = reward / "model" / "model.safetensors", reward / "card.json"
    if fault != "missing":
        shutil.copytree(models / "reward", reward)
    if fault == "no card":
        card.unlink()
    elif fault == "broken card":
        card.write_text(card.read_text()[:100])
    elif fault == "no weights":
        weights.unlink()
    elif fault == "torn weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "other version":
        card.write_text(card.read_text().replace('"traceward_reward": 1', '"traceward_reward": 99'))
    err = _refused(_command("score", data, tmp_path, out), capsys)
    assert str(reward) in err
    assert not out.exists()


@pytest.mark.parametrize("fault", ["missing", "no tokenizer", "torn weights"])
def test_broken_policies(fault: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, out = tmp_path / "policy", tmp_path / "made"
    if fault != "missing":
        shutil.copytree(models / "policy", policy)
    if fault == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (policy / name).unlink()
    elif fault == "torn weights":
        weights = policy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    err = _refused(_command("evaluate", _rows(tmp_path / "in.jsonl"), tmp_path, out), capsys)
    assert str(policy) in err
    assert not out.exists()


def _limited(arguments: list[str], size: int) -> subprocess.CompletedProcess[str]:
    """A run in which no file may grow past `size` bytes."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


@pytest.mark.parametrize(("verb", "size"), [("score", 2000), ("fit", 20_000)])
def test_a_full_disk(verb: str, size: int, models: Path, tmp_path: Path) -> None:
    data, out = _rows(tmp_path / "in.jsonl", 30), tmp_path / "out" / "made"
    out.parent.mkdir()
    more = ["--updates", "0", "--rollouts-per-question", "1"] if verb == "fit" else []
    done = _limited([*_command(verb, data, models, out), *more], size)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("traceward: error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr
    assert done.stdout == ""
    assert list(out.parent.iterdir()) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 kB, where this machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = shutil.which("mount")
    if os.geteuid() != 0 or command is None:
        pytest.skip("only root may mount a file system")
    mounted = subprocess.run(
        [command, "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_really_full_disk_keeps_the_old_file(
    models: Path, full_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = full_disk / "made.jsonl"
    out.write_text("old\n")
    err = _refused(_command("score", _rows(tmp_path / "in.jsonl", 200), models, out), capsys)
    assert "No space left" in err
    assert [path.name for path in full_disk.iterdir()] == ["made.jsonl"]
    assert out.read_text() == "old\n"


def test_nothing_but_our_words_on_a_good_run(models: Path, tmp_path: Path) -> None:
    data, out = _rows(tmp_path / "in.jsonl"), tmp_path / "made"
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *_command("score", data, models, out)],
        capture_output=True, text=True, check=False, timeout=120,
        env={name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Scores")
    assert len(out.read_text().splitlines()) == 8
