"""Counts from a configuration against real models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from traceward.adapters import add_adapter
from traceward.errors import ConfigError
from traceward.planning.architecture import NF4_BYTES, Architecture
from traceward.training.adapter import AdapterSettings


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_parameters_and_adapters_are_counted_exactly(config_only: Callable[..., str], family: str) -> None:
    found = Architecture.of(config_only(family))
    real = AutoModelForCausalLM.from_config(found.config())
    assert found.size().parameters == sum(p.numel() for p in real.parameters())
    settings = AdapterSettings(rank=3)
    add_adapter(real, settings, seed=0)
    assert found.adapter(settings) == sum(p.numel() for p in real.parameters() if p.requires_grad)
    few = AdapterSettings(rank=3, target_modules=("q_proj",))
    assert 0 < found.adapter(few) < found.adapter(settings)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_scalar_head_takes_the_place_of_the_output_layer(config_only: Callable[..., str], family: str) -> None:
    found = Architecture.of(config_only(family))
    config = found.config()
    config.num_labels = 1
    real = AutoModelForTokenClassification.from_config(config)
    assert found.size(scalar=True).parameters == sum(p.numel() for p in real.parameters())
    assert found.size(scalar=True).head == 64 + 1


def test_bytes_by_type(config_only: Callable[..., str]) -> None:
    size = Architecture.of(config_only("llama")).size()
    linear = 4 * (4 * 64 * 64 + 3 * 64 * 176)
    others = 2 * 500 * 64 + (2 * 4 + 1) * 64  # two embeddings, two norms a layer and one
    assert size.parameters == linear + others
    assert size.bytes(torch.float32) == 4 * size.parameters
    assert size.bytes(torch.bfloat16, in_4bit=True) == 2 * others + NF4_BYTES * linear
    assert pytest.approx(0.516, abs=1e-3) == NF4_BYTES


def test_what_sampling_keeps_of_a_token(config_only: Callable[..., str]) -> None:
    assert Architecture.of(config_only("llama")).cache_per_token == 4 * 2 * 4 * 16
    assert Architecture.of(config_only("qwen3")).cache_per_token == 4 * 2 * 2 * 32


def test_what_cannot_be_found_is_told(config_only: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="model must be a model directory or a hub name: got 'no/such-model'"):
        Architecture.of("no/such-model")
    with pytest.raises(ConfigError, match="target_modules must name linear layers of the model: got nowhere"):
        Architecture.of(config_only()).adapter(AdapterSettings(rank=1, target_modules=("nowhere",)))
