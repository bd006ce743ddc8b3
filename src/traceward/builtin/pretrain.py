"""Builds the tiny base model of `stories`: a Llama of 0.4 M parameters, pre-trained from scratch on student traces.

`python -m traceward.builtin.pretrain [DIRECTORY]` rebuilds tokenizer and model (half an hour on one core).
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from traceward.builtin import STORIES_BASE, TOKENIZER
from traceward.builtin.small import small_llama
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.tasks import stories
from traceward.loading import load_tokenizer
from traceward.records import Problem
from traceward.training.baselines import supervised_fine_tune
from traceward.training.settings import SFTSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 20
STEPS = 8000
SETTINGS = SFTSettings(steps=STEPS, batch=32, learning_rate=3e-3, warmup=0.05, weight_decay=0.05)


def fresh_model(tokenizer: PreTrainedTokenizerBase, seed: int = SEED) -> PreTrainedModel:
    """The architecture at its random start."""
    return small_llama(tokenizer, hidden=96, intermediate=192, layers=4, heads=4, context=512, seed=seed)


def student_traces(count: int, tokenizer: PreTrainedTokenizerBase, seed: int = SEED) -> list[EncodedTrace]:
    """Problems answered by students, as token ids."""
    rng = random.Random(f"students-{seed}")
    traces = []
    for index in range(count):
        story = stories.make_story(rng)
        trace = stories.write_trace(story, rng, stories.STUDENT)
        traces.append(encode(Problem(f"student-{index}", story.text()), trace, Format.PLAIN, tokenizer))
    return traces


def build(directory: Path, scratch: Path, *, steps: int = STEPS, problems: int | None = None) -> list[float]:
    """Pre-train and save the base model; returns the loss of every update. Seeded: same machine, same losses.

    Fewer `steps` stop the same schedule early; fewer `problems` are the first ones of the same stream.
    """
    tokenizer = load_tokenizer(TOKENIZER)
    model = fresh_model(tokenizer)
    traces = student_traces(problems or SETTINGS.batch * STEPS // 2, tokenizer)
    rows = supervised_fine_tune(
        model, tokenizer, traces, SETTINGS.model_copy(update={"steps": steps}), scratch, seed=SEED
    )
    model.save_pretrained(directory)
    return [row["loss"] for row in rows]


if __name__ == "__main__":
    from traceward.builtin.tokenizer import build as build_tokenizer

    build_tokenizer(TOKENIZER)
    with tempfile.TemporaryDirectory() as trainer_files:
        losses = build(Path(sys.argv[1]) if len(sys.argv) > 1 else STORIES_BASE, Path(trainer_files))
    print(f"loss {losses[0]:.3f} -> {sum(losses[-100:]) / 100:.3f}")
