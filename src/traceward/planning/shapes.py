"""Published shapes of the models that people post-train, so that a recipe can be planned and tried without the hub.

Each is what the config.json of the model's repository says about its architecture, for transformers' configuration
class of that family. Instruct and base models of a size have the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def _qwen2(
    *, vocabulary: int = 151936, hidden: int, mlp: int, layers: int, heads: int, kv_heads: int = 2, tied: bool = True
) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": tied,
    }


_LLAMA_31_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
}

_QWEN3_4B = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": _qwen2(hidden=896, mlp=4864, layers=24, heads=14),
    "qwen2.5-1.5b": _qwen2(hidden=1536, mlp=8960, layers=28, heads=12),
    "qwen2.5-3b": _qwen2(hidden=2048, mlp=11008, layers=36, heads=16),
    "qwen2.5-7b": _qwen2(vocabulary=152064, hidden=3584, mlp=18944, layers=28, heads=28, kv_heads=4, tied=False),
    "llama-3.1-8b": _LLAMA_31_8B,
    "qwen3-4b": _QWEN3_4B,
}
"""By the name of the repository in small letters, without its owner and without -Instruct or -Base."""


def shape(name: str) -> PretrainedConfig | None:
    """The configuration of a hub name such as `Qwen/Qwen2.5-7B-Instruct`; None for a name that is not in the table."""
    key = name.rpartition("/")[2].lower().removeprefix("meta-").removesuffix("-instruct").removesuffix("-base")
    if key not in SHAPES:
        return None
    from transformers import AutoConfig

    found: PretrainedConfig = AutoConfig.for_model(**SHAPES[key])
    return found
