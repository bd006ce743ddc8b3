"""RewardModel: a backbone with a head; what it says is named in `traceward.rewards.heads`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from traceward.adapters import is_adapted, merged_copy
from traceward.data.formats import EncodedTrace, Format, encode
from traceward.data.segmentation import Segmenter
from traceward.records import Granularity, Head, Problem, ScoredTrace, Trace, UnitSpec
from traceward.rewards.adapted import adapted
from traceward.rewards.batches import TraceBatch, collate
from traceward.rewards.calibration import Calibration
from traceward.rewards.heads import (
    LogRatioReading,
    PolicyLogprobs,
    Reading,
    ScalarReading,
    scalar_values,
    token_logprobs,
)
from traceward.rewards.scoring import in_batches, score_units

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from traceward.training.adapter import AdapterSettings

STEPS = UnitSpec(Granularity.INTERVAL)


class TraceScorer(Protocol):
    """What a trainer needs of a reward: readouts of traces given as token ids, in order."""

    head: Head
    style: Format
    spec: UnitSpec

    def score_encoded(
        self,
        traces: Sequence[EncodedTrace],
        *,
        spec: UnitSpec | None = STEPS,
        policy_logprobs: PolicyLogprobs | None = None,
    ) -> list[ScoredTrace]:
        """One reading per trace: its unit logits at the units of `spec` (None: no unit logits), and what it pays a
        policy with these log-probabilities at its own units (None: no policy rewards)."""
        ...


class RewardModel(nn.Module):
    """A learned reward: high = expert.

    head: `scalar` reads a token classifier at unit ends; `log-ratio` sums beta * (log p_phi - log p_ref) in units.
    spec: the units it is trained at. Readouts may ask for others: localisation always reads steps.
    reference: the frozen p_ref of a log-ratio head, None for a scalar head.
    potential: h of objective airl for a scalar head, a second output of the hidden state; the first is then g. It takes
    part in training only and is in no readout.
    calibration: what turns its scores into probabilities; training ends it, as it was fitted to other weights.
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
        potential: nn.Linear | None = None,
        beta: float = 1.0,
        reference_share: float = 0.0,
        card: dict[str, Any] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        if (head is Head.LOG_RATIO) is not (reference is not None):
            raise ValueError(f"a reference must be given with head 'log-ratio' and only with it: got head '{head}'")
        self.backbone = backbone
        self.reference = reference.requires_grad_(False).eval() if reference is not None else None
        self.potential = potential
        self.tokenizer = tokenizer
        self.head = head
        self.spec = spec
        self.style = style
        self.beta = beta
        self.reference_share = reference_share if head is Head.LOG_RATIO else 0.0
        self.card: dict[str, Any] = card or {}
        self.calibration = calibration
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
        if mode:
            self.calibration = None
        if self.reference is not None:
            self.reference.eval()
        return self

    def batch(self, traces: Sequence[EncodedTrace], spec: UnitSpec | None = None) -> TraceBatch:
        """Tensors of `traces` on the model's device, with the units of `spec` (default: those it is trained at)."""
        pad = self.tokenizer.pad_token_id or 0
        return collate(traces, self.segmenter, spec or self.spec, pad_id=pad, context=self.context).to(self.device)

    def start_from(self, policy: PreTrainedModel) -> None:
        """Put the weights of `policy` (same architecture) under the head; a log-ratio's reference stays as it is. Of an
        adapter, those of the policy's adapter, which must be made alike."""
        if is_adapted(self.backbone):
            values = {name: value for name, value in policy.state_dict().items() if ".lora_" in name}
            self.backbone.load_state_dict(values, strict=False)
            return
        policy = merged_copy(policy)
        if self.reference is None:
            self.backbone.base_model.load_state_dict(policy.base_model.state_dict())
        else:
            self.backbone.load_state_dict(policy.state_dict())

    @property
    def learned(self) -> nn.ModuleDict:
        """What learns: the backbone, and the potential where there is one."""
        parts = {"backbone": self.backbone, "potential": self.potential}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def read(self, batch: TraceBatch) -> Reading:
        """One forward pass of the backbone, and one of the reference where a readout needs it."""
        if self.reference is None:
            return ScalarReading(scalar_values(self.backbone, batch), airl=self.potential is not None)
        return LogRatioReading(
            token_logprobs(self.backbone, batch),
            partial(self._ref_logprobs, batch),
            beta=self.beta,
            reference_share=self.reference_share,
        )

    def _ref_logprobs(self, batch: TraceBatch) -> Tensor:
        """(B, T) of the reference, which runs over the traces that did not bring theirs."""
        assert self.reference is not None
        if batch.ref_logprobs is None:
            return token_logprobs(self.reference, batch)
        found = batch.ref_logprobs.clone()
        unknown = found.isnan().any(1).nonzero().flatten()
        if len(unknown):
            found[unknown] = token_logprobs(self.reference, batch.rows(unknown))
        return found

    @torch.no_grad()
    def ref_logprobs(self, traces: Sequence[EncodedTrace]) -> list[tuple[float, ...]]:
        """What each trace may bring along (`EncodedTrace.ref_logprobs`), so that the reference runs over it once."""

        def read(some: Sequence[EncodedTrace]) -> list[tuple[float, ...]]:
            batch = self.batch(some)
            values = self._ref_logprobs(batch)
            return [tuple(row[mask].tolist()) for row, mask in zip(values, batch.unit >= 0, strict=True)]

        return in_batches(traces, read)

    def unit_logits(self, batch: TraceBatch) -> Tensor:
        """(B, U) the logit of every unit; 0 where `batch.unit_mask` is False."""
        return self.read(batch).logit(batch)

    def score_encoded(
        self,
        traces: Sequence[EncodedTrace],
        *,
        spec: UnitSpec | None = STEPS,
        policy_logprobs: PolicyLogprobs | None = None,
    ) -> list[ScoredTrace]:
        """Readouts of traces given as token ids, in order; always in evaluation mode.

        `spec` says at which units logits are read; None reads none, which spares a log-ratio its reference where the
        exported reward takes no share of it.
        With `policy_logprobs` the policy's rewards are read too, at the units of training.
        """
        return [found for (found,) in score_units(self, traces, (spec,), policy_logprobs=policy_logprobs)]

    def score_units(self, traces: Sequence[EncodedTrace], specs: Sequence[UnitSpec]) -> list[tuple[ScoredTrace, ...]]:
        """Readouts of each trace at the units of each of `specs`, in their order, all from one pass."""
        return score_units(self, traces, specs)

    def score(self, items: Sequence[tuple[Problem, Trace]]) -> list[ScoredTrace]:
        """Readouts of traces given as text: one logit per step, then one for the answer line where there is one."""
        encoded = [encode(problem, trace, self.style, self.tokenizer) for problem, trace in items]
        return self.score_encoded(encoded)

    def save(self, directory: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the reward as safetensors and a card; what `load` reads back gives the same scores, bit for bit.
        weights: the backbone's, where it does not hold them whole itself."""
        from traceward.rewards.files import save_reward

        save_reward(self, Path(directory), weights)

    def merged(self) -> RewardModel:
        """The same reward with an adapter added to whole weights of its own, for those who load it without PEFT; it
        scores the same up to rounding. Raises ConfigError for 4-bit weights. A reward without an adapter is itself."""
        if not is_adapted(self.backbone):
            return self
        options = {name: getattr(self, name) for name in ("head", "spec", "style", "beta", "reference_share")}
        return RewardModel(
            backbone=merged_copy(self.backbone),
            reference=None if self.reference is None else deepcopy(self.reference),
            tokenizer=self.tokenizer,
            card=self.card,
            calibration=self.calibration,
            **options,
        ).eval()

    @classmethod
    def load(
        cls, directory: str | Path, dtype: torch.dtype | None = None, *, base: PreTrainedModel | None = None
    ) -> RewardModel:
        """Read a reward that `save` wrote. Raises RewardFileError where a file is missing, torn or changed.

        dtype: of the weights, left out that of the reward that was saved; bfloat16 is faster than float32 where the
        hardware knows it, and coarser.
        base: the model that an adapter learned on, if it is there already: its weights are used, not loaded again.
        """
        from traceward.rewards.files import load_reward

        return load_reward(Path(directory), dtype, base)


def new_reward(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    head: Head,
    spec: UnitSpec,
    style: Format,
    beta: float = 1.0,
    reference_share: float = 0.0,
    adapter: AdapterSettings | None = None,
    seed: int = 0,
) -> RewardModel:
    """A reward at its start, on a copy of the policy's weights. A log-ratio head is zero everywhere; a scalar head
    gets a zero-mean random last layer (seeded). In evaluation mode.

    adapter: what learns of it; then the policy's own weights are the backbone's, not a copy, and must stay as they are.
    An adapter that the policy holds itself is merged into a copy.
    """
    policy = merged_copy(policy)
    if adapter is not None and adapter.chosen:
        backbone, reference = adapted(policy, head, adapter, seed=seed)
    elif head is Head.LOG_RATIO:
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
    from transformers import AutoModelForTokenClassification

    config = deepcopy(policy.config)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier: PreTrainedModel = AutoModelForTokenClassification.from_config(config)
    classifier.base_model.load_state_dict(policy.base_model.state_dict())
    for parameter in classifier.parameters():  # not the buffers: rotary frequencies stay in float32, as they are loaded
        parameter.data = parameter.data.to(policy.dtype)
    return classifier.to(policy.device).eval()
