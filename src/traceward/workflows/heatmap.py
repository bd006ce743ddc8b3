"""What a picture of a trace is drawn from: its steps and tokens with their scores (high = reads as expert)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from traceward.data.traces import TraceRecord
from traceward.evaluation.localise import increments
from traceward.records import Granularity, UnitSpec
from traceward.rewards.model import RewardModel
from traceward.workflows.rerank import correctness
from traceward.workflows.score import CHUNK, Progress, encode_record

DENSE = UnitSpec(Granularity.DENSE)
Pieces = list[tuple[str, float]]  # a piece of text and its score; together the completion


def token_scores(reward: RewardModel, records: Mapping[int, TraceRecord], progress: Progress) -> dict[int, Pieces]:
    """The tokens of each trace with what each adds to the reward."""
    found: dict[int, Pieces] = {}
    order = list(records)
    for start in range(0, len(order), CHUNK):
        some = order[start : start + CHUNK]
        traces = [encode_record(records[at], reward.style, reward.tokenizer) for at in some]
        for at, trace, read in zip(some, traces, reward.score_encoded(traces, spec=DENSE), strict=True):
            texts = reward.segmenter.pieces(trace.completion_ids)
            found[at] = joined(texts, increments(reward.head, read.unit_logits).tolist())
        progress("scoring: tokens", len(found), len(order))
    return found


def joined(texts: Sequence[str], scores: Sequence[float]) -> Pieces:
    """Tokens without a text of their own go to the next that has one, with the lowest of their scores: they are parts
    of one character. What ends the sequence has no text and is left out."""
    found: Pieces = []
    lowest = float("inf")
    for text, score in zip(texts, scores, strict=True):
        lowest = min(lowest, score)
        if text:
            found.append((text, lowest))
            lowest = float("inf")
    return found


def example(record: TraceRecord, row: Mapping[str, Any], pieces: Pieces | None, *, chances: bool) -> dict[str, Any]:
    """A row as `examples.jsonl` of a run has it (docs/results.md).   chances: its steps have probabilities."""
    answer = [] if record.trace.answer is None else [f"Answer: {record.trace.answer}"]
    found: dict[str, Any] = {
        "id": record.id,
        "question": record.problem.question,
        "steps": [*record.trace.steps, *answer],
        "step_scores": row["step_scores"],
        "predicted": row["predicted_first_error"],
        "first_error": record.first_error,
        "correct": correctness(record),
        "exported": row["score"],
    }
    if chances:
        found["step_probabilities"] = row["step_probabilities"]
    return found if pieces is None else {**found, "tokens": pieces}
