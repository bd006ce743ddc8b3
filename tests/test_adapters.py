"""Adapters of policies: loaded as they were saved, merged, refused; and models on shared weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.adapters import (
    adapted_policy,
    base_of,
    checkpoint_gradients,
    is_adapted,
    is_at_its_start,
    merged_copy,
    on_the_weights_of,
)
from traceward.errors import ConfigError
from traceward.loading import load_adapted_policy, load_causal_lm, load_context, load_policy
from traceward.training.adapter import AdapterSettings

# PEFT asks for it by the name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
FAMILIES = ("Llama", "Qwen2", "Qwen3")
ADAPTER = AdapterSettings(rank=2)
IDS = torch.tensor([[1, 5, 9, 2, 7]])


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def base(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], Path]:
    """A random model of a family on disk, with its tokenizer."""

    def make(family: str = "Llama", seed: int = 0) -> Path:
        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, initializer_range=0.2,
            max_position_embeddings=64, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(seed)
        place = tmp_path / f"{family}-{seed}"
        getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
        return place

    return make


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The adapter away from its start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
    return model


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_says_what_it_said(
    base: Callable[[str], Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    place = base(family)
    plain = logits(load_causal_lm(place, dtype))
    policy = adapted_policy(load_causal_lm(place, dtype), ADAPTER, seed=1)
    assert is_at_its_start(policy)
    assert torch.equal(logits(policy), plain)
    assert {p.dtype for n, p in policy.named_parameters() if ".lora_" in n} == {torch.float32}
    wanted = logits(moved(policy))
    assert not is_at_its_start(policy)
    policy.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_policy(tmp_path / "adapter", tmp_path / "adapter", dtype)
    assert torch.equal(logits(loaded), wanted)
    assert torch.equal(logits(load_adapted_policy(tmp_path / "adapter", dtype)), wanted)
    assert load_context(tmp_path / "adapter") == 64
    assert base_of(tmp_path / "adapter") == str(place)
    assert base_of(place) is None


def test_an_adapter_on_an_adapter_stands_on_the_merged_one(base: Callable[..., Path], tmp_path: Path) -> None:
    first = moved(adapted_policy(load_causal_lm(base()), ADAPTER, seed=1))
    first.save_pretrained(tmp_path / "first")
    whole = merged_copy(load_causal_lm(tmp_path / "first"))
    assert not is_adapted(whole)
    assert all(parameter.requires_grad for parameter in whole.parameters())
    assert torch.allclose(logits(whole), logits(first), atol=1e-5)
    second = moved(adapted_policy(whole, AdapterSettings(rank=3), seed=2))
    second.save_pretrained(tmp_path / "second", save_embedding_layers=False)
    assert torch.equal(logits(load_causal_lm(tmp_path / "second")), logits(second))
    assert load_context(tmp_path / "second") == 64


def test_models_on_the_same_weights_are_models_of_their_own(base: Callable[..., Path]) -> None:
    model = load_causal_lm(base("Qwen3"))
    other = on_the_weights_of(model)
    assert [p.data_ptr() for p in other.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert not {*map(id, other.modules())} & {*map(id, model.modules())}
    before = logits(model)
    with torch.no_grad():
        next(model.parameters()).mul_(1.1)
    assert not torch.equal(logits(other), before)
    assert torch.equal(logits(other), logits(model))
    # Modes, checkpointing, attention and adapters of one are not those of the other.
    model.train()
    checkpoint_gradients(model)
    model.set_attn_implementation("eager")
    moved(adapted_policy(model, ADAPTER, seed=0))
    assert is_adapted(model)
    assert not is_adapted(other)
    assert not any(module.training for module in other.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in other.modules())
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert other.config._attn_implementation != "eager"


def test_a_layer_that_is_not_there_is_refused(base: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="must name linear layers of the model: got c_attn"):
        adapted_policy(load_causal_lm(base()), AdapterSettings(rank=2, target_modules=("c_attn",)), seed=0)


def test_a_base_that_is_gone_is_named(base: Callable[..., Path], tmp_path: Path) -> None:
    place = base()
    adapted_policy(load_causal_lm(place), ADAPTER, seed=0).save_pretrained(tmp_path / "adapter")
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"model must be a model directory or a hub name: got '.*Llama-0'"):
        load_causal_lm(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="policy must be an adapter's directory"):
        load_adapted_policy(tmp_path / "elsewhere")


def test_4_bit_without_bitsandbytes_is_refused(base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match=r"load_in_4bit must be false without bitsandbytes: got true; pip install"):
        load_causal_lm(base(), load_in_4bit=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 4.0}, "rank must be set with the other keys"),
        ({"rank": 2, "target_modules": ("q_proj", "lm_head")}, "must not name lm_head"),
        ({"rank": 2, "target_modules": ()}, "at least 1 item"),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_adapters_that_are_none_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterSettings.model_validate(settings)


def test_alpha_is_twice_the_rank_unless_it_is_said() -> None:
    assert AdapterSettings(rank=8).scale == 16
    assert AdapterSettings(rank=8, alpha=3).scale == 3
    assert not AdapterSettings().chosen
    assert AdapterSettings.model_validate(AdapterSettings().model_dump()) == AdapterSettings()
