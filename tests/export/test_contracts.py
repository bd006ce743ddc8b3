"""What other programs rely on in an exported classifier; read in their sources, as none of them is installed here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from traceward.data.formats import Format, completion_text, prompt_text
from traceward.errors import ConfigError
from traceward.export.forms import as_sequence_classifier
from traceward.records import Granularity, Head, ModelForm, Problem, Trace, UnitSpec
from traceward.workflows.export import export_model

Making = Any  # conftest's
SPARSE, STEPS = UnitSpec(Granularity.SPARSE), UnitSpec()
ITEMS = [
    (Problem("a", "Ann has 1 pen and 2 pens. How many?"), Trace(("Ann has 1 + 2 = 3 pens.", "So it is 3."), "3")),
    (Problem("b", "How many pens has Ben?"), Trace(("It is 4.",), "4")),
]


@pytest.fixture(scope="module")
def whole_text(making: Making) -> tuple[list[float], Path, Path]:
    """Scores of a reward for whole traces, and its two forms. Its tokenizer pads with what ends a text."""
    tokenizer = making.tokenizer("llama-3")
    pad, tokenizer.pad_token = tokenizer.pad_token, tokenizer.eos_token
    reward, place = making.reward("whole-text", Head.SCALAR, SPARSE, words="llama-3")
    sequence, tokens = making.room / "as-sequence", making.room / "as-tokens"
    export_model(place, out=sequence)
    export_model(place, out=tokens, form=ModelForm.TOKEN)
    tokenizer.pad_token = pad
    return [found.exported for found in reward.score(ITEMS)], sequence, tokens


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_a_batch_of_texts_as_trl_scores_them(whole_text: tuple[list[float], Path, Path], side: str) -> None:
    scores, place, _ = whole_text
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=1).eval()
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    texts = [
        f"{tokenizer.bos_token}{prompt_text(p, Format.PLAIN)}{completion_text(t, Format.PLAIN)}{tokenizer.eos_token}"
        for p, t in ITEMS
    ]
    inputs = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False)
    offset = json.loads((place / "traceward.json").read_text(encoding="utf-8"))["offset"]
    assert offset != 0
    found = model(**inputs).logits[:, 0] + offset
    assert found.tolist() == pytest.approx(scores, rel=1e-5, abs=2e-5)


@torch.no_grad()
def test_the_last_of_the_tokens_as_verl_reads_it(whole_text: tuple[list[float], Path, Path]) -> None:
    scores, _, place = whole_text
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForTokenClassification.from_pretrained(place, num_labels=1).eval()
    for (problem, trace), score in zip(ITEMS, scores, strict=True):
        text = prompt_text(problem, Format.PLAIN) + completion_text(trace, Format.PLAIN) + tokenizer.eos_token
        assert model(**tokenizer(text, return_tensors="pt")).logits.squeeze(-1)[0, -1].item() == pytest.approx(
            score, rel=1e-5, abs=2e-5
        )


def test_files_hold_what_vllm_and_openrlhf_look_for(whole_text: tuple[list[float], Path, Path]) -> None:
    _, *places = whole_text
    heads = ({"score.weight"}, {"score.weight", "score.bias"})
    for place, kind, head in zip(places, ("Sequence", "Token"), heads, strict=True):
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        assert config["architectures"] == [f"LlamaFor{kind}Classification"]
        assert len(config["id2label"]) == 1
        assert config.get("value_head_prefix") == ("score" if kind == "Sequence" else None)
        weights = load_file(place / "model.safetensors")
        assert {name for name in weights if not name.startswith("model.")} == head
        assert weights["score.weight"].shape == (1, config["hidden_size"])


@torch.no_grad()
def test_where_the_same_operations_run_the_logits_are_the_same_bits(making: Making, tmp_path: Path) -> None:
    reward, place = making.reward("bits", Head.SCALAR, STEPS, family="Qwen3")
    export_model(place, out=tmp_path / "out")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    for weight in (*model.parameters(), *model.buffers()):  # a mapped file starts anywhere, and sums differ by that
        weight.data = weight.data.clone()
    ids = torch.tensor([[5, 9, 2, 7, 30, 31, 32]])
    assert torch.equal(model(input_ids=ids).logits, reward.backbone(input_ids=ids).logits)


def test_a_tokenizer_without_another_token_to_pad_with_is_refused(making: Making) -> None:
    reward, _ = making.reward("no-padding", Head.SCALAR, SPARSE)
    tokenizer = making.tokenizer("base")
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    plain.pad_token = plain.eos_token
    reward.backbone.get_input_embeddings().num_embeddings = 0  # the model has no row for any other
    with pytest.raises(ConfigError, match="must have a padding token beside its end"):
        as_sequence_classifier(reward.backbone, plain)
