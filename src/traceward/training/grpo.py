"""What TRL's trainers are told: the place where our settings become the arguments of its GRPO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl import GRPOConfig

from traceward.data.formats import Format, policy_prompt
from traceward.records import Problem, Schedule
from traceward.training.distribution import join, place
from traceward.training.settings import AdversarialConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def grpo_arguments(
    config: AdversarialConfig,
    directory: Path,
    *,
    seed: int,
    style: Format = Format.PLAIN,
    bf16: bool | None = None,
    gradient_checkpointing: bool = False,
    report_to: Sequence[str] = (),
) -> GRPOConfig:
    """TRL's arguments for `config`; everything its defaults would decide silently is said here."""
    join()  # the batch below is that of all processes
    _, processes = place()
    parts = config.parts(processes)
    return GRPOConfig(
        max_steps=config.steps,
        per_device_train_batch_size=config.rollouts // (parts * processes),
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_generations=config.group,
        max_completion_length=config.max_new_tokens,
        chat_template_kwargs=style.template_options,
        temperature=config.temperature,
        top_p=config.top_p,
        learning_rate=config.learning_rate,
        lr_scheduler_type={Schedule.CONSTANT: "constant_with_warmup", Schedule.COSINE: "cosine"}[config.schedule],
        warmup_steps=config.rising,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        beta=config.kl,
        loss_type="dapo",
        scale_rewards=str(config.scale_rewards),
        num_iterations=config.iterations,
        max_grad_norm=1.0,
        log_completions=False,
        **common_arguments(
            directory, seed, bf16=bf16, gradient_checkpointing=gradient_checkpointing, report_to=report_to
        ),
        **vllm_arguments(config),
    )


def common_arguments(
    directory: Path, seed: int, *, bf16: bool | None, gradient_checkpointing: bool, report_to: Sequence[str]
) -> dict[str, Any]:
    """What every trainer of TRL's is told, whatever its method. Checkpoints are traceward's own."""
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(directory),
        "seed": seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu if bf16 is None else bf16,
        "gradient_checkpointing": gradient_checkpointing,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": list(report_to) or "none",
        "run_name": run_name(directory),
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def question_rows(
    questions: Sequence[Problem], config: AdversarialConfig, style: Format, tokenizer: PreTrainedTokenizerBase
) -> Dataset:
    """The trainer's data set: the prompt as TRL takes it, and the question's id. No answer travels with it.

    Raises ConfigError for fewer questions than one step takes.
    """
    config.check_questions(len(questions))
    return Dataset.from_list(
        [{"prompt": policy_prompt(problem, style, tokenizer), "problem_id": problem.id} for problem in questions]
    )


def vllm_arguments(config: AdversarialConfig) -> dict[str, Any]:
    """TRL's arguments for rollouts by vLLM; none where transformers samples."""
    asked = config.vllm
    if asked.mode is None:
        return {}
    found = {
        "use_vllm": True,
        "vllm_mode": str(asked.mode),
        "vllm_gpu_memory_utilization": asked.gpu_memory_utilization,
        "vllm_tensor_parallel_size": asked.tensor_parallel_size,
        "vllm_max_model_length": asked.max_model_length,
        "vllm_enable_sleep_mode": asked.sleep,
        "vllm_server_timeout": asked.server_timeout,
        "vllm_server_base_url": asked.server_url,
    }
    return {key: value for key, value in found.items() if value is not None}


def run_name(directory: Path) -> str:
    """What a tracker calls the training in RUN/policies/STAGE or RUN/checkpoints/STAGE."""
    return f"{directory.absolute().parent.parent.name}-{directory.name}"
