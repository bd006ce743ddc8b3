"""Pre-trains the base models of the worlds from scratch, on student traces.

`python -m traceward.builtin.pretrain` rebuilds what ships with the package: the tokenizers, and the tiny Llama of
`stories` (a quarter of an hour on one core). `python -m traceward.builtin.pretrain TASK … --out DIRECTORY` makes a
base of one world, or of several, whose students' traces are mixed: then only demonstrations differ. A run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainerCallback, TrainingArguments

from traceward.builtin import STORIES_BASE, TOKENIZER, WORLDS_TOKENIZER
from traceward.builtin.plans import (
    BATCH,
    LEARNING_RATE,
    PLANS,
    SEED,
    Lesson,
    Plan,
    plan_of,
    traces_of,
)
from traceward.builtin.small import small_llama
from traceward.data.formats import EncodedTrace
from traceward.data.jsonl import write_json
from traceward.data.tasks.worlds import WORLDS
from traceward.environment import keep_freed_memory
from traceward.errors import ConfigError
from traceward.loading import load_causal_lm, load_tokenizer
from traceward.training.baselines import silence
from traceward.training.checkpoints import Checkpoints
from traceward.training.resume import train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100  # what cross entropy leaves out


def fresh_model(tokenizer: PreTrainedTokenizerBase, plan: Plan) -> PreTrainedModel:
    """The architecture at its random start."""
    return small_llama(
        tokenizer,
        hidden=plan.hidden,
        intermediate=2 * plan.hidden,
        layers=plan.layers,
        heads=plan.heads,
        context=plan.context,
        seed=SEED,
    )


def in_batches(traces: Sequence[EncodedTrace], rng: random.Random, batch: int = BATCH) -> list[EncodedTrace]:
    """The same traces, so ordered that every `batch` of them are of similar length, and the batches in random order.

    transformers' own grouping runs from long batches to short ones again and again, and learns markedly slower here.
    """
    size = 50 * batch
    chunks = [sorted(traces[at : at + size], key=_length) for at in range(0, len(traces), size)]
    batches = [chunk[at : at + batch] for chunk in chunks for at in range(0, len(chunk), batch)]
    rng.shuffle(batches)
    return [trace for some in batches for trace in some]


def _length(trace: EncodedTrace) -> int:
    return len(trace.prompt_ids) + len(trace.completion_ids)


class CompletionTrainer(Trainer):  # type: ignore[misc]
    """Cross entropy of the completion, the output layer run there only: half of all tokens are questions, and at this
    size the output layer is a fifth of the work. Padding stands behind everything that is trained on, where a causal
    model does not see it, so there is no mask."""

    def compute_loss(self, model: PreTrainedModel, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        """Mean over the batch's completion tokens, in nats."""
        hidden = model.base_model(input_ids=inputs["input_ids"])
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


def _collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    fills = {"input_ids": 0, "labels": IGNORED}
    return {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=fill)
        for name, fill in fills.items()
    }


