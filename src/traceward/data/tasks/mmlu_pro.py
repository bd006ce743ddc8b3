"""MMLU-Pro (Wang et al. 2024, arXiv 2406.01574): ten options A to J, official rows and rows in our schema.

Official: `question_id`, `question`, `options` (a list), `answer` (a letter), `category`, and a `cot_content` that only
the 70 validation rows fill: all other rows are questions without a worked solution.
"""

from __future__ import annotations

import re

from traceward.data.jsonl import Row
from traceward.data.tasks.choices import choice

_OPENING = re.compile(r"^\s*A:\s*(?:Let's think step by step\.\s*)?")


def convert(row: Row) -> Row:
    """A row of either form in our schema; without reasoning it is a question. FieldError: a broken row."""
    if "cot_content" not in row:
        return choice(row, reasoning=row.get("steps") or row.get("solution"), answer=row.get("answer"))
    names = {"id": f"mmlu-pro-{row.get('question_id')}", "source": f"MMLU-Pro/{row.get('category')}"}
    reasoning = row["cot_content"]
    text = _OPENING.sub("", reasoning) if isinstance(reasoning, str) else None
    return choice({**row, **names}, reasoning=text, answer=row.get("answer"))
