"""Exports open without traceward, by the snippet of their own card, and give the scores of the saved reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.adapters import adapted_policy
from traceward.data.formats import Format, completion_text
from traceward.loading import load_causal_lm
from traceward.records import Granularity, Head, ModelForm, Problem, Trace, UnitSpec
from traceward.training.adapter import AdapterSettings
from traceward.workflows.export import export_model

# PEFT asks for it by the name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
Making = Any  # conftest's
SPARSE, STEPS, DENSE = (UnitSpec(granularity) for granularity in Granularity)
ITEMS = [
    (Problem("a", "Ann has 1 pen and 2 pens. How many?"), Trace(("Ann has 1 + 2 = 3 pens.", "So it is 3."), "3")),
    (Problem("b", "How many pens has Ben?"), Trace(("It is 4.",), "4")),
]
SCALAR, RATIO = Head.SCALAR, Head.LOG_RATIO
REWARDS: dict[str, dict[str, Any]] = {
    "sequence": {"head": SCALAR, "spec": SPARSE, "family": "Qwen2", "words": "qwen2.5", "style": Format.CHAT},
    "sequence-merged": {"head": SCALAR, "spec": SPARSE, "family": "Qwen3", "adapter": True},
    "whole-text-tokens": {"head": SCALAR, "spec": SPARSE},
    "steps": {"head": SCALAR, "spec": STEPS, "family": "Qwen3", "words": "qwen3", "style": Format.THINK},
    "intervals": {"head": SCALAR, "spec": UnitSpec(every=7), "words": "llama-3", "style": Format.CHAT},
    "tokens": {"head": SCALAR, "spec": DENSE, "family": "Qwen2", "style": Format.THINK},
    "steps-adapter": {"head": SCALAR, "spec": STEPS, "family": "Qwen2", "adapter": True},
    "steps-merged": {"head": SCALAR, "spec": STEPS, "adapter": True, "max_shard_size": "20KB"},
    "ratio": {"head": RATIO, "spec": STEPS, "family": "Qwen3", "words": "qwen3", "style": Format.CHAT},
    "ratio-alone": {"head": RATIO, "spec": SPARSE, "share": 0.0},
    "ratio-adapter": {"head": RATIO, "spec": DENSE, "adapter": True, "words": "llama-3", "style": Format.CHAT},
    "ratio-merged": {"head": RATIO, "spec": STEPS, "family": "Qwen2", "adapter": True},
}
FORMS = {"whole-text-tokens": ModelForm.TOKEN}


@pytest.fixture(scope="module")
def said(making: Making) -> dict[str, tuple[list[float], list[float]]]:
    """Reward -> the scores of the saved one, and of its export in a process of its own."""
    ours, calls = {}, {}
    for name, options in REWARDS.items():
        reward, place = making.reward(name, **options)
        out = making.room / f"{name}-out"
        export_model(place, out=out, form=FORMS.get(name), merge="merged" in name)
        ours[name] = [found.exported for found in reward.score(ITEMS)]
        calls[str(out)] = [["score", p.question, completion_text(t, reward.style)] for p, t in ITEMS]
    theirs = making.alone(calls)
    return {name: (ours[name], theirs[str(making.room / f"{name}-out")]) for name in REWARDS}


@pytest.mark.parametrize("name", REWARDS)
def test_scores_are_those_of_the_saved_reward(said: dict[str, tuple[list[float], list[float]]], name: str) -> None:
    ours, theirs = said[name]
    # Ours are packed, theirs run one by one, and a merged adapter rounds once more: the last bits of float32 differ.
    assert theirs == pytest.approx(ours, rel=1e-5, abs=2e-5)
    assert abs(ours[0] - ours[1]) > 1e-2


def test_policies_say_what_they_said(making: Making, tmp_path: Path) -> None:
    base = making.policy("solver", words="qwen3", max_shard_size="20KB")
    tokenizer = making.tokenizer("qwen3")
    learned = adapted_policy(load_causal_lm(base), AdapterSettings(rank=2), seed=1)
    making.moved(learned, alpha=0.2)
    learned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path / "adapter")
    (base / "optimizer.pt").write_bytes(b"not for others")
    expected = {}
    for name, source, merge in (("whole", base, False), ("left", tmp_path / "adapter", False),
                                ("merged", tmp_path / "adapter", True)):  # fmt: skip
        export_model(source, out=tmp_path / name, merge=merge)
        expected[str(tmp_path / name)] = greedy(source, tokenizer, "What is it?")
    assert len(set(expected.values())) == 2
    found = making.alone({place: [["solve", "What is it?", 12]] for place in expected})
    assert {place: texts[0] for place, texts in found.items()} == expected
    assert len(list((tmp_path / "whole").glob("model-*.safetensors"))) > 1
    assert not (tmp_path / "whole" / "optimizer.pt").exists()
    for place in expected:
        assert (Path(place) / "chat_template.jinja").read_text(encoding="utf-8") == tokenizer.chat_template


@torch.no_grad()
def greedy(place: Path, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Twelve greedy tokens, one forward pass each."""
    model, ids = load_causal_lm(place), list(tokenizer(f"{question}\n")["input_ids"])
    start = len(ids)
    while len(ids) < start + 12 and (len(ids) == start or ids[-1] != tokenizer.eos_token_id):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))
