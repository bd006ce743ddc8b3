"""Builds the tiny base model of `stories`: a Llama of 0.5 M parameters, pre-trained from scratch on student traces.

`python -m traceward.builtin.pretrain [DIRECTORY]` rebuilds tokenizer and model (a quarter of an hour on one core).
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from traceward.builtin import STORIES_BASE, TOKENIZER
from traceward.builtin.small import small_llama
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.tasks import stories
from traceward.loading import load_tokenizer
from traceward.records import Problem
from traceward.training.baselines import silence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 20
STEPS = 12_000
BATCH = 16
LEARNING_RATE = 2e-3
EPOCHS = 2
IGNORED = -100  # what cross entropy leaves out


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


def in_batches(traces: Sequence[EncodedTrace], rng: random.Random) -> list[EncodedTrace]:
    """The same traces, so ordered that every BATCH of them are of similar length, and the batches in random order.

    transformers' own grouping runs from long batches to short ones again and again, and learns markedly slower here.
    """
    size = 50 * BATCH
    chunks = [sorted(traces[at : at + size], key=_length) for at in range(0, len(traces), size)]
    batches = [chunk[at : at + BATCH] for chunk in chunks for at in range(0, len(chunk), BATCH)]
    rng.shuffle(batches)
    return [trace for batch in batches for trace in batch]


def _length(trace: EncodedTrace) -> int:
    return len(trace.prompt_ids) + len(trace.completion_ids)


class CompletionTrainer(Trainer):  # type: ignore[misc]
    """Cross entropy of the completion, the output layer run there only: half of all tokens are questions, and at this
    size the output layer is a fifth of the work."""

    def compute_loss(self, model: PreTrainedModel, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        """Mean over the batch's completion tokens, in nats."""
        hidden = model.base_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        targets = inputs["labels"][:, 1:]
        kept = targets != IGNORED
        return torch.nn.functional.cross_entropy(model.lm_head(hidden.last_hidden_state[:, :-1][kept]), targets[kept])


class StopAfter(TrainerCallback):  # type: ignore[misc]
    """Ends a training early without changing its schedule."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop after the last wanted step."""
        control.should_training_stop |= state.global_step >= self.steps


def _collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", IGNORED), "attention_mask": mask}


def build(
    directory: Path, scratch: Path, *, steps: int = STEPS, problems: int | None = None, every: int = 1
) -> list[float]:
    """Pre-train and save the base model; returns the mean loss of every `every` updates. Seeded: same machine, same
    losses.

    Fewer `steps` stop the same schedule early; fewer `problems` are the first ones of the same stream.
    """
    tokenizer = load_tokenizer(TOKENIZER)
    model = fresh_model(tokenizer)
    traces = student_traces(problems or BATCH * STEPS // EPOCHS, tokenizer)
    rows = [
        {
            "input_ids": [*trace.prompt_ids, *trace.completion_ids],
            "labels": [IGNORED] * len(trace.prompt_ids) + list(trace.completion_ids),
        }
        for trace in in_batches(traces, random.Random(f"batches-{SEED}"))
    ]
    trainer = CompletionTrainer(
        model=model,
        train_dataset=rows,
        data_collator=_collate,
        callbacks=[StopAfter(steps)],
        args=TrainingArguments(
            output_dir=str(scratch),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=STEPS // 40,
            weight_decay=0.05,
            adam_beta2=0.98,
            train_sampling_strategy="sequential",
            seed=SEED,
            logging_steps=every,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
    )
    silence(trainer)
    trainer.train()
    model.eval().save_pretrained(directory)
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


if __name__ == "__main__":
    from traceward.builtin.tokenizer import build as build_tokenizer

    build_tokenizer(TOKENIZER)
    with tempfile.TemporaryDirectory() as trainer_files:
        losses = build(Path(sys.argv[1]) if len(sys.argv) > 1 else STORIES_BASE, Path(trainer_files), every=100)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
