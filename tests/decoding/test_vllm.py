"""The wrapper of vLLM against a stand-in with its public interface: `LLM.generate`, `SamplingParams`, outputs."""

from __future__ import annotations

import builtins
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from traceward.decoding.beams import Beam
from traceward.decoding.vllm import VLLMGenerator
from traceward.errors import ConfigError
from traceward.records import Problem, StopReason


@dataclass
class SamplingParams:
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: list[str]
    seed: int


@dataclass
class CompletionOutput:
    token_ids: list[int]
    finish_reason: str
    stop_reason: str | int | None
    text: str = "not to be read: it may end before the token that stopped it"


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


@dataclass
class LLM:
    model: str
    tokenizer: Any = None
    planned: list[list[CompletionOutput]] = field(default_factory=list)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def generate(self, prompts: list[Any], sampling_params: list[SamplingParams], *, use_tqdm: bool) -> list[Any]:
        self.asked.append((prompts, sampling_params, use_tqdm))
        return [RequestOutput(outputs) for outputs in self.planned]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


@pytest.mark.usefixtures("vllm")
def test_ids_go_in_and_come_out(tokenizer: PreTrainedTokenizerBase) -> None:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    end = tokenizer.eos_token_id
    first = Beam(Problem("p", "P"), "P\n", ids("P\n"))
    second = first.with_ids(ids("Ann has 2.\n"), tokenizer, ended=False, limit=40)
    step, more, answer = ids("Ben has 3.\n"), ids("So it"), (*ids("Answer: 3"), end)
    engine = LLM("m", tokenizer, [
        [CompletionOutput(list(step), "stop", "\n"), CompletionOutput(list(answer), "stop", None)],
        [CompletionOutput(list(more), "length", None), CompletionOutput([*more, 7], "stop", 7)],
    ])  # fmt: skip
    groups = VLLMGenerator(engine, temperature=0.7).extend([first, second], n=2, max_new_tokens=40, seed=100)
    assert [[beam.completion_ids for beam in group] for group in groups] == [
        [step, answer],
        [second.completion_ids + more, (*second.completion_ids, *more, 7)],
    ]
    assert [[beam.stop for beam in group] for group in groups] == [
        [None, StopReason.END],
        [StopReason.LENGTH, StopReason.END],
    ]
    assert [beam.sampled for beam in groups[1]] == [len(more), len(more) + 1]
    assert groups[0][0].text == "Ben has 3.\n"
    prompts, parameters, _ = engine.asked[0]
    assert prompts == [
        {"prompt_token_ids": list(first.prompt_ids)},
        {"prompt_token_ids": [*second.prompt_ids, *second.completion_ids]},
    ]
    room = 40 - len(second.completion_ids)
    assert parameters == [
        SamplingParams(n=2, temperature=0.7, top_p=1.0, max_tokens=40, stop=["\n"], seed=100),
        SamplingParams(n=2, temperature=0.7, top_p=1.0, max_tokens=room, stop=["\n"], seed=102),
    ]


def test_an_engine_is_started_with_its_arguments(vllm: ModuleType, tokenizer: PreTrainedTokenizerBase) -> None:
    generator = VLLMGenerator.load("some/model", temperature=0.5, tokenizer=tokenizer)
    assert (generator.engine.model, generator.tokenizer, generator.temperature) == ("some/model", tokenizer, 0.5)


def test_without_vllm_the_way_to_install_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    real = builtins.__import__

    def fail(name: str, *rest: Any) -> Any:
        if name == "vllm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ConfigError, match=r"vllm must be installed .* pip install 'traceward\[vllm\]'"):
        VLLMGenerator.load("some/model")
