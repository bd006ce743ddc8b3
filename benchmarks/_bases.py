"""Base models for transfer: architectures and sizes, pre-trained from nothing on the same student traces."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from traceward.builtin import TOKENIZER, WORLDS_TOKENIZER
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.tasks import stories
from traceward.data.tasks.story_words import Shift
from traceward.data.tasks.world import World
from traceward.data.tasks.worlds import WORLDS
from traceward.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 20
# A story's world for each of its shifts, and the other worlds.
KINDS: Mapping[str, World] = {**WORLDS, **{str(s): stories.world(shift=s) for s in Shift if s is not Shift.NONE}}


@dataclass(frozen=True, slots=True)
class Base:
    """family: of transformers' architectures.   students: of which worlds, in KINDS; they take turns.

    checkpoints: how many are written while it is made.
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


# In 36,000 updates swaps and arithmetic get about as many as they need alone (builtin/pretrain.py), and stories, whose
# kinds help each other, a third of that in each kind.
EVERY_KIND = ("stories", "swaps", "arithmetic", "longer", "names", "swaps", "arithmetic", "wording", "all")
BASES = {
    "all-kinds": Base(hidden=128, context=1024, tokenizer=WORLDS_TOKENIZER, students=EVERY_KIND, steps=36_000),
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
    """A base with its tokenizer in a directory that loads on its own; it is there whole or not at all, and an
    unfinished one goes on.   steps: fewer or more than its own."""
    from traceward.builtin.pretrain import train_base
    from traceward.loading import load_tokenizer
    from traceward.training.checkpoints import Checkpoints
    from traceward.workflows.inputs import quiet

    quiet()
    base = BASES[name]
    steps = steps or base.steps
    tokenizer = load_tokenizer(base.tokenizer)
    model = fresh_model(base, tokenizer)
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    train_base(
        model,
        student_traces(base, base.batch * steps // base.epochs, tokenizer),
        unfinished / "trainer",
        steps=steps,
        batch=base.batch,
        learning_rate=base.learning_rate,
        every=max(1, steps // 100),
        seed=SEED,
        checkpoints=Checkpoints(unfinished / "checkpoints", every=max(1, steps // base.checkpoints), keep=1),
    )
    model.save_pretrained(unfinished / "whole")
    tokenizer.save_pretrained(unfinished / "whole")
    (unfinished / "whole").replace(directory)
    shutil.rmtree(unfinished)


def fresh_model(base: Base, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The architecture at its random start; input and output embeddings are tied."""
    import torch
    import transformers

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


def student_traces(base: Base, count: int, tokenizer: PreTrainedTokenizerBase) -> list[EncodedTrace]:
    """Problems answered by the base's students, as token ids."""
    rng = random.Random(f"students-{SEED}")
    traces = []
    for index in range(count):
        question, trace = KINDS[base.students[index % len(base.students)]].student(rng)
        traces.append(encode(Problem(f"student-{index}", question), trace, Format.PLAIN, tokenizer))
    return traces
