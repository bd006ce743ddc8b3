"""A recipe: one TOML file, perhaps on top of another, and dotted overrides, resolved into one checked tree.

    run      what is made, from which seed
    data     the task, its demonstrations and questions
    policy   the model that starts
    sft, reward, critic, adversarial, guards     training, see traceward.training.settings
    evaluation     how much is sampled to measure it

Unknown keys are refused with their place, so a misspelt key never runs as a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from traceward.data.formats import Format
from traceward.data.tasks.sets import SETS
from traceward.data.tasks.story_words import Shift
from traceward.data.tasks.worlds import WORLDS
from traceward.errors import ConfigError
from traceward.records import Granularity, Head, Objective, Precision, Start
from traceward.training.adapter import AdapterSettings
from traceward.training.section import Section, rule_of
from traceward.training.settings import (
    AdversarialConfig,
    CriticSettings,
    GuardSettings,
    RewardSettings,
    SFTSettings,
    check_objective,
)
from traceward.tree import read_toml, set_override


class Arm(StrEnum):
    """A policy to train and measure. All start from the same model and see the same questions."""

    SFT = "sft"
    MAJORITY_CONSENSUS = "majority_consensus"  # the crowd's answer as pseudo-answer
    SFT_LOGPROB_CONSENSUS = "sft_logprob_consensus"  # votes weighed by the SFT model's log-prob
    REWARD_FROZEN = "reward_frozen"  # votes weighed by the reward as it was after warm-up
    ADVERSARIAL = "adversarial"  # the reward keeps learning against the policy
    OUTCOME = "outcome"  # true answers: the bound


class Tracker(StrEnum):
    """Who is told the metrics of training, by transformers' own callbacks, beside the run's metrics file."""

    WANDB = "wandb"
    TENSORBOARD = "tensorboard"
    TRACKIO = "trackio"


BUILTIN_BASE = "builtin:stories"
VARIANT_OPTIONS = frozenset({"no-corruptions", "no-operator-flip"})


class RunSettings(Section):
    """What is made."""

    name: str = "run"
    seed: int = 0
    arms: tuple[Arm, ...] = (Arm.SFT, Arm.ADVERSARIAL)
    """Policies; leave it empty to learn a reward only."""
    start: Start = Start.BASE
    """The policy that every arm but `sft` starts from."""
    variants: tuple[str, ...] = ()
    """Further rewards for the comparison table: HEAD:GRANULARITY, with ":no-corruptions" or ":no-operator-flip"."""

    @field_validator("variants")
    @classmethod
    def _variants_are_known(cls, variants: tuple[str, ...]) -> tuple[str, ...]:
        for variant in variants:
            head, _, rest = variant.partition(":")
            granularity, *options = rest.split(":")
            if head not in {*Head} or granularity not in {*Granularity} or not set(options) <= VARIANT_OPTIONS:
                raise ValueError(
                    f"must read HEAD:GRANULARITY[:OPTION], options {' and '.join(sorted(VARIANT_OPTIONS))}: got "
                    f"'{variant}'"
                )
        return variants

    workers: int = Field(default=0, ge=0)
    """Processes that work at once; 0 = one where there is a GPU, else one per core, two at most."""
    checkpoint_every: int = Field(default=10, ge=0)
    """Updates between two checkpoints of a stage that trains; 0 = none, an interrupted stage then starts anew."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that stay while a stage runs; a finished stage keeps none."""
    report_to: tuple[Tracker, ...] = ()
    """Trackers of policies that train, beside the run's own metrics file."""


