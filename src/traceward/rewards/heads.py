"""What the two heads say of a batch. Every readout has its name here, once per head:

                  scalar                              log-ratio
  logit           value at a unit's last token        sum of beta * (log p_phi - log p_ref) inside it
  lows            -                                   the lowest token value inside it
  exported        mean logit over trained units       sum of log p_phi - reference_share * log p_ref
  policy_reward   the logit; objective airl:          sum of beta * (log p_phi - log pi) inside the unit
                  less the unit's mean log pi

`logit` trains the discriminator and localises; `exported` reranks, weighs the consensus, is saved and served, and
never contains log pi; `policy_reward` is what a policy pi is trained with, pi as it is now. A log-ratio policy reward
does not take the frozen reference: a policy finds the tokens that the reference finds rarer still (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from traceward.adapters import unwrapped
from traceward.rewards.batches import TraceBatch, lowest_by_unit, mean_by_unit, sum_by_unit
from traceward.rewards.packing import can_pack, pack_batch, packed_attention, run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PolicyLogprobs = Callable[[TraceBatch], Tensor]  # (B, T) log pi of each token in nats, detached


class Reading(Protocol):
    """The readouts of one forward pass. Units are those of the batch given, on the same traces; (B, U) is 0 on
    padding."""

    def logit(self, batch: TraceBatch) -> Tensor:
        """(B, U)."""
        ...

    def lows(self, batch: TraceBatch) -> Tensor | None:
        """(B, U), None where tokens have no values of their own."""
        ...

    def exported_lows(self, batch: TraceBatch) -> Tensor | None:
        """(B, U) of the values that the exported reward is the sum of, None where there are none."""
        ...

    def exported(self, trained: TraceBatch) -> Tensor:
        """(B,), at the units of training."""
        ...

    def policy_reward(self, batch: TraceBatch, policy_logprobs_BT: Tensor) -> Tensor:  # noqa: N803
        """(B, U)."""
        ...


@dataclass(frozen=True, slots=True)
class ScalarReading:
    """values: (B, T).  airl: whether the values are g of objective airl, whose logit is f - log pi."""

    values_BT: Tensor  # noqa: N815
    airl: bool

    def logit(self, batch: TraceBatch) -> Tensor:
        """The value at the end of each unit."""
        return self.values_BT.gather(1, batch.unit_end).masked_fill(~batch.unit_mask, 0.0)

    def lows(self, _batch: TraceBatch) -> None:
        """A scalar head judges prefixes, not tokens."""

    def exported_lows(self, _batch: TraceBatch) -> None:
        """The exported reward is no sum over tokens."""

    def exported(self, trained: TraceBatch) -> Tensor:
        """The mean logit."""
        return self.logit(trained).sum(1) / trained.unit_mask.sum(1)

    def policy_reward(self, batch: TraceBatch, policy_logprobs_BT: Tensor) -> Tensor:  # noqa: N803
        """The shaping of airl is left out: over a whole trace it is a constant of the question."""
        reward = self.logit(batch)
        return reward - mean_by_unit(policy_logprobs_BT, batch) if self.airl else reward


class LogRatioReading:
    """logprobs: (B, T) of p_phi.  reference: gives those of p_ref; it runs only where a readout asks for them."""

    def __init__(
        self,
        logprobs_BT: Tensor,  # noqa: N803
        reference: Callable[[], Tensor],
        *,
        beta: float,
        reference_share: float,
    ) -> None:
        self.logprobs_BT = logprobs_BT
        self.reference = reference
        self.beta = beta
        self.reference_share = reference_share

    @cached_property
    def ref_logprobs_BT(self) -> Tensor:  # noqa: N802
        """(B, T), without gradient."""
        with torch.no_grad():
            return self.reference()

    def logit(self, batch: TraceBatch) -> Tensor:
        """The log-ratio to the reference."""
        return sum_by_unit(self.beta * (self.logprobs_BT - self.ref_logprobs_BT), batch)

    def lows(self, batch: TraceBatch) -> Tensor:
        """Its lowest token."""
        return lowest_by_unit(self.beta * (self.logprobs_BT - self.ref_logprobs_BT), batch)

    def exported_lows(self, batch: TraceBatch) -> Tensor:
        """The lowest token of the exported reward."""
        return lowest_by_unit(self._exported_BT, batch)

    def exported(self, trained: TraceBatch) -> Tensor:
        """The log-probability of the completion under p_phi, less a share of that under p_ref."""
        return torch.where(trained.unit >= 0, self._exported_BT, 0.0).sum(1)

    @property
    def _exported_BT(self) -> Tensor:  # noqa: N802
        values = self.logprobs_BT
        return values - self.reference_share * self.ref_logprobs_BT if self.reference_share else values

    def policy_reward(self, batch: TraceBatch, policy_logprobs_BT: Tensor) -> Tensor:  # noqa: N803
        """The log-ratio to the policy; the shaped reward f = log p_phi of airl, less log pi."""
        return sum_by_unit(self.beta * (self.logprobs_BT - policy_logprobs_BT), batch)


def token_logprobs(model: PreTrainedModel, batch: TraceBatch, *, temperature: float = 1.0) -> Tensor:
    """(B, T) log-probability in nats of each completion token given those before it.

    Columns in which no trace has begun its completion are 0: they never reach the output layer.
    """
    if can_pack(model, batch):
        return _packed_logprobs(model, batch, temperature)
    width = batch.input_ids.shape[1]
    first = max(1, int(batch.start.min()))
    logits = _cooled(
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=width - first + 1).logits[
            :, :-1
        ],
        temperature,
    )
    targets = batch.input_ids[:, first:]
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nn.functional.pad(-losses.view_as(targets), (first, 0))


def _cooled(logits: Tensor, temperature: float) -> Tensor:
    """In float32, at the temperature. A table of logits is the largest thing of all: no copy of it is made in vain, and
    none is kept."""
    logits = logits.float()
    return logits if temperature == 1.0 else logits / temperature


def _packed_logprobs(model: PreTrainedModel, batch: TraceBatch, temperature: float) -> Tensor:
    """`token_logprobs` without padding; 0 off the completions."""
    packed, inside = pack_batch(model, batch), batch.unit >= 0
    with packed_attention(model):
        logits = _cooled(run(model, batch.input_ids, packed, logits_to_keep=packed.before).logits[0], temperature)
    losses = nn.functional.cross_entropy(logits, batch.input_ids[inside], reduction="none")
    return torch.zeros(inside.shape, device=inside.device).masked_scatter(inside, -losses)


def logprobs_under(policy: PreTrainedModel, *, temperature: float) -> PolicyLogprobs:
    """log pi of every token of a batch under `policy` as it stands at each call: teacher-forced, at the temperature of
    sampling, in evaluation mode. Experts, corruptions and rollouts all get theirs here; a source that differs by class
    would leak the label."""
    policy = unwrapped(policy)

    @torch.no_grad()
    def read(batch: TraceBatch) -> Tensor:
        was_training = policy.training
        policy.eval()
        found = token_logprobs(policy, batch.to(policy.device), temperature=temperature)
        policy.train(was_training)
        return found.to(batch.unit.device)

    return read


def no_logprobs(batch: TraceBatch) -> Tensor:
    """(B, T) zeros, for the rewards of a head that does not look at a policy's."""
    return torch.zeros(batch.unit.shape, device=batch.unit.device)


