"""`traceward plan`: what a recipe will take, from its models' configurations alone; nothing is loaded or trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceward.config import Recipe, load_recipe
from traceward.errors import ConfigError
from traceward.planning.advice import changed_to_fit
from traceward.planning.memory import ARMS, Memory
from traceward.planning.moments import Moment, Room
from traceward.workflows.train import plan as stages_of

GIB = 2**30
CONTEXT_GIB = 1.0
"""CUDA's context, the kernels and cuBLAS's workspaces, which torch's own count leaves out. Assumed, not measured."""
GAPS = 0.05
"""Share of the peak that the caching allocator loses to rounding and gaps. Assumed, not measured."""


@dataclass(frozen=True, slots=True)
class StageTokens:
    """How often a stage steps, and how many tokens a step reads and writes at most."""

    stage: str
    steps: int
    tokens_per_step: int

    @property
    def tokens(self) -> int:
        """Of the whole stage."""
        return self.steps * self.tokens_per_step


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A recipe's plan: models (name, parameters, what learns), moments of memory, and tokens of the stages."""

    recipe: Recipe
    room: Room
    models: list[dict[str, Any]]
    moments: list[Moment]
    stages: list[StageTokens]
    tokens_per_second: float | None

    @property
    def peak(self) -> Moment:
        """The fullest moment."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def needed_gib(self) -> float:
        """On one GPU, with what torch does not count; stages that run side by side (run.workers) share it."""
        return needed_gib(self.peak.total, self.recipe)

    @property
    def hours(self) -> float | None:
        """At the stated throughput; None without one."""
        if self.tokens_per_second is None:
            return None
        return sum(stage.tokens for stage in self.stages) / self.tokens_per_second / 3600

    def as_json(self) -> dict[str, Any]:
        """Numbers of the tables; memory in bytes."""
        return {
            "models": self.models,
            "gpus": self.room.gpus,
            "prompt_tokens": self.room.prompt,
            "memory": [{"moment": moment.name, **moment.parts, "total": moment.total} for moment in self.moments],
            "peak": self.peak.name,
            "needed_gib": self.needed_gib,
            "stages": [
                {"stage": s.stage, "steps": s.steps, "tokens_per_step": s.tokens_per_step, "tokens": s.tokens}
                for s in self.stages
            ],
            "hours": self.hours,
        }


def needed_gib(peak: float, recipe: Recipe) -> float:
    """Memory that a GPU must have for a peak of so many bytes."""
    return peak * (1 + GAPS) * max(1, recipe.run.workers) / GIB + CONTEXT_GIB


def make_plan(
    recipe: str | Path | Recipe,
    *,
    overrides: tuple[str, ...] = (),
    gpus: int = 1,
    gpu_memory: float | None = None,
    sharded: bool = False,
    prompt_tokens: int = 300,
    tokens_per_second: float | None = None,
) -> RunPlan:
    """gpu_memory: GiB of each GPU. Raises ConfigError where the recipe does not fit into it, with what to change."""
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    room = Room(gpus, sharded, prompt_tokens)
    _check(resolved, room)
    memory = Memory(resolved, room)
    found = RunPlan(resolved, room, _models(memory), memory.moments(), list(_stages(resolved, room)), tokens_per_second)
    if gpu_memory is not None and found.needed_gib > gpu_memory:
        raise ConfigError(
            f"recipe must fit {gpu_memory:g} GiB on each of {gpus} GPUs: got {found.needed_gib:.1f} GiB at "
            f"'{found.peak.name}'; {changed_to_fit(resolved, room, lambda m, r: needed_gib(m, r) <= gpu_memory)}"
        )
    return found


def _check(recipe: Recipe, room: Room) -> None:
    if room.sharded and room.gpus == 1:
        raise ConfigError("gpus must be at least 2 with sharding: got 1; set --gpus, or remove --sharded")
    if room.sharded and recipe.reward.adapter.chosen:
        raise ConfigError(
            "reward.adapter.rank must be left out with FSDP2, which takes weights apart: got "
            f"{recipe.reward.adapter.rank}; remove --sharded, or the adapter"
        )


def _models(memory: Memory) -> list[dict[str, Any]]:
    recipe, models = memory.recipe, memory.models
    own = recipe.reward.path
    rows = [("policy", models.policy_model, models.policy_dtype, recipe.policy.adapter.rank, models.policy.trained)]
    rows += [("reward", models.reward_model, models.reward_dtype, recipe.reward.adapter.rank, models.reward.trained)]
    return [
        {
            "part": part,
            "model": recipe.policy.path if part == "policy" or own is None else own,
            "parameters": model.size().parameters,
            "dtype": str(dtype).removeprefix("torch."),
            "in_4bit": recipe.policy.load_in_4bit and (part == "policy" or own is None),
            "adapter_rank": rank,
            "learn": trained,
        }
        for part, model, dtype, rank, trained in rows
    ]


def _stages(recipe: Recipe, room: Room) -> Iterator[StageTokens]:
    """Of the stages that train. Discriminator updates of a policy step count as often as the schedule starts with."""
    config, critic = recipe.adversarial, recipe.critic
    width = room.prompt + config.max_new_tokens
    update = critic.positives + round(critic.positives * critic.corruptions) + critic.rollouts
    if "sft" in stages_of(recipe):
        yield StageTokens("sft", recipe.sft.steps, recipe.sft.batch * width)
    if critic.warmup_updates:
        yield StageTokens("reward", critic.warmup_updates, update * width)
    for arm in ARMS:
        if arm in recipe.run.arms:
            own = config.critic_updates * update if arm == "adversarial" else 0
            yield StageTokens(str(arm), config.steps, (config.rollouts + own) * width)
