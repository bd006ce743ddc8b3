"""The nouns of the package, as frozen records that check themselves.

Words are those of docs/concepts.md. Nothing here knows a model, a tokenizer or a file format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from traceward.errors import ConfigError, DataError


class Granularity(StrEnum):
    """Where a reward lives (method, section "Granularity")."""

    SPARSE = "sparse"  # one unit: the whole trace
    INTERVAL = "interval"  # a unit per step, or per n completion tokens
    DENSE = "dense"  # a unit per completion token


class Head(StrEnum):
    """How a backbone becomes a reward."""

    SCALAR = "scalar"  # hidden state -> linear -> one number per scored position
    LOG_RATIO = "log-ratio"  # beta * (log p_phi - log p_ref), summed inside a unit


class Objective(StrEnum):
    """What the discriminator minimises (method, "Discriminator objectives")."""

    GAIL = "gail"  # cross entropy of unit logits
    AIRL = "airl"  # the same of a shaped reward less the policy's log-probability
    PAIRWISE = "pairwise"  # Bradley-Terry between traces of one question
    WGAN_GP = "wgan-gp"  # difference of means, with a gradient penalty

    @property
    def within_questions(self) -> bool:
        """Whether a logit only says something beside another one of the same question; its sign says nothing."""
        return self in (Objective.PAIRWISE, Objective.WGAN_GP)


class LabelSource(StrEnum):
    """What makes a trace a positive or a negative; printed in every report."""

    DEMONSTRATIONS = "demonstrations"  # expert = 1, every rollout = 0
    AGREEMENT_EXCLUDE = "answer-agreement-exclude"  # a rollout with the demonstration's answer is no negative
    AGREEMENT_PROMOTE = "answer-agreement-promote"  # ... becomes a positive

    @property
    def uses_final_answers(self) -> bool:
        """Whether outcome information takes part; a report says so."""
        return self is not LabelSource.DEMONSTRATIONS


class Credit(StrEnum):
    """How rewards become advantages (method, "Credit assignment")."""

    TRACE_MEAN = "trace-mean"  # a trace earns the mean of its units
    REWARD_TO_GO = "reward-to-go"  # a unit earns what comes from it on
    STEP_LOCAL = "step-local"  # a trace's advantage, moved a little towards its better units
    CONSENSUS = "consensus"  # a trace earns 1 for the answer that the group's weighted vote names

    @property
    def by_units(self) -> bool:
        """Whether the units of a trace may get different advantages."""
        return self in (Credit.REWARD_TO_GO, Credit.STEP_LOCAL)


class Start(StrEnum):
    """Whose weights a policy or a reward starts from."""

    BASE = "base"
    SFT = "sft"  # the base after supervised fine-tuning on the demonstrations


class Precision(StrEnum):
    """The type of weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Baseline(StrEnum):
    """What is subtracted from a rollout's reward."""

    GROUP_MEAN = "group-mean"
    LEAVE_ONE_OUT = "leave-one-out"  # the mean of the other rollouts of its question


class Scale(StrEnum):
    """By whose standard deviation advantages are divided; TRL's words."""

    BATCH = "batch"  # one number for all questions of a step
    GROUP = "group"  # each question's own (GRPO, and the recipes of arXiv 2510.01857)
    NONE = "none"


class Schedule(StrEnum):
    """How the policy's learning rate moves once it has risen."""

    CONSTANT = "constant"
    COSINE = "cosine"  # down to nothing at the last step


class CalibrationMethod(StrEnum):
    """How a score becomes a probability."""

    TEMPERATURE = "temperature"  # sigmoid(score / T + offset)
    ISOTONIC = "isotonic"  # the best function that never falls


class Guide(StrEnum):
    """By what number the reward judges a trace that is not finished; high = good."""

    SUM = "sum"  # of its step scores: what it has earned so far
    LOWEST = "lowest"  # its worst step score
    LAST = "last"  # the score of its newest step
    EXPORTED = "exported"  # the number that reranks whole traces


class ModelForm(StrEnum):
    """The class of transformers that an exported model opens with."""

    TOKEN = "token-classification"
    SEQUENCE = "sequence-classification"
    CAUSAL_LM = "causal-lm"


class OnAlarm(StrEnum):
    """What a run does when one of its guards finds something wrong."""

    WARN = "warn"  # write it down and go on
    PAUSE = "pause"  # save everything and end; the same command goes on


@dataclass(frozen=True, slots=True)
class UnitSpec:
    """Granularity plus the interval: `every=None` ends a unit at each step's end, `every=n` at every n-th token."""

    granularity: Granularity = Granularity.INTERVAL
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.granularity is not Granularity.INTERVAL:
            raise ConfigError(
                f"interval must belong to granularity 'interval': got {self.every} with '{self.granularity}'; remove it"
            )
        if self.every is not None and self.every < 1:
            raise ConfigError(f"interval must be at least 1 token: got {self.every}; use 15, or leave it out for steps")


@dataclass(frozen=True, slots=True)
class Problem:
    """A question. `answer` is the reference answer where one is known; only evaluation and agreement read it."""

    id: str
    question: str
    answer: str | None = None

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise DataError(f"question must not be empty: got {self.question!r} in problem {self.id!r}")


@dataclass(frozen=True, slots=True)
class Trace:
    """A reasoning text: ordered steps, then an answer (None where the text states none)."""

    steps: tuple[str, ...]
    answer: str | None = None

    def __post_init__(self) -> None:
        if any(not step.strip() for step in self.steps):
            raise DataError(f"steps must not be blank: got {list(self.steps)!r}")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A problem and an expert's worked solution: the only supervision there is."""

    problem: Problem
    trace: Trace
    source: str = ""

    def __post_init__(self) -> None:
        if not self.trace.steps:
            raise DataError(f"steps must hold at least one step: got none in demonstration {self.problem.id!r}")


class StopReason(StrEnum):
    """Why a rollout ended."""

    END = "end"  # end-of-sequence was sampled
    LENGTH = "length"  # the length cap cut it


@dataclass(frozen=True, slots=True)
class Rollout:
    """A trace sampled from a policy. The ids are what was sampled; `text` is for people and graders only.

    ref_logprobs: of the completion's tokens under a reward's reference, where they are known (nats).
    """

    problem_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    text: str
    stop: StopReason = StopReason.END
    ref_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker says of a trace. `first_error` indexes steps then the answer line; -1 = none, None = unknown."""

    correct: bool | None
    first_error: int | None = None


@dataclass(frozen=True, slots=True)
class ScoredTrace:
    """A reward's reading of one trace.

    exported: the number that reranks and weighs votes (high = expert).
    unit_logits: one per unit of the granularity it was read at, in order.
    unit_lows: the lowest token value inside each of these units, for a head that gives tokens values of their own
    (log-ratio, log-prob), else empty.
    policy_rewards: one per unit of *training*, where it was read against a policy.
    exported_lows: as unit_lows, of the token values that `exported` is the sum of, where these are others.
    """

    exported: float
    unit_logits: tuple[float, ...] = field(default=())
    unit_lows: tuple[float, ...] = field(default=())
    policy_rewards: tuple[float, ...] = field(default=())
    exported_lows: tuple[float, ...] = field(default=())
