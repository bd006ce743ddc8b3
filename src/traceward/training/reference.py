"""The frozen reference runs over a rollout once.

Its log-probabilities are asked for by scoring, by every discriminator update that draws the rollout, fresh or replayed,
and, where the policy starts from the same weights, by the KL penalty too. So rollouts bring them along
(`Rollout.ref_logprobs`), and TRL's own pass of its reference is spared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from traceward.adapters import is_adapted, is_at_its_start, share_weights
from traceward.data.formats import as_sampled
from traceward.errors import ConfigError
from traceward.records import Rollout
from traceward.rewards.model import RewardModel, TraceScorer
from traceward.training.distribution import on_main, shared_by_length
from traceward.training.settings import AdversarialConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import GRPOTrainer

REFERENCE = "ref"  # what TRL calls the adapter that it copies


def keep_start_policy(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """TRL reads its KL reference from the path a model came from; make that the policy as it stands now. Of a policy
    with an adapter it keeps the start itself, in a second one."""
    if is_adapted(policy):
        return
    start = directory / "start-policy"
    on_main(policy.save_pretrained)(start)
    on_main(tokenizer.save_pretrained)(start)
    policy.config._name_or_path = policy.name_or_path = str(start)


def check_shared_weights(trainer: GRPOTrainer, policy: PreTrainedModel, reward: TraceScorer) -> None:
    """Raises ConfigError where weights that a reward stands on would learn with the policy, or be taken apart."""
    if not (isinstance(reward, RewardModel) and share_weights(policy, reward)):
        return
    if not is_adapted(policy):
        raise ConfigError(
            "policy must learn by an adapter where the reward stands on its weights: got all of its weights; give it "
            "one, or make the reward on another copy"
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "policy and reward must stand on weights of their own under FSDP and DeepSpeed: got the same; launch with "
            "recipes/accelerate/ddp.yaml"
        )


def drop_idle_reference(policy: PreTrainedModel) -> None:
    """Remove TRL's copy of an adapter that has not learned yet: TRL then takes the policy without any, which is the
    same function. Call it when the trainer is made."""
    if REFERENCE in getattr(policy, "peft_config", {}) and is_at_its_start(policy):
        policy.delete_adapter(REFERENCE)


class SharedReference:
    """The reference of `reward`, if it has one, for a policy that starts now.

    precision: the policy's mixed precision, "no" for none.
    crossed: whether the reward reads other tokens than the policy writes.
    serves_kl: it stands for TRL's reference too: the same weights and tokens, read at the same temperature and
    precision.
    """

    def __init__(
        self,
        reward: TraceScorer,
        policy: PreTrainedModel,
        config: AdversarialConfig,
        *,
        precision: str,
        crossed: bool = False,
    ) -> None:
        self.reward = reward if isinstance(reward, RewardModel) and reward.reference is not None else None
        self.serves_kl = bool(
            self.reward is not None
            and self.reward.reference is not None
            and config.kl
            and config.temperature == 1
            and precision == "no"
            and not crossed
            and same_weights(policy, self.reward.reference)
        )
        self._logprobs: list[tuple[float, ...]] = []

    def read(self, rollouts: list[Rollout]) -> list[Rollout]:
        """The rollouts of a round with their `ref_logprobs`, where scoring or the KL penalty will ask for them."""
        if self.reward is None or not (self.serves_kl or self.reward.reference_share):
            return rollouts
        self._logprobs = shared_by_length([as_sampled(r) for r in rollouts], self.reward.ref_logprobs)
        return [replace(r, ref_logprobs=values) for r, values in zip(rollouts, self._logprobs, strict=True)]

    def fill(self, out: dict[str, Any], own: slice) -> None:
        """Give TRL what its own reference would have found of the rollouts at `own`."""
        if self.serves_kl:
            out["ref_per_token_logps"] = padded(self._logprobs[own], like=out["ref_per_token_logps"])


def padded(values: Sequence[tuple[float, ...]], *, like: Tensor) -> Tensor:
    """(B, T) with 0 behind the end of each row, in the shape and place of `like`."""
    found = torch.zeros(like.shape, dtype=torch.float32)
    for row, one in enumerate(values):
        found[row, : len(one)] = torch.tensor(one)
    return found.to(like.device)


def same_weights(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether two models are the same function: architecture and every weight."""
    left, right = one.state_dict(), other.state_dict()
    return (
        one.config.model_type == other.config.model_type
        and left.keys() == right.keys()
        and all(v.shape == right[k].shape and torch.equal(v.to(right[k].device), right[k]) for k, v in left.items())
    )