def scalar_values(model: PreTrainedModel, batch: TraceBatch, *, embeddings: Tensor | None = None) -> Tensor:
    """(B, T) one number per token from a token classifier with a single label; `embeddings` (B, T, E) stand for
    tokens. Prompt tokens may be 0: no readout asks for them."""
    if embeddings is None and can_pack(model, batch):
        packed = pack_batch(model, batch)
        with packed_attention(model):
            found = run(model, batch.input_ids, packed).logits[0, :, 0].float()
        table = torch.zeros(batch.input_ids.shape, device=found.device)
        table.view(-1)[packed.index] = found
        return table
    inputs = {"input_ids": batch.input_ids} if embeddings is None else {"inputs_embeds": embeddings}
    values: Tensor = model(**inputs, attention_mask=batch.attention_mask).logits
    return values[..., 0].float()


def values_and_potentials(model: PreTrainedModel, potential: nn.Linear, batch: TraceBatch) -> tuple[Tensor, Tensor]:
    """(B, T) g and (B, U) h, two outputs of the same hidden states; h is read before the first token of each unit."""
    out = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    before_BUE = batch.before_unit[..., None].expand(-1, -1, out.hidden_states[-1].shape[-1])  # noqa: N806
    return out.logits[..., 0].float(), potential(out.hidden_states[-1].gather(1, before_BUE))[..., 0].float()


def new_potential(backbone: PreTrainedModel) -> nn.Linear:
    """h of objective airl at its start, zero everywhere."""
    like = next(backbone.parameters())
    width = backbone.config.get_text_config().hidden_size
    potential = nn.Linear(width, 1, device="meta", dtype=like.dtype).to_empty(device=like.device)  # draws no numbers
    with torch.no_grad():
        potential.weight.zero_()
        potential.bias.zero_()
    return potential
