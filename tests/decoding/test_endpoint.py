"""Steps over HTTP, from a real server on this machine that runs a small random model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from traceward.cli import run
from traceward.data.formats import Format
from traceward.data.segmentation import closed_steps
from traceward.decoding.beams import Beam
from traceward.decoding.endpoint import EndpointGenerator
from traceward.decoding.search import search
from traceward.decoding.server import Server
from traceward.errors import ConfigError, RunError
from traceward.records import Head, Problem, StopReason, UnitSpec
from traceward.rewards.model import new_reward
from traceward.rewards.rivals import LogProbScorer

LIMIT = 24


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def generator(server: Any, tokenizer: PreTrainedTokenizerBase) -> EndpointGenerator:
    return EndpointGenerator(Server(server.url, wait=0.01), tokenizer, Format.PLAIN)


@pytest.fixture
def beam(tokenizer: PreTrainedTokenizerBase) -> Beam:
    return Beam(
        Problem("p", "Ann has 5 pens."), "Ann has 5 pens.\n", tuple(tokenizer("Ann has 5 pens.\n")["input_ids"])
    )


def test_steps_of_a_real_server(
    server: Any, generator: EndpointGenerator, beam: Beam, tokenizer: PreTrainedTokenizerBase
) -> None:
    (group,) = generator.extend([beam], n=24, max_new_tokens=LIMIT, seed=1)
    stops = {stop: [item for item in group if item.stop is stop] for stop in (None, *StopReason)}
    assert all(stops.values())
    for item in stops[None]:
        assert item.text.endswith("\n")  # the server left it out
        assert closed_steps(item.text) <= 1
    for item in stops[StopReason.END]:
        assert item.completion_ids[-1] == tokenizer.eos_token_id
    for item in group:
        ids = tuple(tokenizer(item.text, add_special_tokens=False)["input_ids"])
        end = (tokenizer.eos_token_id,) * (item.stop is StopReason.END)
        assert item.completion_ids == (ids + end)[:LIMIT]
    assert server.requests[0] == {
        "model": "tiny", "prompt": beam.prompt, "n": 24, "max_tokens": LIMIT, "temperature": 1.0, "top_p": 1.0,
        "stop": ["\n"], "seed": 1,
    }  # fmt: skip


def test_the_server_counts_the_tokens(server: Any, generator: EndpointGenerator, beam: Beam) -> None:
    (group,) = generator.extend([beam], n=3, max_new_tokens=LIMIT, seed=1)
    answer = server.complete(server.requests[0])
    assert sum(item.sampled for item in group) == answer["usage"]["completion_tokens"]
    server.counts = False
    (group,) = generator.extend([beam], n=3, max_new_tokens=LIMIT, seed=1)
    assert [item.sampled for item in group] == [len(item.completion_ids) for item in group]


def test_a_step_goes_on_from_the_servers_own_text(server: Any, generator: EndpointGenerator, beam: Beam) -> None:
    (group,) = generator.extend([beam], n=16, max_new_tokens=LIMIT, seed=1)
    first = next(item for item in group if item.stop is None)
    (again,) = generator.extend([first], n=2, max_new_tokens=LIMIT, seed=5)
    assert server.requests[-1]["prompt"] == beam.prompt + first.text
    assert server.requests[-1]["max_tokens"] == LIMIT - len(first.completion_ids)
    assert all(item.text.startswith(first.text) for item in again)


@pytest.mark.parametrize("names_stops", [True, False])
def test_a_whole_search(
    server: Any, generator: EndpointGenerator, tokenizer: PreTrainedTokenizerBase, names_stops: bool
) -> None:
    server.names_stops = names_stops
    reward = LogProbScorer(server.policy, tokenizer)
    problems = [Problem("p", "Ann has 5 pens."), Problem("q", "Ben")]
    found = search(reward, generator, problems, n=4, beams=2, max_new_tokens=LIMIT, seed=3)
    server.requests.clear()
    assert search(reward, generator, problems, n=4, beams=2, max_new_tokens=LIMIT, seed=3) == found
    for item in found:
        assert item.traces
        assert item.sampled_tokens >= max(len(trace.beam.completion_ids) for trace in item.traces)


# ---- the end of a trace, where the protocol does not tell it from the end of a step ----------------------------------


@pytest.mark.parametrize(
    ("before", "choice", "expected"),
    [
        ("", {"text": "Ben has 3.", "stop_reason": "\n"}, (None, "Ben has 3.\n")),
        ("", {"text": "Ben has 3.", "stop_reason": None}, (StopReason.END, "Ben has 3.")),
        ("", {"text": "Ben has 3.", "stop_reason": 7}, (StopReason.END, "Ben has 3.")),
        ("", {"text": "Ben has 3.", "matched_stop": "\n"}, (None, "Ben has 3.\n")),  # SGLang
        ("", {"text": "Ben has 3.", "matched_stop": 7}, (StopReason.END, "Ben has 3.")),
        ("", {"text": "Ben has 3."}, (None, "Ben has 3.\n")),  # OpenAI
        ("a\n", {"text": "Answer: 3"}, (StopReason.END, "a\nAnswer: 3")),
        ("a\n", {"text": ""}, (None, "a\n\n")),  # a blank line, or the end
        ("a\n\n", {"text": ""}, (StopReason.END, "a\n\n")),  # nothing comes
        ("", {"text": "Ben has 3.\n", "stop_reason": "\n"}, (None, "Ben has 3.\n")),  # a server that leaves it in
        (
            "",
            {"text": "Ben <|end|> has", "stop_reason": "\n"},
            (StopReason.END, "Ben "),
        ),  # the reward's own end, as text
        ("", {"text": "Ben", "finish_reason": "length"}, (StopReason.LENGTH, "Ben")),
    ],
)
def test_ends(
    generator: EndpointGenerator, beam: Beam, before: str, choice: dict[str, Any], expected: tuple[Any, str]
) -> None:
    (found,) = generator._extended(
        replace(beam, text=before), {"choices": [{"index": 0, "finish_reason": "stop", **choice}]}, 1, 40
    )
    assert (found.stop, found.text) == expected


def test_think_tags_end_a_trace_too(server: Any, tokenizer: PreTrainedTokenizerBase, beam: Beam) -> None:
    generator = EndpointGenerator(Server(server.url), tokenizer, Format.THINK, model="other")
    (found,) = generator._extended(
        beam, {"choices": [{"finish_reason": "stop", "text": "<think>a</think><answer>3</answer>"}]}, 1, 90
    )
    assert found.stop is StopReason.END
    assert generator.model == "other"


# ---- trouble ---------------------------------------------------------------------------------------------------------


def busy(status: int, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, b"busy"


def test_what_may_pass_is_tried_again(server: Any, generator: EndpointGenerator, beam: Beam) -> None:
    expected = generator.extend([beam], n=2, max_new_tokens=LIMIT, seed=1)
    server.faults = [busy(503), busy(429, Retry_After="0"), busy(500)]
    assert generator.extend([beam], n=2, max_new_tokens=LIMIT, seed=1) == expected
    assert server.faults == []


def test_a_server_may_say_how_long_to_wait(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.faults = [busy(429, Retry_After="7"), busy(503), busy(503), busy(429, Retry_After="900")]
    Server(server.url, wait=1.0).get("/models")
    assert waits == [7.0, 2.0, 4.0, 60.0]


def test_a_server_that_stays_broken(server: Any) -> None:
    server.faults = [busy(503)] * 9
    with pytest.raises(RunError, match=r"models must answer: got 503 Service Unavailable: busy in 3 tries; start"):
        Server(server.url, tries=3, wait=0.001).get("/models")
    assert len(server.faults) == 6


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            (400, {}, b'{"error": {"message": "context is 4 tokens"}}'),
            "got 400 Bad Request: context is 4 tokens; check",
        ),
        ((404, {}, b'{"object": "error", "message": "no model x"}'), "Not Found: no model x; check its address"),
        ((422, {}, b'{"detail": [{"loc": ["n"]}]}'), r"422 .*: \[\{'loc': \['n'\]\}\]; check --model"),
        ((401, {}, b"who are you"), "401 Unauthorized: who are you; set OPENAI_API_KEY"),
        ((200, {}, b"<html>"), "must answer with a JSON object: got b'<html>'; is this the address"),
        ((200, {}, b'{"choices": []}'), "must answer with n = 2 texts: got 0 choices; use a server that takes n"),
        ((200, {}, b'{"choices": [{}, {"text": "a"}]}'), "must answer with n = 2 texts: got 2 choices"),
    ],
)
def test_refusals_are_told_and_not_repeated(
    server: Any, generator: EndpointGenerator, beam: Beam, fault: Any, message: str
) -> None:
    server.requests.clear()
    server.faults = [fault]
    with pytest.raises(RunError, match=message):
        generator.extend([beam], n=2, max_new_tokens=LIMIT, seed=1)
    assert len(server.requests) == 1


def test_a_key_is_sent_where_it_is_set(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "secret"
    with pytest.raises(RunError, match="no such key; set OPENAI_API_KEY"):
        Server(server.url).get("/models")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert Server(server.url).get("/models")["data"]


def test_no_server_and_no_models(server: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    url = server.url
    server.faults = [(200, {}, b'{"data": []}')]
    with pytest.raises(RunError, match="models must list a model: got none; name one with --model"):
        EndpointGenerator(Server(url), tokenizer, Format.PLAIN)
    with pytest.raises(RunError, match=r"must answer: got .*refused in 2 tries; start the server"):
        Server("http://127.0.0.1:9/v1", tries=2, wait=0.001).get("/models")
    with pytest.raises(ConfigError, match="url must begin with http"):
        Server("localhost:8000/v1")


@pytest.fixture
def sleepy() -> Iterator[str]:
    """A server that takes a connection and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def test_a_server_that_says_nothing_is_given_up(sleepy: str) -> None:
    with pytest.raises(RunError, match=r"must answer: got .*timed out in 2 tries"):
        Server(sleepy, timeout=0.05, tries=2, wait=0.001).get("/models")


# ---- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb_searches_with_a_server(
    server: Any, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = new_reward(server.policy, tokenizer, head=Head.LOG_RATIO, spec=UnitSpec(), style=Format.PLAIN)
    reward.save(tmp_path / "reward")
    questions, out = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    questions.write_text('{"id": "a", "question": "Ann?", "answer": "3"}\n')
    command = ["search", questions, "--policy", server.url, "--model", "other", "--reward", tmp_path / "reward",
               "--n", 2, "--beams", 2, "--max-new-tokens", LIMIT, "--out", out]  # fmt: skip
    assert run([str(word) for word in command]) == 0
    assert {asked["model"] for asked in server.requests} == {"other"}
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["id"] == "a"
    server.faults = [(404, {}, b'{"message": "no model"}')]
    out.unlink()
    assert run([str(word) for word in command]) == 2
    err = capsys.readouterr().err
    assert "no model; check its address, which ends in /v1, and --model" in err
    assert not out.exists()
