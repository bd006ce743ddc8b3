"""What a reward can be as a plain model, and what it cannot.

head, units            form                     the exported reward is
scalar, whole traces   sequence-classification  its one logit, which stands at the last token, plus an offset
scalar, any            token-classification     the mean of the logits at the units' ends
log-ratio              causal-lm                sum of log p_phi, less a share of that of a second model, p_ref

A sequence classifier has no bias and reads one token: the head's bias is the offset, and a reward of several units is
none. A log-ratio is no classifier: its number comes from two distributions over the vocabulary.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import nn

from traceward.errors import ConfigError
from traceward.records import Granularity, Head, ModelForm
from traceward.rewards.adapted import own_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def form_of(head: Head, granularity: Granularity, asked: ModelForm | None, *, adapter: bool) -> ModelForm:
    """The form that is written; left out, the first of the table that fits.

    adapter: the reward stays one, beside a base. Raises ConfigError for a form that would give other scores.
    """
    if head is Head.LOG_RATIO:
        if asked not in (None, ModelForm.CAUSAL_LM):
            raise ConfigError(
                f"form must be 'causal-lm' for a log-ratio, which is the difference of two language models: got "
                f"'{asked}'; leave it out, or learn a reward with head 'scalar'"
            )
        return ModelForm.CAUSAL_LM
    if asked is ModelForm.CAUSAL_LM:
        raise ConfigError("form must be a classifier for a scalar head: got 'causal-lm'; leave it out")
    if asked is ModelForm.SEQUENCE and granularity is not Granularity.SPARSE:
        raise ConfigError(
            f"form must be 'token-classification' for a scalar head of granularity '{granularity}', whose score is a "
            "mean over units: got 'sequence-classification', which reads one token; leave it out"
        )
    if asked is ModelForm.SEQUENCE and adapter:
        raise ConfigError(
            "form must be 'token-classification' for an adapter, whose head has a bias: got "
            "'sequence-classification'; add --merge"
        )
    one_token = granularity is Granularity.SPARSE and not adapter
    return asked or (ModelForm.SEQUENCE if one_token else ModelForm.TOKEN)


def as_sequence_classifier(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, float]:
    """A classifier of whole texts on the weights of a token classifier, and what its logit lacks.

    A sequence classifier reads the last token that is no padding, and a trace ends with its end-of-sequence: where the
    tokenizer pads with that, it gets another padding token, in place.
    """
    from transformers import AutoModelForSequenceClassification

    _pad_apart(tokenizer, backbone.get_input_embeddings().num_embeddings)
    config = deepcopy(backbone.config)
    config.pad_token_id = tokenizer.pad_token_id
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=backbone.dtype)
    old, new = _linear(backbone), _linear(model)
    if _bias(new) is not None or new.weight.shape != old.weight.shape:
        raise ConfigError(
            f"form must be 'token-classification' for {type(backbone).__name__}: got 'sequence-classification', whose "
            "head there is another one; ask for --form token-classification"
        )
    setattr(model, model.base_model_prefix, backbone.base_model)
    new.weight = nn.Parameter(old.weight.detach())
    # OpenRLHF looks here for the head's name.
    model.config.value_head_prefix = next(name for name, part in model.named_children() if part is new)
    bias = _bias(old)
    return model.eval(), 0.0 if bias is None else float(bias.detach())


def _bias(layer: nn.Linear) -> torch.Tensor | None:
    return layer.bias  # torch's own annotation does not know that there may be none


def _linear(model: PreTrainedModel) -> nn.Linear:
    """The one layer that a classifier puts on its base."""
    found = [part for part in own_parts(model) if isinstance(part, nn.Linear)]
    if len(found) != 1:
        raise ConfigError(
            f"form must be 'token-classification' for {type(model).__name__}, whose head is not one linear layer: got "
            "'sequence-classification'; ask for --form token-classification"
        )
    return found[0]


def _pad_apart(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Pad with a special token that no text holds, where texts end with the padding."""
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
        return
    template = str(tokenizer.chat_template or "")
    free = [
        token.content
        for place, token in tokenizer.added_tokens_decoder.items()
        if token.special and place < rows and token.content not in template
    ]
    free = [text for text in free if text not in (tokenizer.eos_token, tokenizer.bos_token)]
    if not free:
        raise ConfigError(
            f"tokenizer must have a padding token beside its end {tokenizer.eos_token!r} for a sequence classifier: "
            "got none; ask for --form token-classification"
        )
    tokenizer.pad_token = min(free, key=lambda text: "pad" not in text)
