"""Where a run's memory goes, moment by moment: what stands there all along, and what the pass of that moment adds.

Every trace counts as long as a prompt and a completion may get, and with a prompt of its own. Follows
traceward.workflows.stages and arms, training.critic, learner and adversarial; a change there belongs here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property

from traceward.config import Arm, Recipe
from traceward.planning.holdings import Holding, Learner, Models
from traceward.planning.ledger import Peak
from traceward.planning.passes import Pass, Peaks, policy_update, reward_update, sampling, scoring
from traceward.records import Head, Objective, Start
from traceward.rewards.batches import tokens_per_pass
from traceward.training.distribution import PER_CALL
from traceward.training.learner import SLICES
from traceward.training.settings import per_process

ARMS = (Arm.ADVERSARIAL, Arm.REWARD_FROZEN, Arm.SFT_LOGPROB_CONSENSUS, Arm.MAJORITY_CONSENSUS, Arm.OUTCOME)
"""Arms that learn from rollouts, from the one that holds most to the one that holds least."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes on one GPU at the fullest point of a part of a stage."""

    stage: str
    part: str
    weights: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0
    cache: float = 0.0
    logits: float = 0.0

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.stage}: {self.part}"

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by part."""
        return {field.name: getattr(self, field.name) for field in fields(self)[2:]}

    @property
    def total(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Room:
    """Where a recipe runs: how many GPUs, whether FSDP2 shards what learns, and the longest prompt in tokens.

    on_gpu: False plans a run on a CPU.
    """

    gpus: int = 1
    sharded: bool = False
    prompt: int = 300
    on_gpu: bool = True


@dataclass(frozen=True)
class Memory:
    """The moments of `recipe` in `room`."""

    recipe: Recipe
    room: Room

    @cached_property
    def models(self) -> Models:
        """What the recipe names."""
        return Models.of(self.recipe, shards=self.room.gpus if self.room.sharded else 1)

    @property
    def bf16(self) -> bool:
        """Whether the policy's passes run under autocast."""
        wanted = self.recipe.policy.bf16
        return self.room.on_gpu if wanted is None else wanted

    def moments(self) -> list[Moment]:
        """In the order of a run; of the arms that learn from rollouts, the one that holds most."""
        from traceward.workflows.train import plan

        found = [self._sft()] if "sft" in plan(self.recipe) else []
        if not self.room.on_gpu:
            found += [self._loading("reward", self.models.reward_base)]
        found += [self._rollouts(), self._warm_up()]
        arm = next((arm for arm in ARMS if arm in self.recipe.run.arms), None)
        return found + ([] if arm is None else list(self._arm(arm)))

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _sft(self) -> Moment:
        rows = per_process(self.recipe.sft.batch, self.room.gpus, key="sft.batch")
        policy = self.models.policy
        return self._update("sft", "update", policy, Holding(policy.weights), policy_update(self._policy_pass(rows)))

    def _rollouts(self) -> Moment:
        per_question = self.recipe.critic.rollouts_per_question
        questions = self.recipe.critic.demonstrations or self.recipe.data.demonstrations or PER_CALL
        rows = min(questions, max(1, PER_CALL // per_question)) * per_question
        return self._sampling("rollouts", rows, Holding(self.models.policy_base))

    def _warm_up(self) -> Moment:
        """The model that the reward was made of stays there, and a copy of the best weights so far."""
        models, settings = self.models, self.recipe.critic
        weights = models.reward.weights + models.reward_frozen + (models.reward.learned if settings.held_out else 0)
        if not self.recipe.reward.adapter.chosen:
            weights += models.reward_base
        if self.recipe.reward.path is not None and settings.objective is Objective.AIRL:
            weights += models.policy_base
        return self._update(
            "reward", "update", models.reward, Holding(weights), self._reward_peaks(), steps_with_copies=True
        )

    def _arm(self, arm: Arm) -> Iterator[Moment]:
        stage, policy, critic = str(arm), self.models.policy, self.models.reward
        config, stands = self.recipe.adversarial, Holding(policy.weights, 0.0, policy.states)
        stands += Holding(self._kl_reference())
        if arm is Arm.SFT_LOGPROB_CONSENSUS:
            stands += Holding(self.models.policy_base)
        judged = arm in (Arm.ADVERSARIAL, Arm.REWARD_FROZEN)
        if judged:
            shared = self.recipe.reward.shares_backbone
            stands += Holding(critic.weights + self.models.reward_frozen - (self.models.policy_base if shared else 0))
        learns = arm is Arm.ADVERSARIAL and config.critic_updates_most > 0
        with_critic = stands + Holding(0.0, critic.learned, critic.states) if learns else stands
        if not self.room.on_gpu:
            yield self._loading(stage, self.models.policy_base)
        # A critic's gradients stay until its next update begins.
        yield self._sampling(stage, per_process(config.rollouts, self.room.gpus, key="rollouts"), with_critic)
        if learns:
            without = replace(with_critic, gradients=0.0, optimiser=with_critic.optimiser - critic.states)
            yield self._update(stage, "reward update", critic, without, self._reward_peaks(), steps_with_copies=True)
        if judged:
            yield self._scoring(stage, with_critic)
        parts = config.parts(self.room.gpus)
        rows = config.rollouts // (parts * self.room.gpus)
        without = replace(with_critic, optimiser=with_critic.optimiser - policy.states)
        passed = policy_update(self._policy_pass(rows, accumulates=parts > 1))
        yield self._update(stage, "policy update", policy, without, passed, accumulates=parts > 1)

    def _kl_reference(self) -> float:
        """TRL's: the start policy once more; with an adapter its base, or a copy of an adapter that has learned."""
        if not self.recipe.adversarial.kl:
            return 0.0
        if not self.recipe.policy.adapter.chosen:
            return self.models.policy.weights
        return self.models.policy.learned if self.recipe.run.start is Start.SFT else 0.0

    @staticmethod
    def _loading(stage: str, base: float) -> Moment:
        """Weights are copied out of the mapped file; on a GPU that happens in the computer's memory."""
        return Moment(stage, "loading", weights=2 * base)

    # ---- moments -----------------------------------------------------------------------------------------------------

    def _update(
        self,
        stage: str,
        part: str,
        learner: Learner,
        stands: Holding,
        peaks: Peaks,
        *,
        accumulates: bool = False,
        steps_with_copies: bool = False,
    ) -> Moment:
        """The fuller of two points: where the way back turns, or its end, when all gradients are there.

        steps_with_copies: torch's AdamW takes the root of all second moments at once on a GPU, of one weight elsewhere;
        transformers' is fused and takes none.
        """
        own = Holding(0.0, 0.0, learner.states)
        brought = learner.brought
        turn = self._moment(stage, part, stands + own, peaks.turn, brought)
        if accumulates:
            turn = replace(turn, gradients=turn.gradients + learner.learned)
        extra = Peak(peaks.end.activations - (0 if accumulates else learner.whole), peaks.end.logits)
        end = self._moment(stage, part, stands + own + Holding(0.0, learner.learned), extra, brought)
        roots = learner.learned if self.room.on_gpu else 2 * learner.largest
        step = replace(end, activations=roots if steps_with_copies else 0.0, logits=0.0)
        return max(turn, end, step, key=lambda moment: moment.total)

    def _sampling(self, stage: str, rows: int, stands: Holding) -> Moment:
        held = self._policy_pass(rows)
        peak = sampling(held).turn
        cache = rows * held.width * held.model.cache_per_token * (2 if self.bf16 else held.dtype.itemsize)
        moment = self._moment(stage, "sampling", stands, peak, self.models.policy.brought)
        return replace(moment, cache=min(cache, peak.activations), activations=max(0.0, moment.activations - cache))

    def _scoring(self, stage: str, stands: Holding) -> Moment:
        held = self._reward_pass(())
        tokens = 8192 if self.room.on_gpu else tokens_per_pass()
        peak = scoring(replace(held, rows=(max(1, tokens // held.completion),))).turn
        return self._moment(stage, "scoring", stands, peak, self.models.reward.brought)

    @staticmethod
    def _moment(stage: str, part: str, stands: Holding, peak: Peak, brought: float) -> Moment:
        return Moment(
            stage,
            part,
            stands.weights,
            stands.gradients,
            stands.optimiser,
            max(0.0, peak.activations) + brought,
            0.0,
            peak.logits,
        )

    # ---- passes ------------------------------------------------------------------------------------------------------

    def _policy_pass(self, rows: int, *, accumulates: bool = False) -> Pass:
        policy, room = self.recipe.policy, self.room
        return Pass(
            self.models.policy_model,
            (rows,),
            room.prompt,
            self.recipe.adversarial.max_new_tokens,
            self.models.policy_dtype,
            policy.adapter,
            self.bf16,
            policy.gradient_checkpointing,
            room.on_gpu,
            accumulates,
        )

    def _reward_pass(self, rows: tuple[int, ...]) -> Pass:
        reward, objective = self.recipe.reward, self.recipe.critic.objective
        scalar = reward.head is Head.SCALAR
        return Pass(
            self.models.reward_model,
            rows,
            self.room.prompt,
            self.recipe.adversarial.max_new_tokens,
            self.models.reward_dtype,
            reward.adapter,
            False,
            reward.gradient_checkpointing,
            self.room.on_gpu,
            scalar=scalar,
            padded=scalar and objective is Objective.AIRL,
            double=objective is Objective.WGAN_GP,
        )

    def _reward_peaks(self) -> Peaks:
        """As traceward.training.learner cuts a batch: equal parts, each in slices that go backward together."""
        settings, gpus = self.recipe.critic, self.room.gpus
        count = settings.positives + round(settings.positives * settings.corruptions) + settings.rollouts
        passes = -(-count // (gpus * settings.traces_per_pass))
        part = -(-count // (passes * gpus))
        slices = min(SLICES, part)
        rows = tuple(part * (at + 1) // slices - part * at // slices for at in range(slices))
        return reward_update(replace(self._reward_pass(rows), accumulates=passes > 1))
