"""Token ids and unit ends -> tensors. Everything that runs a model over traces goes through `collate`.

Axes: B traces, T tokens of prompt and completion, U units. Padding is on the right, so a position never depends on
the batch; scores are invariant to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from traceward.data.formats import EncodedTrace
from traceward.data.segmentation import Segmenter, unit_index
from traceward.errors import DataError
from traceward.records import UnitSpec


@dataclass(frozen=True, slots=True)
class TraceBatch:
    """A padded batch.

    input_ids, attention_mask: (B, T) long.
    unit: (B, T) long, the unit each *completion* token belongs to; -1 on prompt and padding.
    unit_end: (B, U) long, position in T of the last token of each unit; 0 where `unit_mask` is False.
    unit_mask: (B, U) bool.
    prompt: (B,) long, equal in rows that share their prompt.
    ref_logprobs: (B, T) log-probabilities under a reference that traces brought along (nats); NaN in the rows of those
    that brought none, None where none did.
    """

    input_ids: Tensor
    attention_mask: Tensor
    unit: Tensor
    unit_end: Tensor
    unit_mask: Tensor
    prompt: Tensor
    ref_logprobs: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """(B,) position of each completion's first token."""
        return (self.unit >= 0).long().argmax(1)

    @property
    def before_unit(self) -> Tensor:
        """(B, U) position of the last token before each unit: the state in which it began; 0 on padding."""
        return torch.cat([self.start[:, None] - 1, self.unit_end[:, :-1]], 1).masked_fill(~self.unit_mask, 0)

    def rows(self, index: Tensor) -> TraceBatch:
        """The traces at `index`, in that order."""
        return self._each(lambda table: table[index])

    def to(self, device: torch.device | str) -> TraceBatch:
        """The same batch on another device."""
        return self._each(lambda table: table.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> TraceBatch:
        tables = {name: getattr(self, name) for name in self.__slots__}
        return replace(self, **{name: change(table) for name, table in tables.items() if table is not None})


def collate(
    traces: Sequence[EncodedTrace], segmenter: Segmenter, spec: UnitSpec, *, pad_id: int, context: int | None = None
) -> TraceBatch:
    """Tensors of `traces` with the units of `spec`.

    Raises DataError for a trace without completion, or longer than `context` tokens.
    """
    for trace in traces:
        if not trace.completion_ids:
            raise DataError(f"trace must have a completion: got none for {trace.key!r}; remove the row")
        length = len(trace.prompt_ids) + len(trace.completion_ids)
        if context is not None and length > context:
            raise DataError(
                f"trace must fit the model's context of {context} tokens: got {length} for {trace.key!r}; "
                "shorten it or use a model with a longer context"
            )
    ends = [segmenter.unit_ends(trace.completion_ids, spec) for trace in traces]
    width = max(len(t.prompt_ids) + len(t.completion_ids) for t in traces)
    units = max(map(len, ends))
    input_ids = torch.full((len(traces), width), pad_id)
    attention_mask = torch.zeros(len(traces), width, dtype=torch.long)
    unit = torch.full((len(traces), width), -1)
    unit_end = torch.zeros(len(traces), units, dtype=torch.long)
    unit_mask = torch.zeros(len(traces), units, dtype=torch.bool)
    brought = any(trace.ref_logprobs is not None for trace in traces)
    ref_logprobs = torch.zeros(len(traces), width) if brought else None
    for row, (trace, trace_ends) in enumerate(zip(traces, ends, strict=True)):
        start, stop = len(trace.prompt_ids), len(trace.prompt_ids) + len(trace.completion_ids)
        input_ids[row, :stop] = torch.tensor([*trace.prompt_ids, *trace.completion_ids])
        attention_mask[row, :stop] = 1
        unit[row, start:stop] = torch.tensor(unit_index(trace_ends))
        unit_end[row, : len(trace_ends)] = torch.tensor(trace_ends) + start
        unit_mask[row, : len(trace_ends)] = True
        if ref_logprobs is not None:
            own = trace.ref_logprobs
            ref_logprobs[row, start:stop] = torch.nan if own is None else torch.tensor(own)
    seen: dict[tuple[int, ...], int] = {}
    prompt = torch.tensor([seen.setdefault(trace.prompt_ids, len(seen)) for trace in traces])
    return TraceBatch(input_ids, attention_mask, unit, unit_end, unit_mask, prompt, ref_logprobs)


def tokens_per_pass(*, on_gpu: bool | None = None) -> int:
    """How many tokens go through a model at once: enough for its matrix products to run at their full rate, and few
    enough for a CPU's cache (docs/scoring.md). on_gpu: left out, whether there is one."""
    return 8192 if (torch.cuda.is_available() if on_gpu is None else on_gpu) else 2048


def by_length(traces: Sequence[EncodedTrace], *, tokens: int | None = None) -> Iterator[list[int]]:
    """Row numbers in batches of at most `tokens` tokens (left out: `tokens_per_pass`); longer traces come alone.

    Traces that share their prompt stay together, in the place of the longest of them, and it counts once: most models
    take it once (traceward.rewards.packing). For those that need padding, traces of a batch are of similar length, and
    its padded table holds at most four times `tokens`. A batch's own traces, planned again, are that batch.
    """
    most = tokens or tokens_per_pass()
    lengths = [len(t.prompt_ids) + len(t.completion_ids) for t in traces]
    longest: dict[tuple[int, ...], tuple[int, int]] = {}  # of each prompt: the length, and minus the first row
    for row, trace in enumerate(traces):
        length, first = longest.get(trace.prompt_ids, (0, -row))
        longest[trace.prompt_ids] = max(length, lengths[row]), first
    batch: list[int] = []
    held = width = 0
    for row in sorted(range(len(traces)), key=lambda r: (longest[traces[r].prompt_ids], lengths[r], -r), reverse=True):
        prompt = traces[row].prompt_ids
        known = bool(batch) and traces[batch[-1]].prompt_ids == prompt
        more = len(traces[row].completion_ids) if known else lengths[row]
        if batch and (held + more > most or (len(batch) + 1) * max(width, lengths[row]) > 4 * most):
            yield sorted(batch)
            batch, held, width, more = [], 0, 0, lengths[row]
        batch.append(row)
        held += more
        width = max(width, lengths[row])
    if batch:
        yield sorted(batch)


def sum_by_unit(values_BT: Tensor, batch: TraceBatch) -> Tensor:  # noqa: N803
    """(B, T) token values -> (B, U) sums inside each unit; what lies off the completion is left out."""
    inside = batch.unit >= 0
    totals = values_BT.new_zeros(batch.unit_mask.shape)
    return totals.scatter_add(1, batch.unit.clamp(min=0), torch.where(inside, values_BT, values_BT.new_zeros(())))


def mean_by_unit(values_BT: Tensor, batch: TraceBatch) -> Tensor:  # noqa: N803
    """(B, T) token values -> (B, U) means inside each unit; 0 where `batch.unit_mask` is False."""
    return sum_by_unit(values_BT, batch) / sum_by_unit(torch.ones_like(values_BT), batch).clamp(min=1)


def lowest_by_unit(values_BT: Tensor, batch: TraceBatch) -> Tensor:  # noqa: N803
    """(B, T) token values -> (B, U) the lowest inside each unit; 0 where `batch.unit_mask` is False."""
    inside = batch.unit >= 0
    lowest = values_BT.new_full(batch.unit_mask.shape, torch.inf)
    values = torch.where(inside, values_BT, values_BT.new_full((), torch.inf))
    return lowest.scatter_reduce(1, batch.unit.clamp(min=0), values, "amin").masked_fill(~batch.unit_mask, 0.0)


def unpadded(values_BU: Tensor, batch: TraceBatch) -> list[tuple[float, ...]]:  # noqa: N803
    """(B, U) unit values -> those of each trace."""
    return [tuple(row[mask].tolist()) for row, mask in zip(values_BU, batch.unit_mask, strict=True)]
