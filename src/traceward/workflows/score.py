"""Read traces with models: the one path by which every verb gets its scores.

Step scores are what each step adds to the reward (high = good), for either head; one per step, then one for the
answer line where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceward.data.formats import EncodedTrace, Format, completion_text, encode_completion, encode_prompt
from traceward.data.jsonl import Faults
from traceward.data.segmentation import split_steps
from traceward.data.traces import TraceRecord
from traceward.errors import DataError
from traceward.evaluation.localise import increments
from traceward.loading import load_policy
from traceward.records import Head, ScoredTrace, StopReason, Trace
from traceward.rewards.model import STEPS, RewardModel
from traceward.rewards.rivals import LogProbScorer, sft_log_ratio
from traceward.workflows import TooLong
from traceward.workflows.inputs import places_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many
Scorer = RewardModel | LogProbScorer
_MEND_LENGTH = "shorten it, use a model with a longer context, or leave such rows out (--too-long skip)"
CHUNK = 128  # traces between two looks at the progress bar


@dataclass(frozen=True, slots=True)
class Readings:
    """scores: for each scorer one reading per record, None where the record was skipped; skipped: index -> why."""

    scores: Mapping[str, tuple[ScoredTrace | None, ...]]
    lengths: tuple[int, ...]  # completion tokens, by the first scorer's tokenizer
    skipped: Mapping[int, str]

    def read(self, name: str, index: int) -> ScoredTrace:
        """The reading of a record that was not skipped."""
        found = self.scores[name][index]
        assert found is not None
        return found


def silent(_what: str, _done: int, _total: int) -> None:
    """Shows no progress."""


def open_policy(place: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer from a directory, a hub name or `builtin:stories`."""
    return load_policy(*places_of(place))


def open_scorers(reward: Path, *, base: str | None = None, sft: str | None = None) -> dict[str, Scorer]:
    """The reward, then the log-prob of each model that was given, and where both were the log-ratio of the two; all in
    the reward's format."""
    learned = RewardModel.load(reward)
    given = {"base_logprob": base, "sft_logprob": sft}
    rivals = {n: LogProbScorer(*open_policy(at), learned.style) for n, at in given.items() if at is not None}
    scorers: dict[str, Scorer] = {"reward": learned, **rivals}
    if len(rivals) == len(given):
        scorers["sft_log_ratio"] = sft_log_ratio(rivals["sft_logprob"], rivals["base_logprob"], like=learned)
    return scorers


def context_of(model: PreTrainedModel) -> int | None:
    """Longest prompt + completion in tokens; None where the model names none."""
    found: int | None = getattr(model.config, "max_position_embeddings", None)
    return found


def context_of_scorer(scorer: Scorer) -> int | None:
    """The same of the model that a scorer reads with."""
    return context_of(scorer.backbone if isinstance(scorer, RewardModel) else scorer.model)


def _apart(trace: Trace, text: str) -> bool:
    """Whether each step is a step of the text too; a lone step may be several sentences."""
    parts = split_steps(text)
    if len(trace.steps) > 1 and len(parts) != len(trace.steps) + (trace.answer is not None):
        return False
    return "<answer>" not in "".join(trace.steps) and all(
        part in step for part, step in zip(parts, trace.steps, strict=False)
    )


def encode_record(record: TraceRecord, style: Format, tokenizer: PreTrainedTokenizerBase) -> EncodedTrace:
    """Token ids of a trace that came as text; a row with `stop` "length" gets no end-of-sequence, as it had none."""
    finished = record.raw.get("stop") != StopReason.LENGTH
    text = completion_text(record.trace, style)
    if not _apart(record.trace, text):
        raise DataError("must stay apart in the text: got a step of tags only, or with <answer> in it; mend that step")
    return EncodedTrace(
        encode_prompt(record.problem, style, tokenizer),
        encode_completion(text, tokenizer, finished=finished),
        record.problem.id,
    )


def read_scores(
    scorers: Mapping[str, Scorer],
    records: Sequence[TraceRecord],
    path: str | Path,
    *,
    too_long: TooLong = TooLong.ERROR,
    progress: Progress = silent,
) -> Readings:
    """Every scorer's reading of every record, in order.

    Raises DataError naming the line of each trace that is too long (unless skipped), cannot be encoded, or whose steps
    cannot be told apart again in its text.
    """
    encoded, skipped = _encode(scorers, records, Faults(path), too_long)
    faults = Faults(path)
    scores = {}
    for name, scorer in scorers.items():
        rows = {index: row for index, row in encoded[name].items() if index not in skipped}
        found = _score(scorer, rows, f"scoring: {name}", progress)
        read = {index: _per_step(scorer.head, found[index], records[index].trace) for index in sorted(rows)}
        _check(read, records, faults)
        scores[name] = tuple(read.get(index) for index in range(len(records)))
    first = next(iter(encoded.values()))
    return Readings(scores, tuple(len(first[index].completion_ids) for index in range(len(records))), skipped)


