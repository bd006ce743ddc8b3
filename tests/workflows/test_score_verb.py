from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.data.formats import Format, completion_text, encode_prompt
from traceward.data.traces import read_traces
from traceward.loading import load_causal_lm, load_token_classifier


def _token_logprobs(directory: Path, prompt: list[int], completion: list[int]) -> list[float]:
    """One trace at a time, without padding."""
    with torch.no_grad():
        logits = load_causal_lm(directory)(input_ids=torch.tensor([prompt + completion])).logits[0].double()
    found = logits.log_softmax(-1)
    return [float(found[len(prompt) + at - 1, token]) for at, token in enumerate(completion)]


def test_score_is_the_log_prob_and_step_scores_are_log_ratios_inside_each_line(
    verb: Any, traces: Path, reward: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    verb("score", traces, "--reward", reward, "--out", tmp_path / "out.jsonl")
    record, row = read_traces(traces)[4], verb.read(tmp_path / "out.jsonl")[4]
    prompt = list(encode_prompt(record.problem, Format.PLAIN, tokenizer))
    lines = completion_text(record.trace, Format.PLAIN).splitlines(keepends=True)
    pieces = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
    pieces[-1].append(tokenizer.eos_token_id)
    completion = [token for piece in pieces for token in piece]
    learned = _token_logprobs(reward / "model", prompt, completion)
    start = _token_logprobs(reward / "reference", prompt, completion)
    assert row["score"] == pytest.approx(sum(learned), abs=1e-3)
    ends = [sum(map(len, pieces[: index + 1])) for index in range(3)]
    by_line = [sum(learned[a:b]) - sum(start[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert row["step_scores"] == pytest.approx(by_line, abs=1e-3)


def test_rows_come_back_whole_and_in_order(verb: Any, traces: Path, reward: Path) -> None:
    rows = [json.loads(line) for line in verb("score", traces, "--reward", reward).splitlines()]
    before = verb.read(traces)
    assert [{key: row[key] for key in old} for old, row in zip(before, rows, strict=True)] == before
    assert all(set(row) == {*before[0], "score", "step_scores"} for row in rows)
    assert "12" in verb.err  # the table is on stderr: stdout holds rows only


def test_step_scores_of_a_scalar_reward_are_changes_of_its_level(
    verb: Any, traces: Path, scalar_reward: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    row = json.loads(verb("score", traces, "--reward", scalar_reward).splitlines()[0])
    record = read_traces(traces)[0]
    prompt = encode_prompt(record.problem, Format.PLAIN, tokenizer)
    text = completion_text(record.trace, Format.PLAIN)
    ids = [*prompt, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        last = load_token_classifier(scalar_reward / "model")(input_ids=torch.tensor([ids])).logits[0, -1, 0]
    assert sum(row["step_scores"]) == pytest.approx(float(last), abs=1e-4)  # changes against 0 add up to the last level


def test_a_step_of_several_sentences_that_stands_alone_keeps_one_score(verb: Any, reward: Path, tmp_path: Path) -> None:
    row = {"id": "a", "question": "q?", "steps": ["Ann has two. Ben has three. So five."]}
    path = verb.write(tmp_path / "one.jsonl", [row])
    found = json.loads(verb("score", path, "--reward", reward))
    assert len(found["step_scores"]) == 1
    more = verb.write(tmp_path / "two.jsonl", [{**row, "steps": ["Ann has two.", "Ben has three.", "So five."]}])
    assert len(json.loads(verb("score", more, "--reward", reward))["step_scores"]) == 3


def test_a_trace_that_the_length_cap_cut_gets_no_end_of_sequence(verb: Any, reward: Path, tmp_path: Path) -> None:
    row = {"id": "a", "question": "q?", "completion": "Ann has two.\nBen has"}
    path = verb.write(tmp_path / "in.jsonl", [{**row, "stop": "end"}, {**row, "stop": "length"}])
    ended, cut = (json.loads(line)["score"] for line in verb("score", path, "--reward", reward).splitlines())
    assert cut > ended  # the log-prob of one more token is negative


def test_long_traces_are_an_error_with_their_lines_or_are_skipped(verb: Any, reward: Path, tmp_path: Path) -> None:
    short = {"id": "a", "question": "q?", "steps": ["Ann has two."]}
    long = {**short, "steps": ["Ann has two."] * 60}
    path = verb.write(tmp_path / "in.jsonl", [short, long, short, long])
    err = verb.fails("score", path, "--reward", reward, "--out", tmp_path / "out.jsonl")
    assert f"{path}:2: steps: must fit the model's context of 160 tokens" in err
    assert f"{path}:4:" in err
    assert not (tmp_path / "out.jsonl").exists()
    verb("score", path, "--reward", reward, "--too-long", "skip", "--out", tmp_path / "out.jsonl")
    assert ["score" in row for row in verb.read(tmp_path / "out.jsonl")] == [True, False, True, False]
    assert "160 tokens" in verb.read(tmp_path / "out.jsonl")[1]["skipped"]


@pytest.mark.parametrize("step", ["<think>", "It is <answer>3</answer> then", "the end <|end|> of it"])
def test_a_step_that_cannot_stay_one_names_its_line(verb: Any, reward: Path, tmp_path: Path, step: str) -> None:
    rows = [{"id": "a", "question": "q?", "steps": ["One.", text, "Two."]} for text in ("Good.", step)]
    err = verb.fails("score", verb.write(tmp_path / "in.jsonl", rows), "--reward", reward)
    assert err.startswith(f"traceward: error: {tmp_path / 'in.jsonl'}:2: steps: ")
