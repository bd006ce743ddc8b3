"""Tiny random models in place of large ones: the same architecture, shrunk, so that a recipe can be tried anywhere.

What decides which code runs stays as it is: the family, tied embeddings, biases, grouped key-value heads, the position
encoding, and, in the tokenizer, special tokens and chat template. Depth, widths and vocabulary shrink.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceward.builtin import STORIES_BASE, WORLDS_TOKENIZER
from traceward.builtin.families import FAMILY_OF, family_tokenizer
from traceward.errors import ConfigError
from traceward.loading import config_here, load_tokenizer
from traceward.planning.shapes import shape

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

SMALL: dict[str, int] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
HEAD_DIM, VOCABULARY = 16, 600


def stand_in(name: str, texts: Iterable[str], directory: Path, *, world: bool = False) -> str:
    """Write a tiny random model of the architecture of `name`, with a tokenizer, to `directory`; says what it is.

    A directory keeps its own tokenizer, and so does a model of the hub's cache that has no published shape here; else
    the tokenizer learns its words from `texts`. world: for a built-in world, whose base may not have been made yet.
    Raises ConfigError for a name that is neither on disk nor known.
    """
    config, tokenizer = _found(name, texts, world)
    small = shrunk(config, tokenizer)
    model = _random(small)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"a random {small.model_type} of {small.num_hidden_layers} layers, {millions:.1f} M parameters"


def _found(name: str, texts: Iterable[str], world: bool) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    published = None if Path(name).is_dir() else shape(name)
    if published is not None:
        return published, family_tokenizer(FAMILY_OF[published.model_type], texts, VOCABULARY)
    config = config_here(name)
    if config is None and world:
        name, config = str(WORLDS_TOKENIZER), config_here(STORIES_BASE)
    if config is None:
        raise ConfigError(
            f"model must be on disk, or of a family that is known without it, for a dry run: got '{name}'; download "
            "its config.json and tokenizer, or give a directory"
        )
    return config, load_tokenizer(name)


def shrunk(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """`config` with few and narrow layers and the tokenizer's vocabulary. Raises ConfigError for other kinds of model.

    Query heads to key-value heads stay in proportion.
    """
    found: dict[str, Any] = config.to_dict()
    if missing := SMALL.keys() - found.keys():
        raise ConfigError(
            f"model must be a decoder that says its sizes, for a dry run: got {config.model_type} without "
            f"{', '.join(sorted(missing))}; try the recipe on a model of your own"
        )
    shared = found["num_attention_heads"] // (found.get("num_key_value_heads") or found["num_attention_heads"])
    found |= SMALL | {
        "num_key_value_heads": max(1, SMALL["num_attention_heads"] // shared),
        "vocab_size": len(tokenizer),
    }
    if found.get("head_dim") is not None:
        found["head_dim"] = HEAD_DIM
    for name in ("layer_types", "max_window_layers", "dtype", "torch_dtype"):  # of the layers that there were
        found.pop(name, None)
    found |= {f"{what}_token_id": getattr(tokenizer, f"{what}_token_id") for what in ("bos", "eos", "pad")}
    made: PretrainedConfig = type(config).from_dict(found)
    return made


def _random(config: PretrainedConfig) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)