def _encode(
    scorers: Mapping[str, Scorer], records: Sequence[TraceRecord], faults: Faults, too_long: TooLong
) -> tuple[dict[str, dict[int, EncodedTrace]], dict[int, str]]:
    """For each scorer the traces by index; and the ones that are too long, with the reason."""
    encoded: dict[str, dict[int, EncodedTrace]] = {name: {} for name in scorers}
    skipped: dict[int, str] = {}
    for index, record in enumerate(records):
        for name, scorer in scorers.items():
            try:
                encoded[name][index] = encode_record(record, scorer.style, scorer.tokenizer)
                if over := check_encoded(encoded[name][index], scorer, record.trace, too_long):
                    skipped[index] = over
                    break
            except DataError as error:
                faults.add(record.line, "steps", str(error))
                break
    faults.raise_if_any()
    return encoded, skipped


def check_encoded(encoded: EncodedTrace, scorer: Scorer, trace: Trace, too_long: TooLong) -> str | None:
    """Why a trace is to be skipped, None where it is not. Raises DataError where it cannot be scored."""
    if over := _too_long(encoded, scorer):
        if too_long is TooLong.ERROR:
            raise DataError(f"must fit {over}; {_MEND_LENGTH}")
        return f"longer than {over}".replace(": got ", ": ")
    if not _one_unit_a_step(len(scorer.segmenter.unit_ends(encoded.completion_ids, STEPS)), trace):
        raise DataError("must end with a token of their own: got a token over two steps; mend the row")
    return None


def _one_unit_a_step(units: int, trace: Trace) -> bool:
    """Whether so many units are one per step and one for the answer line, or the sentences of a lone step."""
    tail = int(trace.answer is not None)
    return units == max(1, len(trace.steps) + tail) or (len(trace.steps) == 1 and units > tail)


def _too_long(trace: EncodedTrace, scorer: Scorer) -> str | None:
    context = context_of_scorer(scorer)
    length = len(trace.prompt_ids) + len(trace.completion_ids)
    if context is None or length <= context:
        return None
    return f"the model's context of {context} tokens: got {length} with the question"


def _score(scorer: Scorer, rows: Mapping[int, EncodedTrace], what: str, progress: Progress) -> dict[int, ScoredTrace]:
    """Readings in the order of the file, where traces of one question mostly stand together."""
    order = list(rows)
    found: dict[int, ScoredTrace] = {}
    for start in range(0, len(order), CHUNK):
        some = order[start : start + CHUNK]
        found |= zip(some, scorer.score_encoded([rows[index] for index in some]), strict=True)
        progress(what, len(found), len(order))
    return found


def _per_step(head: Head, found: ScoredTrace, trace: Trace) -> ScoredTrace:
    """One unit per step and one for the answer line.

    A text of one line without an answer line is read sentence by sentence: these are put together again.
    """
    tail = int(trace.answer is not None)
    logits = found.unit_logits
    if len(logits) == max(1, len(trace.steps) + tail):
        return found
    sentences, rest = logits[: len(logits) - tail], logits[len(logits) - tail :]
    whole = math.fsum(sentences) if head is Head.LOG_RATIO else sentences[-1]

    def together(lows: tuple[float, ...]) -> tuple[float, ...]:
        return (min(lows[: len(sentences)]), *lows[len(sentences) :]) if lows else ()

    return ScoredTrace(
        found.exported,
        (whole, *rest),
        together(found.unit_lows),
        exported_lows=together(found.exported_lows),
    )


def _check(read: Mapping[int, ScoredTrace], records: Sequence[TraceRecord], faults: Faults) -> None:
    for index, found in read.items():
        if not all(map(math.isfinite, (found.exported, *found.unit_logits))):
            rule = f"must be finite: got {found.exported} and {found.unit_logits}; mend the model"
            faults.add(records[index].line, "score", rule)
    faults.raise_if_any()


def score_row(record: TraceRecord, reward: RewardModel, found: ScoredTrace) -> dict[str, Any]:
    """The row as it came, with `score` (the exported reward) and `step_scores`; of a calibrated reward also with the
    `probability` that the answer is right."""
    steps = increments(reward.head, found.unit_logits).tolist()
    row = {**record.raw, "score": found.exported, "step_scores": steps}
    right = reward.calibration and reward.calibration.trace
    return {**row, "probability": float(right(found.exported))} if right else row


def skipped_row(record: TraceRecord, reason: str) -> dict[str, Any]:
    """The row as it came, with the reason why it has no score."""
    return {**record.raw, "skipped": reason}