class DataSettings(Section):
    """What the expert gave, and what is measured on."""

    task: Literal["stories", "swaps", "arithmetic", "sorting", "gsm8k", "mmlu-pro", "medreason", "math", "jsonl"] = (
        "stories"
    )
    path: Path | None = None
    """All but the built-in tasks: a directory with train.jsonl[.gz] and test.jsonl[.gz], or one file that is split by
    hash."""
    demonstrations: int | None = Field(default=None, ge=4)
    """How many of the training rows are used as demonstrations; left out: all (a built-in task never ends: 100)."""
    questions: int = Field(default=0, ge=0)
    """Questions without demonstrations that policies may also be trained on (their answers stay hidden)."""
    validation: int = Field(default=100, ge=0)
    """Problems for learning curves and for choosing among runs; never those of `test`."""
    test: int = Field(default=300, ge=1)
    style: Literal["usual", "result-first"] = "usual"
    """stories: the wording of the demonstrations."""
    shift: Shift = Shift.NONE
    """stories: how all its problems differ from the ordinary ones."""
    format: Format = Format.PLAIN

    @model_validator(mode="after")
    def _path_fits(self) -> DataSettings:
        if (self.path is None) is not (self.task in WORLDS):
            wanted = "no path" if self.task in WORLDS else "a path (or --data PATH)"
            raise ValueError(f"data.path must be {wanted} with task '{self.task}': got {self.path}; mend the recipe")
        return self

    @model_validator(mode="after")
    def _shift_fits(self) -> DataSettings:
        if self.shift is not Shift.NONE and self.task != "stories":
            raise ValueError(f"data.shift must be 'none' with task '{self.task}': got '{self.shift}'; remove it")
        return self


class ScratchSettings(Section):
    """A small Llama from nothing, with a tokenizer trained on the demonstrations' text."""

    vocabulary: int = Field(default=2048, ge=300)
    hidden: int = Field(default=192, ge=1)
    layers: int = Field(default=6, ge=1)
    heads: int = Field(default=6, ge=1)
    context: int = Field(default=1024, ge=1)
    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = 2e-3


class PolicySettings(Section):
    """The model that starts."""

    path: str = BUILTIN_BASE
    """A directory, a hub name, `builtin:stories`, or `scratch` (then [policy.scratch] says how it is made)."""
    dtype: Precision = Precision.FLOAT32
    """Of the weights as they are loaded. Adapters learn in float32 beside any."""
    load_in_4bit: bool = False
    """Weights in 4 bit (NF4, by bitsandbytes). They cannot learn: policy and reward then need adapters."""
    bf16: bool | None = None
    """Whether training computes in bfloat16 where that is safe (autocast); left out: where there is a GPU."""
    gradient_checkpointing: bool = False
    """Activations are computed again on the way back instead of kept: less memory, a third more time."""
    adapter: AdapterSettings = AdapterSettings()
    scratch: ScratchSettings = ScratchSettings()


class EvaluationSettings(Section):
    """How much is sampled to measure a run."""

    samples: int = Field(default=8, ge=2)
    """Base-policy samples per test problem, for reranking and localisation."""
    policy_samples: int = Field(default=4, ge=1)
    """Samples per test and validation problem of each policy; greedy decoding is measured beside it."""
    temperature: float = Field(default=1.0, gt=0)
    """Of all these samples."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    pass_at: tuple[int, ...] = ()
    """Numbers k of samples of which one must be right; measured of every policy beside pass@1."""
    curve_every: int = Field(default=10, ge=0)
    """Policy steps between two looks at the validation problems; 0 turns curves off."""
    curve_problems: int | None = Field(default=None, ge=1)
    """Validation problems that a curve looks at; left out: all."""
    examples: int = Field(default=10, ge=0)
    pairs: int = Field(default=0, ge=0)
    """Length- and end-matched (expert, rollout) pairs of held-out questions for the discriminator's AUROC."""

    @model_validator(mode="after")
    def _pass_at_fits(self) -> EvaluationSettings:
        if wrong := [k for k in self.pass_at if not 1 <= k <= self.policy_samples]:
            raise ValueError(
                f"pass_at must lie between 1 and policy_samples, which is {self.policy_samples}: got {wrong[0]}; draw "
                "more samples"
            )
        return self


