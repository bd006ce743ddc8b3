"""Steps from a transformers model: `generate`, stopped row by row where a step ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from traceward.data.segmentation import Segmenter
from traceward.decoding.beams import Beam
from traceward.sampling import generate, seeded, until_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HuggingFaceGenerator:
    """Samples a causal language model at `temperature`; `batch` completions at once."""

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 1.0,
        batch: int = 256,
    ) -> None:
        self.policy = policy
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.batch = batch
        self.context: int | None = getattr(policy.config, "max_position_embeddings", None)
        self.segmenter = Segmenter(tokenizer)

    def extend(self, beams: Sequence[Beam], *, n: int, max_new_tokens: int, seed: int) -> list[list[Beam]]:
        """See `Generator`; token ids in, token ids out."""
        per_call = max(1, self.batch // n)
        found: list[list[Beam]] = []
        with seeded(self.policy, seed):
            for start in range(0, len(beams), per_call):
                found += self._extend(beams[start : start + per_call], n, max_new_tokens)
        return found

    def _extend(self, beams: Sequence[Beam], n: int, limit: int) -> list[list[Beam]]:
        rooms = [limit - len(beam.completion_ids) for beam in beams]
        end = _StepEnd(self.segmenter, [beam.completion_ids for beam in beams], rooms, n)
        groups = generate(
            self.policy,
            self.tokenizer,
            [beam.prompt_ids + beam.completion_ids for beam in beams],
            n=n,
            max_new_tokens=max(rooms),
            temperature=self.temperature,
            stop=StoppingCriteriaList([end]),
        )
        lengths = iter(end.lengths)
        found: list[list[Beam]] = []
        for beam, rows in zip(beams, groups, strict=True):
            steps = [until_end(row[: next(lengths)], self.tokenizer.eos_token_id) for row in rows]
            found.append([beam.with_ids(new, self.tokenizer, ended=ended, limit=limit) for new, ended in steps])
        return found


class _StepEnd(StoppingCriteria):  # type: ignore[misc]
    """Stops each row where its step is over or its room used up.

    lengths: new tokens of each row up to there, None where it ended by itself. Rows that have stopped are padded, with
    the end-of-sequence where a tokenizer has no other padding: they cannot be told apart afterwards.
    """

    def __init__(self, segmenter: Segmenter, before: Sequence[tuple[int, ...]], rooms: Sequence[int], n: int) -> None:
        self.segmenter = segmenter
        self.before = [ids for ids in before for _ in range(n)]
        self.rooms = [room for room in rooms for _ in range(n)]
        self.closed = [count for ids in before for count in [segmenter.closed_steps(ids)] * n]
        self.lengths: list[int | None] = [None] * len(self.before)
        self.seen = 0  # new tokens so far

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """(B,) which rows stop."""
        self.seen += 1
        for row, new in enumerate(input_ids[:, -self.seen :].tolist()):
            if self.lengths[row] is None and (
                self.seen >= self.rooms[row]
                or self.segmenter.closes_step([*self.before[row], *new], closed=self.closed[row])
            ):
                self.lengths[row] = self.seen
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)
