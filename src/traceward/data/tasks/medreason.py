"""MedReason (Wu et al. 2025, arXiv 2504.00993): clinical questions with options, official rows and rows in our schema.

Official: `question`, `options` (lettered lines under a heading), `answer` (the text of an option, at times with
". Explanation: …" behind it), `reasoning` (lines), `dataset_name` and `id_in_dataset`. Rows without options, which no
letter can answer, are refused.
"""

from __future__ import annotations

from traceward.data.jsonl import Row
from traceward.data.tasks.choices import choice


def convert(row: Row) -> Row:
    """A row of either form in our schema; without reasoning it is a question. FieldError: a broken row."""
    if "reasoning" not in row:
        return choice(row, reasoning=row.get("steps") or row.get("solution"), answer=row.get("answer"))
    answer, name = row.get("answer"), row.get("dataset_name")
    text = answer.partition(". Explanation:")[0] if isinstance(answer, str) else answer
    names = {"id": f"{name}-{row.get('id_in_dataset')}", "source": f"MedReason/{name}"} if name else {}
    return choice({**row, **names}, reasoning=row["reasoning"], answer=text)
