"""Base models for transfer: architectures and sizes, pre-trained from nothing on the same student traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from traceward.builtin import TOKENIZER, WORLDS_TOKENIZER
from traceward.data.tasks import stories, swaps
from traceward.data.tasks.story_words import Shift
from traceward.data.tasks.world import World
from traceward.data.tasks.worlds import WORLDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A story's world for each of its shifts, the other worlds, and long chains of swaps, without which a base hardly learns
# to swap (docs/LOG.md).
KINDS: Mapping[str, World] = {
    **WORLDS,
    **{str(shift): stories.world(shift=shift) for shift in Shift if shift is not Shift.NONE},
    "practice": replace(WORLDS["swaps"], student=swaps.practice),
}


@dataclass(frozen=True, slots=True)
class Base:
    """family: of transformers' architectures.   students: of which worlds, in KINDS; they take turns.

    checkpoints: how many are written while it is made.   after: a world of which it has learned from students before,
    as its plan's shape (builtin/plans.py) is the same, in so many updates.
    """

    family: str = "Llama"
    hidden: int = 96
    layers: int = 4
    heads: int = 4
    context: int = 512
    tokenizer: Path = TOKENIZER
    students: tuple[str, ...] = ("stories",)
    steps: int = 12_000
    epochs: int = 2
    batch: int = 16
    learning_rate: float = 2e-3
    checkpoints: int = 20
    after: str = ""
    after_steps: int = 0


# What learns slowest comes first and alone; the kinds of stories help each other.
EVERY_KIND = ("stories", "swaps", "arithmetic", "longer", "names", "practice", "wording", "all")
BASES = {
    "all-kinds": Base(
        hidden=128,
        context=1024,
        tokenizer=WORLDS_TOKENIZER,
        students=EVERY_KIND,
        steps=16_000,
        after="arithmetic",
        after_steps=10_000,
    ),
    "llama": Base(),
    "qwen2": Base("Qwen2"),
    "qwen3": Base("Qwen3"),
    "llama-large": Base(hidden=192, layers=6, heads=6),
    # 30 M parameters, for a GPU. The learning rate falls with the width and rises with the batch.
    "llama-30m": Base(
        hidden=768,
        layers=5,
        heads=12,
        students=("longer",),
        steps=2_000,
        epochs=4,
        batch=64,
        learning_rate=5e-4,
        checkpoints=2,
    ),
}


def make_base(name: str, directory: Path, steps: int | None = None) -> None:
    """A base in a directory, whole or not at all; an unfinished one goes on.   steps: fewer or more than its own."""
    from traceward.builtin import pretrain
    from traceward.builtin.plans import student_traces
    from traceward.builtin.pretrain import save_base
    from traceward.loading import load_causal_lm, load_tokenizer
    from traceward.workflows.inputs import quiet

    quiet()
    base = BASES[name]
    tokenizer = load_tokenizer(base.tokenizer)
    model = fresh_model(base, tokenizer)
    if base.after:
        if not (before := directory.with_name(base.after)).exists():
            pretrain.make_base([base.after], before, steps=steps or base.after_steps)
        model = load_causal_lm(before).train().requires_grad_(True)
    steps = steps or base.steps
    traces = student_traces(base.batch * steps // base.epochs, tokenizer, [KINDS[name] for name in base.students])
    save_base(
        model,
        tokenizer,
        traces,
        directory,
        steps=steps,
        batch=base.batch,
        learning_rate=base.learning_rate,
        checkpoints=base.checkpoints,
    )


def fresh_model(base: Base, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The architecture at its random start; input and output embeddings are tied."""
    import torch
    import transformers

    from traceward.builtin.plans import SEED

    config = getattr(transformers, f"{base.family}Config")(
        vocab_size=len(tokenizer),
        hidden_size=base.hidden,
        intermediate_size=2 * base.hidden,
        num_hidden_layers=base.layers,
        num_attention_heads=base.heads,
        num_key_value_heads=base.heads,
        head_dim=base.hidden // base.heads,
        max_position_embeddings=base.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(SEED)
    model: PreTrainedModel = getattr(transformers, f"{base.family}ForCausalLM")(config)
    return model
