"""Opens models and tokenizers from a directory or a hub name; the one place that does, and that explains a failure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from traceward.environment import keep_freed_memory
from traceward.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


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


def opened_by(name: str | Path) -> str:
    """The class of transformers that opens the tokenizer in `name` as the one it is: AutoTokenizer, unless that makes
    another one of it (see `load_tokenizer`)."""
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(name), AutoTokenizer.from_pretrained(name)
    alike = type(ours) is type(theirs) or ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    return "AutoTokenizer" if alike else "PreTrainedTokenizerFast"


def load_policy(
    model: str | Path, tokenizer: str | Path, dtype: torch.dtype | None = None, *, load_in_4bit: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model with its tokenizer. Raises ConfigError where they do not belong together.

    One token ends a trace, the tokenizer's, whoever writes it: a policy that may end by others too (instruct models
    name several) would tell its rollouts from experts by their last token.
    """
    keep_freed_memory()  # a policy samples
    policy, words = load_causal_lm(model, dtype, load_in_4bit=load_in_4bit), load_tokenizer(tokenizer)
    policy.generation_config.eos_token_id = words.eos_token_id
    rows = policy.get_input_embeddings().num_embeddings
    if len(words) > rows:
        raise ConfigError(
            f"tokenizer must fit the model's {rows} tokens: got {len(words)} in '{tokenizer}'; use the model's own"
        )
    return policy, words


def load_context(name: str | Path) -> int | None:
    """The longest text of a model in tokens, from its configuration alone; None where that names none."""
    found: int | None = getattr(load_config(name), "max_position_embeddings", None)
    return found


def saved_dtype(name: str | Path) -> torch.dtype | None:
    """The type that a model's weights, or those of an adapter's base, were saved in; None where no file says so."""
    found: torch.dtype | None = load_config(name).dtype
    return found


def load_config(name: str | Path, *, here: bool = False) -> PretrainedConfig:
    """A model's configuration, without its weights; of an adapter, that of the base below all adapters.

    here: from a directory or the hub's cache alone.
    """
    from transformers import AutoConfig

    from traceward.adapters import base_of

    try:
        while (base := base_of(name)) is not None:
            name = base
        return AutoConfig.from_pretrained(name, local_files_only=here)
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot_open("model", name, error)) from error


def config_here(name: str | Path) -> PretrainedConfig | None:
    """The configuration of a model that is here, in a directory or in the hub's cache; None where it is in neither."""
    try:
        return load_config(name, here=True)
    except ConfigError:
        return None


def load_causal_lm(
    name: str | Path, dtype: torch.dtype | None = None, *, load_in_4bit: bool = False
) -> PreTrainedModel:
    """A causal language model in evaluation mode, float32 or of `dtype`, on the accelerator where there is one.

    Of an adapter's directory, its base with the adapter in its layers, not merged: it says what it said when it was
    saved. load_in_4bit: of the weights, not of an adapter.
    """
    from transformers import AutoModelForCausalLM

    from traceward.adapters import base_of

    if base_of(name) is None:
        return _load(AutoModelForCausalLM, name, dtype, load_in_4bit=load_in_4bit)
    model: PreTrainedModel = load_adapted_policy(name, dtype, load_in_4bit=load_in_4bit).get_base_model()
    model.name_or_path = str(name)
    return model.requires_grad_(False).eval()


def load_adapted_policy(
    name: str | Path,
    dtype: torch.dtype | None = None,
    *,
    load_in_4bit: bool = False,
    base: PreTrainedModel | None = None,
) -> PeftModel:
    """A causal language model whose saved adapter goes on learning, as TRL's trainers take it.

    base: its base, if it is there already; the adapter is put into it.
    """
    from peft import PeftModel

    from traceward.adapters import CONFIG, base_of, merged

    if base is None:
        place = base_of(name)
        if place is None:
            raise ConfigError(f"policy must be an adapter's directory: got '{name}' without {CONFIG}; check the path")
        base = merged(load_causal_lm(place, dtype, load_in_4bit=load_in_4bit))
    try:
        found = PeftModel.from_pretrained(base, name, is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(_cannot_open("adapter", name, error)) from error
    return found.eval()


def load_token_classifier(name: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A backbone with one number per token; the head is new where the files have none."""
    from transformers import AutoModelForTokenClassification

    return _load(AutoModelForTokenClassification, name, dtype, num_labels=1)


def _load(
    auto_class: type, name: str | Path, dtype: torch.dtype | None, *, load_in_4bit: bool = False, **options: object
) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError

    place = "cuda" if torch.cuda.is_available() else "cpu"
    if load_in_4bit:
        options |= {"quantization_config": _four_bits(dtype or torch.float32), "device_map": {"": place}}
    try:
        model: PreTrainedModel = auto_class.from_pretrained(name, dtype=dtype or torch.float32, **options)  # type: ignore[attr-defined]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: weights of other sizes
        raise ConfigError(_cannot_open("model", name, error)) from error
    if load_in_4bit:  # made when they were read: not the file's memory, and already in their place
        _as_they_are(model)
        return model.eval()
    _own_memory(model)
    return model.to(place).eval()


def _four_bits(compute: torch.dtype) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ConfigError(
            "policy.load_in_4bit must be false without bitsandbytes: got true; pip install 'traceward[bitsandbytes]', "
            "or remove it"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _as_they_are(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing weights anew, in place, when a model is evaluated on some CPUs: scores would then
    round otherwise, and no gradient gets through packed weights, which other models may stand on."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _own_memory(model: PreTrainedModel) -> None:
    """Move weights out of the mapped file, where they start at any byte: a matrix product's last bit depends on how
    its operands are aligned, and a reward must score the same bit for bit as the one that was saved. The file may
    also be replaced while the model lives."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _cannot_open(what: str, name: str | Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{what} must be a model directory or a hub name: got '{name}' ({reason}); check the path"
