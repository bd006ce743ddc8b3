"""Base models for transfer: architectures and sizes, pre-trained from nothing on the same student traces."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from traceward.builtin import TOKENIZER
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.tasks import stories
from traceward.data.tasks.story_words import Shift
from traceward.records import Problem, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 20
EPOCHS = 2
CONTEXT = 512

Student = Callable[[random.Random], tuple[str, Trace]]  # draws a question, and answers it


def story_student(rng: random.Random, shift: Shift) -> tuple[str, Trace]:
    """A story of one kind and what a student makes of it."""
    story = stories.make_story(rng, shift=shift)
    return story.text(), stories.write_trace(story, rng, stories.STUDENT)


STUDENTS: Mapping[str, Student] = {str(shift): partial(story_student, shift=shift) for shift in Shift}


@dataclass(frozen=True, slots=True)
class Base:
    """family: of transformers' architectures.   students: names in STUDENTS; they take turns."""

    family: str = "Llama"
    hidden: int = 96
    layers: int = 4
    heads: int = 4
    students: tuple[str, ...] = ("none",)
    steps: int = 12_000


BASES = {
    "all-kinds": Base(hidden=128, students=tuple(map(str, Shift)), steps=20_000),
    "llama": Base(),
    "qwen2": Base("Qwen2"),
    "qwen3": Base("Qwen3"),
    "llama-large": Base(hidden=192, layers=6, heads=6),
}


def make_base(name: str, directory: Path, steps: int | None = None) -> None:
    """A base with its tokenizer in a directory that loads on its own; it is there whole or not at all, and an
    unfinished one goes on.   steps: fewer or more than its own."""
    from traceward.builtin.pretrain import BATCH, train_base
    from traceward.loading import load_tokenizer
    from traceward.training.checkpoints import Checkpoints

    base = BASES[name]
    steps = steps or base.steps
    tokenizer = load_tokenizer(TOKENIZER)
    model = fresh_model(base, tokenizer)
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    train_base(
        model,
        student_traces(base, BATCH * steps // EPOCHS, tokenizer),
        unfinished / "trainer",
        steps=steps,
        every=max(1, steps // 100),
        seed=SEED,
        checkpoints=Checkpoints(unfinished / "checkpoints", every=max(1, steps // 20), keep=1),
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
        max_position_embeddings=CONTEXT,
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
        question, trace = STUDENTS[base.students[index % len(base.students)]](rng)
        traces.append(encode(Problem(f"student-{index}", question), trace, Format.PLAIN, tokenizer))
    return traces
