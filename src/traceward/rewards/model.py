"""RewardModel: a backbone, a head, and the named readouts that everything else uses.

Readouts (method, "Readouts are named"):
  unit_logits   trains the discriminator; one number per unit
  unit_lows     localises (log-ratio head; a scalar head localises by unit_logits); the lowest token of each unit
  exported      one number per trace; reranks, weighs the consensus, is served. Never contains -log pi.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.segmentation import Segmenter
from traceward.records import Granularity, Head, Problem, ScoredTrace, Trace, UnitSpec
from traceward.rewards.batches import TraceBatch, by_length, collate, lowest_by_unit, sum_by_unit
from traceward.rewards.heads import scalar_values, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STEPS = UnitSpec(Granularity.INTERVAL)


class TraceScorer(Protocol):
    """What a trainer needs of a reward: readouts of traces given as token ids, in order."""

    head: Head
    style: Format
    spec: UnitSpec

    def score_encoded(self, traces: Sequence[EncodedTrace], *, spec: UnitSpec | None = STEPS) -> list[ScoredTrace]:
        """One reading per trace, its unit logits at the units of `spec` (None: no unit logits)."""
        ...


class RewardModel(nn.Module):
    """A learned reward: high = expert.

    head: `scalar` reads a token classifier at unit ends; `log-ratio` sums beta * (log p_phi - log p_ref) in units.
    spec: the units it is trained at. Readouts may ask for others: localisation always reads steps.
    reference: the frozen p_ref of a log-ratio head, None for a scalar head.
    """

    def __init__(
        self,
        *,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        head: Head,
        spec: UnitSpec,
        style: Format = Format.PLAIN,
        reference: PreTrainedModel | None = None,
        beta: float = 1.0,
        reference_share: float = 0.0,
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if (head is Head.LOG_RATIO) is not (reference is not None):
            raise ValueError(f"a reference must be given with head 'log-ratio' and only with it: got head '{head}'")
        self.backbone = backbone
        self.reference = reference.requires_grad_(False).eval() if reference is not None else None
        self.tokenizer = tokenizer
        self.head = head
        self.spec = spec
        self.style = style
        self.beta = beta
        self.reference_share = reference_share if head is Head.LOG_RATIO else 0.0
        self.card: dict[str, Any] = card or {}
        self.segmenter = Segmenter(tokenizer)

    @property
    def context(self) -> int | None:
        """Longest prompt + completion in tokens."""
        return getattr(self.backbone.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return torch.device(self.backbone.device)

    def train(self, mode: bool = True) -> RewardModel:
        """The reference never leaves evaluation mode."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def batch(self, traces: Sequence[EncodedTrace], spec: UnitSpec | None = None) -> TraceBatch:
        """Tensors of `traces` on the model's device, with the units of `spec` (default: those it is trained at)."""
        pad = self.tokenizer.pad_token_id or 0
        return collate(traces, self.segmenter, spec or self.spec, pad_id=pad, context=self.context).to(self.device)

    def start_from(self, policy: PreTrainedModel) -> None:
        """Put the weights of `policy` (same architecture) under the head; a log-ratio's reference stays as it is."""
        if self.reference is None:
            self.backbone.base_model.load_state_dict(policy.base_model.state_dict())
        else:
            self.backbone.load_state_dict(policy.state_dict())

    def unit_logits(self, batch: TraceBatch) -> Tensor:
        """(B, U) the logit of every unit; 0 where `batch.unit_mask` is False."""
        if self.reference is None:
            at_ends = scalar_values(self.backbone, batch).gather(1, batch.unit_end)
            return at_ends.masked_fill(~batch.unit_mask, 0.0)
        return sum_by_unit(self._log_ratio(token_logprobs(self.backbone, batch), batch), batch)

    def _log_ratio(self, logprobs_BT: Tensor, batch: TraceBatch) -> Tensor:  # noqa: N803
        assert self.reference is not None
        with torch.no_grad():
            ref_logprobs_BT = token_logprobs(self.reference, batch)  # noqa: N806
        return self.beta * (logprobs_BT - ref_logprobs_BT)

    def readouts(self, trained: TraceBatch, batch: TraceBatch | None) -> tuple[Tensor, list[Tensor]]:
        """(B,) the exported reward, and what is read at the units of `batch` (None: nothing), (B, U) each: the unit
        logits, and for a log-ratio head the lowest token inside each unit.

        Both hold the same traces; `trained` has the units of training. log-ratio exports the sum over the completion of
        log p_phi - reference_share * log p_ref; scalar exports the mean logit over trained units.
        """
        if self.reference is None:
            values = scalar_values(self.backbone, trained)
            own = values.gather(1, trained.unit_end) * trained.unit_mask
            exported = own.sum(1) / trained.unit_mask.sum(1)
            return exported, [] if batch is None else [values.gather(1, batch.unit_end) * batch.unit_mask]
        logprobs = token_logprobs(self.backbone, trained)
        inside = trained.unit >= 0
        if batch is None and not self.reference_share:  # nothing asks the reference: half the work
            return torch.where(inside, logprobs, 0.0).sum(1), []
        with torch.no_grad():
            ref_logprobs = token_logprobs(self.reference, trained)
        exported = torch.where(inside, logprobs - self.reference_share * ref_logprobs, 0.0).sum(1)
        if batch is None:
            return exported, []
        ratio = self.beta * (logprobs - ref_logprobs)
        return exported, [sum_by_unit(ratio, batch), lowest_by_unit(ratio, batch)]

    @torch.no_grad()
    def score_encoded(self, traces: Sequence[EncodedTrace], *, spec: UnitSpec | None = STEPS) -> list[ScoredTrace]:
        """Readouts of traces given as token ids, in order; always in evaluation mode.

        `spec` says at which units logits are read; None reads only the exported reward, which costs half.
        """
        was_training = self.training
        self.eval()
        found: dict[int, ScoredTrace] = {}
        for rows in by_length(traces):
            some = [traces[row] for row in rows]
            trained = self.batch(some)
            batch = None if spec is None else trained if spec == self.spec else self.batch(some, spec)
            exported, by_unit = self.readouts(trained, batch)
            for at, (row, value) in enumerate(zip(rows, exported.tolist(), strict=True)):
                masks = [] if batch is None else [batch.unit_mask[at]]
                found[row] = ScoredTrace(value, *(tuple(v[at][m].tolist()) for v in by_unit for m in masks))
        self.train(was_training)
        return [found[row] for row in range(len(traces))]

    def score(self, items: Sequence[tuple[Problem, Trace]]) -> list[ScoredTrace]:
        """Readouts of traces given as text: one logit per step, then one for the answer line where there is one."""
        encoded = [encode(problem, trace, self.style, self.tokenizer) for problem, trace in items]
        return self.score_encoded(encoded)

    def save(self, directory: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the reward as safetensors and a card; what `load` reads back gives the same scores, bit for bit.
        weights: the backbone's, where it does not hold them whole itself."""
        from traceward.rewards.files import save_reward

        save_reward(self, Path(directory), weights)

    @classmethod
    def load(cls, directory: str | Path) -> RewardModel:
        """Read a reward that `save` wrote. Raises RewardFileError where a file is missing, torn or changed."""
        from traceward.rewards.files import load_reward

        return load_reward(Path(directory))


def new_reward(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    head: Head,
    spec: UnitSpec,
    style: Format,
    beta: float = 1.0,
    reference_share: float = 0.0,
    seed: int = 0,
) -> RewardModel:
    """A reward at its start, on a copy of the policy's weights. A log-ratio head is zero everywhere; a scalar head
    gets a zero-mean random last layer (seeded). In evaluation mode."""
    from copy import deepcopy

    if head is Head.LOG_RATIO:
        backbone, reference = deepcopy(policy), deepcopy(policy)
    else:
        backbone, reference = _as_token_classifier(policy, seed), None
    return RewardModel(
        backbone=backbone,
        reference=reference,
        tokenizer=tokenizer,
        head=head,
        spec=spec,
        style=style,
        beta=beta,
        reference_share=reference_share,
    ).eval()


def _as_token_classifier(policy: PreTrainedModel, seed: int) -> PreTrainedModel:
    from copy import deepcopy

    from transformers import AutoModelForTokenClassification

    config = deepcopy(policy.config)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier: PreTrainedModel = AutoModelForTokenClassification.from_config(config)
    classifier.base_model.load_state_dict(policy.base_model.state_dict())
    return classifier.to(device=policy.device, dtype=policy.dtype).eval()