class Recipe(Section):
    """All settings of a run."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    policy: PolicySettings = PolicySettings()
    sft: SFTSettings = SFTSettings()
    reward: RewardSettings = RewardSettings()
    critic: CriticSettings = CriticSettings()
    adversarial: AdversarialConfig = AdversarialConfig()
    guards: GuardSettings = GuardSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="before")
    @classmethod
    def _packs_of_the_set(cls, tree: Any) -> Any:
        """A public set brings its packs of corruptions, where the recipe names none."""
        data, critic = (tree.get("data"), tree.get("critic", {})) if isinstance(tree, dict) else (None, None)
        task: Any = data.get("task") if isinstance(data, dict) else getattr(data, "task", None)
        packs = SETS[task].packs if task in SETS else ()
        if not packs or not isinstance(critic, dict) or "corruption_packs" in critic:
            return tree
        return {**tree, "critic": {**critic, "corruption_packs": packs}}

    @model_validator(mode="after")
    def _base_fits(self) -> Recipe:
        task = self.data.task
        if task in WORLDS and task != "stories" and self.policy.path == BUILTIN_BASE:
            raise ValueError(
                f"policy.path must be a base of task '{task}': got '{BUILTIN_BASE}', which has never seen it; make one "
                f"with python -m traceward.builtin.pretrain {task} --out DIRECTORY"
            )
        return self

    @model_validator(mode="after")
    def _held_out_is_unseen(self) -> Recipe:
        if self.reward.start is Start.SFT and self.critic.held_out:
            raise ValueError(
                "critic.held_out must be 0 with reward.start 'sft', whose weights have seen every demonstration: got "
                f"{self.critic.held_out}; set it to 0, warm-up then does all its updates"
            )
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> Recipe:
        policy, reward = self.policy, self.reward
        learns_apart = reward.adapter.chosen or reward.path is not None
        if policy.load_in_4bit and not (policy.adapter.chosen and learns_apart):
            raise ValueError(
                "policy.adapter.rank and reward.adapter.rank must be set with policy.load_in_4bit, whose weights "
                f"cannot learn: got {policy.adapter.rank} and {reward.adapter.rank}; set both"
            )
        if reward.shares_backbone and not (policy.adapter.chosen and reward.adapter.chosen):
            raise ValueError(
                "policy.adapter.rank and reward.adapter.rank must be set with reward.shares_backbone, whose weights "
                f"stay as they are: got {policy.adapter.rank} and {reward.adapter.rank}; set both"
            )
        if reward.start is Start.SFT and reward.adapter.chosen and reward.adapter.layers != policy.adapter.layers:
            raise ValueError(
                "reward.start must be 'base' with a reward.adapter, unless policy.adapter has the same rank, alpha and "
                "target_modules: SFT's weights have no place in it; set it to base, or make the adapters alike"
            )
        return self

    @model_validator(mode="after")
    def _vllm_fits(self) -> Recipe:
        if self.adversarial.vllm.mode is None:
            return self
        if self.policy.load_in_4bit:
            raise ValueError(
                "policy.load_in_4bit must be false with adversarial.vllm.mode, as TRL sends vLLM the weights as they "
                "lie in memory: got true; set policy.dtype='bfloat16'"
            )
        if self.reward.shares_backbone:
            raise ValueError(
                "reward.shares_backbone must be false with adversarial.vllm.mode, as TRL adds the policy's adapter to "
                "the weights that the reward stands on and takes it away again, which rounds them: got true; remove one"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> Recipe:
        if self.critic.objective is Objective.WGAN_GP and self.reward.gradient_checkpointing:
            raise ValueError(
                "reward.gradient_checkpointing must be false with critic.objective 'wgan-gp', whose penalty is "
                "differentiated twice: got true; remove it"
            )
        for head in (self.reward.head, *(Head(variant.partition(":")[0]) for variant in self.run.variants)):
            check_objective(self.critic.objective, head, self.reward.beta)
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file with `section.key=value` overrides (values in TOML, a bare word is text).

    Raises ConfigError naming the file and the key.
    """
    tree = read_toml(path)
    for override in overrides:
        set_override(tree, override)
    return resolve(tree, where=str(path))


def resolve(tree: dict[str, Any], *, where: str) -> Recipe:
    """Check a tree of settings; every fault is named by its dotted key."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = [f"{where}: {_fault(fault)}" for fault in error.errors()]
        raise ConfigError("\n  ".join(lines)) from error
    except ConfigError as error:  # a record's own check, which pydantic lets through as it is
        raise ConfigError(f"{where}: {error}") from error


def _fault(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "recipe"
    if fault["type"] == "extra_forbidden":
        return f"{key}: must be a known key: got an unknown one; remove it or check its spelling"
    return f"{key}: {rule_of(fault)}"
