"""Opening models and tokenizers, and how a failure is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from traceward.builtin import TOKENIZER
from traceward.builtin.small import small_llama
from traceward.errors import ConfigError
from traceward.loading import load_causal_lm, load_token_classifier, load_tokenizer


@pytest.fixture
def model(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A small model on disk, in half precision as large ones come."""
    logging.disable_progress_bar()
    found = small_llama(tokenizer, hidden=16, intermediate=32, layers=1, heads=2, context=64, seed=0)
    found.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: object) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    found = {key: value for key, value in (found | changes).items() if value is not None}
    path.write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize("load", [load_causal_lm, load_token_classifier])
def test_models_open_in_float32_and_evaluation_mode(model: Path, load: Callable[[Path], torch.nn.Module]) -> None:
    found = load(model)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert not found.training


def test_a_token_classifier_gives_one_number_per_token(model: Path) -> None:
    found = load_token_classifier(model)
    assert found(input_ids=torch.tensor([[3, 4, 5]])).logits.shape == (1, 3, 1)
    body = load_causal_lm(model).base_model.state_dict()
    assert all(torch.equal(weight, body[name]) for name, weight in found.base_model.state_dict().items())


def test_a_tokenizer_pads_on_the_left_and_has_a_pad_token(tmp_path: Path) -> None:
    shutil.copytree(TOKENIZER, tmp_path / "t")
    edit(tmp_path / "t" / "tokenizer_config.json", pad_token=None, padding_side="right")
    found = load_tokenizer(tmp_path / "t")
    assert found.padding_side == "left"
    assert found.pad_token_id == found.eos_token_id


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_a_tokenizer_is_itself_beside_a_model_of_any_family(
    family: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_tokenizer(tmp_path)
    assert found.get_vocab() == tokenizer.get_vocab()
    text = "Ann has 12 - 3 = 9 apples.\n\nAnswer: 123"
    assert found(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (found.eos_token_id, found.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    shutil.copytree(TOKENIZER, tmp_path / "t")
    edit(tmp_path / "t" / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ConfigError, match=r"must have an end-of-sequence token: got none in .*/t; set eos_token"):
        load_tokenizer(tmp_path / "t")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


BREAKS: dict[str, Callable[[Path], object]] = {
    "no config": lambda d: (d / "config.json").unlink(),
    "no weights": lambda d: (d / "model.safetensors").unlink(),
    "torn weights": lambda d: _cut(d / "model.safetensors"),
    "empty weights": lambda d: (d / "model.safetensors").write_bytes(b""),
    "torn config": lambda d: (d / "config.json").write_text("{", encoding="utf-8"),
    "unknown family": lambda d: edit(d / "config.json", model_type="zzz"),
    "weights of another size": lambda d: edit(d / "config.json", hidden_size=32),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_model_is_one_line(model: Path, how: str) -> None:
    BREAKS[how](model)
    with pytest.raises(ConfigError) as caught:
        load_causal_lm(model)
    text = str(caught.value)
    assert text.startswith(f"model must be a model directory or a hub name: got '{model}' (")
    assert text.endswith("; check the path")
    assert "\n" not in text


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_broken_tokenizer_is_one_line(tmp_path: Path, text: str) -> None:
    shutil.copytree(TOKENIZER, tmp_path / "t")
    (tmp_path / "t" / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\Atokenizer must be a model directory or a hub name: got '.*/t' \(.*\Z"):
        load_tokenizer(tmp_path / "t")


@pytest.mark.parametrize("name", ["nowhere/at-all", "/no/such/place", "two words"])
def test_a_name_that_leads_nowhere_is_named(name: str) -> None:
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(ConfigError, match=f"got '{name}'"):
            load(name)