def train_base(
    model: PreTrainedModel,
    traces: Sequence[EncodedTrace],
    scratch: Path,
    *,
    steps: int,
    stop: int | None = None,
    batch: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    every: int = 1,
    checkpoints: Checkpoints | None = None,
) -> list[float]:
    """Pre-train a causal language model in place on batches of `batch` traces, in bf16 where there is a GPU; returns
    the mean loss of every `every` updates. Traces longer than its context are left out. Seeded: same machine, same
    losses.

    stop: ends the same schedule early.   checkpoints: where it goes on if it was stopped.
    """
    context = model.config.max_position_embeddings
    fitting = [trace for trace in traces if _length(trace) <= context]
    rows = [
        {
            "input_ids": torch.tensor([*trace.prompt_ids, *trace.completion_ids]),
            "labels": torch.tensor([IGNORED] * len(trace.prompt_ids) + list(trace.completion_ids)),
        }
        for trace in in_batches(fitting, random.Random(f"batches-{SEED}"), batch)
    ]
    keep_freed_memory()
    on_gpu = torch.cuda.is_available()
    trainer = CompletionTrainer(
        model=model,
        train_dataset=rows,
        data_collator=_collate,
        callbacks=[StopAfter(stop or steps)],
        args=TrainingArguments(
            output_dir=str(scratch),
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 40,
            weight_decay=0.05,
            adam_beta2=0.98,
            train_sampling_strategy="sequential",
            seed=SEED,
            logging_steps=every,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            dataloader_pin_memory=False,
        ),
    )
    silence(trainer)
    train(trainer, checkpoints)
    model.eval()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def save_base(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    traces: Sequence[EncodedTrace],
    directory: Path,
    *,
    steps: int,
    batch: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    checkpoints: int = 20,
) -> list[float]:
    """Pre-train a model and save it with its tokenizer, in a directory that loads on its own; it is there whole or not
    at all. What an unfinished run has done lies beside it until it is whole.   checkpoints: how many are written."""
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    _same_plan(
        unfinished / "plan.json", model, traces, {"steps": steps, "batch": batch, "learning_rate": learning_rate}
    )
    losses = train_base(
        model,
        traces,
        unfinished / "trainer",
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        every=max(1, steps // 100),
        checkpoints=Checkpoints(unfinished / "checkpoints", every=max(1, steps // checkpoints), keep=1),
    )
    for part in (model, tokenizer):
        part.save_pretrained(unfinished / "base")
    (unfinished / "base").replace(directory)
    shutil.rmtree(unfinished)
    return losses


def _same_plan(path: Path, model: PreTrainedModel, traces: Sequence[EncodedTrace], options: dict[str, float]) -> None:
    """Keep what an unfinished base is made of, or refuse to finish another one: its checkpoints would fit."""
    digest = hashlib.sha256(repr([(trace.prompt_ids, trace.completion_ids) for trace in traces]).encode()).hexdigest()
    plan = {**options, "traces": digest, "parameters": model.num_parameters(), "family": model.config.model_type}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plan)
    elif (found := json.loads(path.read_text(encoding="utf-8"))) != plan:
        other = next(name for name, value in plan.items() if found.get(name) != value)
        raise ConfigError(
            f"base must be finished as it was begun: got other {other} than in {path}; give the first command "
            f"again, or remove {path.parent}"
        )


def make_base(tasks: Sequence[str], directory: Path, *, steps: int | None = None) -> list[float]:
    """A base of `tasks`, lesson by lesson; see `save_base`. Returns the losses of all lessons; of one that an earlier
    call has finished, none.   steps: one lesson of so many updates on students' traces, in place of the plan."""
    plan = plan_of(tasks)
    if steps is not None:
        plan = replace(plan, lessons=(Lesson(steps),))
    tokenizer, worlds = load_tokenizer(plan.tokenizer), [WORLDS[task] for task in tasks]
    before = [directory.with_name(f"{directory.name}.lesson-{at}") for at in range(1, len(plan.lessons))]
    model, losses = fresh_model(tokenizer, plan), list[float]()
    for at, (lesson, place) in enumerate(zip(plan.lessons, [*before, directory], strict=True)):
        if place.exists():
            model = load_causal_lm(place).train().requires_grad_(True)
            continue
        losses += save_base(
            model,
            tokenizer,
            traces_of(lesson, tokenizer, worlds, seed=SEED + at),
            place,
            steps=lesson.steps,
            batch=lesson.batch,
            learning_rate=lesson.learning_rate,
        )
    for place in before:
        shutil.rmtree(place)
    return losses


def rebuild_assets() -> list[float]:
    """The tokenizers and the base of `stories` that ship with the package."""
    from traceward.builtin.spelling import build as build_spelling
    from traceward.builtin.tokenizer import build as build_tokenizer

    build_tokenizer(TOKENIZER)
    build_spelling(WORLDS_TOKENIZER)
    plan = PLANS["stories"]
    (lesson,) = plan.lessons
    tokenizer = load_tokenizer(plan.tokenizer)
    model, traces = fresh_model(tokenizer, plan), traces_of(lesson, tokenizer, [WORLDS["stories"]])
    with tempfile.TemporaryDirectory() as trainer_files:
        losses = train_base(model, traces, Path(trainer_files), steps=lesson.steps, every=100)
    model.save_pretrained(STORIES_BASE)
    return losses


def _task(name: str) -> str:
    """Checked here, as argparse takes no task at all for one that is not among its choices."""
    if name not in WORLDS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(WORLDS)}: got {name}")
    return name


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m traceward.builtin.pretrain", description=__doc__)
    parser.add_argument("tasks", nargs="*", type=_task, metavar="TASK", help=f"one or more of {', '.join(WORLDS)}")
    parser.add_argument("--out", type=Path, help="a new directory for the base")
    parser.add_argument("--steps", type=int, help="updates; left out, as many as the tasks are known to need")
    chosen = parser.parse_args(arguments)
    if bool(chosen.tasks) is not bool(chosen.out):
        parser.error("TASK and --out go together; with neither, what ships with the package is rebuilt")
    if chosen.out and chosen.out.exists():
        parser.error(f"--out must be a new directory: got {chosen.out}; remove it or choose another")
    try:
        losses = make_base(chosen.tasks, chosen.out, steps=chosen.steps) if chosen.tasks else rebuild_assets()
    except ConfigError as error:
        parser.error(str(error))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
