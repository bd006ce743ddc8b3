"""Small tokenizers in the shape of well-known ones: their special tokens and chat templates around words of our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tokenizers import AddedToken, processors

from traceward.builtin import ASSETS
from traceward.builtin.small import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Padding, end, beginning, and the others, as the tokenizers of each family have them.
FAMILY_TOKENS: Mapping[str, tuple[str, str, str | None, tuple[str, ...]]] = {
    "qwen2.5": ("<|endoftext|>", "<|im_end|>", None, ("<|im_start|>",)),
    "qwen3": ("<|endoftext|>", "<|im_end|>", None, ("<|im_start|>", "<think>", "</think>")),
    "llama-3": (
        "<|finetune_right_pad_id|>",
        "<|eot_id|>",
        "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
    ),
    "base": ("<|pad|>", "<|end_of_text|>", "<|begin_of_text|>", ()),
}
FAMILY_OF = {"qwen2": "qwen2.5", "qwen3": "qwen3", "llama": "llama-3"}  # by transformers' model_type


def family_tokenizer(family: str, texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `texts` with the special tokens and the chat template of a family; `base` has no template."""
    pad, end, begin, others = FAMILY_TOKENS[family]
    own = train_tokenizer(texts, vocabulary)
    # Qwen3 counts its thought's tags among the words that are decoded.
    own.add_tokens([AddedToken(token, special=token.startswith("<|")) for token in (pad, end, *others)])
    own.pad_token, own.eos_token = pad, end
    if begin is not None:
        own.add_tokens([AddedToken(begin, special=True)])
        own.bos_token = begin
        own._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, own.convert_tokens_to_ids(begin))]
        )
    template = ASSETS / "chat_templates" / f"{family}.jinja"
    if template.exists():
        own.chat_template = template.read_text(encoding="utf-8").removesuffix("\n")
    return own
