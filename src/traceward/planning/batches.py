"""A recipe's batches as passes. Every trace counts as long as a prompt and a completion may get, and with a prompt of
its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from traceward.config import Recipe
from traceward.planning.forward import Pass
from traceward.planning.holdings import Models
from traceward.planning.moments import Room
from traceward.records import Credit, Head, Objective
from traceward.rewards.batches import tokens_per_pass
from traceward.sampling import sequences_at_once
from traceward.training.adapter import AdapterSettings
from traceward.training.distribution import PER_CALL
from traceward.training.learner import SLICES
from traceward.training.settings import equal_parts, per_process


@dataclass(frozen=True)
class Batches:
    """Those of `recipe` in `room`."""

    recipe: Recipe
    room: Room

    @cached_property
    def models(self) -> Models:
        """What the recipe names."""
        return Models.of(self.recipe, shards=self.room.gpus if self.room.sharded else 1)

    def _policy(self, rows: int) -> Pass:
        policy = self.recipe.policy
        return Pass(
            self.models.policy_model,
            (rows,),
            self.room.prompt,
            self.recipe.adversarial.max_new_tokens,
            self.models.policy_dtype,
            policy.adapter,
            bf16=self.room.on_gpu if policy.bf16 is None else policy.bf16,
            checkpointing=policy.gradient_checkpointing,
            on_gpu=self.room.on_gpu,
        )

    def _reward(self, rows: tuple[int, ...]) -> Pass:
        reward, objective = self.recipe.reward, self.recipe.critic.objective
        scalar = reward.head is Head.SCALAR
        return Pass(
            self.models.reward_model,
            rows,
            self.room.prompt,
            self.recipe.adversarial.max_new_tokens,
            self.models.reward_dtype,
            reward.adapter,
            bf16=False,  # a discriminator scores as it learns, without the policy's autocast
            checkpointing=reward.gradient_checkpointing,
            on_gpu=self.room.on_gpu,
            scalar=scalar,
            padded=scalar and objective is Objective.AIRL,
            double=objective is Objective.WGAN_GP,
        )

    def sft(self) -> Pass:
        """A part of a batch of supervised fine-tuning."""
        settings = self.recipe.sft
        own = per_process(settings.batch, self.room.gpus, key="sft.batch")
        parts = equal_parts(own, settings.traces_per_backward or own)
        return replace(self._policy(own // parts), accumulates=parts > 1)

    def warm_up_rollouts(self) -> Pass:
        """A call that samples the base, without a trainer around it."""
        per_question = self.recipe.critic.rollouts_per_question
        questions = self.recipe.critic.demonstrations or self.recipe.data.demonstrations or PER_CALL
        base = replace(self._policy(1), adapter=AdapterSettings(), bf16=False)
        most = sequences_at_once(base.model.cache_per_token * base.dtype.itemsize * base.width, self.room.on_gpu)
        rows = min(questions, max(1, min(PER_CALL, most) // per_question)) * per_question
        return replace(base, rows=(rows,))

    def rollouts(self) -> Pass:
        """All rollouts of a step, which TRL samples at once."""
        config = self.recipe.adversarial
        config.parts(self.room.gpus)  # raises where they cannot be divided
        return self._policy(config.rollouts // self.room.gpus)

    def policy_update(self) -> Pass:
        """A part of a step's rollouts."""
        config = self.recipe.adversarial
        parts = config.parts(self.room.gpus)
        return replace(self._policy(config.rollouts // (parts * self.room.gpus)), accumulates=parts > 1)

    def reward_update(self) -> Pass:
        """As traceward.training.learner cuts a batch: equal parts, each in slices that go backward together."""
        settings, gpus = self.recipe.critic, self.room.gpus
        count = settings.positives + round(settings.positives * settings.corruptions) + settings.rollouts
        passes = -(-count // (gpus * settings.traces_per_pass))
        part = -(-count // (passes * gpus))
        slices = min(SLICES, part)
        rows = tuple(part * (at + 1) // slices - part * at // slices for at in range(slices))
        return replace(self._reward(rows), accumulates=passes > 1)

    def scoring(self) -> Iterator[Pass]:
        """A row of traces through the reward; where units have rewards, through the policy too."""
        config = self.recipe.adversarial
        fitting = (tokens_per_pass(on_gpu=self.room.on_gpu) - self.room.prompt) // config.max_new_tokens
        rows = max(1, min(fitting, config.rollouts // self.room.gpus))  # of one prompt, which counts once
        yield self._reward((rows,))
        if config.credit is not Credit.CONSENSUS:
            yield self._policy(rows)
