"""Supervised fine-tuning and outcome RL: TRL's own trainers on the same prompts, so the comparison is fair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceward.data.formats import EncodedTrace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class SFTSettings:
    """Supervised fine-tuning; loss on the completion only.

    steps: optimiser updates.   batch: traces per update.   learning_rate: peak of a cosine schedule.
    """

    steps: int = 60
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0


def supervised_fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    traces: Sequence[EncodedTrace],
    settings: SFTSettings,
    directory: Path,
    *,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, float]]:
    """Train `model` in place by TRL's SFTTrainer on token ids as given; returns the logged rows (step, loss, …)."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": [*trace.prompt_ids, *trace.completion_ids],
            "completion_mask": [0] * len(trace.prompt_ids) + [1] * len(trace.completion_ids),
        }
        for trace in traces
    ]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=list(callbacks),
        args=SFTConfig(
            output_dir=str(directory),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=int(settings.warmup * settings.steps),
            weight_decay=settings.weight_decay,
            completion_only_loss=True,
            max_length=None,
            seed=settings.seed,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not _accelerator(),
            bf16=False,
            gradient_checkpointing=False,
            train_sampling_strategy="group_by_length",
        ),
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def _accelerator() -> bool:
    import torch

    return torch.cuda.is_available()
