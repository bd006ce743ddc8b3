"""A model from its configuration alone: exact counts of parameters, and small copies to count passes with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from traceward.errors import ConfigError
from traceward.loading import load_config
from traceward.planning.shapes import shape
from traceward.sampling import cache_per_token
from traceward.training.adapter import AdapterSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Of a weight in 4 bit: half a byte, and for each 64 weights a scale of 8 bit, for each 256 scales one of 32 bit
(double quantisation; Dettmers et al. 2023, arXiv 2305.14314, section 3)."""


@dataclass(frozen=True)
class Architecture:
    """A causal language model that was never made. `text` is its configuration in JSON."""

    name: str
    text: str
    model_type: str

    @classmethod
    def of(cls, name: str, config: PretrainedConfig | None = None) -> Architecture:
        """Of a published shape, a directory, or the hub's configuration. Raises ConfigError where none is found."""
        if config is None and not Path(name).is_dir():
            config = shape(name)
        config = config or load_config(name)
        return cls(name, json.dumps(config.to_dict(), sort_keys=True, default=str), config.model_type)

    def config(self) -> PretrainedConfig:
        """A configuration of its own at each call."""
        from transformers import AutoConfig

        tree = json.loads(self.text)
        tree.pop("dtype", None)
        config: PretrainedConfig = AutoConfig.for_model(tree.pop("model_type"), **tree)
        return config

    def build(self, layers: int, dtype: torch.dtype, *, scalar: bool = False) -> PreTrainedModel:
        """The model with so many layers, wherever torch is told to make tensors; scalar: as a token classifier."""
        from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

        config = self.config()
        text = config.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
        if scalar:
            config.num_labels = 1
        model: PreTrainedModel = (AutoModelForTokenClassification if scalar else AutoModelForCausalLM).from_config(
            config, dtype=dtype
        )
        return model

    @cached_property
    def layers(self) -> int:
        """Of the decoder."""
        return int(self.config().get_text_config().num_hidden_layers)

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the output layer."""
        return int(self.config().get_text_config().vocab_size)

    @cached_property
    def cache_per_token(self) -> int:
        """Numbers that sampling keeps of a token: keys and values of all layers."""
        return cache_per_token(self.config())

    def size(self, *, scalar: bool = False) -> Size:
        """Its parameters."""
        return _size(self, scalar)

    def adapter(self, settings: AdapterSettings) -> int:
        """Parameters of an adapter: two matrices for each linear layer whose name ends so."""
        if not settings.chosen:
            return 0
        names = settings.target_modules
        linear = {n: s for n, s in self.size().linear.items() if n.rpartition(".")[2] in names}
        if not linear:
            raise ConfigError(
                f"adapter.target_modules must name linear layers of the model: got {', '.join(names)}; name some that "
                "it has"
            )
        return sum((settings.rank or 0) * (rows + columns) for rows, columns in linear.values())


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers of parameters; a tied one counts once.

    largest: of one matrix.   layer: of one layer.   head: of the output layer, where that is its own.
    linear: (rows, columns) by name, without the output layer, which stays whole in 4 bit.
    """

    parameters: int
    largest: int
    layer: int
    outside: int
    head: int
    linear: dict[str, tuple[int, int]]

    @property
    def largest_linear(self) -> int:
        """Of the matrices that 4 bit are unpacked to, one at a time."""
        return max(rows * columns for rows, columns in self.linear.values())

    @property
    def longest_side(self) -> int:
        """Of a linear layer."""
        return max(max(shape) for shape in self.linear.values())

    def bytes(self, dtype: torch.dtype, *, in_4bit: bool = False) -> float:
        """Of the weights."""
        packed = sum(rows * columns for rows, columns in self.linear.values()) if in_4bit else 0
        return (self.parameters - packed) * dtype.itemsize + packed * NF4_BYTES


@cache
def _size(model: Architecture, scalar: bool) -> Size:
    with torch.device("meta"):
        made = model.build(model.layers, torch.float32, scalar=scalar)
    head = made.score if scalar else made.get_output_embeddings()
    linear = {n: m for n, m in made.named_modules() if isinstance(m, nn.Linear) and m is not head}
    counts = [p.numel() for p in made.parameters()]
    layers = sum(p.numel() for p in layers_of(made, model.layers).parameters())
    return Size(
        parameters=sum(counts),
        largest=max(counts),
        layer=layers // model.layers,
        outside=sum(counts) - layers,
        head=sum(p.numel() for p in head.parameters()),
        linear={n: (m.out_features, m.in_features) for n, m in linear.items()},
    )


def layers_of(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder's layers, of which there are `count`."""
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
