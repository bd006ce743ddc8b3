"""Low-rank adapters (PEFT's LoRA), and models that share their weights.

Two adapters on one backbone are two trees of modules over the same weights, each with an adapter of its own, and the
backbone without any is a third. PEFT can hold several adapters in one tree too, of which one at a time is active; but
then whoever runs last decides what a checkpointed backward pass computes again, PEFT's switches turn the gradients of
all adapters on and off, and saving or merging the one must know of the other. Trees that know nothing of each other
have none of that, for the memory of a few Python objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, inject_adapter_in_model
from peft.functional import cast_adapter_dtype
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from traceward.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from traceward.training.adapter import AdapterSettings

Made = TypeVar("Made")
NAME = "default"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BEFORE = "base_model.model."  # every name in PEFT's files begins so


def on_the_weights_of(model: PreTrainedModel) -> PreTrainedModel:
    """Another model on the weights of `model`: modules, hooks and configuration are its own, no weight is copied."""
    shared: list[Any] = [*model.parameters(), *model.buffers()]
    shared += [state for module in model.modules() if (state := getattr(module, "quant_state", None)) is not None]
    return deepcopy(model, {id(one): one for one in shared})


def share_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether some weights are the same ones, not just equal."""
    return not {id(weight) for weight in one.parameters()}.isdisjoint(map(id, other.parameters()))


def adapted_policy(policy: PreTrainedModel, settings: AdapterSettings, *, seed: int) -> PeftModel:
    """`policy` with a new adapter, as TRL's trainers take it; it is the same function until it learns."""
    config, place = _lora(settings, TaskType.CAUSAL_LM), place_of(policy)
    with _seeded(policy, seed):
        model = _fitting(settings, lambda: get_peft_model(policy, config))
    model.peft_config[NAME].base_model_name_or_path = place
    return model.eval()  # new layers come in training mode, and drop


def add_adapter(model: PreTrainedModel, settings: AdapterSettings, *, seed: int) -> None:
    """Put a new adapter into the layers of `model`, in place: from now on the only thing there that learns.

    The model is the same function until it learns, and stays the class that it was: what runs a model runs it.
    """
    model.requires_grad_(False)
    config = _lora(settings, TaskType.FEATURE_EXTRACTION)
    with _seeded(model, seed):
        _fitting(settings, lambda: inject_adapter_in_model(config, model, NAME))
    model.train(model.training)  # new layers come in training mode, and drop
    cast_adapter_dtype(model, NAME)  # it learns in float32, whatever the weights that it stands beside


def _lora(settings: AdapterSettings, task: TaskType) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.scale,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type=task,
    )


@contextmanager
def _seeded(model: PreTrainedModel, seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _fitting(settings: AdapterSettings, make: Callable[[], Made]) -> Made:
    try:
        return make()
    except ValueError as error:
        raise ConfigError(
            f"adapter.target_modules must name linear layers of the model: got {', '.join(settings.target_modules)} "
            f"({error}); name some that it has"
        ) from error


def learn_in_float32(policy: PreTrainedModel) -> None:
    """Give an adapter its float32 back. Call it when a trainer of TRL's is made: that one takes those beside 4-bit
    weights to bfloat16, in which small steps are lost, and which the KL reference beside it is not in."""
    if is_adapted(policy):
        cast_adapter_dtype(policy, NAME)


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """In training, compute activations again on the way back instead of keeping them."""
    # Newer releases of transformers have renamed it.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The model that a PeftModel is around, with the adapter in its layers; any other model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def is_adapted(model: nn.Module) -> bool:
    """Whether an adapter is in the model's layers."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def is_at_its_start(model: nn.Module) -> bool:
    """Whether the adapter still changes nothing: LoRA's second matrix begins at zero."""
    return all(not p.any() for name, p in model.named_parameters() if ".lora_B." in name)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, in place, with its adapter added to the weights and gone; every weight may learn again.

    Raises ConfigError for 4-bit weights, which cannot take it in.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    if layers and getattr(model, "is_loaded_in_4bit", False):
        raise ConfigError("weights must not be in 4 bit to take an adapter in: got 4 bit; load them with bfloat16")
    for name, layer in layers.items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    for module in model.modules():
        vars(module).pop("peft_config", None)
    return model.requires_grad_() if layers else model


def merged_copy(model: PreTrainedModel) -> PreTrainedModel:
    """`model` itself where it holds no adapter, else a copy that has taken it in; see `merged`."""
    return merged(deepcopy(model)) if is_adapted(model) else model


def place_of(model: PreTrainedModel) -> str | None:
    """Where the weights of `model` came from, as a file that names them should say it."""
    name = str(model.name_or_path)
    return (str(Path(name).resolve()) if name and Path(name).is_dir() else name) or None


# ---- PEFT's files ----------------------------------------------------------------------------------------------------


def save_adapter(model: PreTrainedModel, directory: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write what learns in `model`, an adapter and perhaps a new head, as PEFT does, so that PeftModel reads it too.

    weights: the model's, where it does not hold them whole itself.
    """
    learned = _learned(model)
    found = {_in_file(n): t.detach().contiguous() for n, t in (weights or model.state_dict()).items() if n in learned}
    config = deepcopy(model.peft_config[NAME])
    heads = {name.split(".")[0] for name in learned if _head_of(model, name)}
    config.task_type = TaskType.TOKEN_CLS if heads else TaskType.CAUSAL_LM
    config.modules_to_save = sorted(heads) or None
    config.base_model_name_or_path = place_of(model)
    config.target_modules = sorted(config.target_modules)  # PEFT keeps a set, in another order in every process
    config.inference_mode = True
    directory.mkdir(parents=True, exist_ok=True)
    save_file(found, directory / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(directory)


def settings_of(directory: Path) -> AdapterSettings:
    """How the adapter in `directory` is made."""
    from traceward.training.adapter import AdapterSettings

    made = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    return AdapterSettings(
        rank=made["r"],
        alpha=made["lora_alpha"],
        dropout=made["lora_dropout"],
        target_modules=tuple(sorted(made["target_modules"])),
    )


def base_of(directory: str | Path) -> str | None:
    """The model that an adapter's directory says it belongs to; None for a directory without an adapter."""
    file = Path(directory) / CONFIG
    return json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"] if file.is_file() else None


def load_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Give what learns in `model` the values that `save_adapter` wrote. Raises ConfigError where they do not fit."""
    saved, learned = load_file(directory / WEIGHTS), _learned(model)
    found = {name: saved[_in_file(name)] for name in learned if _in_file(name) in saved}
    if found.keys() != learned or len(saved) != len(found):
        raise ConfigError(
            f"adapter must fit the model's layers: got {len(saved)} tensors for {len(learned)} in {directory}; check "
            "that it was made for this model"
        )
    model.load_state_dict(found, strict=False)


def _learned(model: PreTrainedModel) -> set[str]:
    """Names of the adapter's weights, and of a head's where the model ends in one of its own."""
    lora = {name for name, _ in model.named_parameters() if ".lora_" in name}
    return lora | {name for name, _ in model.named_parameters() if _head_of(model, name)}


def _head_of(model: PreTrainedModel, name: str) -> bool:
    return model.get_output_embeddings() is None and not name.startswith(f"{model.base_model_prefix}.")


def _in_file(name: str) -> str:
    return _BEFORE + re.sub(rf"\.(lora_\w+)\.{NAME}\b", r".\1", name)
