"""Supervised fine-tuning and outcome RL: TRL's own trainers on the same prompts, so the comparison is fair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PrinterCallback, Trainer

from traceward.adapters import learn_in_float32
from traceward.data.formats import EncodedTrace, Format, stated_answer
from traceward.data.grading import Grade
from traceward.data.options import grade_answer
from traceward.records import Problem
from traceward.training.checkpoints import Checkpoints
from traceward.training.distribution import place
from traceward.training.resume import BufferedRollouts, train
from traceward.training.settings import AdversarialConfig, SFTSettings, equal_parts, per_process
from traceward.training.step_times import StepTimes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig


def silence(trainer: Trainer) -> None:
    """Without a progress bar the Trainer prints every log row; ours go to the metrics file instead."""
    trainer.remove_callback(PrinterCallback)


def supervised_fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    traces: Sequence[EncodedTrace],
    settings: SFTSettings,
    directory: str | Path,
    *,
    seed: int,
    callbacks: Sequence[Any] = (),
    checkpoints: Checkpoints | None = None,
    bf16: bool | None = None,
    gradient_checkpointing: bool = False,
    report_to: Sequence[str] = (),
) -> list[dict[str, float]]:
    """Train `model` in place by TRL's SFTTrainer on token ids as given; returns the logged rows (step, loss, …)."""
    from trl import SFTTrainer

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
        args=_sft_arguments(
            settings,
            Path(directory),
            seed,
            bf16=bf16,
            gradient_checkpointing=gradient_checkpointing,
            report_to=report_to,
        ),
    )
    learn_in_float32(model)
    silence(trainer)
    train(trainer, checkpoints)
    model.eval()
    return [row for row in trainer.state.log_history if "loss" in row]


def _sft_arguments(settings: SFTSettings, directory: Path, seed: int, **engine: Any) -> SFTConfig:
    from trl import SFTConfig

    from traceward.training.grpo import common_arguments

    own = per_process(settings.batch, place()[1], key="sft.batch")
    parts = equal_parts(own, settings.traces_per_backward or own)
    return SFTConfig(
        max_steps=settings.steps,
        per_device_train_batch_size=own // parts,
        gradient_accumulation_steps=parts,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(settings.warmup * settings.steps),
        weight_decay=settings.weight_decay,
        adam_beta2=settings.beta2,
        completion_only_loss=True,
        max_length=None,
        train_sampling_strategy="group_by_length",
        **common_arguments(directory, seed, **engine),
    )


def right_answers(texts: Sequence[str], problems: Sequence[Problem], style: Format) -> list[float]:
    """1 for each completion that states its problem's reference answer; 0 for others and where no answer is known."""
    graded = (grade_answer(stated_answer(text, style), problem) for text, problem in zip(texts, problems, strict=True))
    return [float(grade is Grade.CORRECT) for grade in graded]


def outcome_rl(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Problem],
    config: AdversarialConfig,
    directory: str | Path,
    *,
    style: Format,
    seed: int,
    callbacks: Sequence[Any] = (),
    checkpoints: Checkpoints | None = None,
    bf16: bool | None = None,
    gradient_checkpointing: bool = False,
    report_to: Sequence[str] = (),
) -> None:
    """GRPO on the true answers of `questions`: the bound that a learned reward is held against."""
    from trl import GRPOTrainer

    from traceward.training.adversarial import KLControl
    from traceward.training.grpo import grpo_arguments, question_rows
    from traceward.training.reference import drop_idle_reference, keep_start_policy

    problems = {problem.id: problem for problem in questions}

    def correct(completion_ids: list[list[int]], problem_id: list[str], **_: object) -> list[float]:
        texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        return right_answers(texts, [problems[key] for key in problem_id], style)

    keep_start_policy(policy, tokenizer, Path(directory))
    trainer = GRPOTrainer(
        model=policy,
        processing_class=tokenizer,
        reward_funcs=correct,
        train_dataset=question_rows(questions, config, style, tokenizer),
        args=grpo_arguments(
            config,
            Path(directory),
            seed=seed,
            style=style,
            bf16=bf16,
            gradient_checkpointing=gradient_checkpointing,
            report_to=report_to,
        ),
        callbacks=list(callbacks),
    )
    drop_idle_reference(policy)
    learn_in_float32(policy)
    silence(trainer)
    trainer.add_callback(KLControl(trainer, config))
    trainer.add_callback(StepTimes(trainer))
    train(trainer, checkpoints, {"rollouts": BufferedRollouts(trainer)})
    policy.eval()
