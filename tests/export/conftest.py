"""Tiny random rewards of three families, saved, and a process in which their exports must open without traceward."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import Format
from traceward.loading import load_causal_lm
from traceward.records import Head, UnitSpec
from traceward.rewards.model import RewardModel, new_reward
from traceward.training.adapter import AdapterSettings

# What runs there: the snippet of each card, in its directory, with traceward out of reach.
ALONE = """
import json, os, re, sys
sys.modules["traceward"] = None  # an import of it fails from here on
import transformers
transformers.utils.logging.disable_progress_bar()
found = {}
for place, calls in json.load(sys.stdin).items():
    os.chdir(place)
    space = {}
    exec(re.search(r"```python\\n(.*?)```", open("README.md", encoding="utf-8").read(), re.DOTALL).group(1), space)
    found[place] = [space[name](*arguments) for name, *arguments in calls]
assert not [name for name in sys.modules if name.startswith("traceward.")]
print(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Making:
    """Makes models in a directory."""

    room: Path
    tokenizers: Callable[[str], PreTrainedTokenizerBase]

    @staticmethod
    def alone(calls: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, list[Any]]:
        """What the cards' functions return.   calls: directory -> [name, *arguments] each."""
        done = subprocess.run(
            [sys.executable, "-c", ALONE],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, list[Any]] = json.loads(done.stdout)
        return found

    @staticmethod
    def moved(model: torch.nn.Module, *, alpha: float = 0.05) -> None:
        """What learns away from its start."""
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=alpha)

    def tokenizer(self, words: str) -> PreTrainedTokenizerBase:
        return self.tokenizers(words)

    def policy(self, name: str, *, family: str = "Llama", words: str = "base", **options: Any) -> Path:
        """A random causal language model on disk with the tokenizer of `words`."""
        tokenizer, place = self.tokenizer(words), self.room / name
        if not place.exists():
            config = getattr(transformers, f"{family}Config")(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
                initializer_range=0.2, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
                bos_token_id=tokenizer.bos_token_id,
            )  # fmt: skip
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config)
            model.save_pretrained(place, **options)
            tokenizer.save_pretrained(place)
        return place

    def reward(
        self, name: str, head: Head, spec: UnitSpec, *, family: str = "Llama", words: str = "base",
        style: Format = Format.PLAIN, share: float = 0.75, adapter: bool = False, **options: Any,
    ) -> tuple[RewardModel, Path]:  # fmt: skip
        """A reward away from its start, and where it was saved."""
        base = self.policy(f"base-{name}", family=family, words=words, **options)
        reward = new_reward(
            load_causal_lm(base), self.tokenizer(words), head=head, spec=spec, style=style, reference_share=share,
            adapter=AdapterSettings(rank=2) if adapter else None, seed=1,
        )  # fmt: skip
        if not adapter:
            reward.backbone.requires_grad_()
        self.moved(reward.backbone)
        reward.card = {"task": "stories", "label_source": "demonstrations", "demonstrations": 20}
        reward.save(self.room / name)
        return reward.eval(), self.room / name


@pytest.fixture(scope="module")
def making(
    tmp_path_factory: pytest.TempPathFactory, family_tokenizer: Callable[[str], PreTrainedTokenizerBase]
) -> Making:
    return Making(tmp_path_factory.mktemp("models"), family_tokenizer)
