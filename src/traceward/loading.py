"""Opens models and tokenizers from a directory or a hub name; the one place that does, and that explains a failure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from traceward.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


WHOLE = ("TokenizersBackend", "PreTrainedTokenizerFast")  # classes that are what tokenizer.json says and no more


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer that pads on the left, as sampling needs, and has an end-of-sequence token."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        # transformers opens every tokenizer beside a Qwen2 model as Qwen2's own, which has tokens more and cuts text
        # otherwise. Files that call themselves whole are taken at their word.
        whole = get_tokenizer_config(name).get("tokenizer_class") in WHOLE
        tokenizer: PreTrainedTokenizerBase = (PreTrainedTokenizerFast if whole else AutoTokenizer).from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(_cannot_open("tokenizer", name, error)) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"tokenizer must have an end-of-sequence token: got none in {name}; set eos_token in its files"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_policy(model: str | Path, tokenizer: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model with its tokenizer. Raises ConfigError where they do not belong together.

    One token ends a trace, the tokenizer's, whoever writes it: a policy that may end by others too (instruct models
    name several) would tell its rollouts from experts by their last token.
    """
    policy, words = load_causal_lm(model), load_tokenizer(tokenizer)
    policy.generation_config.eos_token_id = words.eos_token_id
    rows = policy.get_input_embeddings().num_embeddings
    if len(words) > rows:
        raise ConfigError(
            f"tokenizer must fit the model's {rows} tokens: got {len(words)} in '{tokenizer}'; use the model's own"
        )
    return policy, words


def load_context(name: str | Path) -> int | None:
    """The longest text of a model in tokens, from its configuration alone; None where that names none."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot_open("model", name, error)) from error
    found: int | None = getattr(config, "max_position_embeddings", None)
    return found


def load_causal_lm(name: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode, float32 or of `dtype`, on the accelerator where there is one."""
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, name, dtype)


def load_token_classifier(name: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A backbone with one number per token; the head is new where the files have none."""
    from transformers import AutoModelForTokenClassification

    return _load(AutoModelForTokenClassification, name, dtype, num_labels=1)


def _load(auto_class: type, name: str | Path, dtype: torch.dtype | None, **options: object) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError

    try:
        model: PreTrainedModel = auto_class.from_pretrained(name, dtype=dtype or torch.float32, **options)  # type: ignore[attr-defined]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: weights of other sizes
        raise ConfigError(_cannot_open("model", name, error)) from error
    _own_memory(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _own_memory(model: PreTrainedModel) -> None:
    """Move weights out of the mapped file, where they start at any byte: a matrix product's last bit depends on how
    its operands are aligned, and a reward must score the same bit for bit as the one that was saved. The file may
    also be replaced while the model lives."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _cannot_open(what: str, name: str | Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{what} must be a model directory or a hub name: got '{name}' ({reason}); check the path"
