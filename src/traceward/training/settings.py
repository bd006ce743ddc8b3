"""What can be set in training, section by section; the one place with the defaults and their reasons.

Unknown keys are refused. `traceward.config` puts the sections together into a recipe.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from traceward.data.corruptions import PACKS, REGISTRY, kinds_of
from traceward.errors import ConfigError
from traceward.records import (
    Baseline,
    Credit,
    Granularity,
    Head,
    LabelSource,
    Objective,
    OnAlarm,
    Precision,
    Scale,
    Schedule,
    Start,
    UnitSpec,
)
from traceward.training.adapter import AdapterSettings
from traceward.training.section import Section
from traceward.training.vllm import VLLMSettings


class RewardSettings(Section):
    """What is learned."""

    head: Head = Head.LOG_RATIO
    granularity: Granularity = Granularity.INTERVAL
    interval: int | None = Field(default=None, ge=1)
    """Tokens per unit; left out, a unit is a step."""
    beta: float = Field(default=1.0, gt=0)
    """Scale of the log-ratio in the logit."""
    reference_share: float = Field(default=0.75, ge=0, le=1)
    """log-ratio: the exported reward is the sum of log p_phi - reference_share * log p_ref. 0 pays for usual words, 1
    for words that the reference finds rare; between them wording nearly cancels (docs/LOG.md)."""
    start: Start = Start.BASE
    """Weights of its backbone before warm-up. A log-ratio's reference is the base either way."""
    path: str | None = None
    """The model that it is made of, its reference included; left out, the policy's."""
    dtype: Precision | None = None
    """Of the weights of `path`; left out, the policy's."""
    gradient_checkpointing: bool = False
    """Activations of an update are computed again on the way back instead of kept."""
    shares_backbone: bool = False
    """While a policy trains, it and the reward are two adapters on one copy of the base's weights."""
    adapter: AdapterSettings = AdapterSettings()

    @model_validator(mode="after")
    def _interval_fits(self) -> RewardSettings:
        _ = self.spec
        return self

    @model_validator(mode="after")
    def _path_fits(self) -> RewardSettings:
        if self.dtype is not None and self.path is None:
            raise ValueError(f"dtype must go with reward.path: got '{self.dtype}' alone; set policy.dtype")
        if self.path is not None and self.start is not Start.BASE:
            raise ValueError(
                "start must be 'base' with reward.path, a model that SFT has not seen: got 'sft'; remove one of them"
            )
        if self.path is not None and self.shares_backbone:
            raise ValueError("shares_backbone must be false with reward.path: got true; remove one of them")
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
    """Looks in a row with a held-out AUROC below the best by more than its standard error before warm-up stops; the
    last weights that were not are kept."""
    held_out: float = Field(default=0.2, ge=0, le=0.5)
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
    corruption_packs: tuple[str, ...] = ("general", "arithmetic", "structure")
    """Packs whose kinds are drawn; a recipe for a public set that leaves it out gets that set's."""
    exclude_corruptions: tuple[str, ...] = ()
    """Kinds of these packs that are left out, by name."""
    rollouts_per_question: int = Field(default=16, ge=1)
    """Samples of the start policy on each demonstration's question, for warm-up."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Left out: 3e-4, with a scalar head 3e-3. A log-ratio moves what a language model says; a scalar head must grow a
    judge inside it, and judges ends long before steps."""
    head_learning_rate: float = Field(default=5e-3, gt=0)
    """For the new last layer of a scalar head (with airl two), which starts from nothing."""
    weight_decay: float = Field(default=0.01, ge=0)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    grad_norm: float = Field(default=1.0, gt=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Of labels; every objective but wgan-gp, which has no targets."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """airl with a scalar head only: discount per unit in the shaping term."""
    gradient_penalty: float = Field(default=10.0, ge=0)
    """wgan-gp only: weight of the penalty on gradients whose length is not 1."""
    replay: int = Field(default=6400, ge=0)
    """Rollouts remembered."""
    replay_share: float = Field(default=0.5, ge=0, le=1)
    """Share of an update's rollouts that comes from the memory, once there is one; the others are fresh."""

    def learning_rate_of(self, head: Head) -> float:
        """`learning_rate`, or the default for this head."""
        return self.learning_rate or {Head.LOG_RATIO: 3e-4, Head.SCALAR: 3e-3}[head]

    @model_validator(mode="after")
    def _parts_fit(self) -> CriticSettings:
        if self.replay_share and not self.replay:
            raise ValueError(
                f"replay must be above 0 where replay_share is: got 0 with replay_share {self.replay_share}; set "
                "replay_share=0 too"
            )
        if unknown := sorted({*self.exclude_corruptions} - REGISTRY.keys()):
            raise ValueError(
                f"exclude_corruptions must name kinds among {', '.join(REGISTRY)}: got {', '.join(unknown)}; mend them"
            )
        if unknown := sorted({*self.corruption_packs} - PACKS.keys()):
            raise ValueError(
                f"corruption_packs must name packs among {', '.join(PACKS)}: got {', '.join(unknown)}; mend them"
            )
        if self.corruptions and not self.corruption_kinds:
            raise ValueError(
                "exclude_corruptions must leave a kind of corruption_packs: got none; set corruptions=0 for none"
            )
        return self

    @property
    def corruption_kinds(self) -> list[str]:
        """The kinds that are drawn."""
        return kinds_of(self.corruption_packs, self.exclude_corruptions)


def per_process(total: int, processes: int, *, key: str) -> int:
    """An equal share of `total` for every process. Raises ConfigError naming `key` where there is none."""
    share, left = divmod(total, processes)
    if left or not share:
        raise ConfigError(f"{key} must be a multiple of the processes: got {total} for {processes}; change one of them")
    return share


def equal_parts(count: int, most: int) -> int:
    """The fewest equal parts of `count` rows that have at most `most` each."""
    return next(n for n in range(1, count + 1) if count % n == 0 and count // n <= most)


def check_objective(objective: Objective, head: Head, beta: float) -> None:
    """Raises ConfigError for an objective that the head cannot learn by. Granularities go with every objective."""
    if head is Head.SCALAR:
        return
    if objective is Objective.WGAN_GP:
        raise ConfigError(
            "reward.head must be 'scalar' with critic.objective 'wgan-gp', whose penalty lies between two traces, "
            "where a log-ratio has no tokens to score: got 'log-ratio'; change one of them"
        )
    if objective is Objective.AIRL and beta != 1:
        raise ConfigError(
            "reward.beta must be 1 with critic.objective 'airl' and head 'log-ratio', whose f is log p_phi: got "
            f"{beta}; remove it"
        )


class SFTSettings(Section):
    """Supervised fine-tuning; loss on the completion only."""

    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=16, ge=1)
    traces_per_backward: int | None = Field(default=None, ge=1)
    """Traces that go forward and backward at once in each process; left out, all of its batch. Fewer need less memory
    and give the same step."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak of a cosine schedule."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    beta2: float = Field(default=0.999, gt=0, lt=1)


class AdversarialConfig(Section):
    """The policy's side of the alternation (TRL's GRPO) and how often the discriminator learns."""

    steps: int = Field(default=40, ge=1)
    questions_per_step: int = Field(default=24, ge=1)
    group: int = Field(default=8, ge=2)
    """Rollouts of one question (G)."""
    rollouts_per_backward: int = Field(default=48, ge=1)
    """Rollouts of a step that go forward and backward at once in each process; fewer need less memory and give the
    same step."""
    iterations: int = Field(default=1, ge=1)
    """Policy steps on the same rollouts; with more than one the clipped ratio to the policy that sampled matters."""
    credit: Credit = Credit.CONSENSUS
    critic_updates: int = Field(default=1, ge=0)
    """Discriminator updates per policy step while its accuracy is in the band; 0 freezes the reward after warm-up."""
    critic_updates_most: int = Field(default=3, ge=0)
    """Most updates per policy step, where the accuracy stays below the band."""
    accuracy_low: float = Field(default=0.65, ge=0, le=1)
    """Below it a look adds an update; 0 never adds one."""
    accuracy_high: float = Field(default=0.85, ge=0, le=1)
    """Above it a look takes an update away, down to none; 1 never takes one."""
    learning_rate: float = Field(default=3e-4, gt=0)
    schedule: Schedule = Schedule.CONSTANT
    warmup: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; left out, five steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    kl: float = Field(default=0.005, ge=0)
    """Weight of the KL penalty to the start policy."""
    kl_target: float | None = Field(default=None, gt=0)
    """Nats per token that the KL is steered to by moving its weight; left out, the weight stays."""
    kl_gain: float = Field(default=0.1, gt=0, le=1)
    """kl_target only: how fast the weight moves; a step changes it by a fifth of this at most."""
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Of sampling; log-probs are those of all words."""
    max_new_tokens: int = Field(default=96, ge=1)
    own_reward: float = Field(default=0.0, ge=0, le=1)
    """consensus only: share of the trace's own (group-normalised) exported reward mixed into the agreement."""
    vote_temperature: float = Field(default=1.0, gt=0)
    """consensus only: temperature of the softmax over exported rewards that weighs the votes, in standard deviations of
    these rewards inside a group."""
    whiten: bool = False
    """Unit rewards are brought to mean 0 and deviation 1 over the batch before they are cut (not with consensus)."""
    clip: float = Field(default=5.0, gt=0)
    """Unit rewards are cut to +- this before they become advantages (every credit but consensus)."""
    outcome_weight: float = Field(default=0.0, ge=0, le=1)
    """Share of the advantage that comes from right final answers; above 0 the questions' reference answers are read."""
    baseline: Baseline = Baseline.GROUP_MEAN
    scale_rewards: Scale = Scale.BATCH
    """By whose standard deviation advantages are divided."""
    gamma: float = Field(default=0.9, gt=0, le=1)
    """reward-to-go only: discount per unit."""
    local_weight: float = Field(default=0.1, ge=0)
    """step-local only: weight of the signal inside a trace."""
    vllm: VLLMSettings = VLLMSettings()

    @model_validator(mode="after")
    def _credit_fits(self) -> AdversarialConfig:
        if self.baseline is Baseline.LEAVE_ONE_OUT and self.credit is Credit.REWARD_TO_GO:
            raise ValueError(
                "baseline must be group-mean with credit 'reward-to-go', which centres units by their group: got "
                "leave-one-out; remove it"
            )
        if self.baseline is Baseline.LEAVE_ONE_OUT and self.scale_rewards is not Scale.NONE:
            raise ValueError(
                "scale_rewards must be 'none' with baseline 'leave-one-out', which is a multiple of group-mean that "
                f"scaling takes away: got '{self.scale_rewards}'; set it to none"
            )
        if self.whiten and self.credit is Credit.CONSENSUS:
            raise ValueError("whiten must go with a credit of unit rewards: got credit 'consensus'; remove it")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> AdversarialConfig:
        if self.accuracy_low > self.accuracy_high:
            raise ValueError(
                f"accuracy_low must not be above accuracy_high: got {self.accuracy_low} and {self.accuracy_high}; swap "
                "them"
            )
        if self.critic_updates > self.critic_updates_most:
            raise ValueError(
                f"critic_updates_most must be at least critic_updates: got {self.critic_updates_most} for "
                f"{self.critic_updates}; raise it"
            )
        if self.kl_target is not None and not self.kl:
            raise ValueError("kl must be above 0 with kl_target, a weight to start from: got 0; set kl=0.005")
        return self

    def check_questions(self, count: int) -> None:
        """Raises ConfigError for fewer questions than one step takes: TRL would drop the batch and train nothing."""
        if count < self.questions_per_step:
            raise ConfigError(
                "adversarial.questions_per_step must be at most the number of questions: got "
                f"{self.questions_per_step} for {count}; lower it, or add questions (data.questions)"
            )

    @property
    def rising(self) -> int:
        """Steps in which the learning rate rises."""
        return min(5, self.steps) if self.warmup is None else int(self.warmup * self.steps)

    @property
    def rollouts(self) -> int:
        """Rollouts of a step, those of all processes together."""
        return self.questions_per_step * self.group

    def parts(self, processes: int) -> int:
        """How many equal parts the rollouts of each process go backward in: the fewest that keep to
        `rollouts_per_backward`. Raises ConfigError where the processes would not get equally many."""
        own = per_process(self.rollouts, processes, key="adversarial.questions_per_step times adversarial.group")
        return equal_parts(own, self.rollouts_per_backward)


class GuardSettings(Section):
    """When a run says that something is wrong, and what it then does; guards change nothing that is trained.

    The limits lie well outside of what healthy runs on the built-in world do (docs/guards.md has the numbers).
    """

    on_alarm: OnAlarm = OnAlarm.WARN
    window: int = Field(default=5, ge=2)
    """Looks (policy steps; in warm-up updates) whose mean an alarm speaks of."""
    saturated_accuracy: float = Field(default=0.99, gt=0.5, le=1)
    """Discriminator accuracy from which on it counts as always right."""
    form_auroc: float = Field(default=0.7, ge=0.5, le=1)
    """Highest AUROC of a cross-validated classifier that sees only the form of the discriminator's traces."""
    length_ratio: float = Field(default=1.5, gt=1)
    """Times by which rollouts may grow or shrink against the first window while the reward rises."""
    kl: float = Field(default=0.5, gt=0)
    """Nats per token that the policy may be from its start while the reward rises."""
    entropy_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the first window's entropy that must be left."""
    length_correlation: float = Field(default=0.6, gt=0, le=1)
    """Highest correlation, of either sign, of reward and length inside a question."""
