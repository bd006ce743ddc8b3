"""Directories with a configuration and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

SMALL = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
}


@pytest.fixture
def config_only(tmp_path: Path) -> Callable[..., str]:
    """A directory with config.json of a small model of a family."""

    def make(family: str = "llama", **changes: object) -> str:
        place = tmp_path / family
        AutoConfig.for_model(**{**SMALL, **FAMILIES[family], **changes}).save_pretrained(place)
        return str(place)

    return make
