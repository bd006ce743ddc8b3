"""Small models from nothing: the architecture of the built-in base, and one trained on a task's own text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from traceward.config import ScratchSettings
from traceward.data.formats import Format, completion_text, encode, prompt_text
from traceward.records import Demonstration

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

    from traceward.training.checkpoints import Checkpoints

PAD, EOS = "<|pad|>", "<|end|>"
# A word with the space before it, at most two digits, one run of line breaks, or single signs.
PIECES = r" ?\p{L}+| ?\p{N}{1,2}|\n+| ?[^\s\p{L}\p{N}]|\s"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text has ids. The same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def small_config(
    *, vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, context: int
) -> LlamaConfig:
    """A Llama whose input and output embeddings are tied."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
    )


def small_llama(
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    context: int,
    seed: int,
) -> PreTrainedModel:
    """A small Llama at its random start."""
    import torch
    from transformers import LlamaForCausalLM

    config = small_config(
        vocabulary=len(tokenizer),
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        context=context,
    )
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train_scratch(
    demonstrations: Sequence[Demonstration],
    settings: ScratchSettings,
    style: Format,
    directory: Path,
    *,
    seed: int,
    callbacks: Sequence[Any] = (),
    checkpoints: Checkpoints | None = None,
) -> dict[str, Any]:
    """A tokenizer and a model of the demonstrations' text, saved to `directory`; returns its size and losses."""
    from traceward.training.baselines import supervised_fine_tune
    from traceward.training.distribution import on_main, save_whole
    from traceward.training.settings import SFTSettings

    texts = [prompt_text(d.problem, style) + completion_text(d.trace, style) for d in demonstrations]
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    model = small_llama(
        tokenizer,
        hidden=settings.hidden,
        intermediate=settings.hidden * 8 // 3,
        layers=settings.layers,
        heads=settings.heads,
        context=settings.context,
        seed=seed,
    )
    traces = [encode(d.problem, d.trace, style, tokenizer, limit=settings.context // 2) for d in demonstrations]
    rows = supervised_fine_tune(
        model,
        tokenizer,
        [trace for trace in traces if len(trace.prompt_ids) <= settings.context // 2],
        SFTSettings(steps=settings.steps, batch=settings.batch, learning_rate=settings.learning_rate),
        directory.with_name("pretrain-trainer"),
        seed=seed,
        callbacks=callbacks,
        checkpoints=checkpoints,
    )
    save_whole(model, lambda weights: model.save_pretrained(directory, state_dict=weights))
    on_main(tokenizer.save_pretrained)(directory)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss_first": rows[0]["loss"],
        "loss_last": rows[-1]["loss"],
    }
