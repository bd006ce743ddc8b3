"""`traceward score`: a file of any size, a block of rows at a time.

The file is read twice. First every row is checked and encoded, so that a broken one is named before anything is
scored; then blocks of it are scored and written. A block depends on nothing but its rows: a job that was killed and
goes on writes the bytes that it would have written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from traceward import __version__
from traceward.data.jsonl import Faults, Row, fingerprint_file, write_jsonl
from traceward.data.partial import PartialRows
from traceward.data.traces import TraceRecord, stream_traces
from traceward.errors import DataError
from traceward.rewards.files import CARD
from traceward.rewards.model import RewardModel
from traceward.workflows import Precision, TooLong
from traceward.workflows.score import (
    Progress,
    check_encoded,
    encode_record,
    read_scores,
    score_row,
    silent,
    skipped_row,
)

BLOCK = 512  # rows that are in memory at once


@dataclass(slots=True)
class ScoreSummary:
    """What the rows of a file say together.   before: rows that an earlier attempt had scored."""

    rows: int = 0
    skipped: int = 0
    before: int = 0
    lowest: float = math.inf
    highest: float = -math.inf

    def see(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows as they pass."""
        for row in rows:
            self.rows += 1
            if "score" in row:
                self.lowest, self.highest = min(self.lowest, row["score"]), max(self.highest, row["score"])
            else:
                self.skipped += 1
            yield row


@dataclass(frozen=True, slots=True)
class _Job:
    traces: Path
    reward: RewardModel
    too_long: TooLong
    progress: Progress

    def check(self) -> int:
        """How many rows there are. Raises DataError naming every one that cannot be scored."""
        faults, count = Faults(self.traces), 0
        for record in stream_traces(self.traces, faults):
            count += 1
            try:
                encoded = encode_record(record, self.reward.style, self.reward.tokenizer)
                check_encoded(encoded, self.reward, record.trace, self.too_long)
            except DataError as error:
                faults.add(record.line, "steps", str(error))
        faults.raise_if_any()
        return count

    def blocks(self, *, total: int, done: int = 0) -> Iterator[list[Row]]:
        """The scored rows behind the first `done`."""
        faults = Faults(self.traces)
        records = islice(stream_traces(self.traces, faults), done, None)
        while some := list(islice(records, BLOCK)):
            faults.raise_if_any()  # somebody has changed the file
            yield self._scored(some)
            done += len(some)
            self.progress("scoring", done, total)
        faults.raise_if_any()

    def _scored(self, records: list[TraceRecord]) -> list[Row]:
        found = read_scores({"reward": self.reward}, records, self.traces, too_long=self.too_long)
        return [
            skipped_row(record, found.skipped[index])
            if index in found.skipped
            else score_row(record, self.reward, found.read("reward", index))
            for index, record in enumerate(records)
        ]


def score_file(
    traces: Path,
    *,
    reward: Path,
    out: Path | Callable[[Iterable[Row]], None],
    too_long: TooLong = TooLong.ERROR,
    precision: Precision = Precision.FLOAT32,
    progress: Progress = silent,
) -> ScoreSummary:
    """Write the rows of a file in their order, with scores; the same call goes on where one was killed.

    out: a file, or what takes the rows as they come; of a device or a function nobody can say what it has kept, so
    there nothing goes on.
    """
    import torch

    job = _Job(traces, RewardModel.load(reward, getattr(torch, precision)), too_long, progress)
    total = job.check()
    summary = ScoreSummary()
    if not isinstance(out, Path) or (out.exists() and not out.is_file()):
        rows = summary.see(row for block in job.blocks(total=total) for row in block)
        write_jsonl(out, rows) if isinstance(out, Path) else out(rows)
        return summary
    depends_on = {
        "traceward": __version__,
        "traces": fingerprint_file(traces),
        "reward": fingerprint_file(reward / CARD),
        "too_long": too_long,
        "precision": precision,
    }
    with PartialRows(out, depends_on, block=BLOCK) as kept:
        summary.before = sum(1 for _ in summary.see(kept.rows()))
        for block in job.blocks(total=total, done=kept.done):
            kept.append(list(summary.see(block)))
        kept.finish()
    return summary
