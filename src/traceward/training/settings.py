"""What can be set in training, section by section; the one place with the defaults and their reasons.

Unknown keys are refused. `traceward.config` puts the sections together into a recipe.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from traceward.errors import ConfigError
from traceward.records import Baseline, Credit, Granularity, Head, LabelSource, Objective, Start, UnitSpec


class Section(BaseModel):
    """A part of a recipe: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RewardSettings(Section):
    """What is learned."""

    head: Head = Head.LOG_RATIO
    granularity: Granularity = Granularity.INTERVAL
    interval: int | None = Field(default=None, ge=1)
    """Tokens per unit; left out, a unit is a step."""
    beta: float = Field(default=1.0, gt=0)
    """Scale of the log-ratio in the logit."""
    start: Start = Start.BASE
    """Weights of its backbone before warm-up. A log-ratio's reference is the base either way."""

    @model_validator(mode="after")
    def _interval_fits(self) -> RewardSettings:
        _ = self.spec
        return self

    @property
    def spec(self) -> UnitSpec:
        """Granularity and interval together."""
        return UnitSpec(self.granularity, self.interval)


class CriticSettings(Section):
    """How the discriminator learns."""

    objective: Objective = Objective.GAIL
    label_source: LabelSource = LabelSource.DEMONSTRATIONS
    demonstrations: int | None = Field(default=None, ge=4)
    """The discriminator learns from at most so many of the demonstrations; left out: all."""
    warmup_updates: int = Field(default=40, ge=0)
    """Most updates before the policy moves; early stop on held-out demonstrations may end it sooner."""
    warmup_at_least: int = Field(default=20, ge=0)
    """Updates that early stopping never takes away."""
    check_every: int = Field(default=5, ge=1)
    """Updates between two looks at the held-out demonstrations."""
    patience: int = Field(default=4, ge=1)
    """Looks without a better held-out AUROC before warm-up stops; the best weights are kept."""
    held_out: float = Field(default=0.2, ge=0, lt=1)
    """Share of the demonstrations (at least two) kept for that look; 0 turns early stopping off."""
    positives: int = Field(default=16, ge=1)
    """Expert traces per update."""
    rollouts: int = Field(default=32, ge=1)
    """Policy traces per update, fresh and replayed."""
    traces_per_pass: int = Field(default=64, ge=1)
    """Traces of an update, or of a look, that go through the model at once in each process; fewer need less memory and
    give the same update, for a second forward pass."""
    corruptions: float = Field(default=1.0, ge=0)
    """Corrupted expert traces per expert trace."""
    exclude_corruptions: tuple[str, ...] = ()
    """Kinds left out, by name."""
    rollouts_per_question: int = Field(default=16, ge=1)
    """Samples of the start policy on each demonstration's question, for warm-up."""
    learning_rate: float = Field(default=3e-4, gt=0)
    head_learning_rate: float = Field(default=5e-3, gt=0)
    """For the new last layer of a scalar head, which starts from nothing."""
    weight_decay: float = Field(default=0.01, ge=0)
    grad_norm: float = Field(default=1.0, gt=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    replay: int = Field(default=6400, ge=0)
    """Rollouts remembered."""
    replay_share: float = Field(default=0.5, ge=0, le=1)
    """Share of an update's rollouts that comes from the memory, once there is one."""


class SFTSettings(Section):
    """Supervised fine-tuning; loss on the completion only."""

    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak of a cosine schedule."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)


class AdversarialConfig(Section):
    """The policy's side of the alternation (TRL's GRPO) and how often the discriminator learns."""

    steps: int = Field(default=40, ge=1)
    questions_per_step: int = Field(default=24, ge=1)
    group: int = Field(default=8, ge=2)
    """Rollouts of one question (G)."""
    rollouts_per_backward: int = Field(default=48, ge=1)
    """Rollouts of a step that go forward and backward at once in each process; fewer need less memory and give the
    same step."""
    credit: Credit = Credit.CONSENSUS
    critic_updates: int = Field(default=1, ge=0)
    """Discriminator updates per policy step; 0 freezes the reward after warm-up."""
    learning_rate: float = Field(default=3e-4, gt=0)
    kl: float = Field(default=0.005, ge=0)
    """Weight of the KL penalty to the start policy."""
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=96, ge=1)
    own_reward: float = Field(default=0.0, ge=0, le=1)
    """consensus only: share of the trace's own (group-normalised) exported reward mixed into the agreement."""
    vote_temperature: float = Field(default=1.0, gt=0)
    """consensus only: temperature of the softmax over exported rewards that weighs the votes."""
    clip: float = Field(default=5.0, gt=0)
    """Unit rewards are cut to +- this before they become advantages (every credit but consensus)."""
    baseline: Baseline = Baseline.GROUP_MEAN
    gamma: float = Field(default=0.9, gt=0, le=1)
    """reward-to-go only: discount per unit."""
    local_weight: float = Field(default=0.1, ge=0)
    """step-local only: weight of the signal inside a trace."""

    @model_validator(mode="after")
    def _baseline_fits(self) -> AdversarialConfig:
        if self.baseline is Baseline.LEAVE_ONE_OUT and self.credit is Credit.REWARD_TO_GO:
            raise ValueError(
                "baseline must be group-mean with credit 'reward-to-go', which centres units by their group: got "
                "leave-one-out; remove it"
            )
        return self

    def check_questions(self, count: int) -> None:
        """Raises ConfigError for fewer questions than one step takes: TRL would drop the batch and train nothing."""
        if count < self.questions_per_step:
            raise ConfigError(
                "adversarial.questions_per_step must be at most the number of questions: got "
                f"{self.questions_per_step} for {count}; lower it, or add questions (data.questions)"
            )

    @property
    def rollouts(self) -> int:
        """Rollouts of a step, those of all processes together."""
        return self.questions_per_step * self.group

    def parts(self, processes: int) -> int:
        """How many equal parts the rollouts of each process go backward in: the fewest that keep to
        `rollouts_per_backward`. Raises ConfigError where the processes would not get equally many."""
        own, left = divmod(self.rollouts, processes)
        if left or not own:
            raise ConfigError(
                "adversarial.questions_per_step times adversarial.group must be a multiple of the processes: got "
                f"{self.rollouts} for {processes}; change one of them"
            )
        return next(n for n in range(1, own + 1) if own % n == 0 and own // n <= self.rollouts_per_backward)
