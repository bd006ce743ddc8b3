"""Where a run's memory goes, moment by moment: what stands there all along, and what the pass of that moment adds.

Follows traceward.workflows.stages and arms, training.critic, learner and adversarial; a change there belongs here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from traceward.config import Arm, Recipe
from traceward.planning.batches import Batches
from traceward.planning.forward import Pass
from traceward.planning.holdings import Holding, Learner, Models
from traceward.planning.ledger import Peak
from traceward.planning.moments import Moment, Room
from traceward.planning.passes import Peaks, policy_update, reward_update, sampling, scoring
from traceward.records import Objective, Start

ARMS = (Arm.ADVERSARIAL, Arm.REWARD_FROZEN, Arm.SFT_LOGPROB_CONSENSUS, Arm.MAJORITY_CONSENSUS, Arm.OUTCOME)
"""Arms that learn from rollouts, from the one that holds most to the one that holds least."""


@dataclass(frozen=True)
class Memory:
    """The moments of `recipe` in `room`."""

    recipe: Recipe
    room: Room

    @cached_property
    def batches(self) -> Batches:
        """What goes through the models."""
        return Batches(self.recipe, self.room)

    @property
    def models(self) -> Models:
        """What the recipe names."""
        return self.batches.models

    def moments(self) -> list[Moment]:
        """In the order of a run; of the arms that learn from rollouts, the one that holds most."""
        from traceward.workflows.train import plan

        found = [self._sft()] if "sft" in plan(self.recipe) else []
        found.append(self._sampling("rollouts", self.batches.warm_up_rollouts(), Holding(self.models.policy_base)))
        if not self.room.on_gpu:
            found.append(_loading("reward", self.models.reward_base))
        found.append(self._warm_up())
        arm = next((arm for arm in ARMS if arm in self.recipe.run.arms), None)
        return found + ([] if arm is None else list(self._arm(arm)))

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _sft(self) -> Moment:
        policy = self.models.policy
        return self._update("sft", "update", policy, Holding(policy.weights), policy_update(self.batches.sft()))

    def _warm_up(self) -> Moment:
        """The model that the reward was made of stays there, and a copy of the best weights so far."""
        models, settings = self.models, self.recipe.critic
        weights = models.reward.weights + models.reward_frozen + (models.reward.learned if settings.held_out else 0)
        if not self.recipe.reward.adapter.chosen:
            weights += models.reward_base
        if self.recipe.reward.path is not None and settings.objective is Objective.AIRL:
            weights += models.policy_base
        return self._reward_update("reward", "update", Holding(weights))

    def _arm(self, arm: Arm) -> Iterator[Moment]:
        stage, policy, critic = str(arm), self.models.policy, self.models.reward
        stands = Holding(policy.weights + self._kl_reference())
        if arm is Arm.SFT_LOGPROB_CONSENSUS:
            stands += Holding(self.models.policy_base)
        judged = arm in (Arm.ADVERSARIAL, Arm.REWARD_FROZEN)
        if judged:
            shared = self.models.policy_base if self.recipe.reward.shares_backbone else 0.0
            stands += Holding(critic.weights + self.models.reward_frozen - shared)
        learns = arm is Arm.ADVERSARIAL and self.recipe.adversarial.critic_updates_most > 0
        learned = Holding(0.0, 0.0, critic.states) if learns else Holding()
        between = stands + learned + Holding(0.0, 0.0, policy.states)
        if not self.room.on_gpu:
            yield _loading(stage, self.models.policy_base)
        yield self._sampling(stage, self.batches.rollouts(), between)
        if learns:
            yield self._reward_update(stage, "reward update", stands + Holding(0.0, 0.0, policy.states))
        if judged:
            peak = max((scoring(one).forward for one in self.batches.scoring()), key=lambda peak: peak.total)
            yield _moment(stage, "scoring", between, peak, critic.brought)
        batch = self.batches.policy_update()
        found = policy_update(batch)
        yield self._update(stage, "policy update", policy, stands + learned, found, accumulates=batch.accumulates)

    def _kl_reference(self) -> float:
        """TRL's: the start policy once more; with an adapter its base, or a copy of an adapter that has learned."""
        if not self.recipe.adversarial.kl:
            return 0.0
        if not self.recipe.policy.adapter.chosen:
            return self.models.policy.weights
        return self.models.policy.learned if self.recipe.run.start is Start.SFT else 0.0

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
    ) -> Moment:
        """The fullest of three points: on the way there, where it turns, and the end, when all gradients are there.

        accumulates: whether those of an earlier part are there all along, so that the pass did not bring them.
        """
        stands += Holding(0.0, 0.0, learner.states)
        whole = stands + Holding(0.0, learner.learned)
        brought = Peak(0.0 if accumulates else learner.whole)
        points = (
            _moment(stage, part, whole if accumulates else stands, peaks.forward, learner.brought),
            _moment(stage, part, whole if accumulates else stands, peaks.turn, learner.brought),
            _moment(stage, part, whole, peaks.end + brought * -1, learner.brought),
        )
        return max(points, key=lambda moment: moment.total)

    def _reward_update(self, stage: str, part: str, stands: Holding) -> Moment:
        """Torch's AdamW takes the roots of all second moments at once on a GPU, of one weight elsewhere, and there two
        copies; transformers', which moves policies, is fused and takes none."""
        learner, batch = self.models.reward, self.batches.reward_update()
        found = reward_update(batch)
        passed = self._update(stage, part, learner, stands, found, accumulates=batch.accumulates)
        roots = Peak(learner.learned if self.room.on_gpu else 2 * learner.largest)
        stepping = _moment(stage, part, stands + Holding(0.0, learner.learned, learner.states), roots, 0.0)
        return max(passed, stepping, key=lambda moment: moment.total)

    def _sampling(self, stage: str, batch: Pass, stands: Holding) -> Moment:
        """Keys and values are among what a pass was seen to hold; here they get a column of their own."""
        peak = sampling(batch).forward
        size = 2 if batch.bf16 else batch.dtype.itemsize
        cache = min(peak.activations, float(batch.rows[0] * batch.width * batch.model.cache_per_token * size))
        moment = _moment(stage, "sampling", stands, peak + Peak(-cache), self.models.policy.brought)
        return replace(moment, cache=cache)


def _loading(stage: str, base: float) -> Moment:
    """Weights are copied out of the mapped file; on a GPU that happens in the computer's memory."""
    return Moment(stage, "loading", weights=2 * base)


def _moment(stage: str, part: str, stands: Holding, peak: Peak, brought: float) -> Moment:
    activations = max(0.0, peak.activations) + brought
    return Moment(
        stage, part, stands.weights, stands.gradients, stands.optimiser, activations=activations, logits=peak.logits
    )
