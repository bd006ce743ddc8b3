"""Builds the tiny base model of `stories`: a Llama of 0.4 M parameters, pre-trained from scratch on student traces."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from traceward.builtin import TOKENIZER
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.tasks import stories
from traceward.records import Problem
from traceward.training.baselines import SFTSettings, supervised_fine_tune

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 20
STEPS = 2400
SETTINGS = SFTSettings(steps=STEPS, batch=64, learning_rate=4e-3, warmup=0.05, weight_decay=0.05, seed=SEED)


def fresh_model(tokenizer: PreTrainedTokenizerBase, seed: int = SEED) -> PreTrainedModel:
    """The architecture at its random start."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


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
    """Pre-train and save the base model; returns the loss of every update. Seeded: same machine, same losses."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    model = fresh_model(tokenizer)
    traces = student_traces(problems or SETTINGS.batch * STEPS // 2, tokenizer)
    settings = SFTSettings(**{**{f: getattr(SETTINGS, f) for f in SETTINGS.__slots__}, "steps": steps})
    rows = supervised_fine_tune(model, tokenizer, traces, settings, scratch)
    model.save_pretrained(directory)
    return [row["loss"] for row in rows]
