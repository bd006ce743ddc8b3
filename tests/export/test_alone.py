"""Exports open without traceward, by the snippet of their own card, and give the scores of the saved reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.adapters import adapted_policy
from traceward.data.formats import Format, completion_text
from traceward.export import write
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
    "ratio-named-merged": {"head": RATIO, "spec": STEPS, "family": "Qwen3", "adapter": True},
}
FORMS = {"whole-text-tokens": ModelForm.TOKEN}
POLICIES = {"whole": False, "left": False, "merged": True}  # name -> --merge


@pytest.fixture(scope="module")
def exported(making: Making) -> dict[str, Any]:
    """Reward -> its scores, policy -> its greedy text, as they are before the export."""
    said: dict[str, Any] = {}
    for name, options in REWARDS.items():
        reward, place = making.reward(name, **options)
        with pytest.MonkeyPatch.context() as patch:
            if name == "ratio-named-merged":  # as if the base's directory were a name on the Hub
                patch.setattr(write, "hub_name", str)
            export_model(place, out=making.room / f"{name}-out", form=FORMS.get(name), merge="merged" in name)
        said[name] = [found.exported for found in reward.score(ITEMS)]
    base, tokenizer = making.policy("solver", words="qwen3", max_shard_size="20KB"), making.tokenizer("qwen3")
    learned = adapted_policy(load_causal_lm(base), AdapterSettings(rank=2), seed=1)
    making.moved(learned, alpha=0.2)
    learned.save_pretrained(making.room / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(making.room / "adapter")
    (base / "optimizer.pt").write_bytes(b"not for others")
    for name, merge in POLICIES.items():
        source = base if name == "whole" else making.room / "adapter"
        export_model(source, out=making.room / f"{name}-out", merge=merge)
        said[name] = greedy(source, tokenizer, "What is it?")
    return said


@pytest.fixture(scope="module")
def alone(making: Making, exported: dict[str, Any]) -> dict[str, list[Any]]:
    """The same of the exports, in one process without traceward."""
    scores = {name: [["score", p.question, completion_text(t, options.get("style", Format.PLAIN))] for p, t in ITEMS]
              for name, options in REWARDS.items()}  # fmt: skip
    calls = {**scores, **{name: [["solve", "What is it?", 12]] for name in POLICIES}}
    found: dict[str, list[Any]] = making.alone({str(making.room / f"{name}-out"): call for name, call in calls.items()})
    return {name: found[str(making.room / f"{name}-out")] for name in calls}


@pytest.mark.parametrize("name", REWARDS)
def test_scores_are_those_of_the_saved_reward(
    exported: dict[str, Any], alone: dict[str, list[float]], name: str
) -> None:
    # Ours are packed, theirs run one by one, and a merged adapter rounds once more: the last bits of float32 differ.
    assert alone[name] == pytest.approx(exported[name], rel=1e-5, abs=2e-5)
    assert abs(exported[name][0] - exported[name][1]) > 1e-2


@pytest.mark.parametrize("name", POLICIES)
def test_policies_say_what_they_said(
    making: Making, exported: dict[str, Any], alone: dict[str, Any], name: str
) -> None:
    assert alone[name] == [exported[name]]
    assert exported["whole"] != exported["left"]
    template = (making.room / f"{name}-out" / "chat_template.jinja").read_text(encoding="utf-8")
    assert template == making.tokenizer("qwen3").chat_template


def test_shards_travel_and_what_trainers_leave_does_not(making: Making, exported: dict[str, Any]) -> None:
    out = making.room / "whole-out"
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert not (out / "optimizer.pt").exists()


def test_a_reference_with_a_name_of_its_own_is_not_copied(making: Making, exported: dict[str, Any]) -> None:
    assert not (making.room / "ratio-named-merged-out" / "reference").exists()
    assert (making.room / "ratio-merged-out" / "reference").is_dir()


@torch.no_grad()
def greedy(place: Path, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Twelve greedy tokens, one forward pass each."""
    model, ids = load_causal_lm(place), list(tokenizer(f"{question}\n")["input_ids"])
    start = len(ids)
    while len(ids) < start + 12 and (len(ids) == start or ids[-1] != tokenizer.eos_token_id):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))
