"""What stands in memory whatever goes through it: weights, gradients and an optimiser's states of a recipe's models."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from traceward.builtin import STORIES_BASE
from traceward.builtin.small import small_config
from traceward.config import BUILTIN_BASE, Recipe
from traceward.planning.architecture import Architecture
from traceward.records import Head
from traceward.training.adapter import AdapterSettings

FLOAT32 = torch.float32.itemsize


@dataclass(frozen=True, slots=True)
class Holding:
    """Bytes of weights, gradients and optimiser states that stand there."""

    weights: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0

    def __add__(self, other: Holding) -> Holding:
        return Holding(self.weights + other.weights, self.gradients + other.gradients, self.optimiser + other.optimiser)


@dataclass(frozen=True, slots=True)
class Learner:
    """A model that learns, in bytes on one GPU.

    weights: all of them, an adapter included.   learned: of those that learn, which is the size of their gradients.
    whole: the same before FSDP2 shards it.   states: AdamW's two moments, of the type of the weights.
    largest: the largest weight that learns.   brought: what a pass brings together for a while: under FSDP2 two layers
    and what stands outside of layers, of 4 bit the largest matrix.
    """

    weights: float
    learned: float
    whole: float
    states: float
    largest: float
    brought: float
    trained: int


@dataclass(frozen=True)
class Models:
    """The policy and the reward of a recipe. `policy_base` and `reward_base`: bytes of what they are made of;
    `reward_frozen`: of a log-ratio's reference where it is a copy."""

    policy_model: Architecture
    policy_dtype: torch.dtype
    policy_base: float
    policy: Learner
    reward_model: Architecture
    reward_dtype: torch.dtype
    reward_base: float
    reward: Learner
    reward_frozen: float

    @classmethod
    def of(cls, recipe: Recipe, *, shards: int = 1) -> Models:
        """shards: over how many GPUs FSDP2 lays what learns."""
        policy, reward = recipe.policy, recipe.reward
        model = architecture(recipe, policy.path)
        dtype = getattr(torch, policy.dtype)
        own = model if reward.path is None else architecture(recipe, reward.path)
        own_dtype = getattr(torch, reward.dtype or policy.dtype)
        own_4bit = policy.load_in_4bit and reward.path is None
        own_base = own.size().bytes(own_dtype, in_4bit=own_4bit)
        scalar, adapted = reward.head is Head.SCALAR, reward.adapter.chosen
        return cls(
            model,
            dtype,
            model.size().bytes(dtype, in_4bit=policy.load_in_4bit),
            learner(model, dtype, policy.adapter, in_4bit=policy.load_in_4bit, shards=shards),
            own,
            own_dtype,
            own_base,
            learner(own, own_dtype, reward.adapter, in_4bit=own_4bit, scalar=scalar, shards=shards),
            0.0 if scalar or adapted else own_base,
        )


def architecture(recipe: Recipe, path: str) -> Architecture:
    """Of a model as a recipe names it."""
    if path == BUILTIN_BASE:
        return Architecture.of(str(STORIES_BASE))
    if path != "scratch":
        return Architecture.of(path)
    made = recipe.policy.scratch
    config = small_config(
        vocabulary=made.vocabulary,
        hidden=made.hidden,
        intermediate=made.hidden * 8 // 3,
        layers=made.layers,
        heads=made.heads,
        context=made.context,
    )
    return Architecture.of(path, config)


def learner(
    model: Architecture,
    dtype: torch.dtype,
    adapter: AdapterSettings,
    *,
    in_4bit: bool = False,
    scalar: bool = False,
    shards: int = 1,
) -> Learner:
    """A model all of whose weights learn, or its adapter in float32 and a scalar head. Adapters are not sharded in a
    reward, and are too small to matter in a policy: what they stand beside is sharded in a policy only."""
    size = model.size(scalar=scalar)
    if adapter.chosen:
        head = size.head if scalar else 0
        base = size.bytes(dtype, in_4bit=in_4bit)
        learned = float(model.adapter(adapter) * FLOAT32 + head * dtype.itemsize)
        weights = base / shards + model.adapter(adapter) * FLOAT32
        largest = float((adapter.rank or 0) * size.longest_side * FLOAT32)
        trained = model.adapter(adapter) + head
    else:
        learned, trained = size.parameters * float(dtype.itemsize), size.parameters
        weights, largest = learned / shards, size.largest * float(dtype.itemsize)
    brought = 0 if shards == 1 else 2 * size.layer + size.outside
    brought = max(brought, size.largest_linear if in_4bit else 0)
    states = 2 * learned / shards
    return Learner(weights, learned / shards, learned, states, largest, float(brought * dtype.itemsize), trained)
