"""`traceward rerank`: order the traces of each question, and measure how often the best one is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from traceward.data.demonstrations import question_key
from traceward.data.grading import Grade
from traceward.data.options import answer_key, grade_answer
from traceward.data.traces import TraceRecord, read_traces
from traceward.evaluation.rerank import (
    RerankGroup,
    RerankTable,
    pass_curve,
    powers_of_two,
    rank,
    rerank_curve,
    rerank_table,
)
from traceward.evaluation.statistics import Estimate
from traceward.workflows import TooLong
from traceward.workflows.score import Progress, Readings, open_scorers, read_scores, silent


@dataclass(frozen=True, slots=True)
class RerankResult:
    """rows: one per question.  table: None where no question has the verdicts it takes.

    labelled: questions in the table; the others have a trace without verdict, or too long a one.
    passed: pass@k, by k.
    """

    rows: tuple[dict[str, Any], ...]
    table: RerankTable | None
    curve: Mapping[str, Sequence[Estimate]] | None
    sizes: tuple[int, ...]
    labelled: int
    passed: Mapping[int, Estimate]

    def as_json(self) -> dict[str, Any]:
        """What --json writes."""
        found: dict[str, Any] = {"questions": len(self.rows), "labelled": self.labelled, "n": None, "rows": None}
        if self.table is not None:
            rows = {name: None if row is None else asdict(row) for name, row in self.table.rows.items()}
            passed = {f"pass@{k}": asdict(estimate) for k, estimate in self.passed.items()}
            found |= {"n": self.table.n, "rows": rows, "pass_at_k": passed}
        if self.curve is not None:
            points = {name: [asdict(point) for point in row] for name, row in self.curve.items()}
            found["curve"] = {"n": list(self.sizes), "rows": points}
        return found


def rerank_file(
    traces: Path,
    *,
    reward: Path,
    base: str | None = None,
    sft: str | None = None,
    n: int | None = None,
    curve: bool = False,
    too_long: TooLong = TooLong.ERROR,
    seed: int = 0,
    progress: Progress = silent,
) -> RerankResult:
    """Rank the traces of every question; the table needs a verdict for each trace of a question.

    n: traces per question in the table; left out, as many as the smallest labelled question has.
    """
    records = read_traces(traces)
    scorers = open_scorers(reward, base=base, sft=sft)
    readings = read_scores(scorers, records, traces, too_long=too_long, progress=progress)
    grouped = group_records(records)
    rows = tuple(_ranked(members, records, readings) for members in grouped.values())
    groups = [group for key, members in grouped.items() if (group := _group(key, members, records, readings))]
    if not groups:
        return RerankResult(rows, None, None, (), 0, {})
    count = n or min(len(group.correct) for group in groups)
    sizes = powers_of_two(count)
    return RerankResult(
        rows,
        rerank_table(groups, n=count, seed=seed),
        rerank_curve(groups, sizes=sizes, seed=seed) if curve else None,
        sizes,
        len(groups),
        pass_curve([group.correct for group in groups], seed=seed),
    )


def group_records(records: Sequence[TraceRecord]) -> dict[str, list[int]]:
    """Indices by question, in order of first appearance: the row's `qid` or `problem_id`, else the question's text."""
    found: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        named = record.raw.get("qid") is not None or record.raw.get("problem_id") is not None
        key = record.problem.id if named else question_key(record.problem.question)
        found.setdefault(key, []).append(index)
    return found


def correctness(record: TraceRecord) -> bool | None:
    """The verdict on a trace: the row's own, else by the reference answer; None where the row has neither.

    A trace that states no answer is not correct.
    """
    if record.final_correct is not None:
        return record.final_correct
    if record.problem.answer is None:
        return None
    return grade_answer(record.stated_answer, record.problem) is Grade.CORRECT


def _ranked(members: Sequence[int], records: Sequence[TraceRecord], readings: Readings) -> dict[str, Any]:
    """The row of one question; traces that were too long are named, not ranked."""
    problem = records[members[0]].problem
    row: dict[str, Any] = {"id": problem.id, "question": problem.question}
    if skipped := [records[index].id for index in members if index in readings.skipped]:
        row["skipped"] = skipped
    kept = [index for index in members if index not in readings.skipped]
    some = [records[index] for index in kept]
    if not some:
        return {**row, "ranked": [], "lines": [], "scores": [], "best": None, "best_answer": None, "vote": None}
    scores = [readings.read("reward", index).exported for index in kept]
    answers = [record.stated_answer for record in some]
    ranking = rank(scores, answers, [answer_key(answer, problem.question) for answer in answers])
    order = ranking.order
    return {
        **row,
        "ranked": [some[index].id for index in order],
        "lines": [some[index].line for index in order],
        "scores": [ranking.scores[index] for index in order],
        "best": some[order[0]].id,
        "best_answer": some[order[0]].stated_answer,
        "vote": ranking.answer,
    }


def _group(key: str, members: Sequence[int], records: Sequence[TraceRecord], readings: Readings) -> RerankGroup | None:
    """The traces of a question as the table takes them; None where one has no verdict or no score."""
    verdicts = [correctness(records[index]) for index in members]
    correct = tuple(verdict for verdict in verdicts if verdict is not None)
    if len(correct) < len(verdicts) or any(index in readings.skipped for index in members):
        return None
    answers = [records[index].stated_answer for index in members]
    question = records[members[0]].problem.question
    return RerankGroup(
        problem_id=key,
        correct=correct,
        answers=tuple(answer_key(answer, question) for answer in answers),
        lengths=tuple(readings.lengths[index] for index in members),
        scores={name: tuple(readings.read(name, index).exported for index in members) for name in readings.scores},
    )
